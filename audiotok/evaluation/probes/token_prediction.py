"""Clean codes from those of noisy or mixed speech, all at once: enhancement, and separation into speakers (DASB, arXiv 2406.14294).

The head gives each frame a distribution over each codebook of each speaker; the caller decodes the likeliest codes and scores the sound.
With several speakers the order is settled for each utterance by the least loss (PIT, arXiv 1607.00325), in training and in scoring.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import log

import torch
from torch import Tensor, nn

from audiotok.evaluation.metric import NotApplicable, Ratio
from audiotok.evaluation.probes import inputs
from audiotok.evaluation.probes.embedding import EmbeddingSettings, embedding
from audiotok.evaluation.probes.fitting import Batch, FitSettings, History, fit, predictions
from audiotok.evaluation.probes.heads import HeadMaker
from audiotok.evaluation.probes.inputs import Inputs, Labelled, check_codes, common_kind, padded, reduction, valid
from audiotok.evaluation.probes.scores import Convergence, near_chance

SPARE_FRAMES = 1  # by which input and target may differ in length, where features are framed otherwise than codes


@dataclass(frozen=True)
class PredictorSettings:
    """A head of frames between the codes of what is heard and those of what is wanted."""

    embedding: EmbeddingSettings
    head: HeadMaker
    fit: FitSettings


@dataclass(frozen=True)
class Predicted:
    """What a token prediction probe found out.

    `codes` are codes_SKN by id, speakers in the order of the targets; `tokens` is wrong tokens over tokens, `codebooks` the same of each
    codebook over all utterances.
    """

    codes: Mapping[str, Tensor]
    tokens: Mapping[str, Ratio]
    codebooks: tuple[float, ...]
    convergence: Convergence | None
    history: History | None

    @property
    def token_error_rate(self) -> float:
        return sum(ratio.numerator for ratio in self.tokens.values()) / sum(ratio.denominator for ratio in self.tokens.values())


class Predictor(nn.Module):
    """embedding -> head of frames -> linear to (speakers x all entries of all codebooks)."""

    def __init__(self, way_in: nn.Module, head: HeadMaker, *, codebook_sizes: Sequence[int], speakers: int) -> None:
        super().__init__()
        self.codebook_sizes = tuple(codebook_sizes)
        self.speakers = speakers
        self.embedding = way_in
        self.head = head(way_in.width)  # type: ignore[arg-type]
        self.output = nn.Linear(self.head.width, speakers * sum(codebook_sizes))  # type: ignore[arg-type]
        self.masks_padding: bool = self.head.masks_padding  # type: ignore[assignment]

    def collate(self, examples: Sequence[Labelled]) -> Batch:
        """Targets: codes_BSKN and the frames that input and target both have."""
        batch = inputs.collate([example.input for example in examples])
        codes = [targets_of(example, codebook_sizes=self.codebook_sizes, speakers=self.speakers) for example in examples]
        frames = batch.frames.shape[2 if examples[0].input.codebook_sizes else 1]
        shared_B = torch.tensor([common_frames(example, codes_SKN) for example, codes_SKN in zip(examples, codes)])
        return Batch(batch, (torch.stack([padded(each, frames, dim=-1)[..., :frames] for each in codes]), shared_B))

    def forward(self, batch: Inputs) -> Tensor:
        """Scores [B, speakers, N, all entries]."""
        hidden_BND, lengths_B = self.embedding(batch)
        return self.output(self.head(hidden_BND, lengths_B)).unflatten(-1, (self.speakers, -1)).transpose(1, 2)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The mean over utterances of cross-entropy for a token, speakers in the best order."""
        return self.pair_losses(outputs, batch).amin(dim=1).mean()

    def pair_losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The loss of each utterance in each order of `orders`, [B, orders]."""
        codes_BSKN, shared_B = batch.targets
        losses_BST = torch.stack([self.speaker_losses(scores_BNV, codes_BSKN, shared_B) for scores_BNV in outputs.unbind(dim=1)], dim=1)
        return torch.stack([losses_BST[:, order, range(self.speakers)].mean(dim=1) for order in self.orders], dim=1)

    @property
    def orders(self) -> list[list[int]]:
        """orders[.][t]: the output that stands for target t."""
        return [list(order) for order in permutations(range(self.speakers))]

    def speaker_losses(self, scores_BNV: Tensor, codes_BSKN: Tensor, shared_B: Tensor) -> Tensor:
        """The cross-entropy for a token of one output against each target, [B, S]."""
        mask_BN = valid(shared_B, scores_BNV.shape[1])
        total = torch.zeros(codes_BSKN.shape[:2], device=scores_BNV.device)
        for codebook, scores in enumerate(scores_BNV.split(self.codebook_sizes, dim=-1)):
            log_probs_BNC = scores.float().log_softmax(dim=-1)
            codes_BNS = codes_BSKN[:, :, codebook].transpose(1, 2)
            total = total - (log_probs_BNC.gather(2, codes_BNS) * mask_BN[..., None]).sum(dim=1)
        return total / (shared_B * len(self.codebook_sizes))[:, None]

    def errors(self, outputs: Tensor, batch: Batch) -> tuple[float, float]:
        """Tokens wrong, of all."""
        codes_BSKN, shared_B = batch.targets
        wrong = (self.codes(outputs, batch) != codes_BSKN) & valid(shared_B, codes_BSKN.shape[-1])[:, None, None]
        return float(wrong.sum()), float(shared_B.sum()) * self.speakers * len(self.codebook_sizes)

    def codes(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The likeliest codes_BSKN, speakers in the order of the targets."""
        orders_BS = torch.tensor(self.orders, device=outputs.device)[self.pair_losses(outputs, batch).argmin(dim=1)]
        likeliest_BSKN = torch.stack([scores.argmax(dim=-1) for scores in outputs.split(self.codebook_sizes, dim=-1)], dim=2)
        return likeliest_BSKN[torch.arange(len(outputs), device=outputs.device)[:, None], orders_BS]


