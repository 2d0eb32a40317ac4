"""Laws of what several candidates emit, by chi-square at fixed seeds; how often one stands, against formulas and the optimum."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from itertools import product

import numpy
import pytest
import torch
from scipy.optimize import linprog
from scipy.stats import chisquare
from torch import Tensor

from audiotok.decoding.acceptance import Coarse
from audiotok.decoding.kernels import Hard, Identity, Kernel
from audiotok.decoding.samplers import Uniforms
from audiotok.decoding.siblings import draw_unlike
from audiotok.decoding.tree_verification import Candidates, CoarseRecursive, KSequential, Recursive, choose

Planned = Recursive | KSequential
SIZES = [(5,), (4, 3), (3, 2, 3)]


class Shared(Uniforms):
    """Random numbers of one generator for thousands of rows: a law does not care whose they are."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def more(self, rows: Sequence[int], count: int) -> Tensor:
        return torch.rand(len(rows), count, generator=self.generator, dtype=torch.float64)


def law(size: int, seed: int, spread: float = 1.2) -> Tensor:
    return (spread * torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).softmax(-1)


def laws(sizes: Sequence[int], seed: int, *, like: float = 0.4) -> tuple[list[Tensor], list[Tensor]]:
    """p and q of each codebook; q has some of p."""
    p = [law(size, seed + k) for k, size in enumerate(sizes)]
    return p, [like * p_V + (1 - like) * law(size, seed + 50 + k) for k, (p_V, size) in enumerate(zip(p, sizes))]


def drafted(p: Sequence[Tensor], q: Sequence[Tensor], count: int, *, distinct: bool, num: int, seed: int = 0) -> Candidates:
    """`count` candidates a row, each drawn given those before it."""
    numbers = Shared(seed)
    rows_q = [q_V.expand(num, -1) for q_V in q]
    codes_RMK = torch.empty(num, 0, len(q), dtype=torch.int64)
    for _ in range(count):
        tried_RM = torch.full(codes_RMK.shape[:2], distinct)
        code_RK = draw_unlike(rows_q, codes_RMK, tried_RM, numbers.more(range(num), len(q)))
        codes_RMK = torch.cat([codes_RMK, code_RK[:, None]], 1)
    rows_p = [p_V.expand(num, -1) for p_V in p]
    return Candidates(rows_p, rows_q, codes_RMK, torch.full((num,), count), distinct, range(num), numbers)


def joint(parts: Sequence[Tensor]) -> Tensor:
    return reduce(torch.kron, parts)


def index(codes_RK: Tensor, sizes: Sequence[int]) -> Tensor:
    return reduce(lambda known_R, k: known_R * sizes[k] + codes_RK[:, k], range(len(sizes)), torch.zeros_like(codes_RK[:, 0]))


def p_value(found_N: Tensor, law_S: Tensor) -> float:
    counts_S = found_N.bincount(minlength=len(law_S)).double()
    return float(chisquare(counts_S.numpy(), (law_S * len(found_N)).numpy()).pvalue)


CASES = [
    (rule, distinct, sizes)
    for (rule, distinct), sizes in product([(Recursive(), False), (Recursive(), True), (KSequential(), False)], SIZES)
]


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize(("rule", "distinct", "sizes"), CASES, ids=str)
def test_what_is_emitted_follows_the_target(rule: Planned, distinct: bool, sizes: Sequence[int], count: int) -> None:
    for seed in (3, 4):
        p, q = laws(sizes, seed)
        _, codes_RK = rule.choose(drafted(p, q, count, distinct=distinct, num=30_000, seed=seed))
        assert p_value(index(codes_RK, sizes), joint(p)) > 1e-3


@pytest.mark.parametrize(("rule", "distinct", "sizes"), CASES, ids=str)
def test_the_code_that_stands_is_the_candidate_and_what_it_leaves_is_the_rest(rule: Planned, distinct: bool, sizes) -> None:
    drawn = drafted(*laws(sizes, 7), 3, distinct=distinct, num=2000)
    chosen_R, codes_RK = rule.choose(drawn)
    stood_S = (chosen_R >= 0).nonzero().flatten()
    assert torch.equal(codes_RK[stood_S], drawn.codes_RMK[stood_S, chosen_R[stood_S]])
    assert len(chosen_R[chosen_R == 2]) > 0


def plainly_accepted(rule: Planned, p: Sequence[Tensor], q: Sequence[Tensor], *, count: int, distinct: bool) -> float:
    """The probability that a candidate stands, by listing every sequence of candidates; one codebook."""
    codes_RM = torch.tensor(list(product(range(len(p[0])), repeat=count)))
    rows, row_R = len(codes_RM), torch.arange(len(codes_RM))
    p_RV, q_RV = p[0].expand(rows, -1), q[0].expand(rows, -1)
    plan = rule.plan(Candidates([p_RV], [q_RV], codes_RM[..., None], torch.full((rows,), count), distinct, range(rows), Shared(0)))
    probability_R, left_R, reached_R = (torch.ones(rows, dtype=torch.float64) for _ in range(3))
    for step, code_R in enumerate(codes_RM.unbind(1)):
        own_R = q[0][code_R]
        probability_R = probability_R * own_R / left_R
        if distinct:
            probability_R = probability_R * (codes_RM[:, :step] != code_R[:, None]).all(-1)
            left_R = (left_R - own_R).clamp_min(1e-12)
        reached_R = reached_R * (1 - plan.accepted(p[0][code_R] / own_R, row_R, step))
    return float((probability_R * (1 - reached_R)).sum())


