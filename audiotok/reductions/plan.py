"""Fewer tokens than frames, as matrices: what every lossy reduction comes down to.

A reduction hears the latents of an utterance and says how its N frames become M tokens. Token m is a weighted mean of frames: row m of a
matrix whose rows are not negative and sum to 1. It stands for `durations[m]` frames, one token after another in time, and that is the way
back. Five frames as the means of 2, 1 and 2:

    .5 .5  .  .  .
     .  .  1  .  .      durations 2 1 2
     .  .  . .5 .5

Since products of such matrices are such matrices, any two reductions compose. Matrices are sparse and float64: dense, those of 10,000
frames would take 800 MB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod
from typing import Protocol

import torch
from torch import Tensor

TOLERANCE = 1e-9  # of the sum of a row: float64 is exact to 1e-12 over 10,000 frames


@dataclass(frozen=True, eq=False)
class Plan:
    """How N frames become M tokens, and back. Raises ValueError for a matrix that is not row-stochastic or durations that do not fit it."""

    down_MN: Tensor  # may be given dense
    durations_M: Tensor  # int64, frames that each token stands for

    def __post_init__(self) -> None:
        down_MN = self.down_MN if self.down_MN.is_sparse else self.down_MN.to_sparse()
        object.__setattr__(self, "down_MN", down_MN.double().coalesce())
        _check(self.down_MN, self.durations_M)

    @property
    def num_tokens(self) -> int:
        return self.down_MN.shape[0]

    @property
    def num_frames(self) -> int:
        return self.down_MN.shape[1]

    @cached_property
    def up_NM(self) -> Tensor:
        """The way back: each token as often as it stands for a frame."""
        token_N = torch.arange(self.num_tokens, device=self.durations_M.device).repeat_interleave(self.durations_M)
        frame_N = torch.arange(self.num_frames, device=token_N.device)
        return _sparse(frame_N, token_N, torch.ones_like(frame_N, dtype=torch.float64), (self.num_frames, self.num_tokens))

    def tokens(self, hidden_ND: Tensor) -> Tensor:
        """hidden_MD of the tokens, in the precision of the frames'."""
        return mixed(self.down_MN, hidden_ND)

    def frames(self, hidden_MD: Tensor) -> Tensor:
        """hidden_ND that the tokens stand for."""
        return hidden_MD.repeat_interleave(self.durations_M, dim=0)

    def then(self, other: "Plan") -> "Plan":
        """This plan, and the other one for its tokens, as one. Raises ValueError where the other is for another number of frames."""
        if other.num_frames != self.num_tokens:
            raise ValueError(f"got a plan for {other.num_frames} frames after one that makes {self.num_tokens} tokens; they must agree")
        ends_M = other.durations_M.cumsum(0)
        before_M = torch.cat([self.durations_M.new_zeros(1), self.durations_M.cumsum(0)])
        return Plan(_product(other.down_MN, self.down_MN), before_M[ends_M] - before_M[ends_M - other.durations_M])

    def split(self, longest: int) -> "Plan":
        """The same with every token that stands for more than `longest` frames said again, whole ones first."""
        pieces_M = (self.durations_M + longest - 1) // longest
        token_P = torch.arange(self.num_tokens, device=pieces_M.device).repeat_interleave(pieces_M)
        place_P = torch.arange(len(token_P), device=pieces_M.device) - (pieces_M.cumsum(0) - pieces_M)[token_P]
        return Plan(self.down_MN.index_select(0, token_P), (self.durations_M[token_P] - place_P * longest).clamp(max=longest))


class Reduction(Protocol):
    """How the frames of an utterance become tokens, decided from their latents alone."""

    @property
    def causal(self) -> bool:
        """Whether an utterance can come in pieces: all tokens of its beginning but the last one are tokens of the whole, and the plan of
        the frames behind a token is what the plan of the whole is behind it."""
        ...

    @property
    def uniform(self) -> int | None:
        """The frames that every token stands for but the last, which may stand for fewer; None where that depends on the latents."""
        ...

    def plan(self, hidden_ND: Tensor) -> Plan: ...


@dataclass(frozen=True)
class Composed:
    """Reductions in turn, each of the tokens that the one before it makes, quantised once at the end.

    Causal where the first is, and the others stand for a fixed number of tokens: what is the last token to one that waits for the next
    is not settled for the one after it.
    """

    reductions: Sequence[Reduction]

    def __post_init__(self) -> None:
        object.__setattr__(self, "reductions", tuple(self.reductions))
        if not self.reductions:
            raise ValueError("got no reductions to compose, want one at least")

    @property
    def causal(self) -> bool:
        return all(reduction.causal for reduction in self.reductions) and all(reduction.uniform for reduction in self.reductions[1:])

    @property
    def uniform(self) -> int | None:
        widths = [reduction.uniform for reduction in self.reductions]
        return None if None in widths else prod(width for width in widths if width)

    def plan(self, hidden_ND: Tensor) -> Plan:
        first, *others = self.reductions
        plan = first.plan(hidden_ND)
        for reduction in others:
            plan = plan.then(reduction.plan(plan.tokens(hidden_ND)))
        return plan


