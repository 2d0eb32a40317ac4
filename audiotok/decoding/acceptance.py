"""Which drafted codes stand, and which codes follow them: the rules of speculative decoding.

A position holds K codes, which a model foretells independently of each other given the past: its law is a product of K laws. The target's
are p, K of float64 [B, G + 1, V_k], the draft's q, K of [B, G, V_k], and the drafted codes were drawn from q, position by position. A
position is accepted or rejected as a whole. Wherever a product of K laws is handled, only the codes or groups in question are looked up.

Each row decides with its own random numbers: what becomes of it does not depend on the other rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from audiotok.decoding.kernels import Identity, Kernel, Similarity
from audiotok.decoding.samplers import Uniforms, invert_cdf
from audiotok.decoding.step import NONE

FIRST_TRIALS = 4  # of thinning, at once; each round doubles them
LARGEST_ROUND = 2**12
MOST_TRIALS = 2**16


class Rule(Protocol):
    """How drafted positions are verified."""

    def verify(
        self, p: Sequence[Tensor], q: Sequence[Tensor], drafted_BKG: Tensor, uniforms: Uniforms, *, active_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(accepted_B, next_BK): how many of the G drafted positions stand, and the codes of the position after them.

        Where all stand, the next codes are drawn from p at position G. In rows that are not active nothing is looked at and no random
        number spent: 0 positions stand and the next codes are NONE.
        """
        ...

    def bind(self, vectors: Sequence[Tensor]) -> "Rule":
        """The rule for a model whose codes have these vectors, [V_k, D] for each codebook; the rule itself where it needs none."""
        ...


