"""Each rule against a slow reference, each distribution against its draws, each draw against its own random numbers."""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from audiotok.decoding.samplers import Sampler, Uniforms, invert_cdf, min_p, probabilities, seed_of, top_k, top_p, within

OFF = {
    "temperature": 1.0,
    "top_k": None,
    "top_p": None,
    "min_p": None,
    "repetition_window": None,
    "repetition_threshold": None,
    "repetition_comparison": ">",
}


def sampler(**changes) -> Sampler:
    return Sampler(**OFF | changes)


def logits(rows: int = 40, size: int = 13, seed: int = 0) -> Tensor:
    return 2 * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


def slow_top_k(row: list[float], k: int) -> set[int]:
    return {code for code, value in enumerate(row) if sum(other > value for other in row) < k}


def slow_top_p(row: list[float], p: float) -> set[int]:
    share, kept, mass = softmax(row), set(), 0.0
    for code in sorted(range(len(row)), key=lambda code: -share[code]):
        if kept and mass >= p:
            break
        kept.add(code)
        mass += share[code]
    return kept


def slow_min_p(row: list[float], p: float) -> set[int]:
    share = softmax(row)
    return {code for code in range(len(row)) if share[code] >= p * max(share)}


CASES = [
    *[(top_k, slow_top_k, k) for k in (1, 2, 5, 13, 50)],
    *[(top_p, slow_top_p, p) for p in (1e-6, 0.3, 0.8, 0.99, 1.0)],
    *[(min_p, slow_min_p, p) for p in (0.0, 0.05, 0.5, 1.0)],
]


@pytest.mark.parametrize(("rule", "slow", "limit"), CASES)
def test_a_truncation_keeps_what_its_slow_reference_keeps_and_changes_no_logit(rule: Callable, slow: Callable, limit: float) -> None:
    before = logits()
    after = rule(before, limit)
    for row, kept in zip(before.tolist(), torch.isfinite(after)):
        assert set(kept.nonzero().flatten().tolist()) == slow(row, limit)
    assert torch.equal(after[torch.isfinite(after)], before[torch.isfinite(after)])
    assert torch.equal(before, logits()), "inputs are not changed"


def test_ties_at_the_edge_of_top_k_are_kept_and_those_of_top_p_are_cut_in_order() -> None:
    assert torch.isfinite(top_k(torch.tensor([1.0, 3.0, 1.0, 0.0]), 2)).tolist() == [True, True, True, False]
    assert torch.isfinite(top_p(torch.zeros(4), 0.5)).tolist() == [True, True, False, False]


def test_rules_compose_in_the_order_of_the_fields() -> None:
    row = logits(rows=1)[0]
    made = sampler(temperature=0.5, top_k=6, top_p=0.9, min_p=0.2)
    expected = min_p(top_p(top_k(row / 0.5, 6), 0.9), 0.2)
    assert torch.equal(made.truncate(row / 0.5), expected)
    uniforms = torch.rand(2, 500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = made.draw(row.expand(500, -1), uniforms, history_BW=None)
    assert set(drawn.tolist()) == set(torch.isfinite(expected).nonzero().flatten().tolist())


def test_only_codes_within_the_limits_remain() -> None:
    kept = torch.isfinite(within(torch.zeros(3, 5), torch.tensor([1, 4, 0]), torch.tensor([3, 5, 0])))
    assert kept.int().tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.6}, {"top_k": 4}, {"top_p": 0.7}, {"min_p": 0.1}, {"temperature": 1.5, "top_k": 6, "top_p": 0.9}]
)
def test_draws_follow_the_distribution(settings: dict) -> None:
    """Chi-square at the 0.1 % level, the random numbers fixed."""
    made, row, num = sampler(**settings), logits(rows=1, size=9)[0], 20_000
    uniforms = torch.rand(2, num, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    counts = made.draw(row.expand(num, -1), uniforms, history_BW=None).bincount(minlength=9).double()
    expected = num * made.truncate(row / made.temperature).double().softmax(-1)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    statistic = ((counts - expected).square() / expected)[possible].sum().item()
    freedom = int(possible.sum()) - 1
    # Wilson and Hilferty's approximation of the chi-square quantile at 0.999.
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3


def test_a_draw_is_the_code_at_which_the_cumulative_distribution_passes_the_number() -> None:
    share = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0], dtype=torch.float64)
    numbers = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert invert_cdf(share.expand(6, -1), numbers).tolist() == [1, 1, 3, 3, 4, 4]