def weighted(token_E: Tensor, frame_E: Tensor, weight_E: Tensor, durations_M: Tensor) -> Plan:
    """The plan in which frame e has that weight in token e, each token's weights divided by their sum."""
    total_M = weight_E.new_zeros(len(durations_M)).index_add(0, token_E, weight_E)
    return Plan(_sparse(token_E, frame_E, weight_E / total_M[token_E], (len(durations_M), int(durations_M.sum()))), durations_M)


def means(durations_M: Tensor) -> Plan:
    """Each token is the mean of the frames that it stands for."""
    token_N = torch.arange(len(durations_M), device=durations_M.device).repeat_interleave(durations_M)
    frame_N = torch.arange(len(token_N), device=durations_M.device)
    return weighted(token_N, frame_N, torch.ones_like(frame_N, dtype=torch.float64), durations_M)


def picks(frame_M: Tensor, durations_M: Tensor) -> Plan:
    """Each token is one frame."""
    return weighted(torch.arange(len(frame_M), device=frame_M.device), frame_M, torch.ones_like(frame_M, dtype=torch.float64), durations_M)


def segments(starts_N: Tensor) -> Tensor:
    """durations_M of tokens that start at the frames where bool `starts_N` is true; one starts at the first frame in any case."""
    start_M = torch.cat([torch.ones_like(starts_N[:1]), starts_N[1:]]).nonzero()[:, 0]
    return torch.cat([start_M, start_M.new_full((1,), len(starts_N))]).diff() if len(starts_N) else start_M


def interpolation(durations_M: Tensor) -> Tensor:
    """up_NM, sparse: straight lines between the middles of the tokens, the first and the last token beyond theirs."""
    num_frames, num_tokens = int(durations_M.sum()), len(durations_M)
    middle_M = durations_M.cumsum(0).double() - durations_M.double() / 2
    frame_N = torch.arange(num_frames, device=durations_M.device)
    right_N = torch.searchsorted(middle_M, frame_N + 0.5).clamp(min=min(1, num_tokens - 1), max=max(num_tokens - 1, 0))
    left_N = (right_N - 1).clamp(min=0)
    gap_N = (middle_M[right_N] - middle_M[left_N]).clamp(min=1)  # 1 or more between two tokens, 0 where there is one alone
    share_N = ((frame_N + 0.5 - middle_M[left_N]) / gap_N).clamp(0, 1)
    places_2N = torch.cat([left_N, right_N])
    return _sparse(frame_N.repeat(2), places_2N, torch.cat([1 - share_N, share_N]), (num_frames, num_tokens))


def mixed(matrix_MN: Tensor, hidden_ND: Tensor) -> Tensor:
    """hidden_MD: the product, computed in float64."""
    return torch.sparse.mm(matrix_MN, hidden_ND.double()).to(hidden_ND.dtype)


def budget(share: float, num_frames: int) -> int:
    """Tokens that are this share of the frames, rounded up, as pooling by a whole number of frames rounds."""
    return min(num_frames, ceil(share * num_frames - 1e-9))


def check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"got a share of {share}, want one above 0 and at most 1: the tokens for each frame")


def _sparse(row_E: Tensor, column_E: Tensor, value_E: Tensor, shape: tuple[int, int]) -> Tensor:
    kept_E = value_E != 0  # a weight may underflow
    indices_2E = torch.stack([row_E[kept_E], column_E[kept_E]])
    return torch.sparse_coo_tensor(indices_2E, value_E[kept_E].double(), shape, check_invariants=True).coalesce()


def _product(left_MP: Tensor, right_PN: Tensor) -> Tensor:
    """Of two sparse matrices; torch's own warns that it is beta."""
    (row_E, inner_E), (right_row_R, column_R) = left_MP.indices(), right_PN.indices()
    entries_P = right_row_R.bincount(minlength=right_PN.shape[0])
    source_F = torch.arange(len(row_E), device=row_E.device).repeat_interleave(entries_P[inner_E])
    ends_E = entries_P[inner_E].cumsum(0)
    place_F = torch.arange(len(source_F), device=row_E.device) - (ends_E - entries_P[inner_E])[source_F]
    right_F = (entries_P.cumsum(0) - entries_P)[inner_E[source_F]] + place_F
    values_F = left_MP.values()[source_F] * right_PN.values()[right_F]
    return _sparse(row_E[source_F], column_R[right_F], values_F, (left_MP.shape[0], right_PN.shape[1]))


def _check(down_MN: Tensor, durations_M: Tensor) -> None:
    if durations_M.dtype != torch.int64 or durations_M.dim() != 1 or (durations_M < 1).any():
        raise ValueError(f"got durations {durations_M.dtype} {durations_M.tolist()}, want int64 of 1 frame at least for each token")
    wanted = [len(durations_M), int(durations_M.sum())]
    if list(down_MN.shape) != wanted:
        raise ValueError(f"got a matrix of {list(down_MN.shape)}, want {wanted}: a row for each duration, as many columns as they sum to")
    rows_E, values_E = down_MN.indices()[0], down_MN.values()
    sums_M = values_E.new_zeros(wanted[0]).index_add(0, rows_E, values_E)
    wrong_M = ~((sums_M - 1).abs() <= TOLERANCE)
    wrong_M[rows_E[~(values_E >= 0)]] = True
    if wrong_M.any():
        token = int(wrong_M.nonzero()[0])
        raise ValueError(f"the weights of token {token} sum to {float(sums_M[token])}, want weights that are not negative and sum to 1")
