"""Laws of what is emitted against formulas, by chi-square at fixed seeds; acceptance against the total variation it should equal."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chances import Shared, dense, draw, emit, index, joint, overlap, p_value, same_share
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from audiotok.decoding import acceptance
from audiotok.decoding.acceptance import Coarse, Exact, Rule, Tolerance, TopK, thin
from audiotok.decoding.block_verification import Block
from audiotok.decoding.kernels import Hard, Identity, Nearest, Soft
from audiotok.decoding.samplers import Sampler, Uniforms, invert_cdf

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "acceptance").glob("*.yaml"))
KERNELS = [Hard(0.3), Soft(-0.2, 0.5), Nearest(3)]
COARSE = [Coarse(similarity) for similarity in KERNELS]
RULES = [Exact(), *COARSE, Tolerance(0.3), TopK(3), Block()]


def laws(*shape: int, seed: int, spread: float = 1.5) -> Tensor:
    return (spread * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).softmax(-1)


def vectors(sizes: Sequence[int], seed: int = 5) -> list[Tensor]:
    return [torch.randn(size, 3, generator=torch.Generator().manual_seed(seed + k)) for k, size in enumerate(sizes)]


SIZES = [(2,), (50,), (7, 5), (3, 2, 4)]


@pytest.mark.parametrize("sizes", SIZES)
def test_exact_acceptance_emits_the_target_s_law_whatever_the_draft(sizes: tuple[int, ...]) -> None:
    p, q = ([laws(size, seed=seed + k) for k, size in enumerate(sizes)] for seed in (10, 20))
    codes_BK, stood_B = emit(Exact(), p, q)
    assert p_value(index(codes_BK, sizes), joint(p)) > 1e-3
    assert same_share(stood_B, overlap(joint(p), joint(q)))
    assert p_value(index(codes_BK, sizes), joint(q)) < 1e-6, "the draft's law is another"


OFF = Sampler(1.0, None, None, None, None, None, ">")
SAMPLERS = [
    OFF,
    replace(OFF, temperature=0),
    replace(OFF, temperature=0.6, top_k=4),
    replace(OFF, top_p=0.8),
    replace(OFF, min_p=0.1),
    replace(OFF, top_k=6, top_p=0.9, min_p=0.05, repetition_window=4, repetition_threshold=0.2),
]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_exact_acceptance_emits_what_each_kind_of_sampler_would_draw_from_the_target(sampler: Sampler) -> None:
    logits_2V = 2 * torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    history_2W = logits_2V[0].topk(3).indices[[0, 0, 1, 2]].expand(2, -1)
    p_V, q_V = sampler.distribution(logits_2V, history_BW=history_2W)
    codes_B1, _ = emit(Exact(), [p_V], [q_V])
    num = len(codes_B1)
    uniforms_2B = torch.rand(2, num, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    drawn_B = sampler.draw(logits_2V[0].expand(num, -1), uniforms_2B, history_BW=history_2W[0].expand(num, -1))
    assert p_value(codes_B1[:, 0], p_V) > 1e-3
    assert p_value(drawn_B, p_V) > 1e-3


def chain(sizes: Sequence[int], seed: int) -> list[Tensor]:
    """The laws of each codebook after every state of all of them, [S + 1, V_k]; the last state is the start."""
    states = int(torch.tensor(sizes).prod())
    return [laws(states + 1, size, seed=seed + k) for k, size in enumerate(sizes)]


def speak(rule: Rule, p: Sequence[Tensor], q: Sequence[Tensor], *, length: int, wanted: int, num: int = 20_000) -> tuple[Tensor, Tensor]:
    """The states at the first `wanted` positions [num, wanted]: a block of `length` drafted by chain q, verified, then chain p alone."""
    numbers, sizes = Shared(4), [law_SV.shape[1] for law_SV in p]

    def follow(table: Sequence[Tensor], state_B: Tensor) -> Tensor:
        return torch.stack([draw(law_SV[state_B], numbers) for law_SV in table], dim=1)

    drafted, states = [], [torch.full((num,), len(p[0]) - 1)]
    for _ in range(length):
        drafted.append(follow(q, states[-1]))
        states.append(index(drafted[-1], sizes))
    before_BN = torch.stack(states, dim=1)
    p_BNV, q_BGV = [law_SV[before_BN] for law_SV in p], [law_SV[before_BN[:, :-1]] for law_SV in q]
    accepted_B, next_BK = rule.verify(p_BNV, q_BGV, torch.stack(drafted, dim=2), numbers)
    spoken = []
    for n in range(wanted):
        own_B = index(follow(p, spoken[-1]), sizes) if n else torch.zeros_like(accepted_B)
        stands_B = before_BN[:, min(n, length - 1) + 1]
        spoken.append(torch.where(n < accepted_B, stands_B, torch.where(n == accepted_B, index(next_BK, sizes), own_B)))
    return torch.stack(spoken, dim=1), accepted_B


def law_of(chain_p: Sequence[Tensor], positions: int) -> Tensor:
    """The joint law of the first positions, the last the fastest."""
    step_SS = torch.stack([joint(rows) for rows in zip(*chain_p)])
    law = step_SS[-1]
    for _ in range(positions - 1):
        law = (law.view(-1, step_SS.shape[1], 1) * step_SS[:-1]).flatten()
    return law


@pytest.mark.parametrize("sizes", [(5,), (3, 2), (2, 2, 2)])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_the_first_two_positions_of_a_verified_chain_follow_the_target_s_joint_law(sizes: tuple[int, ...], length: int) -> None:
    p, q = chain(sizes, 30), chain(sizes, 40)
    states_BN, _ = speak(Exact(), p, q, length=length, wanted=2)
    assert p_value(index(states_BN, [len(p[0]) - 1] * 2), law_of(p, 2)) > 1e-3


@pytest.mark.parametrize(
    "wrong", [lambda right: -right, lambda right: 2 * right, lambda right: right + 0.2], ids=["inverted", "squared", "scaled"]
)
def test_a_wrong_ratio_is_noticed(wrong: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    right = acceptance.log_ratio
    monkeypatch.setattr(acceptance, "log_ratio", lambda *arguments: wrong(right(*arguments)))
    p, q = ([laws(7, seed=seed)] for seed in (10, 20))
    codes_BK, _ = emit(Exact(), p, q)
    assert p_value(codes_BK[:, 0], p[0]) < 1e-6


def coarse_case(rule: Coarse, sizes: Sequence[int]) -> tuple[Coarse, list[Tensor], list[Tensor], Tensor]:
    bound = rule.bind(vectors(sizes))
    p, q = ([laws(size, seed=seed + k) for k, size in enumerate(sizes)] for seed in (10, 20))
    return bound, p, q, joint([dense(kernel, size) for kernel, size in zip(bound.kernels, sizes)])


@pytest.mark.parametrize("rule", COARSE)
@pytest.mark.parametrize("sizes", [(9,), (5, 4)])
def test_coarse_acceptance_emits_the_target_s_law_of_groups(rule: Coarse, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    bound, p, q, w_SS = coarse_case(rule, sizes)
    drawn, thinned = [], []
    draw_groups, thin_rows = acceptance.draw_groups, acceptance.thin
    monkeypatch.setattr(acceptance, "draw_groups", lambda *a: drawn.append(draw_groups(*a)) or drawn[-1])
    monkeypatch.setattr(acceptance, "thin", lambda *a, **k: thinned.append(thin_rows(*a, **k)) or thinned[-1])
    _, stood_B = emit(bound, p, q)
    groups_BK = drawn[0][:, 0]
    groups_BK[~stood_B] = thinned[0].groups_RK
    assert p_value(index(groups_BK, sizes), w_SS @ joint(p)) > 1e-3
    assert p_value(index(groups_BK, sizes), w_SS @ joint(q)) < 1e-6


@pytest.mark.parametrize("rule", COARSE)
@pytest.mark.parametrize("sizes", [(9,), (5, 4)])
def test_coarse_acceptance_emits_codes_by_its_formula_and_accepts_all_but_the_variation_of_groups(rule: Coarse, sizes: tuple) -> None:
    bound, p, q, w_SS = coarse_case(rule, sizes)
    p_S, q_S = joint(p), joint(q)
    p_c, q_c = w_SS @ p_S, w_SS @ q_S
    law_S = q_S * (w_SS.T @ (torch.minimum(p_c, q_c) / q_c)) + p_S * (w_SS.T @ ((p_c - q_c).clamp(min=0) / p_c))
    codes_BK, stood_B = emit(bound, p, q)
    assert p_value(index(codes_BK, sizes), law_S) > 1e-3
    assert p_value(index(codes_BK, sizes), p_S) < 1e-6, "within its groups the draft chooses"
    assert same_share(stood_B, overlap(p_c, q_c))
    assert overlap(p_c, q_c) > overlap(p_S, q_S) + 0.05


@given(size=st.integers(2, 12), seed=st.integers(0, 10_000), kind=st.integers(0, 2), spread=st.floats(0.1, 6), limit=st.floats(-1, 1))
@settings(max_examples=60, deadline=None)
def test_no_kernel_accepts_less_than_exact_acceptance(size: int, seed: int, kind: int, spread: float, limit: float) -> None:
    similarity = [Hard(limit), Soft(limit, 0.3), Nearest(1 + seed % size)][kind]
    [kernel] = similarity.kernels(vectors([size], seed=seed))
    p_V, q_V = laws(size, seed=seed, spread=spread), laws(size, seed=seed + 1, spread=spread)
    every_V, none_V = torch.arange(size), torch.zeros(size, dtype=torch.int64)
    p_c, q_c = (kernel.mass(law_V[None], none_V, every_V) for law_V in (p_V, q_V))
    assert p_c.sum().item() == pytest.approx(1) and q_c.sum().item() == pytest.approx(1)
    assert overlap(p_c, q_c) >= overlap(p_V, q_V) - 1e-12


def test_a_kernel_that_leaves_each_code_alone_is_exact_acceptance_bit_for_bit() -> None:
    sizes, rows = (6, 4), 300
    p, q = ([laws(rows, 3 + more, size, seed=seed) for size in sizes] for seed, more in ((1, 1), (2, 0)))
    drafted_BKG = torch.randint(0, 4, (rows, 2, 3), generator=torch.Generator().manual_seed(3))
    alone = Coarse(Hard(1.0)).bind(vectors(sizes))
    assert alone.kernels[0].describe()["max_size"] == 1
    expected = Exact().verify(p, q, drafted_BKG, Uniforms(range(rows)))
    assert all(map(torch.equal, alone.verify(p, q, drafted_BKG, Uniforms(range(rows))), expected))
    assert set(expected[0].tolist()) == {0, 1, 2, 3}
    wide = Coarse(Hard(0.3)).bind(vectors(sizes))
    assert not torch.equal(wide.verify(p, q, drafted_BKG, Uniforms(range(rows)))[0], expected[0])


@pytest.mark.parametrize("similarity", [None, Hard(0.3)])
def test_thinning_takes_as_many_trials_as_the_variation_goes_into_one(similarity: Hard | None) -> None:
    sizes, num = (6, 5), 20_000
    kernels = [Identity()] * 2 if similarity is None else similarity.kernels(vectors(sizes))
    p, q = ([laws(size, seed=seed + k) for k, size in enumerate(sizes)] for seed in (10, 20))
    w_SS = joint([dense(kernel, size) for kernel, size in zip(kernels, sizes)])
    variation = 1 - overlap(w_SS @ joint(p), w_SS @ joint(q))
    expanded = [[law_V.expand(num, -1) for law_V in of] for of in (p, q)]
    trials_B = thin(kernels, *expanded, rows=range(num), uniforms=Shared(1)).trials_R.double()
    assert 0.2 < variation < 0.8 and trials_B.min() == 1
    standard_error = (1 - variation) ** 0.5 / variation / num**0.5
    assert abs(trials_B.mean().item() - 1 / variation) < 3.5 * standard_error


def test_laws_that_differ_by_rounding_alone_end_the_trials_with_a_draw_from_the_target() -> None:
    p_V = laws(5, seed=1)
    drawn = thin([Identity()], [p_V.expand(3, -1)], [(p_V * (1 + 1e-13)).expand(3, -1)], rows=range(3), uniforms=Uniforms(range(3)))
    assert (drawn.trials_R >= acceptance.MOST_TRIALS).all()
    assert ((drawn.codes_RK >= 0) & (drawn.codes_RK < 5)).all()


@pytest.mark.parametrize("sizes", [(9,), (5, 4)])
def test_tolerance_emits_codes_by_its_formula(sizes: tuple[int, ...]) -> None:
    p, q = ([laws(size, seed=seed + k) for k, size in enumerate(sizes)] for seed in (10, 20))
    p_S, q_S = joint(p), joint(q)
    kept_S = q_S * (p_S / q_S + 0.3).clamp(max=1)
    left_S = (p_S - q_S).clamp(min=0)
    codes_BK, stood_B = emit(Tolerance(0.3), p, q)
    assert p_value(index(codes_BK, sizes), kept_S + (1 - kept_S.sum()) * left_S / left_S.sum()) > 1e-3
    assert p_value(index(codes_BK, sizes), p_S) < 1e-6
    assert same_share(stood_B, kept_S.sum().item())


@pytest.mark.parametrize("sizes", [(9,), (5, 4)])
def test_top_k_accepts_the_target_s_most_probable_and_otherwise_draws_anew(sizes: tuple[int, ...]) -> None:
    p, q = ([laws(size, seed=seed + k) for k, size in enumerate(sizes)] for seed in (10, 20))
    p_S, q_S = joint(p), joint(q)
    likely_S = joint([(law_V >= law_V.topk(3).values[-1]).double() for law_V in p])
    codes_BK, stood_B = emit(TopK(3), p, q)
    assert p_value(index(codes_BK, sizes), q_S * likely_S + (q_S * (1 - likely_S)).sum() * p_S) > 1e-3
    assert same_share(stood_B, (q_S * likely_S).sum().item())


@pytest.mark.parametrize(("size", "length", "seed"), [(3, 3, 30), (6, 2, 33)])  # the second notices a residual of p - q, not of p_i p - q
def test_block_verification_emits_the_target_s_joint_law(size: int, length: int, seed: int) -> None:
    p, q = chain((size,), seed), chain((size,), seed + 10)
    states_BN, _ = speak(Block(), p, q, length=length, wanted=length + 1, num=60_000)
    found_B = index(states_BN, [size] * (length + 1))
    assert p_value(found_B, law_of(p, length + 1)) > 1e-3
    assert p_value(found_B, law_of(q, length + 1)) < 1e-6


def test_block_verification_lets_eleven_codes_in_nine_stand_where_the_paper_says_so_and_code_by_code_ten() -> None:
    """Its introduction's example: p = (1/3, 2/3), q = (2/3, 1/3), two codes drafted."""
    p, q = (torch.tensor([law, law, law], dtype=torch.float64) for law in ([1 / 3, 2 / 3], [2 / 3, 1 / 3]))
    for rule, expected in ((Block(), 11 / 9), (Exact(), 10 / 9)):
        _, accepted_B = speak(rule, [p], [q], length=2, wanted=1, num=40_000)
        assert abs(accepted_B.double().mean().item() - expected) < 3.5 * (accepted_B.double().std() / 200).item()


