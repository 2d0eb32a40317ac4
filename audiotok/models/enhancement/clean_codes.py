"""The codes of clean speech as an autoregressive enhancer hears and foretells them: delayed, so that codebook k is told all before it.

How many frames there are is known from the noisy speech, so there is no end to be said, and nothing is learnt of holes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from audiotok.data.code_vectors import code_vectors
from audiotok.data.noisy import NoisyBatch
from audiotok.models.exposure import drawn, not_learnt_from, share_of_own
from audiotok.nn.vocabulary import embedded, vocabulary
from audiotok.tokenizers.codec import Codec
from audiotok.transforms.patterns import Delay

Logits = Sequence[Tensor]


@dataclass(frozen=True)
class Placed:
    """Codes [B, K, P] at the positions of a layout: pad ids in holes, -1 past a row's last position."""

    codes_BKP: Tensor
    real_BKP: Tensor  # True where a code stands


def encoded(codec: Codec, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """(codes_BKN, lengths_B in frames), in full precision whatever the model around is trained in."""
    with torch.no_grad(), torch.autocast(wav_BT.device.type, enabled=False):
        return codec.encode(wav_BT.float(), lengths_B)


class CleanCodes(nn.Module):
    """Embeddings, layout and loss of clean codes; `replace_codes` and `own_history` as in `audiotok.models.code_decoder`.

    `free_running` is the share of recordings that are said by the model itself from their start before it learns what to say after that.
    """

    offsets_K: Tensor

    def __init__(
        self,
        codec: Codec,
        *,
        delay: int,
        from_vectors: bool,
        width: int,
        replace_codes: float,
        own_history: float,
        free_running: float,
    ) -> None:
        super().__init__()
        self.spec, self.layout = codec.spec, Delay(delay)
        placed = self.layout.out_spec(self.spec)
        self.codebook_sizes = placed.codebook_sizes
        self.lag = delay * (self.spec.num_codebooks - 1)
        self.replace_codes, self.own_history, self.free_running = replace_codes, own_history, free_running
        self.vectors = code_vectors(codec, self.layout) if from_vectors else None
        self.added = code_vectors(codec, self.layout, alike=False) if from_vectors else None
        self.codes = vocabulary(self.codebook_sizes, self.vectors, width=width, std=self.spec.num_codebooks**-0.5)
        self.start = nn.Parameter(torch.zeros(width))
        self.register_buffer("offsets_K", torch.tensor(placed.vocabulary_offsets), persistent=False)

    def ends(self, lengths_B: Tensor) -> Tensor:
        """Samples in the whole frames of recordings so long."""
        frames = [self.spec.num_frames(length) for length in lengths_B.tolist()]
        return torch.tensor(frames, device=lengths_B.device) * int(self.spec.hop)

    def placed(self, codes_BKN: Tensor, lengths_B: Tensor) -> Placed:
        """Each row's codes in the layout."""
        rows = [codes_KN[:, :length] for codes_KN, length in zip(codes_BKN, lengths_B.tolist())]
        codes = [self.layout.apply(codes_KN, self.spec).T for codes_KN in rows]
        legal = [self.layout.legal(codes_KN.shape[1], self.spec).T.to(codes_BKN.device) for codes_KN in rows]
        return Placed(
            pad_sequence(codes, batch_first=True, padding_value=-1).transpose(1, 2), pad_sequence(legal, batch_first=True).transpose(1, 2)
        )

    def embed(self, codes_BKP: Tensor, weight_VD: Tensor | None = None) -> Tensor:
        """hidden_BPD: the sum over codebooks; a code of -1 adds nothing. `weight_VD`: of the vocabulary, where it is known already."""
        return embedded(codes_BKP, self.codes() if weight_VD is None else weight_VD, self.offsets_K)

    def history(self, codes_BKP: Tensor) -> Tensor:
        """The inputs [B, P, D] after which the positions of these codes are foretold: input p is what stands at position p - 1."""
        return torch.cat([self.start.expand(len(codes_BKP), 1, -1), self.embed(codes_BKP[..., :-1])], 1)

    def heard(self, placed: Placed, foretell: Callable[[Tensor], Logits], model: Any, batch: NoisyBatch) -> Tensor:
        """codes_BKP that the model learns to go on from: in training some at random, and some as it would have drawn them itself.

        `foretell(codes_BKP)` gives the logits after them. Against exposure bias (arXiv 1906.07651); but what is drawn after true codes is
        still near them, so some recordings are said freely (`said_freely`), for which the model has what to say next (arXiv 1011.0686).
        """
        if not self.training:
            return placed.codes_BKP
        codes_BKP = self._spoiled(placed)
        if self.own_history:
            with not_learnt_from():
                own_BKP = drawn(foretell(codes_BKP))
            codes_BKP = torch.where(share_of_own(codes_BKP, self.own_history) & placed.real_BKP, own_BKP, codes_BKP)
        if self.free_running:
            free_B = torch.rand(len(codes_BKP), device=codes_BKP.device) < self.free_running
            codes_BKP[free_B] = said_freely(model, batch, placed, rows_B=free_B)
        return codes_BKP

    def _spoiled(self, placed: Placed) -> Tensor:
        codes_BKP = placed.codes_BKP
        share_B11 = 2 * self.replace_codes * torch.rand(len(codes_BKP), 1, 1, device=codes_BKP.device)
        sizes_K1 = torch.tensor(self.spec.codebook_sizes, device=codes_BKP.device)[:, None]
        random_BKP = (torch.rand(codes_BKP.shape, device=codes_BKP.device) * sizes_K1).long()
        replaced_BKP = (torch.rand(codes_BKP.shape, device=codes_BKP.device) < share_B11) & placed.real_BKP
        return torch.where(replaced_BKP, random_BKP, codes_BKP)


def said_freely(model: Any, batch: NoisyBatch, placed: Placed, *, rows_B: Tensor) -> Tensor:
    """codes_BKP of the rows where `rows_B`, each drawn after those that the model drew before; holes and ends are as they were placed.

    In full precision: to cast all weights at every position would cost more than is saved.
    """
    placed_BKP, real_BKP = placed.codes_BKP[rows_B], placed.real_BKP[rows_B]
    if not len(placed_BKP):
        return placed_BKP
    sizes, learns = model.codes.spec.codebook_sizes, model.training
    said = [placed_BKP[..., :1]]  # the first is not heard: before the first position stands the start
    with torch.inference_mode(), torch.autocast(placed_BKP.device.type, enabled=False):
        step = model.eval().begin(batch.noisy_BT[rows_B], batch.lengths_B[rows_B], positions=placed_BKP.shape[2])
        for placed_BK1, real_BK1 in zip(placed_BKP.split(1, dim=2), real_BKP.split(1, dim=2)):
            legal = [logits_B1V[..., :size] for logits_B1V, size in zip(step(said[-1]), sizes)]
            said.append(drawn(legal).where(real_BK1, placed_BK1))
    model.train(learns)
    return torch.cat(said[1:], dim=2)


def cross_entropy(logits: Logits, codes_BKN: Tensor, real_BKN: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """(nats per code, the same of the first and of the last codebook and the share that is guessed right)."""
    wanted_BKN = codes_BKN.masked_fill(~real_BKN, -1)
    nats_BKN = torch.stack([_nats(logits_BNV, codes_BN) for logits_BNV, codes_BN in zip(logits, wanted_BKN.unbind(1))], dim=1)
    right_BKN = torch.stack([logits_BNV.argmax(-1) for logits_BNV in logits], dim=1) == wanted_BKN
    count_K = real_BKN.sum(dim=(0, 2)).clamp_min(1)
    nats_K = nats_BKN.sum(dim=(0, 2)) / count_K
    values = {"first": nats_K[0], "last": nats_K[-1], "right": right_BKN.sum() / count_K.sum()}
    return nats_BKN.sum() / count_K.sum(), {name: value.detach() for name, value in values.items()}


def _nats(logits_BNV: Tensor, codes_BN: Tensor) -> Tensor:
    nats_M = F.cross_entropy(logits_BNV.float().flatten(0, 1), codes_BN.flatten(), ignore_index=-1, reduction="none")
    return nats_M.view_as(codes_BN)