@dataclass(frozen=True)
class Exact:
    """The emitted codes follow the target's law, whatever the draft (speculative decoding, arXiv 2211.17192).

    A position is accepted with probability min(1, p/q) of its codes together; at a rejection the next codes follow norm((p - q)+) on the
    product of the codebooks.
    """

    def verify(
        self, p: Sequence[Tensor], q: Sequence[Tensor], drafted_BKG: Tensor, uniforms: Uniforms, *, active_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return _by_ratio([Identity()] * len(p), Draft.of(p, q, drafted_BKG, uniforms, active_B))

    def bind(self, vectors: Sequence[Tensor]) -> "Exact":
        return self


@dataclass(frozen=True)
class Coarse:
    """The emitted groups follow the target's law of groups; within a group the draft chooses (arXiv 2511.13732).

    For each drafted code a group is drawn that holds it; the position is accepted by the ratio of the groups' masses and keeps its codes.
    At a rejection the groups follow norm((P_c - Q_c)+) and the codes the target's law within them. With t ~ q(t|g) = q(t) w(g|t) / Q_c(g)
    the codes follow

        sum over g of min(P_c, Q_c)(g) q(t|g) + (P_c - Q_c)+(g) p(t|g)

    which is not p, but 1 - TV(P_c, Q_c) of the drafted positions stand, never less than the 1 - TV(p, q) of `Exact`. `similarity` says how
    the groups are made from the vectors given to `bind`; kernels that are at hand already can be passed as they are, one per codebook.
    """

    similarity: Similarity
    kernels: Sequence[Kernel] | None = None

    def verify(
        self, p: Sequence[Tensor], q: Sequence[Tensor], drafted_BKG: Tensor, uniforms: Uniforms, *, active_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.kernels is None or len(self.kernels) != len(p):
            got = "has no kernels" if self.kernels is None else f"has {len(self.kernels)} kernels"
            raise ValueError(f"the coarse rule {got} for {len(p)} codebooks; bind(vectors) makes one from the vectors of each")
        return _by_ratio(self.kernels, Draft.of(p, q, drafted_BKG, uniforms, active_B))

    def bind(self, vectors: Sequence[Tensor]) -> "Coarse":
        kernels = self.similarity.kernels(vectors)
        return replace(self, kernels=tuple(kernel.to(vectors_VD.device) for kernel, vectors_VD in zip(kernels, vectors)))


@dataclass(frozen=True)
class Tolerance:
    """A position is accepted with probability min(1, p/q + tolerance); otherwise as `Exact` (SSD, arXiv 2505.15380).

    The codes follow q min(1, p/q + tolerance) + (1 - accepted share) norm((p - q)+), which is not p.
    """

    tolerance: float

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise ValueError(f"acceptance.tolerance is {self.tolerance!r}, wanted 0 (exact) or more")

    def verify(
        self, p: Sequence[Tensor], q: Sequence[Tensor], drafted_BKG: Tensor, uniforms: Uniforms, *, active_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return _by_ratio([Identity()] * len(p), Draft.of(p, q, drafted_BKG, uniforms, active_B), tolerance=self.tolerance)

    def bind(self, vectors: Sequence[Tensor]) -> "Tolerance":
        return self


@dataclass(frozen=True)
class TopK:
    """A position is accepted where each of its codes is among the target's k most probable (Llasa+, arXiv 2508.06262).

    Otherwise the codes are drawn from the target anew. Nothing is corrected: with A the codes so accepted, they follow
    q(x) [x in A] + q(not A) p(x), which is the draft's law more than the target's. Codes as probable as the k-th count; one that the
    target rules out (p = 0) never does.
    """

    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"acceptance.k is {self.k!r}, wanted 1 or more")

    def verify(
        self, p: Sequence[Tensor], q: Sequence[Tensor], drafted_BKG: Tensor, uniforms: Uniforms, *, active_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        draft = Draft.of(p, q, drafted_BKG, uniforms, active_B)
        stands_RG = torch.ones_like(draft.codes_RGK[..., 0], dtype=torch.bool)
        for law_NV, codes_RG in zip(draft.p, draft.codes_RGK.unbind(-1)):
            law_RGV = draft.by_row(law_NV)[:, :-1]
            own_RG1 = law_RGV.gather(-1, codes_RG[..., None])
            stands_RG &= ((law_RGV > own_RG1).sum(-1) < self.k) & (own_RG1[..., 0] > 0)
        return draft.follow(leading(stands_RG), Draft.from_target)

    def bind(self, vectors: Sequence[Tensor]) -> "TopK":
        return self


@dataclass(frozen=True)
class Draft:
    """What one call is about: its R active rows, what was drafted in them, and both models' laws, [rows * positions, V_k] per codebook."""

    p: tuple[Tensor, ...]
    q: tuple[Tensor, ...]
    codes_RGK: Tensor
    rows_R: Tensor
    num_rows: int
    uniforms: Uniforms

    @classmethod
    def of(cls, p: Sequence[Tensor], q: Sequence[Tensor], drafted_BKG: Tensor, uniforms: Uniforms, active_B: Tensor | None) -> "Draft":
        rows, codebooks, length = drafted_BKG.shape
        for k, (p_BNV, q_BGV) in enumerate(zip(p, q, strict=True)):
            wanted = [(rows, length + 1, p_BNV.shape[-1]), (rows, length, p_BNV.shape[-1])]
            assert [tuple(p_BNV.shape), tuple(q_BGV.shape)] == wanted and len(p) == codebooks, f"the laws of codebook {k} are not {wanted}"
        rows_R = torch.arange(rows, device=drafted_BKG.device) if active_B is None else active_B.nonzero().flatten()
        flat_p, flat_q = (tuple(law.double().flatten(0, 1) for law in laws) for laws in (p, q))
        return cls(flat_p, flat_q, drafted_BKG[rows_R].transpose(1, 2), rows_R, rows, uniforms)

    @property
    def length(self) -> int:
        """The number of drafted positions, G."""
        return self.codes_RGK.shape[1]

    def numbers(self, count: int) -> Tensor:
        """Random numbers [R, count] of the rows' own."""
        return self.uniforms.more(self.rows_R.tolist(), count).to(self.rows_R.device)

    def only(self, which_S: Tensor) -> "Draft":
        """The same of some of the active rows."""
        return replace(self, codes_RGK=self.codes_RGK[which_S], rows_R=self.rows_R[which_S])

    def place_in_p(self, position: Tensor) -> Tensor:
        """Of each row's position (or positions, a row of them), the index into `p`."""
        return _rows_like(self.rows_R, position) * (self.length + 1) + position

    def place_in_q(self, position: Tensor) -> Tensor:
        return _rows_like(self.rows_R, position) * self.length + position

    def by_row(self, law_NV: Tensor) -> Tensor:
        """One of `p` or `q` as [R, positions, V]."""
        law_BGV = law_NV.view(self.num_rows, -1, law_NV.shape[-1])
        return law_BGV if len(self.rows_R) == self.num_rows else law_BGV[self.rows_R]

    def laws_at(self, position_R: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The target's and the draft's laws, [R, V_k] per codebook, at a drafted position of each row."""
        place_in_p_R, place_in_q_R = self.place_in_p(position_R), self.place_in_q(position_R)
        return [law_NV[place_in_p_R] for law_NV in self.p], [law_NV[place_in_q_R] for law_NV in self.q]

    def from_target(self, position_R: Tensor) -> Tensor:
        """Codes [R, K], drawn from p at a position of each row."""
        numbers_RK, place_R = self.numbers(len(self.p)), self.place_in_p(position_R)
        return torch.stack([invert_cdf(law_NV[place_R], numbers_RK[:, k]) for k, law_NV in enumerate(self.p)], dim=-1)

    def follow(self, accepted_R: Tensor, residual: Callable[["Draft", Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The answer of a rule: the next codes are `residual(rows that stopped, accepted_S)`, or drawn from p where all positions stand."""
        next_RK = self.codes_RGK.new_empty(len(accepted_R), len(self.p))
        whole_S = (accepted_R == self.length).nonzero().flatten()
        if len(whole_S):
            next_RK[whole_S] = self.only(whole_S).from_target(accepted_R[whole_S])
        stopped_S = (accepted_R < self.length).nonzero().flatten()
        if len(stopped_S):
            next_RK[stopped_S] = residual(self.only(stopped_S), accepted_R[stopped_S])
        return self.answer(accepted_R, next_RK)

    def answer(self, accepted_R: Tensor, next_RK: Tensor) -> tuple[Tensor, Tensor]:
        """(accepted_B, next_BK) of all rows."""
        accepted_B = accepted_R.new_zeros(self.num_rows)
        next_BK = next_RK.new_full((self.num_rows, len(self.p)), NONE)
        return accepted_B.index_copy(0, self.rows_R, accepted_R), next_BK.index_copy(0, self.rows_R, next_RK)


class Thinned(NamedTuple):
    codes_RK: Tensor
    groups_RK: Tensor
    trials_R: Tensor  # draws that it took


def thin(kernels: Sequence[Kernel], p: Sequence[Tensor], q: Sequence[Tensor], *, rows: Sequence[int], uniforms: Uniforms) -> Thinned:
    """Codes whose groups follow norm((P_c - Q_c)+), for laws [R, V_k] and rows of `uniforms`, without listing the product of codebooks.

    Draw x ~ p and g ~ w(.|x), keep x with probability max(0, 1 - Q_c(g) / P_c(g)), else try again: 1 / TV(P_c, Q_c) trials on average, so
    one per position, since TV is the probability of a rejection. A row that keeps none of 65,536 trials takes a draw from p: where models
    differ by rounding alone, a rejection is as rare as its trials would be many. This shifts the law by at most TV (1 - TV)^65536 < 6e-6.
    """
    cumulative = [law_RV.cumsum(-1) for law_RV in p]
    codes_RK = torch.empty(len(rows), len(p), dtype=torch.int64, device=p[0].device)
    groups_RK, trials_R = torch.empty_like(codes_RK), codes_RK.new_zeros(len(rows))
    pending_S, count, tried = torch.arange(len(rows), device=p[0].device), FIRST_TRIALS, 0
    while len(pending_S) and tried < MOST_TRIALS:
        numbers_SM = uniforms.more([rows[row] for row in pending_S.tolist()], count * (2 * len(p) + 1)).to(p[0].device)
        codes_STK, groups_STK, keep_ST = _try(kernels, cumulative, p, q, pending_S, numbers_SM.unflatten(1, (count, -1)))
        kept_S = keep_ST.any(-1)
        chosen_S = keep_ST.int().argmax(-1).where(kept_S, count - 1)  # the first that is kept
        at = torch.arange(len(pending_S), device=pending_S.device), chosen_S
        codes_RK[pending_S], groups_RK[pending_S] = codes_STK[at], groups_STK[at]
        trials_R[pending_S] += chosen_S + 1
        pending_S, tried, count = pending_S[~kept_S], tried + count, min(2 * count, LARGEST_ROUND)
    return Thinned(codes_RK, groups_RK, trials_R)


def _try(
    kernels: Sequence[Kernel], cumulative: Sequence[Tensor], p: Sequence[Tensor], q: Sequence[Tensor], row_S: Tensor, numbers_STM: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """T trials of each of some rows: codes [S, T, K], groups, and which are to be kept."""
    codes = []
    for k, cumulative_RV in enumerate(cumulative):
        cumulative_SV = cumulative_RV[row_S]
        targets_ST = numbers_STM[..., k] * cumulative_SV[:, -1:]
        codes.append(torch.searchsorted(cumulative_SV, targets_ST.contiguous(), right=True))
    codes_STK = torch.stack(codes, dim=-1)
    groups_STK = draw_groups(kernels, codes_STK, numbers_STM[..., len(p) : 2 * len(p)])
    row_ST = row_S[:, None].expand(codes_STK.shape[:2])
    return codes_STK, groups_STK, numbers_STM[..., -1] < -torch.expm1(-log_ratio(kernels, p, q, row_ST, row_ST, groups_STK))


def _by_ratio(kernels: Sequence[Kernel], draft: Draft, *, tolerance: float = 0.0) -> tuple[Tensor, Tensor]:
    """Accept while u < P_c/Q_c + tolerance, then thin. Exact acceptance is the case of kernels that leave each code alone."""
    codebooks = len(kernels)
    numbers_RGM = draft.numbers(draft.length * (codebooks + 1)).unflatten(1, (draft.length, codebooks + 1))
    position_RG = torch.arange(draft.length, device=draft.rows_R.device).expand(draft.codes_RGK.shape[:2])
    groups_RGK = draw_groups(kernels, draft.codes_RGK, numbers_RGM[..., :codebooks])
    log_ratio_RG = log_ratio(kernels, draft.p, draft.q, draft.place_in_p(position_RG), draft.place_in_q(position_RG), groups_RGK)
    accepted_R = leading(numbers_RGM[..., codebooks] < log_ratio_RG.exp() + tolerance)

    def residual(stopped: Draft, accepted_S: Tensor) -> Tensor:
        return thin(kernels, *stopped.laws_at(accepted_S), rows=stopped.rows_R.tolist(), uniforms=stopped.uniforms).codes_RK

    return draft.follow(accepted_R, residual)


def draw_groups(kernels: Sequence[Kernel], codes_NK: Tensor, uniforms_NK: Tensor) -> Tensor:
    """A group of each code, any number of axes for N."""
    drawn = [
        kernel.draw(codes_NK[..., k].flatten(), uniforms_NK[..., k].flatten()).view(codes_NK.shape[:-1]) for k, kernel in enumerate(kernels)
    ]
    return torch.stack(drawn, dim=-1)


def log_ratio(
    kernels: Sequence[Kernel], p: Sequence[Tensor], q: Sequence[Tensor], row_in_p_N: Tensor, row_in_q_N: Tensor, groups_NK: Tensor
) -> Tensor:
    """log P_c(g) - log Q_c(g) of the groups of a position together, any number of axes for N; logarithms, for a product may underflow."""
    total_N = torch.zeros((), dtype=torch.float64, device=groups_NK.device)
    for laws, row_N, sign in ((p, row_in_p_N, 1), (q, row_in_q_N, -1)):
        masses = [kernel.mass(laws[k], row_N.flatten(), groups_NK[..., k].flatten()) for k, kernel in enumerate(kernels)]
        total_N = total_N + sign * torch.stack(masses).log().sum(0).view(row_N.shape)
    return total_N


def leading(stands_RG: Tensor) -> Tensor:
    """How many stand before the first that does not."""
    return stands_RG.long().cumprod(-1).sum(-1)


def _rows_like(rows_R: Tensor, position: Tensor) -> Tensor:
    return rows_R.view(-1, *[1] * (position.ndim - 1))
