"""Logits of a codec's codes from guesses at the latents that they stand for: what residual quantisation does, with its doubts left in.

A codec's codes of a frame add up: each codebook refines what the ones before it left over (arXiv 2107.03312). A head that does not know
that has to learn by heart what a code means once others were said; this one subtracts them. Two codebooks, delay 1, `guess` of the latent:

    position         0      1             2
    codebook 0    guess0  guess1        guess2
    codebook 1            guess0 - c0   guess1 - c1       c the vector of what codebook 0 said of that frame
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.models.enhancement.clean_codes import CleanCodes, Logits, Placed, cross_entropy
from audiotok.nn.ragged import take
from audiotok.nn.vocabulary import embedded
from audiotok.tokenizers.quantisers import nearest

DOUBT = -2.0  # logarithm of the certainty at the start, at which most codes of a codebook are about as likely
PAD = -20.0  # the bias of a pad at the start, which is never to be said where a code is wanted


class Settled(NamedTuple):
    """What `ResidualHeads` compares with: of each codebook."""

    vectors: Sequence[Tensor]
    halves: Sequence[Tensor]
    bias: Sequence[Tensor]


class ResidualHeads(nn.Module):
    """Of codebook k, certainty x (left . c - |c|^2 / 2) + bias for each code's vector c: the nearer to what is left, the likelier.

    Without known vectors those of the codes are learnt from nothing, and nothing is subtracted.
    """

    vectors_VD: Tensor
    offsets_K: Tensor

    def __init__(self, sizes: Sequence[int], known: Sequence[Tensor] | None, *, delay: int, dim: int) -> None:
        """`sizes` counts the codes of each codebook; `known` are their vectors_VD, behind which that of a pad may stand, or None.

        Without them `dim` is the width of a guess. A delay puts a pad behind the codes of each of several codebooks.
        """
        super().__init__()
        pads = int(delay > 0 and len(sizes) > 1)
        self.sizes, self.codebook_sizes, self.delay = tuple(sizes), tuple(size + pads for size in sizes), delay
        self.dim = dim if known is None else known[0].shape[1]
        total = sum(self.codebook_sizes)
        self.register_buffer("vectors_VD", torch.zeros(total, self.dim) if known is None else torch.cat(list(known)))
        self.register_buffer("offsets_K", torch.tensor(self.codebook_sizes).cumsum(0) - torch.tensor(self.codebook_sizes), persistent=False)
        self.own = nn.Parameter(torch.randn(total, self.dim) * self.dim**-0.5 if known is None else torch.zeros(total, self.dim))
        self.bias = nn.Parameter(torch.cat([F.pad(torch.zeros(size), (0, pads), value=PAD) for size in sizes]))

    @property
    def outputs(self) -> int:
        """Numbers that a model says of a codebook at a position: the guess and the logarithm of its certainty."""
        return self.dim + 1

    def forward(self, told_BNKE: Tensor, codes_BKW: Tensor | None, settled: Settled | None = None) -> Logits:
        """Logits of each codebook at the N positions, [B, N, V_k], in full precision whatever the model around computes in.

        `told_BNKE` is what a model says there (`outputs`); `codes_BKW` the codes at W >= N positions up to the last of them, of which each
        position looks at earlier ones only. None subtracts nothing: the guesses are of what is left. `settled` saves time where nothing is
        learnt between calls.
        """
        with torch.autocast(told_BNKE.device.type, enabled=False):
            told_BNKE = told_BNKE.float()
            left_BNKD = told_BNKE[..., :-1]
            if codes_BKW is not None:
                left_BNKD = left_BNKD - self.said(codes_BKW, left_BNKD.shape[1])
            each = zip(left_BNKD.unbind(2), told_BNKE[..., -1:].unbind(2), *(settled or self.settled()))
            return [_nearness(*one) for one in each]

    def of(self, k: int, told_BNE: Tensor, settled: Settled | None = None) -> Tensor:
        """Logits of codebook k, [B, N, V_k], of guesses at what is left for it."""
        with torch.autocast(told_BNE.device.type, enabled=False):
            told_BNE = told_BNE.float()
            return _nearness(told_BNE[..., :-1], told_BNE[..., -1:], *(part[k] for part in settled or self.settled()))

    def settled(self) -> Settled:
        """Of each codebook the vectors, half their squares and the bias, as they are now."""
        weight_VD = self.vectors_VD + self.own
        halves_V = weight_VD.square().sum(dim=1) / 2
        return Settled(*(part.split(self.codebook_sizes) for part in (weight_VD, halves_V, self.bias)))

    @torch.no_grad()
    def said(self, codes_BKW: Tensor, positions: int) -> Tensor:
        """said_BNKD: of the frame whose codebook k stands at a position, the sum of the codes before k that were said earlier."""
        count, width = codes_BKW.shape[1:]
        place_N11 = torch.arange(width - positions, width, device=codes_BKW.device)[:, None, None]
        mine_K1, other_K = torch.arange(count, device=codes_BKW.device)[:, None], torch.arange(count, device=codes_BKW.device)
        index_NKJ = place_N11 - self.delay * (mine_K1 - other_K)
        earlier_NKJ = (index_NKJ >= 0) & (index_NKJ < place_N11) & (other_K < mine_K1)
        said_BNKJ = codes_BKW[:, other_K, index_NKJ.clamp(0, width - 1)].masked_fill(~earlier_NKJ, -1)
        sums_BMD = embedded(said_BNKJ.flatten(1, 2).transpose(1, 2), self.vectors_VD, self.offsets_K)
        return sums_BMD.unflatten(1, (positions, count))

    @torch.no_grad()
    def aimed(self, placed: Placed, heard_BKP: Tensor) -> Placed:
        """What is to be said after a history that is not the true one: where it says other codes of a frame, what makes good for them.

        That is the code nearest to what the codes that were heard leave over of the sum of all the frame's true ones.
        """
        if heard_BKP is placed.codes_BKP:
            return placed
        said_BPKD = self.said(heard_BKP, heard_BKP.shape[2])
        other_BPK = (said_BPKD != self.said(placed.codes_BKP, heard_BKP.shape[2])).any(dim=-1)
        left_BPKD = self.whole(placed) - said_BPKD
        aimed_BKP = placed.codes_BKP.clone()
        with torch.autocast(heard_BKP.device.type, enabled=False):
            for k, vectors_VD in enumerate(self.vectors_VD.split(self.codebook_sizes)):
                wrong = other_BPK[..., k] & placed.real_BKP[:, k]
                aimed_BKP[:, k][wrong] = nearest(left_BPKD[:, :, k][wrong], vectors_VD[: self.sizes[k]])
        return Placed(aimed_BKP, placed.real_BKP)

    @torch.no_grad()
    def whole(self, placed: Placed) -> Tensor:
        """whole_BPKD: of the frame whose codebook k stands at a position, the sum of all its true codes."""
        codes_BKP = placed.codes_BKP.masked_fill(~placed.real_BKP, -1)
        count, positions = codes_BKP.shape[1:]
        padded_BKP = F.pad(codes_BKP, (0, self.delay * (count - 1)), value=-1)
        frames_BKN = torch.stack([padded_BKP[:, k, self.delay * k : self.delay * k + positions] for k in range(count)], dim=1)
        whole_BND = embedded(frames_BKN, self.vectors_VD, self.offsets_K)
        return lagging(whole_BND, positions, codebooks=count, delay=self.delay)

    @torch.no_grad()
    def left(self, codes_BKN: Tensor) -> Tensor:
        """left_BNKD: what the true codes before each codebook leave over of the sum of a frame's codes."""
        each_BKND = self.vectors_VD[codes_BKN.clamp_min(0) + self.offsets_K[:, None]]
        return each_BKND.flip(1).cumsum(dim=1).flip(1).transpose(1, 2)

    def miss(self, told_BPKE: Tensor, wanted_BPKD: Tensor, real_BKP: Tensor) -> Tensor:
        """By how much the guesses miss what is wanted, in nats a code: of a normal law of deviation 1, the unit of all vectors."""
        missed_BKP = (told_BPKE[..., :-1].float() - wanted_BPKD).square().sum(dim=-1).transpose(1, 2) / 2
        return missed_BKP.where(real_BKP, 0).sum() / real_BKP.sum().clamp_min(1)