def predict_tokens(
    train: Sequence[Labelled],
    test: Sequence[Labelled],
    *,
    dev: Sequence[Labelled],
    codebook_sizes: Sequence[int],
    settings: PredictorSettings,
    seed: int,
    device: torch.device,
    vectors: Sequence[Tensor] | None = None,
) -> Predicted:
    """Fit a predictor to `train` and score it on `test`. Targets are codes_KN, or codes_SKN of S speakers, of `codebook_sizes`.

    Raises NotApplicable where frames come faster than `max_frame_rate`: codes that are averaged cannot be told one by one.
    """
    kind = common_kind([example.input for example in train])
    if reduction(kind.frame_rate, settings.embedding.max_frame_rate) > 1:
        raise NotApplicable(
            f"{float(kind.frame_rate):g} frames a second; codes are predicted up to max_frame_rate={settings.embedding.max_frame_rate:g}"
        )
    speakers = len(_as_speakers(train[0]))

    def build() -> Predictor:
        way_in = embedding(kind, settings.embedding, vectors=vectors)
        return Predictor(way_in, settings.head, codebook_sizes=codebook_sizes, speakers=speakers)

    predictor, history = fit(build, train, dev=dev, settings=settings.fit, seed=seed, device=device)
    codes: dict[str, Tensor] = {}
    for chosen, batch, outputs in predictions(predictor, test, batch_size=settings.fit.batch_size):
        for example, codes_SKN, frames in zip(chosen, predictor.codes(outputs, batch).cpu(), batch.inputs.lengths_B.tolist()):
            codes[example.id] = codes_SKN[..., :frames]
    return _scored(test, codes, codebook_sizes=codebook_sizes, history=history)