@pytest.mark.parametrize("seed", range(4))
def test_block_verification_is_no_shorter_than_code_by_code(seed: int) -> None:
    p, q = chain((4,), 50 + seed), chain((4,), 60 + seed)
    block, single = (speak(rule, p, q, length=4, wanted=1)[1].double() for rule in (Block(), Exact()))
    assert block.mean() > single.mean() - 3.5 * ((block.var() + single.var()) / len(block)).sqrt()


def one_codebook(rule: Rule) -> bool:
    return isinstance(rule, Block)


@pytest.mark.parametrize("rule", RULES)
def test_all_positions_stand_where_both_models_agree(rule: Rule) -> None:
    rows, sizes = 500, (6,) if one_codebook(rule) else (6, 4)
    rule = TopK(6) if isinstance(rule, TopK) else rule
    p = [laws(rows, 4, size, seed=k, spread=4) for k, size in enumerate(sizes)]
    drafted_BKG = torch.randint(0, 4, (rows, len(sizes), 3), generator=torch.Generator().manual_seed(3))
    accepted_B, _ = rule.bind(vectors(sizes)).verify(p, [law[:, :3] for law in p], drafted_BKG, Uniforms(range(rows)))
    assert (accepted_B == 3).all()


@pytest.mark.parametrize("rule", RULES)
def test_a_row_s_outcome_is_its_own_and_a_row_that_is_not_active_is_left_alone(rule: Rule) -> None:
    rows, sizes = 24, (6,) if one_codebook(rule) else (6, 4)
    bound = rule.bind(vectors(sizes))
    p, q = ([laws(rows, length, size, seed=seed + k) for k, size in enumerate(sizes)] for seed, length in ((1, 4), (7, 3)))
    drafted_BKG = torch.randint(0, 4, (rows, len(sizes), 3), generator=torch.Generator().manual_seed(3))
    accepted_B, next_BK = bound.verify(p, q, drafted_BKG, Uniforms(range(rows)))
    assert len(accepted_B.unique()) > 2
    for row in range(rows):
        one = slice(row, row + 1)
        alone = bound.verify([law[one] for law in p], [law[one] for law in q], drafted_BKG[one], Uniforms([row]))
        assert alone[0].item() == accepted_B[row] and torch.equal(alone[1][0], next_BK[row])
    active_B, uniforms = torch.arange(rows) % 3 == 0, Uniforms(range(rows))
    damaged_p = [law.masked_fill(~active_B[:, None, None], torch.nan) for law in p]
    some = bound.verify(damaged_p, q, drafted_BKG.masked_fill(~active_B[:, None, None], -1), uniforms, active_B=active_B)
    assert torch.equal(some[0], accepted_B.where(active_B, 0)) and torch.equal(some[1], next_BK.where(active_B[:, None], -1))
    unspent, fresh = uniforms.more(range(rows), 1)[:, 0], Uniforms(range(rows)).more(range(rows), 1)[:, 0]
    assert torch.equal(unspent == fresh, ~active_B)
    assert (bound.verify(p, q, drafted_BKG, uniforms, active_B=torch.zeros_like(active_B))[1] == -1).all()