def test_the_last_number_below_one_never_draws_an_impossible_code() -> None:
    row = torch.full((65_536,), -20.0)
    row[30_000:] = -math.inf
    drawn = invert_cdf(probabilities(row)[None], torch.tensor([1 - 2**-53], dtype=torch.float64))
    assert drawn.item() < 30_000


def test_in_a_large_vocabulary_the_very_code_is_drawn_at_which_the_number_falls() -> None:
    row = logits(rows=1, size=65_536)
    row[0, 0] = 21.0  # takes all but a few parts in ten thousand
    uniforms = 1 - 1e-4 * torch.rand(2, 100, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    drawn = sampler().draw(row.expand(100, -1), uniforms, history_BW=None)
    reached = np.cumsum(np.exp(row[0].double().numpy()))
    assert drawn.tolist() == np.searchsorted(reached / reached[-1], uniforms[0].numpy(), side="right").tolist()
    assert len(drawn.unique()) > 70


def test_temperature_zero_takes_the_most_probable_code() -> None:
    assert torch.equal(sampler(temperature=0).draw(logits(), torch.rand(2, 40), history_BW=None), logits().argmax(-1))


def slow_repetition_aware(row: list[float], history: list[int], uniforms: tuple[float, float], *, k: int, window: int, limit: float) -> int:
    """VALL-E 2's rule as its section 3.3 words it, with top-k for the nucleus."""

    def draw(shares: list[float], number: float) -> int:
        passed = 0.0
        for code, share in enumerate(shares):
            passed += share / sum(shares)
            if number < passed:
                return code
        raise AssertionError("shares sum to 1")

    kept = slow_top_k(row, k)
    code = draw([share if code in kept else 0.0 for code, share in enumerate(softmax(row))], uniforms[0])
    if Counter(history)[code] / window > limit:
        return draw(softmax(row), uniforms[1])
    return code


def test_repetition_aware_sampling_draws_again_as_the_paper_says() -> None:
    generator = torch.Generator().manual_seed(3)
    rows, history = logits(rows=300, size=6), torch.randint(-1, 6, (300, 5), generator=generator)
    uniforms = torch.rand(2, 300, generator=generator, dtype=torch.float64)
    made = sampler(top_k=2, repetition_window=5, repetition_threshold=0.2)
    expected = [
        slow_repetition_aware(row, past, numbers, k=2, window=5, limit=0.2)
        for row, past, numbers in zip(rows.tolist(), history.tolist(), uniforms.T.tolist())
    ]
    assert made.draw(rows, uniforms, history_BW=history).tolist() == expected
    assert expected != sampler(top_k=2).draw(rows, uniforms, history_BW=None).tolist()


REPEATED = {"repetition_window": 5, "repetition_threshold": 0.2}
LAWS = [
    {},
    {"temperature": 0},
    {"temperature": 0.6},
    {"top_k": 4},
    {"top_k": 50, "top_p": 0.5},
    {"top_p": 0.7},
    {"min_p": 0.1},
    {"temperature": 1.5, "top_k": 6, "top_p": 0.9, "min_p": 0.05},
    {"top_k": 3, "top_p": 0.8} | REPEATED,
    {"top_k": 3, "repetition_comparison": ">="} | REPEATED,
    {"top_k": 3, "repetition_comparison": ">="} | REPEATED | {"repetition_threshold": 0.0},
]


@pytest.mark.parametrize("settings", LAWS)
def test_the_distribution_is_the_law_of_the_draws(settings: dict) -> None:
    """The share of numbers in a fine grid at which each code is drawn; where one may be drawn again, of pairs of numbers."""
    made, row, past = sampler(**settings), logits(rows=1, size=9)[0], torch.tensor([0, 0, -1, 7, 2])
    grid = (torch.arange(150, dtype=torch.float64) + 0.5) / 150
    pairs_2B = torch.cartesian_prod(grid, grid).T
    drawn_B = made.draw(row.expand(22_500, -1), pairs_2B, history_BW=past.expand(22_500, -1))
    share_V = drawn_B.bincount(minlength=9) / 22_500
    law_V = made.distribution(row, history_BW=past)
    assert law_V.dtype == torch.float64 and law_V.sum().item() == pytest.approx(1)
    assert torch.allclose(share_V.double(), law_V, atol=2 / 150)
    assert (law_V[share_V > 0] > 0).all()


@pytest.mark.parametrize("step", [1e-9, 0.5, 3.0])
def test_the_distribution_keeps_what_the_truncation_keeps_among_ties_too(step: float) -> None:
    rows = (logits(rows=60, size=40) / step).round() * step
    for settings in ({"top_k": 5, "top_p": 0.8}, {"top_k": 7, "min_p": 0.2}, {"top_k": 1}):
        made = sampler(**settings)
        expected = probabilities(made.truncate(rows))
        found = made.distribution(rows, history_BW=None)
        assert torch.equal(found > 0, expected > 0) and torch.allclose(found, expected, atol=1e-14)


@pytest.mark.parametrize("settings", LAWS)
def test_the_distribution_of_a_row_is_the_same_in_any_company(settings: dict) -> None:
    made, rows, past = sampler(**settings), logits(rows=12), torch.randint(-1, 13, (12, 5), generator=torch.Generator().manual_seed(4))
    together = made.distribution(rows.view(3, 4, 13), history_BW=past.view(3, 4, 5)).view(12, 13)
    assert torch.equal(together, torch.stack([made.distribution(row, history_BW=own) for row, own in zip(rows, past)]))


@pytest.mark.parametrize(("comparison", "occurrences", "again"), [(">", 1, False), (">", 2, True), (">=", 1, True), (">=", 0, False)])
def test_one_occurrence_in_ten_is_enough_with_the_inclusive_comparison_alone(comparison: str, occurrences: int, again: bool) -> None:
    made = sampler(top_k=1, repetition_window=10, repetition_threshold=0.1, repetition_comparison=comparison)
    history = torch.tensor([[0] * occurrences + [-1] * (10 - occurrences)])
    drawn = made.draw(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5], [0.99]]), history_BW=history)
    assert drawn.tolist() == [int(again)]