@pytest.mark.parametrize(("rule", "distinct"), [(Recursive(), False), (Recursive(), True), (KSequential(), False)])
def test_one_codebook_stands_as_often_as_the_formulas_say(rule: Planned, distinct: bool) -> None:
    p, q = laws([4], 11)
    chosen_R, _ = rule.choose(drafted(p, q, 2, distinct=distinct, num=40_000))
    wanted = plainly_accepted(rule, p, q, count=2, distinct=distinct)
    assert abs(float((chosen_R >= 0).double().mean()) - wanted) < 4 * (wanted * (1 - wanted) / 40_000) ** 0.5


def best_possible(p_S: Tensor, q_S: Tensor, count: int) -> float:
    """The largest probability that one of `count` independent candidates is emitted with the law p, by linear programming."""
    sequences = list(product(range(len(p_S)), repeat=count))
    pairs = [(s, x) for s, codes in enumerate(sequences) for x in sorted(set(codes))]
    within = numpy.zeros((len(sequences) + len(p_S), len(pairs)))
    for column, (s, x) in enumerate(pairs):
        within[s, column] = within[len(sequences) + x, column] = 1
    bounds = [float(torch.tensor([float(q_S[code]) for code in codes]).prod()) for codes in sequences] + p_S.tolist()
    return float(-linprog(-numpy.ones(len(pairs)), A_ub=within, b_ub=bounds).fun)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("rule", [KSequential(), Recursive()], ids=str)
def test_several_candidates_stand_more_often_than_one_and_no_more_often_than_can_be(rule: Planned, count: int) -> None:
    for seed, like in product((20, 21, 22, 23), (0.0, 0.5, 1.0)):
        p, q = laws([4], seed, like=like)
        single, best = float(torch.minimum(p[0], q[0]).sum()), best_possible(p[0], q[0], count)
        stands = plainly_accepted(rule, p, q, count=count, distinct=False)
        assert single - 1e-9 <= stands <= best + 1e-6
    assert plainly_accepted(rule, *laws([4], 20, like=0.0), count=count, distinct=False) > 0.01 + float(
        torch.minimum(*(parts[0] for parts in laws([4], 20, like=0.0))).sum()
    )


@pytest.mark.parametrize("sizes", SIZES[1:], ids=str)
@pytest.mark.parametrize("distinct", [False, True])
def test_a_product_of_codebooks_stands_more_often_with_more_candidates(sizes: Sequence[int], distinct: bool) -> None:
    p, q = laws(sizes, 30)
    stands = [
        float((Recursive().choose(drafted(p, q, count, distinct=distinct, num=20_000))[0] >= 0).double().mean()) for count in (1, 2, 4)
    ]
    assert abs(stands[0] - float(torch.minimum(joint(p), joint(q)).sum())) < 0.015
    assert stands[0] + 0.03 < stands[1] < stands[2] - 0.03


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_bounds_are_never_passed(sizes: Sequence[int]) -> None:
    for rule, distinct in ((Recursive(), False), (Recursive(), True), (KSequential(), False)):
        p, q = laws(sizes, 40)
        drawn = drafted(p, q, 4, distinct=distinct, num=50)
        plan, row_S = rule.plan(drawn), torch.arange(50)
        every_SK = torch.tensor(list(product(*map(range, sizes))))
        ratio_ST = (joint(p) / joint(q)).expand(50, -1)
        shares_STM = plan.shares(ratio_ST, row_S)
        if distinct:
            tried_STM = (every_SK[None, :, None] == drawn.codes_RMK[:, None]).all(-1)
            shares_STM = shares_STM * (tried_STM.long().cumsum(-1) - tried_STM.long() == 0)
        assert (shares_STM.sum(-1) <= 1 + 1e-9).all()
        assert (plan.bounds_RM.diff(dim=1) <= 1e-12).all()


def test_the_least_gamma_is_where_nothing_is_left_over() -> None:
    p, q = laws([6], 50)
    drawn = drafted(p, q, 3, distinct=False, num=1)
    gamma = float(KSequential().plan(drawn).divisors_RM[0, 0])

    def excess(gamma: float) -> float:
        beta = float(torch.minimum(p[0] / gamma, q[0]).sum())
        return 1 - (1 - beta) ** 3 - gamma * beta

    assert 1 < gamma < 3 and excess(gamma) <= 1e-12 < excess(gamma - 1e-3)