def commonest(train: Sequence[Labelled], test: Sequence[Labelled], *, codebook_sizes: Sequence[int]) -> Predicted:
    """What knows nothing of its input scores: each codebook's commonest code of the train targets, in every frame."""
    targets = [targets_of(example, codebook_sizes=codebook_sizes, speakers=len(_as_speakers(example))) for example in train]
    counts = [
        torch.stack([each[:, codebook].flatten().bincount(minlength=size) for each in targets]).sum(dim=0)
        for codebook, size in enumerate(codebook_sizes)
    ]
    answer_K1 = torch.stack([count_C.argmax() for count_C in counts])[:, None]
    codes = {each.id: answer_K1.expand(len(_as_speakers(each)), -1, each.input.num_frames).clone() for each in test}
    return _scored(test, codes, codebook_sizes=codebook_sizes, history=None)


def _scored(test: Sequence[Labelled], codes: Mapping[str, Tensor], *, codebook_sizes: Sequence[int], history: History | None) -> Predicted:
    if len(codes) < len(test) or not test:
        raise ValueError(f"{len(test)} test utterances have {len(codes)} ids; every one needs its own")
    wrong = {example.id: _wrong(example, codes[example.id], codebook_sizes=codebook_sizes) for example in test}
    tokens = {id: Ratio(float(wrong_SKN.sum()), wrong_SKN.numel()) for id, wrong_SKN in wrong.items()}
    every_KN = torch.cat([wrong_SKN.transpose(0, 1).flatten(1) for wrong_SKN in wrong.values()], dim=1)
    codebooks = tuple(every_KN.float().mean(dim=1).tolist())
    return Predicted(codes, tokens, codebooks, _convergence(every_KN, codebook_sizes, history), history)


def _wrong(example: Labelled, codes_SKN: Tensor, *, codebook_sizes: Sequence[int]) -> Tensor:
    target_SKN = targets_of(example, codebook_sizes=codebook_sizes, speakers=len(codes_SKN))
    frames = common_frames(example, target_SKN)
    return codes_SKN[..., :frames] != target_SKN[..., :frames]


def _convergence(wrong_KN: Tensor, codebook_sizes: Sequence[int], history: History | None) -> Convergence | None:
    if history is None:
        return None
    chance = sum(1 / size for size in codebook_sizes) / len(codebook_sizes)
    uniform = sum(log(size) for size in codebook_sizes) / len(codebook_sizes)
    right = 1 - float(wrong_KN.float().mean())
    return Convergence(history.train_loss, uniform, near_chance(right, chance=chance, count=wrong_KN.numel()))


def targets_of(example: Labelled, *, codebook_sizes: Sequence[int], speakers: int) -> Tensor:
    """The target codes_SKN of an example. Raises ValueError for another number of speakers and codes that no codebook has."""
    codes_SKN = _as_speakers(example)
    if len(codes_SKN) != speakers:
        raise ValueError(f"{example.id}: target codes of {len(codes_SKN)} speakers, wanted {speakers}")
    for codes_KN in codes_SKN:
        check_codes(codes_KN, codebook_sizes)
    return codes_SKN.long()


def _as_speakers(example: Labelled) -> Tensor:
    if not isinstance(example.target, Tensor) or example.target.dim() not in (2, 3):
        raise ValueError(f"{example.id}: a token prediction probe's target is codes_KN or codes_SKN; got {type(example.target).__name__}")
    return example.target if example.target.dim() == 3 else example.target[None]


def common_frames(example: Labelled, codes_SKN: Tensor) -> int:
    """The frames that input and target both have. Raises ValueError where they differ by more than a rounding."""
    heard, wanted = example.input.num_frames, codes_SKN.shape[-1]
    if abs(heard - wanted) > SPARE_FRAMES:
        raise ValueError(f"{example.id}: {heard} frames are heard and {wanted} wanted; both must come at one frame rate, from one length")
    return min(heard, wanted)