def test_the_numbers_of_a_row_depend_on_its_seed_and_on_how_many_were_drawn() -> None:
    together, alone = Uniforms([3, 9, 4]), Uniforms([9])
    for _ in range(4):
        assert torch.equal(together.draw(5)[:, 1], alone.draw(5)[:, 0])
    assert not torch.equal(Uniforms([3]).draw(5), Uniforms([4]).draw(5))


def test_more_numbers_are_drawn_of_the_rows_that_ask_alone() -> None:
    uniforms, fresh = Uniforms([3, 9, 4]), Uniforms([3, 9, 4])
    assert torch.equal(uniforms.more([2, 0], 3), torch.stack([Uniforms([seed]).more([0], 3)[0] for seed in (4, 3)]))
    assert uniforms.more([], 3).shape == (0, 3)
    assert torch.equal(uniforms.more([1], 2), fresh.more([1], 2)), "row 1 had drawn none before"
    assert not torch.equal(uniforms.more([0], 3), fresh.more([0], 3))


def test_seeds_differ_between_utterances_and_between_runs() -> None:
    seeds = {seed_of(seed, name) for seed in range(3) for name in ("a", "b", "a/b", "")}
    assert len(seeds) == 12 and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(1234, "LJ001-0001") == 2538415160535293331


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, r"sampling\.temperature is -1\.0"),
        ({"top_k": 0}, r"sampling\.top_k is 0, wanted 1 or more, or null"),
        ({"top_p": 0.0}, r"sampling\.top_p is 0\.0"),
        ({"top_p": 1.1}, r"sampling\.top_p is 1\.1"),
        ({"min_p": 2.0}, r"sampling\.min_p is 2\.0"),
        ({"repetition_comparison": "<"}, r"sampling\.repetition_comparison is '<'"),
        ({"repetition_window": 0, "repetition_threshold": 0.1}, r"sampling\.repetition_window is 0"),
        ({"repetition_window": 10}, r"sampling\.repetition_threshold is None"),
        ({"temperature": 0, "repetition_window": 10, "repetition_threshold": 0.1}, r"sampling\.temperature is 0, wanted above 0"),
    ],
)
def test_settings_without_meaning_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(**settings)