@pytest.mark.parametrize("rule", [*RULES, Coarse(Hard(1.0))])
def test_codes_that_one_model_rules_out_neither_hang_nor_come_out(rule: Rule) -> None:
    """Laws of one code, the same and another; laws that lack each other's codes; many codebooks, whose product underflows."""
    sure, other = torch.eye(4, dtype=torch.float64)[0], torch.eye(4, dtype=torch.float64)[1]
    half, rest = torch.tensor([0.5, 0.5, 0, 0], dtype=torch.float64), torch.tensor([0, 0.2, 0.8, 0], dtype=torch.float64)
    rare = torch.tensor([1e-200, 1 - 1e-200, 0, 0], dtype=torch.float64)
    codebooks = 1 if one_codebook(rule) else 5
    bound = rule.bind(vectors([4] * codebooks))
    for p_V, q_V, code in [(sure, sure, 0), (sure, other, 1), (half, rest, 2), (half, rest, 1), (rest, sure, 0), (rare, rare, 0)]:
        p, q = ([law_V.expand(20, length, -1)] * codebooks for law_V, length in ((p_V, 3), (q_V, 2)))
        drafted_BKG = torch.full((20, codebooks, 2), code)
        accepted_B, next_BK = bound.verify(p, q, drafted_BKG, Uniforms(range(20)))
        assert (p_V[next_BK] > 0).all()
        if p_V is q_V:
            assert (accepted_B == 2).all() or isinstance(rule, TopK)
        if p_V[code] == 0 and not isinstance(rule, Coarse | Tolerance):
            assert (accepted_B == 0).all()