@pytest.mark.parametrize(
    ("rule", "distinct", "spoil"),
    [
        (KSequential(), False, lambda plan: replace(plan, divisors_RM=plan.divisors_RM * 0.6)),
        (Recursive(), False, lambda plan: replace(plan, offsets_RM=plan.offsets_RM * 0)),
        (Recursive(), True, lambda plan: replace(plan, left_RM=torch.ones_like(plan.left_RM), divisors_RM=plan.bounds_RM)),
    ],
)
def test_a_wrong_gamma_or_ratio_does_not_pass(rule: Planned, distinct: bool, spoil) -> None:
    p, q = laws([5], 3, like=0.0)
    drawn = drafted(p, q, 3, distinct=distinct, num=30_000)
    _, codes_RK = choose(drawn, spoil(rule.plan(drawn)), [Identity()])
    assert p_value(codes_RK[:, 0], p[0]) < 1e-9


@pytest.mark.parametrize("sizes", [(6,), (4, 3)], ids=str)
def test_coarse_candidates_emit_the_targets_groups_and_the_drafts_codes_within_what_stands(sizes: Sequence[int]) -> None:
    p, q = laws(sizes, 60, like=0.0)
    vectors = [torch.randn(size, 3, generator=torch.Generator().manual_seed(5 + k)) for k, size in enumerate(sizes)]
    kernels: Sequence[Kernel] = Coarse(Hard(0.2)).bind(vectors).kernels or []
    drawn = drafted(p, q, 3, distinct=False, num=30_000)
    chosen_R, codes_RK = CoarseRecursive(kernels).choose(drawn)
    share_TG = joint([kernel_rows(kernel, size) for kernel, size in zip(kernels, sizes)])
    p_T, q_T = joint(p), joint(q)
    p_G, q_G = p_T @ share_TG, q_T @ share_TG
    stands_G, reached = torch.zeros_like(p_G), 1.0
    for step in range(3):
        here_G = q_G * (p_G / q_G - step).clamp(0, 1)
        stands_G, reached = stands_G + reached * here_G, reached * (1 - float(here_G.sum()))
    law_T = (share_TG * (stands_G / q_G)).sum(-1) * q_T + (share_TG * ((p_G - stands_G) / p_G)).sum(-1) * p_T
    assert (stands_G <= p_G + 1e-12).all() and abs(float(law_T.sum()) - 1) < 1e-12
    assert p_value(index(codes_RK, sizes), law_T) > 1e-3 > p_value(index(codes_RK, sizes), p_T)
    stood = float((chosen_R >= 0).double().mean())
    assert abs(stood - float(stands_G.sum())) < 0.015 and stood > float(torch.minimum(p_G, q_G).sum()) + 0.01


def kernel_rows(kernel: Kernel, size: int) -> Tensor:
    """w(g|t), [codes, groups]."""
    row_N, group_N = torch.arange(size).repeat_interleave(size), torch.arange(size).repeat(size)
    return kernel.mass(torch.eye(size, dtype=torch.float64), row_N, group_N).view(size, size)


def test_siblings_are_drawn_from_what_is_left_of_the_law() -> None:
    q = [law(3, 70), law(2, 71)]
    tried = [(0, 0), (2, 1)]
    q_S = joint(q).clone()
    q_S[[0, 5]] = 0
    num = 20_000
    codes_RK = draw_unlike(
        [q_V.expand(num, -1) for q_V in q],
        torch.tensor(tried).expand(num, -1, -1),
        torch.ones(num, 2, dtype=torch.bool),
        Shared(1).more(range(num), 2),
    )
    found_N = index(codes_RK, (3, 2))
    assert (found_N.bincount(minlength=6)[[0, 5]] == 0).all()
    kept_S = q_S > 0
    counts_S = found_N.bincount(minlength=6).double()[kept_S]
    assert chisquare(counts_S.numpy(), (q_S[kept_S] / q_S.sum() * num).numpy()).pvalue > 1e-3


def test_rules_for_independent_candidates_refuse_siblings() -> None:
    drawn = drafted(*laws([4], 1), 2, distinct=True, num=2)
    for rule in (KSequential(), CoarseRecursive([Identity()])):
        with pytest.raises(ValueError, match="independently of each other"):
            rule.choose(drawn)
    with pytest.raises(ValueError, match="has 0 kernels for 1 codebooks"):
        CoarseRecursive([]).choose(drafted(*laws([4], 1), 2, distinct=False, num=2))


def test_a_row_is_decided_alone() -> None:
    sizes = (4, 3)
    p, q = laws(sizes, 80)
    together = drafted(p, q, 3, distinct=True, num=12)
    for rule in (Recursive(), KSequential()):
        drawn = replace(together, distinct=isinstance(rule, Recursive), counts_R=torch.arange(12) % 4)
        chosen_R, codes_RK = rule.choose(replace(drawn, uniforms=Uniforms(list(range(12)))))
        for row in range(12):
            alone = replace(
                drawn,
                p=[law_RV[:1] for law_RV in drawn.p],
                q=[law_RV[:1] for law_RV in drawn.q],
                codes_RMK=drawn.codes_RMK[row : row + 1, : row % 4],
                counts_R=drawn.counts_R[row : row + 1],
                rows=[0],
                uniforms=Uniforms([row]),
            )
            one_R, other_RK = rule.choose(alone)
            assert int(one_R) == int(chosen_R[row]) and torch.equal(other_RK[0], codes_RK[row])
