"""How well a small language model of fixed size, trained for a fixed budget, foretells the codes of speech it has not heard.

In bits per second of speech, which can be compared over frame rates, codebooks and vocabularies, where a perplexity cannot (arXiv
2601.06329). Beside it, in the same unit: a fixed-length code ("uniform"), and the share of each code in the training speech ("unigram").
The same model says which of two utterances is likelier (SALMon, arXiv 2409.07437).

What a model foretells, `bits(codes_KN)`, is -log2 p of each code [K, N]; their sum is the length of an ideal code of the utterance.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log, log2
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from audiotok.evaluation.metric import Ratio
from audiotok.models.code_lm import CodeNetwork
from audiotok.training.optim import adamw, learning_rate, set_learning_rate
from audiotok.types import TokenSpec

IGNORED = -100  # cross_entropy's
MAX_NORM = 1.0  # of the gradient (arXiv 2005.14165)
ROWS = 8  # windows scored at a time


@dataclass(frozen=True)
class Size:
    """Of `CodeNetwork`: p(code k of frame n | all codes of the frames before n, codes before k of frame n)."""

    width: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Budget:
    """What a language model may see: `steps` updates, each of about `codes` codes in crops of `frames` frames, its context.

    `probabilities` bounds a step's work: codes times the entries of their codebooks. With a codebook of 32,768 a step sees fewer codes.
    """

    steps: int
    codes: int
    probabilities: int
    frames: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float

    def __post_init__(self) -> None:
        if min(self.steps, self.codes) < 1 or self.frames < 2:
            raise ValueError(f"language model: a budget has steps, codes a step and a context of 2 frames or more; got {self}")

    def rows(self, codebook_sizes: Sequence[int]) -> int:
        """Crops a step."""
        most = min(self.codes / len(codebook_sizes), self.probabilities / sum(codebook_sizes))
        return max(1, round(most / self.frames))


class Predictor(Protocol):
    """Foretells codes."""

    def bits(self, codes_KN: Tensor) -> Tensor:
        """bits_KN of an utterance: -log2 p of each code given those before it."""
        ...


class Uniform:
    """A code of fixed length: the rate that `TokenSpec.bits_per_second` states."""

    def __init__(self, codebook_sizes: Sequence[int]) -> None:
        self.bits_K1 = torch.tensor([log2(size) for size in codebook_sizes], dtype=torch.float64)[:, None]

    def bits(self, codes_KN: Tensor) -> Tensor:
        return self.bits_K1.expand(codes_KN.shape)


class Unigram:
    """The share of each code among those of its codebook in the training speech.

    Each is counted half a time more (Krichevsky and Trofimov 1981), so that one that never came costs bits and not infinity.
    """

    def __init__(self, train: Sequence[Tensor], codebook_sizes: Sequence[int]) -> None:
        together_KN = torch.cat(_checked(train, codebook_sizes), dim=1)
        self.tables = []
        for codes_N, size in zip(together_KN, codebook_sizes):
            counts_V = torch.bincount(codes_N, minlength=size).double() + 0.5
            self.tables.append(-(counts_V / counts_V.sum()).log2())

    def bits(self, codes_KN: Tensor) -> Tensor:
        return torch.stack([bits_V[codes_N.cpu()] for bits_V, codes_N in zip(self.tables, codes_KN)])


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A `CodeNetwork` that was trained with a context of `context` frames. `heard`: what it saw of the training speech, and its losses."""

    network: CodeNetwork
    context: int
    heard: Mapping[str, float]

    @torch.inference_mode()
    def bits(self, codes_KN: Tensor) -> Tensor:
        """Each code given at least half a context of those before it, or all that there are; float64 on the CPU."""
        (codes_KN,) = _checked([codes_KN], self.network.settings["codebook_sizes"])
        device = next(self.network.parameters()).device
        bits_KN = torch.empty(codes_KN.shape, dtype=torch.float64)
        spans = list(windows(codes_KN.shape[1], context=self.context))
        for group in (spans[index : index + ROWS] for index in range(0, len(spans), ROWS)):
            codes_BKN = torch.stack([codes_KN[:, start:end] for start, _, end in group]).to(device)
            bits_BKN = (nats(self.network, codes_BKN).double() / log(2)).cpu()
            for (start, first, end), row_KN in zip(group, bits_BKN):
                bits_KN[:, first:end] = row_KN[:, first - start :]
        return bits_KN