def said_and_guessed(
    heads: ResidualHeads, told_BPKE: Tensor, placed: Placed, history_BKP: Tensor, *, regression: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """(the loss after a history, its values): nats per code, and `regression` times what the guesses miss."""
    aimed = heads.aimed(placed, history_BKP)
    nats, values = cross_entropy(heads(told_BPKE, history_BKP), aimed.codes_BKP, aimed.real_BKP)
    missed = heads.miss(told_BPKE, heads.whole(placed), placed.real_BKP)
    return nats + regression * missed, values | {"nats": nats.detach(), "missed": missed.detach()}


def _nearness(left_D: Tensor, sure_1: Tensor, vectors_VD: Tensor, halves_V: Tensor, bias_V: Tensor) -> Tensor:
    certainty_1 = (sure_1 + DOUBT).exp()
    return F.linear(left_D * certainty_1, vectors_VD) - certainty_1 * halves_V + bias_V


def lagging(guess_BWE: Tensor, positions: int, *, codebooks: int, delay: int) -> Tensor:
    """guess_BNKE of the frame that each codebook says at the last N positions: for codebook k, the one `delay` x k positions before."""
    padded_BWE = F.pad(guess_BWE, (0, 0, delay * (codebooks - 1), 0))
    ends = [padded_BWE.shape[1] - delay * k for k in range(codebooks)]
    return torch.stack([padded_BWE[:, end - positions : end] for end in ends], dim=2)


def past(values_BPX: Tensor, index_BW: Tensor, *, nothing: float) -> Tensor:
    """What stood at some places of each row, [B, W, X]; `nothing` before its start."""
    return take(values_BPX, index_BW.clamp(0, values_BPX.shape[1] - 1)).masked_fill((index_BW < 0)[..., None], nothing)


class History:
    """The codes that a step was told, by position: what `ResidualHeads` looks back at. Written anew where a row was rewound."""

    def __init__(self, codes: CleanCodes, rows: int, *, positions: int, device: torch.device) -> None:
        self.lag = codes.lag
        self.codes_BPK = torch.full((rows, positions + 1, len(codes.codebook_sizes)), -1, device=device)  # from position -1 on

    def __call__(self, told_BKN: Tensor, said_B: Tensor) -> tuple[Tensor, Tensor]:
        """(index_BW, codes_BKW) of the positions from `lag` before the first of N to the last; `told_BKN` stand one before each of them."""
        count = told_BKN.shape[2]
        places_BN = said_B[:, None] + torch.arange(count, device=said_B.device)
        self.codes_BPK.scatter_(1, places_BN[..., None].expand(-1, -1, told_BKN.shape[1]), told_BKN.transpose(1, 2))
        index_BW = said_B[:, None] + torch.arange(-self.lag, count, device=said_B.device)
        return index_BW, past(self.codes_BPK, index_BW + 1, nothing=-1).transpose(1, 2)

    def reorder(self, rows_B: Tensor) -> None:
        self.codes_BPK = self.codes_BPK[rows_B]

    def put(self, row: int, other: "History") -> None:
        width = min(self.codes_BPK.shape[1], other.codes_BPK.shape[1])
        self.codes_BPK[row, :width] = other.codes_BPK[0, :width]
