"""Which of several candidates for a position stands, or what is said in their place: the rules for drafts that branch.

Candidates x_1, x_2, ... were drawn one after the other from a law q: x_j from q_j, which is q, or q without those before it. They are
looked at in this order, and x_j stands with probability a_j(x_j), a function of the ratio r = p / q alone. With R_j the probability that
the first j do not stand, the codes follow p if what is said in their place follows

    norm(p - sum over j of R_{j-1} q_j a_j),                                                                           (*)

provided that this is nowhere negative. Of one codebook all of it can be written down. A position of K codebooks is a product of K laws,
of which R cannot be summed. Two things make (*) exact nonetheless: a_j is built from bounds U_j >= R_j which are products of sums over
single codebooks, so that nothing is negative; and in drawing from (*) by thinning p, an event of probability R_j is had by trying j fresh
candidates, never by knowing R_j.

The coarse-grained rule (arXiv 2511.13732) is the same with groups in place of codes: P_c / Q_c for p / q, a candidate that stands keeps
its code. It is defined for candidates drawn independently, where the groups are so too; there no bound is summed, and U = 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from audiotok.decoding.acceptance import FIRST_TRIALS, LARGEST_ROUND, MOST_TRIALS, draw_groups, log_ratio
from audiotok.decoding.kernels import Identity, Kernel
from audiotok.decoding.samplers import Uniforms
from audiotok.decoding.siblings import draw_unlike, own_probabilities

BISECTIONS = 40
NEVER = float("inf")
TINY = 1e-300


@dataclass(frozen=True)
class Candidates:
    """R rows, each with `counts_R` candidates of up to M for its next position, drawn from the laws q; p is the target's."""

    p: Sequence[Tensor]  # of each codebook float64 [R, V_k]
    q: Sequence[Tensor]
    codes_RMK: Tensor
    counts_R: Tensor
    distinct: bool  # each was drawn unlike those before it
    rows: Sequence[int]  # of `uniforms`
    uniforms: Uniforms

    def numbers(self, which_S: Tensor, count: int) -> Tensor:
        """Random numbers [S, count] of some rows' own, which may be named more than once."""
        return self.uniforms.more([self.rows[row] for row in which_S.tolist()], count).to(which_S.device)

    def left(self) -> Tensor:
        """1 less the mass of the candidates before each under q, [R, M]: q_j = q / left_j. All 1 where they are independent."""
        own_RM = own_probabilities(self.q, self.codes_RMK).prod(-1) * self.distinct
        return (1 - (own_RM.cumsum(-1) - own_RM)).clamp_min(TINY)


@dataclass(frozen=True)
class Plan:
    """a_j(r) = (r - offset_j) / divisor_j within 0 and 1, and the bounds U_{j-1} >= R_{j-1}; `left` as of the candidates; all [R, M].

    No candidate stands less often than if each codebook had to stand by itself with min(1, r_k / each_j); where the bound says nothing of
    it, `each` is infinite. `summed` where U is R itself.
    """

    offsets_RM: Tensor
    divisors_RM: Tensor
    bounds_RM: Tensor
    left_RM: Tensor
    each_RM: Tensor
    summed: bool

    def accepted(self, ratio: Tensor, row: Tensor, step: int) -> Tensor:
        """a_j of ratios [S], each under a row's plan."""
        return ((ratio - self.offsets_RM[row, step]) / self.divisors_RM[row, step]).clamp(0, 1)

    def shares(self, ratio_ST: Tensor, row_S: Tensor) -> Tensor:
        """U_{j-1} q_j a_j / p of codes with these ratios, [S, T, M]."""
        offsets_S1M, divisors_S1M = self.offsets_RM[row_S, None], self.divisors_RM[row_S, None]
        accepted_STM = ((ratio_ST[..., None] - offsets_S1M) / divisors_S1M).clamp(0, 1)
        return accepted_STM * (self.bounds_RM / self.left_RM)[row_S, None] / ratio_ST[..., None]