def windows(frames: int, *, context: int) -> Iterator[tuple[int, int, int]]:
    """(start, first scored, end) of windows of `context` frames, half of it apart, that score each frame once.

    |-- scored --|-- scored --|
                 |-- heard ---|-- scored --|
                          |----- heard ----|-- scored --|    the last one ends with the utterance
    """
    end = min(context, frames)
    yield 0, 0, end
    while end < frames:
        first, end = end, min(end + context - context // 2, frames)
        yield end - context, first, end


def nats(network: CodeNetwork, codes_BKN: Tensor) -> Tensor:
    """-ln p of each code [B, K, N]; 0 where a code is `IGNORED`."""
    logits = network(codes_BKN.clamp(min=0))
    return torch.stack(
        [
            F.cross_entropy(logits_BNV.float().transpose(1, 2), codes_BKN[:, k], ignore_index=IGNORED, reduction="none")
            for k, logits_BNV in enumerate(logits)
        ],
        dim=1,
    )


def fit(train: Sequence[Tensor], spec: TokenSpec, *, size: Size, budget: Budget, seed: int, device: torch.device) -> LanguageModel:
    """A language model of the utterances codes_KN, at the end of its budget. The same seed gives the same one, on a CPU to the bit.

    Raises ValueError for codes that are not of `spec`, and where there is nothing to learn from.
    """
    train = _checked(train, spec.codebook_sizes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = CodeNetwork(codebook_sizes=spec.codebook_sizes, width=size.width, layers=size.layers, heads=size.heads)
    _begin_with_shares(network, Unigram(train, spec.codebook_sizes))
    network.to(device).train()
    optimizer = adamw(network, learning_rate=budget.learning_rate, weight_decay=budget.weight_decay)
    losses, frames = [], 0
    for step, codes_BKN in enumerate(crops(train, budget, spec.codebook_sizes, seed=seed), start=1):
        set_learning_rate(optimizer, learning_rate(step, peak=budget.learning_rate, warmup_steps=budget.warmup_steps, steps=budget.steps))
        heard_BKN = codes_BKN != IGNORED
        loss = nats(network, codes_BKN.to(device)).sum() / heard_BKN.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
        optimizer.step()
        losses.append(loss.detach())
        frames += int(heard_BKN[:, 0].sum())
    heard = {
        "seconds": frames / float(spec.frame_rate),
        "codes": frames * spec.num_codebooks,
        "epochs": frames / sum(codes_KN.shape[1] for codes_KN in train),
        "first_loss": float(losses[0]),  # nats a code
        "last_loss": float(torch.stack(losses[-max(1, len(losses) // 20) :]).mean()),
    }
    return LanguageModel(network.eval().requires_grad_(False), budget.frames, heard)


@torch.no_grad()
def _begin_with_shares(network: CodeNetwork, unigram: Unigram) -> None:
    """Foretell the share of each code, whatever came before: a small corpus need not teach what counting tells."""
    heads: Any = network.heads
    for head, bits_V in zip(heads, unigram.tables):
        head.weight.zero_()
        head.bias.copy_(-bits_V * log(2))


def crops(train: Sequence[Tensor], budget: Budget, codebook_sizes: Sequence[int], *, seed: int) -> Iterator[Tensor]:
    """`steps` batches codes_BKN: utterances drawn by length, starts of crops drawn evenly, `IGNORED` behind a shorter utterance."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([codes_KN.shape[1] for codes_KN in train])
    rows = budget.rows(codebook_sizes)
    for _ in range(budget.steps):
        batch_BKN = torch.full((rows, len(train[0]), budget.frames), IGNORED)
        for row_KN, index in zip(batch_BKN, torch.multinomial(lengths.double(), rows, replacement=True, generator=generator).tolist()):
            latest = max(0, int(lengths[index]) - budget.frames)
            start = int(torch.randint(latest + 1, (1,), generator=generator))
            crop_KN = train[index][:, start : start + budget.frames]
            row_KN[:, : crop_KN.shape[1]] = crop_KN
        yield batch_BKN


def bits_per_second(predictor: Predictor, held_out: Mapping[str, Tensor], spec: TokenSpec) -> dict[str, Ratio]:
    """Bits over seconds of each utterance codes_KN, by id; those of a corpus are the sum over the sum."""
    return {
        id: Ratio(float(predictor.bits(codes_KN).sum()), codes_KN.shape[1] / float(spec.frame_rate)) for id, codes_KN in held_out.items()
    }


def prefers(predictor: Predictor, positive_KN: Tensor, negative_KN: Tensor) -> float:
    """1 where the positive takes fewer bits per second than the negative, 0 where it takes more, 0.5 where they tie."""
    positive, negative = (float(predictor.bits(codes_KN).sum(dim=0).mean()) for codes_KN in (positive_KN, negative_KN))
    return 0.5 if positive == negative else float(positive < negative)


def _checked(utterances: Sequence[Tensor], codebook_sizes: Sequence[int]) -> list[Tensor]:
    """On the CPU. Raises ValueError where there are none, where one is empty, and for a code outside its codebook."""
    if not utterances:
        raise ValueError("language model: no utterances; it needs some to learn from")
    sizes_K1 = torch.tensor(list(codebook_sizes))[:, None]
    for codes_KN in utterances:
        if codes_KN.ndim != 2 or len(codes_KN) != len(codebook_sizes) or not codes_KN.shape[1]:
            raise ValueError(f"language model: got codes of shape {tuple(codes_KN.shape)}, wanted [{len(codebook_sizes)}, frames]")
        if (outside := (codes_KN.cpu() < 0) | (codes_KN.cpu() >= sizes_K1)).any():
            codebook, frame = outside.nonzero()[0].tolist()
            found, size = int(codes_KN[codebook, frame]), codebook_sizes[codebook]
            raise ValueError(f"language model: codebook {codebook} holds the code {found} at frame {frame}; it has {size}")
    return [codes_KN.cpu() for codes_KN in utterances]