def test_where_nothing_was_drafted_the_next_codes_are_the_target_s() -> None:
    p = [laws(5, 1, 6, seed=1)]
    for rule in RULES:
        accepted_B, next_BK = rule.bind(vectors([6])).verify(p, [p[0][:, :0]], torch.zeros(5, 1, 0, dtype=torch.int64), Uniforms(range(5)))
        assert accepted_B.tolist() == [0] * 5
        assert torch.equal(next_BK[:, 0], invert_cdf(p[0][:, 0], Uniforms(range(5)).more(range(5), 1)[:, 0]))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_choice_of_a_rule_is_made_from_its_yaml_and_verifies(path: Path) -> None:
    rule = instantiate(OmegaConf.load(path)).bind(vectors([60]))
    accepted_B, next_BK = rule.verify(
        [laws(4, 3, 60, seed=1)], [laws(4, 2, 60, seed=2)], torch.zeros(4, 1, 2, dtype=torch.int64), Uniforms(range(4))
    )
    assert accepted_B.shape == (4,) and next_BK.shape == (4, 1)


def test_what_a_rule_cannot_do_is_refused() -> None:
    assert len(CONFIGS) == 7
    two = [laws(1, 2, 4, seed=1)] * 2, [laws(1, 1, 4, seed=2)] * 2, torch.zeros(1, 2, 1, dtype=torch.int64), Uniforms([0])
    with pytest.raises(ValueError, match=r"one codebook, got 2; choose acceptance=exact"):
        Block().verify(*two)
    with pytest.raises(ValueError, match=r"has no kernels for 2 codebooks; bind\(vectors\)"):
        Coarse(Hard(0.5)).verify(*two)
    with pytest.raises(ValueError, match=r"has 1 kernels for 2 codebooks"):
        Coarse(Hard(0.5)).bind(vectors([4])).verify(*two)
    with pytest.raises(ValueError, match=r"acceptance\.tolerance is -0\.1"):
        Tolerance(-0.1)
    with pytest.raises(ValueError, match=r"acceptance\.k is 0"):
        TopK(0)