class Verifier(Protocol):
    """A rule for several candidates."""

    def choose(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """(chosen_R, codes_RK): which candidate stands in each row, or -1, and the codes of the position. Exact, whatever was drafted."""
        ...


@dataclass(frozen=True)
class Recursive:
    """Each candidate against what those before it have left of the target's law (SpecInfer, arXiv 2305.09781; DySpec, arXiv 2410.11744).

    x_1 stands with probability min(1, p / q), as without the others; for x_2 p is norm((p - q)+), and so on. With S_j the sum of
    U_{i-1} / left_i over the i < j: a_j = (r - S_j) left_j / U_{j-1}. One codebook has U = R = sum (p - S q)+. Of several, U is the
    product bound 1 - prod (1 - TV_k) from the second candidate on.
    """

    def choose(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        return choose(candidates, self.plan(candidates), _identities(candidates))

    def plan(self, candidates: Candidates) -> Plan:
        left_RM, several = candidates.left(), len(candidates.p) > 1
        bound_R, offset_R = torch.ones_like(left_RM[:, :1].sum(-1)), torch.zeros_like(left_RM[:, :1].sum(-1))
        offsets, bounds = [], []
        for step, left_R in enumerate(left_RM.unbind(1)):
            offsets.append(offset_R)
            bounds.append(bound_R)
            offset_R = offset_R + bound_R / left_R
            if not several:
                bound_R = (candidates.p[0] - offset_R[:, None] * candidates.q[0]).clamp(min=0).sum(-1)
            elif step == 0:
                bound_R = 1 - _overlap(candidates, torch.ones_like(bound_R))
        bounds_RM = _columns(bounds, like=left_RM)
        each_RM = torch.full_like(left_RM, NEVER)
        each_RM[:, :1] = 1
        return Plan(_columns(offsets, like=left_RM), (bounds_RM / left_RM).clamp_min(TINY), bounds_RM, left_RM, each_RM, not several)


@dataclass(frozen=True)
class KSequential:
    """SpecTr's rule for independent candidates (arXiv 2310.15141): each stands with probability min(1, p / (gamma q)), one for all.

    beta = sum min(p / gamma, q) is the probability that one stands. gamma is the least for which (*) is nowhere negative,
    1 - (1 - beta)^k <= gamma beta, by bisection. Of several codebooks, beta is bounded from below by the product over codebooks of
    sum min(p_k / gamma^(1/K), q_k), and gamma is larger than it would have to be.
    """

    def choose(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        _check_independent(candidates, "k-sequential selection")
        return choose(candidates, self.plan(candidates), _identities(candidates))

    def plan(self, candidates: Candidates) -> Plan:
        gamma_R, root = _least_gamma(candidates), 1 / len(candidates.p)
        steps_M = torch.arange(candidates.codes_RMK.shape[1], device=gamma_R.device)
        bounds_RM = (1 - _overlap(candidates, gamma_R**root))[:, None] ** steps_M
        gamma_RM = gamma_R[:, None].expand_as(bounds_RM)
        return Plan(
            torch.zeros_like(bounds_RM),
            gamma_RM,
            bounds_RM,
            torch.ones_like(bounds_RM),
            gamma_RM**root,
            len(candidates.p) == 1,
        )


@dataclass(frozen=True)
class CoarseRecursive:
    """`Recursive` over groups of codes that sound alike, for independent candidates: the emitted groups follow the target's law of groups.

    No bound is summed, so U = 1 and a_j = (r - (j - 1)) within 0 and 1, of r = P_c / Q_c: the first candidate stands as often as under
    `acceptance.Coarse`.
    """

    kernels: Sequence[Kernel]

    def choose(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        _check_independent(candidates, "the coarse rule")
        if len(self.kernels) != len(candidates.p):
            raise ValueError(f"the coarse rule has {len(self.kernels)} kernels for {len(candidates.p)} codebooks; bind it first")
        return choose(candidates, self.plan(candidates), self.kernels)

    def plan(self, candidates: Candidates) -> Plan:
        ones_RM = candidates.p[0].new_ones(candidates.codes_RMK.shape[:2])
        return Plan(ones_RM.cumsum(-1) - 1, ones_RM, ones_RM, ones_RM, torch.full_like(ones_RM, NEVER), False)


def choose(candidates: Candidates, plan: Plan, kernels: Sequence[Kernel]) -> tuple[Tensor, Tensor]:
    """What a plan says of the candidates: (chosen_R, codes_RK)."""
    (rows, most, codebooks), device = candidates.codes_RMK.shape, candidates.codes_RMK.device
    chosen_R = torch.full((rows,), -1, device=device)
    codes_RK = candidates.codes_RMK.new_empty(rows, codebooks)
    for step in range(most):
        which_S = ((chosen_R < 0) & (candidates.counts_R > step)).nonzero().flatten()
        if len(which_S):
            numbers_SM, drawn_SK = candidates.numbers(which_S, codebooks + 1), candidates.codes_RMK[which_S, step]
            ratio_S = _ratio(candidates, kernels, drawn_SK, which_S, numbers_SM[:, :codebooks])
            stands_S = numbers_SM[:, -1] < plan.accepted(ratio_S, which_S, step)
            chosen_R[which_S[stands_S]] = step
            codes_RK[which_S[stands_S]] = drawn_SK[stands_S]
    refused_S = (chosen_R < 0).nonzero().flatten()
    codes_RK[refused_S] = _instead(candidates, plan, kernels, refused_S)
    return chosen_R, codes_RK


def _instead(candidates: Candidates, plan: Plan, kernels: Sequence[Kernel], rows_S: Tensor) -> Tensor:
    """Codes [S, K] that follow (*): x ~ p is dropped with probability sum R_{j-1} q_j a_j / p, else kept; see `acceptance.thin`."""
    codes_SK = candidates.codes_RMK.new_empty(len(rows_S), len(candidates.p))
    pending_S, count, tried = torch.arange(len(rows_S), device=rows_S.device), FIRST_TRIALS, 0
    while len(pending_S) and tried < MOST_TRIALS:
        codes_STK, kept_ST = _trials(candidates, plan, kernels, rows_S[pending_S], count)
        kept_S = kept_ST.any(-1)
        first_S = kept_ST.int().argmax(-1).where(kept_S, count - 1)
        codes_SK[pending_S] = codes_STK[torch.arange(len(pending_S), device=rows_S.device), first_S]
        pending_S, tried, count = pending_S[~kept_S], tried + count, min(2 * count, LARGEST_ROUND)
    return codes_SK


def _trials(candidates: Candidates, plan: Plan, kernels: Sequence[Kernel], rows_S: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Codes [S, T, K] from p, and which of them are kept."""
    codebooks = len(candidates.p)
    numbers_STM = candidates.numbers(rows_S, count * (2 * codebooks + 1)).unflatten(1, (count, -1))
    row_N = rows_S.repeat_interleave(count)
    codes_NK = _draw(candidates.p, row_N, numbers_STM[..., :codebooks].flatten(0, 1))
    ratio_N = _ratio(candidates, kernels, codes_NK, row_N, numbers_STM[..., codebooks:-1].flatten(0, 1))
    codes_STK = codes_NK.view(len(rows_S), count, codebooks)
    shares_STM = plan.shares(ratio_N.view(len(rows_S), count), rows_S) * _possible(candidates, codes_STK, rows_S)
    step_ST = (shares_STM.cumsum(-1) <= numbers_STM[..., -1:]).sum(-1)  # by which of the candidates it would be dropped, M by none
    dropped_ST = step_ST < shares_STM.shape[-1]
    if not plan.summed:
        needy_N = (dropped_ST & (step_ST > 0)).flatten().nonzero().flatten()
        dropped_ST.view(-1)[needy_N] = _reached(candidates, plan, kernels, row_N[needy_N], step_ST.flatten()[needy_N])
    return codes_STK, ~dropped_ST


def _possible(candidates: Candidates, codes_STK: Tensor, rows_S: Tensor) -> Tensor:
    """Bool [S, T, M]: whether candidate j exists and could have been these codes."""
    tried_S1MK, step_M = candidates.codes_RMK[rows_S, None], torch.arange(candidates.codes_RMK.shape[1], device=rows_S.device)
    exists_S1M = (step_M < candidates.counts_R[rows_S, None])[:, None]
    if not candidates.distinct:
        return exists_S1M.expand(*codes_STK.shape[:2], -1)
    same_STM = (codes_STK[:, :, None] == tried_S1MK).all(-1).long()
    return exists_S1M & (same_STM.cumsum(-1) - same_STM == 0)


def _reached(candidates: Candidates, plan: Plan, kernels: Sequence[Kernel], row_N: Tensor, step_N: Tensor) -> Tensor:
    """Bool [N], true with probability R_{j-1} / U_{j-1}: fresh candidates 1 to j - 1 of the row do not stand, given what U has of it."""
    stands_N = torch.ones_like(row_N, dtype=torch.bool)
    for step in range(int(step_N.max()) if len(step_N) else 0):
        which_S = (stands_N & (step_N > step)).nonzero().flatten()
        stands_N[which_S] = _refused(candidates, plan, kernels, row_N[which_S], step)
    return stands_N


def _refused(candidates: Candidates, plan: Plan, kernels: Sequence[Kernel], row_N: Tensor, step: int) -> Tensor:
    """Bool [N]: whether a fresh candidate of this step does not stand, given that it would not with each codebook by itself."""
    refused_N, pending_N = torch.ones_like(row_N, dtype=torch.bool), torch.arange(len(row_N), device=row_N.device)
    tried = 0
    while len(pending_N) and tried < MOST_TRIALS:
        row_S, codebooks = row_N[pending_N], len(candidates.p)
        numbers_SM = candidates.numbers(row_S, 2 * codebooks + 1)
        codes_SK = _fresh(candidates, row_S, step, numbers_SM[:, :codebooks])
        ratio_S = _ratio(candidates, kernels, codes_SK, row_S, numbers_SM[:, codebooks:-1])
        decided_S = numbers_SM[:, -1] >= _each(candidates, codes_SK, row_S, plan.each_RM[row_S, step])
        refused_N[pending_N] = numbers_SM[:, -1] >= plan.accepted(ratio_S, row_S, step)
        pending_N, tried = pending_N[~decided_S], tried + 1
    return refused_N


def _fresh(candidates: Candidates, row_S: Tensor, step: int, numbers_SK: Tensor) -> Tensor:
    """Codes [S, K] drawn as the row's candidate of this step was."""
    if not candidates.distinct:
        return _draw(candidates.q, row_S, numbers_SK)
    tried_SMK = candidates.codes_RMK[row_S, :step]
    tried_SM = torch.ones_like(tried_SMK[..., 0], dtype=torch.bool)
    return draw_unlike([law_RV[row_S] for law_RV in candidates.q], tried_SMK, tried_SM, numbers_SK)


def _each(candidates: Candidates, codes_SK: Tensor, row_S: Tensor, each_S: Tensor) -> Tensor:
    """The product over codebooks of min(1, r_k / each)."""
    ratios = [p_RV[row_S, code_S] / q_RV[row_S, code_S] for p_RV, q_RV, code_S in zip(candidates.p, candidates.q, codes_SK.unbind(1))]
    return torch.stack([(ratio_S / each_S).clamp_max(1) for ratio_S in ratios]).prod(0)


def _ratio(candidates: Candidates, kernels: Sequence[Kernel], codes_NK: Tensor, row_N: Tensor, numbers_NK: Tensor) -> Tensor:
    """p / q of codes, or P_c / Q_c of a group drawn for each, [N]; infinite where q is 0."""
    return log_ratio(kernels, candidates.p, candidates.q, row_N, row_N, draw_groups(kernels, codes_NK, numbers_NK)).exp()


def _draw(laws: Sequence[Tensor], row_N: Tensor, numbers_NK: Tensor) -> Tensor:
    """codes_NK of the product of laws in a row each."""
    codes = []
    for law_RV, number_N in zip(laws, numbers_NK.unbind(1)):
        cumulative_NV = law_RV.cumsum(-1)[row_N]
        codes.append(torch.searchsorted(cumulative_NV, number_N[:, None] * cumulative_NV[:, -1:], right=True).squeeze(-1))
    return torch.stack(codes, dim=-1)


def _overlap(candidates: Candidates, divisor_R: Tensor) -> Tensor:
    """The product over codebooks of sum min(p_k / divisor, q_k)."""
    sums = [torch.minimum(p_RV / divisor_R[:, None], q_RV).sum(-1) for p_RV, q_RV in zip(candidates.p, candidates.q)]
    return torch.stack(sums).prod(0).clamp_max(1)


def _least_gamma(candidates: Candidates) -> Tensor:
    """The least gamma in [1, k] for which sum over i < k of (1 - beta)^i <= gamma; the upper end of the interval, where it holds."""
    count_R = candidates.counts_R.clamp_min(1)
    low_R, high_R = torch.ones_like(candidates.p[0][:, 0]), count_R.double()
    steps_M = torch.arange(int(count_R.max()) if len(count_R) else 1, device=count_R.device)
    for _ in range(BISECTIONS):
        middle_R = (low_R + high_R) / 2
        refused_R1 = (1 - _overlap(candidates, middle_R ** (1 / len(candidates.p))))[:, None]
        holds_R = (refused_R1**steps_M * (steps_M < count_R[:, None])).sum(-1) <= middle_R
        low_R, high_R = low_R.where(holds_R, middle_R), middle_R.where(holds_R, high_R)
    return high_R


def _identities(candidates: Candidates) -> list[Identity]:
    return [Identity()] * len(candidates.p)


def _check_independent(candidates: Candidates, rule: str) -> None:
    if candidates.distinct:
        raise ValueError(f"{rule} is for candidates drawn independently of each other, not for siblings that differ; draft by Chains")


def _columns(columns: Sequence[Tensor], *, like: Tensor) -> Tensor:
    return torch.stack(list(columns), dim=1) if columns else torch.empty_like(like)
