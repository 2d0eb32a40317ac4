"""Statistics between tokenizers, by hand, by slow loops and by scipy."""

from collections.abc import Mapping, Sequence
from functools import partial
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
from scipy import stats

from audiotok.bench import comparison
from audiotok.bench.comparison import Difference, Measured, Rank, SignTest
from audiotok.bench.rows import Row
from audiotok.bench.task import Score
from audiotok.evaluation.metric import Column, Ratio

ACCURACY = Column("accuracy", "Accuracy", "mean", "higher", unit="%", scale=100, digits=1)
WER = Column("wer", "WER", "ratio", "lower", unit="%", scale=100, digits=2)
SETTINGS = {"resamplings": 4000, "seed": 3}


def row(tokenizer: str, seed: int, *scores: Score, task: str = "digits", axis: str = "downstream") -> Row:
    return Row("speech", tokenizer, task, axis, seed, "ok", None, "2026-01-01T00:00:00+00:00", 1.0, scores)


def of_items(
    tokenizer: str, values_SI: Sequence[Sequence[float]], column: Column = ACCURACY, *, axis: str = "downstream", **told
) -> Measured:
    """A row of items for each seed; the value is their mean."""
    rows = [
        row(tokenizer, seed, Score(column, float(np.mean(values)), dict(zip(ascii_lowercase, values)), **told), axis=axis)
        for seed, values in enumerate(values_SI)
    ]
    return comparison.measured(rows)[0]


def of_values(tokenizer: str, *values: float | None, column: Column = ACCURACY, **told: Any) -> Measured:
    """A value for each seed, without items."""
    return comparison.measured([row(tokenizer, seed, Score(column, value, **told)) for seed, value in enumerate(values)])[0]


def test_the_seeds_of_a_score_give_its_mean_deviation_and_number() -> None:
    one = of_values("a", 0.5, 0.7, 0.9)
    assert (one.mean, one.sd, len(one.values)) == (pytest.approx(0.7), pytest.approx(0.2), 3)


def test_a_seed_that_could_not_be_measured_is_in_no_mean_and_one_seed_has_no_deviation() -> None:
    one = of_values("a", 0.5, None, float("nan"))
    assert (one.mean, one.sd, dict(one.values)) == (0.5, None, {0: 0.5})
    assert of_values("a", None).mean is None


def test_scores_are_kept_apart_by_tokenizer_task_and_name_and_failures_add_up() -> None:
    broken = Score(WER, 0.1, failures={"silence": 2})
    rows = [row("a", 0, broken, Score(ACCURACY, 1.0)), row("a", 1, broken), row("b", 0, broken), row("a", 0, broken, task="words")]
    found = comparison.measured(rows)
    assert [(one.tokenizer, *one.key) for one in found] == [
        ("a", "digits", "wer"),
        ("a", "digits", "accuracy"),
        ("b", "digits", "wer"),
        ("a", "words", "wer"),
    ]
    assert found[0].failures == {"silence": 4}


def test_a_value_is_written_as_people_read_it() -> None:
    assert of_values("a", 0.1234).text() == "12.3 %"
    assert of_values("a", None).text() == "–"


def slow_draws(one: Measured, ids: Sequence[str], items_RI: np.ndarray, seeds_RS: np.ndarray) -> list[float]:
    """The bootstrap of the module as loops over what was drawn."""
    draws = []
    for items, seeds in zip(items_RI, seeds_RS):
        numerator = denominator = 0.0
        for times, items_of_seed in zip(seeds, one.items.values()):
            for index in items:
                numerator += times * items_of_seed[ids[index]].numerator
                denominator += times * items_of_seed[ids[index]].denominator
        draws.append(numerator / denominator)
    return draws


def test_resamplings_are_what_loops_over_drawn_items_and_seeds_give() -> None:
    generator = np.random.default_rng(0)
    errors = [{id: Ratio(float(generator.integers(5)), float(generator.integers(1, 9))) for id in "abcdefg"} for _ in range(3)]
    one = comparison.measured([row("a", seed, Score(WER, 0.1, items)) for seed, items in enumerate(errors)])[0]
    items_RI = np.random.default_rng(3).integers(7, size=(50, 7))
    seeds_RS = np.random.default_rng([3, comparison.crc32(b"a")]).multinomial(3, [1 / 3] * 3, size=50)
    found_R = comparison.resampled(one, tuple(sorted(one.ids())), resamplings=50, seed=3)
    np.testing.assert_allclose(found_R, slow_draws(one, "abcdefg", items_RI, seeds_RS), rtol=1e-12)


def test_with_one_seed_the_interval_is_that_of_scipys_paired_bootstrap() -> None:
    generator = np.random.default_rng(1)
    base = generator.normal(size=26)
    left, right = base + 0.3 + 0.5 * generator.normal(size=26), base
    found = comparison.difference(of_items("a", [left]), of_items("b", [right]), resamplings=20_000, seed=0)
    golden = stats.bootstrap(
        (left, right), lambda x, y, axis: x.mean(axis) - y.mean(axis), paired=True, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert found is not None and found.estimate == pytest.approx(left.mean() - right.mean())
    assert (found.low, found.high) == pytest.approx((golden.low, golden.high), abs=0.01)
    assert (found.n, found.over) == (26, "items")


def test_what_all_items_share_is_no_part_of_a_paired_interval() -> None:
    base = np.linspace(0, 100, 26)
    found = comparison.difference(of_items("a", [base + 0.01]), of_items("b", [base]), **SETTINGS)
    assert found is not None and (found.low, found.high) == pytest.approx((0.01, 0.01))
    assert not found.tie
    assert found.p == pytest.approx(2 / 4001)


def test_a_difference_swapped_is_the_same_with_other_signs() -> None:
    generator = np.random.default_rng(5)
    left, right = (of_items(name, generator.random((3, 20))) for name in "ab")
    there, back = comparison.difference(left, right, **SETTINGS), comparison.difference(right, left, **SETTINGS)
    assert there is not None and back is not None
    assert (back.estimate, back.low, back.high, back.p) == pytest.approx((-there.estimate, -there.high, -there.low, there.p))


def test_seeds_that_disagree_widen_the_interval() -> None:
    flat, other = np.tile(np.linspace(0, 1, 20), (3, 1)), of_items("b", [np.linspace(0, 1, 20) + 0.05])
    steady = comparison.difference(of_items("a", flat), other, **SETTINGS)
    shaken = comparison.difference(of_items("a", flat + np.array([[-0.3], [0.0], [0.3]])), other, **SETTINGS)
    assert steady is not None and shaken is not None
    assert steady.estimate == pytest.approx(shaken.estimate)
    assert not steady.tie and shaken.tie


def test_only_items_that_both_have_are_compared() -> None:
    left = of_items("a", [[1.0, 2.0, 3.0, 100.0]])
    found = comparison.difference(left, of_items("b", [[0.0, 1.0, 2.0]]), **SETTINGS)
    assert found is not None and (found.estimate, found.n) == (1.0, 3)


def test_a_word_error_rate_is_compared_as_a_ratio_of_sums() -> None:
    left = comparison.measured([row("a", 0, Score(WER, 0.1, {"x": Ratio(1, 10), "y": Ratio(4, 5)}))])[0]
    right = comparison.measured([row("b", 0, Score(WER, 0.1, {"x": Ratio(1, 10), "y": Ratio(1, 5)}))])[0]
    found = comparison.difference(left, right, **SETTINGS)
    assert found is not None and found.estimate == pytest.approx(5 / 15 - 2 / 15)
    assert (found.low, found.high) == pytest.approx((0.0, 0.6))  # x twice, y twice


def test_items_without_words_do_not_break_the_interval() -> None:
    left, right = (
        comparison.measured([row(name, 0, Score(WER, 0.1, {"x": Ratio(0, 0), "y": Ratio(errors, 5)}))])[0]
        for name, errors in (("a", 2), ("b", 1))
    )
    found = comparison.difference(left, right, **SETTINGS)
    assert found is not None and (found.low, found.high) == pytest.approx((0.2, 0.2))


def test_scores_without_items_are_compared_over_seeds_as_by_scipys_welch_test() -> None:
    left, right = (0.91, 0.95, 0.90), (0.80, 0.86, 0.81, 0.82)
    found = comparison.difference(of_values("a", *left), of_values("b", *right), **SETTINGS)
    golden = stats.ttest_ind(left, right, equal_var=False)
    ends = golden.confidence_interval()
    assert found is not None and (found.low, found.high, found.p) == pytest.approx((ends.low, ends.high, golden.pvalue))
    assert (found.n, found.over) == (3, "seeds")
    assert comparison.difference(of_values("a", 0.9), of_values("b", 0.8), **SETTINGS) is None


def test_seeds_that_all_agree_leave_no_doubt() -> None:
    assert comparison.seed_difference(of_values("a", 0.5, 0.5), of_values("b", 0.5, 0.5)) == Difference(0, 0, 0, 1, 2, "seeds")
    apart = comparison.seed_difference(of_values("a", 0.75, 0.75), of_values("b", 0.5, 0.5))
    assert apart == Difference(0.25, 0.25, 0.25, 0, 2, "seeds")


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 5), (9, 1), (3, 12), (700, 800)])
def test_the_sign_test_is_scipys_binomial_test(wins: int, losses: int) -> None:
    golden = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert comparison.binomial_p(wins, losses) == pytest.approx(golden, rel=1e-9)


def test_the_sign_test_counts_for_whom_less_is_better_and_drops_ties() -> None:
    values = [[0.1, 0.2, 0.3, 0.4, 0.5]], [[0.2, 0.3, 0.4, 0.3, 0.5]]
    lower = [of_items(name, own, WER) for name, own in zip("ab", values)]
    higher = [of_items(name, own) for name, own in zip("ab", values)]
    assert comparison.sign_test(*lower) == SignTest(3, 1, 1, pytest.approx(0.625))
    assert comparison.sign_test(*higher) == SignTest(1, 3, 1, pytest.approx(0.625))
    assert comparison.sign_test(lower[0], of_values("c", 0.3)) == SignTest(0, 0, 0, 1.0)


def test_the_interval_of_a_mean_is_that_of_its_items() -> None:
    values = np.random.default_rng(2).normal(size=26)
    found = comparison.interval(of_items("a", [values]), resamplings=20_000, seed=0)
    golden = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert found == pytest.approx((golden.low, golden.high), abs=0.02)
    assert comparison.interval(of_values("a", 0.4), resamplings=10, seed=0) is None


def judged(ties: set[str]) -> comparison.Compare:
    """A comparison that finds ties between the pairs named."""

    def compare(left: Measured, right: Measured) -> Difference:
        width = 9.0 if "".join(sorted(left.tokenizer + right.tokenizer)) in ties else 0.0
        apart = (left.mean or 0) - (right.mean or 0)
        return Difference(apart, apart - width, apart + width, 1.0, 9, "items")

    return compare


def ranked(ties: set[str], column: Column = ACCURACY, **values: float) -> Mapping[str, str]:
    found = comparison.ranks([of_values(name, value, column=column) for name, value in values.items()], judged(ties))
    return {name: found[name].text for name in found}


def test_places_follow_the_direction_of_the_column() -> None:
    assert ranked(set(), a=0.1, b=0.3, c=0.2) == {"b": "1", "c": "2", "a": "3"}
    assert ranked(set(), WER, a=0.1, b=0.3, c=0.2) == {"a": "1", "c": "2", "b": "3"}


def test_ties_are_closed_over_chains_and_shown_as_ranges() -> None:
    assert ranked({"ab", "bc", "ef"}, a=6, b=5, c=4, d=3, e=2, f=1) == {
        "a": "1–3", "b": "1–3", "c": "1–3", "d": "4", "e": "5–6", "f": "5–6",
    }  # fmt: skip


def test_a_tie_takes_in_those_between_its_ends() -> None:
    assert ranked({"ac"}, a=6, b=5, c=4, d=3) == {"a": "1–3", "b": "1–3", "c": "1–3", "d": "4"}


def test_without_an_interval_only_equal_means_tie() -> None:
    compare = partial(comparison.difference, **SETTINGS)
    found = comparison.ranks([of_values(name, value) for name, value in (("a", 0.5), ("b", 0.5), ("c", 0.4))], compare)
    assert found == {"a": Rank(1, 2), "b": Rank(1, 2), "c": Rank(3, 3)}


def test_real_intervals_decide_who_ties() -> None:
    noise = np.random.default_rng(0).normal(size=26)
    column = [of_items(name, [values]) for name, values in (("a", noise + 1), ("b", noise[::-1] + 1.01), ("c", noise - 2))]
    found = comparison.ranks(column, partial(comparison.difference, **SETTINGS))
    assert found == {"a": Rank(1, 2), "b": Rank(1, 2), "c": Rank(3, 3)}


def test_neither_direction_and_single_tokenizers_are_not_ranked() -> None:
    assert ranked(set(), Column("rate", "Rate", "mean"), a=1, b=2) == {}
    assert ranked(set(), a=1) == {}


def test_mean_ranks_weigh_axes_alike_and_say_what_is_missing() -> None:
    places = {
        ("t", "x"): {"a": Rank(1, 1), "b": Rank(2, 2)},
        ("t", "y"): {"a": Rank(1, 2), "b": Rank(1, 2)},
        ("u", "z"): {"a": Rank(2, 2), "b": Rank(1, 1)},
        ("u", "only a"): {"a": Rank(1, 1)},
    }
    means = comparison.mean_ranks(places, dict(zip(places, ("tokens", "tokens", "downstream", "downstream"))))
    assert means["a"]["tokens"] == comparison.MeanRank(1.25, 2, 2)
    assert means["b"]["downstream"] == comparison.MeanRank(1.0, 1, 2)
    assert means["a"]["all"] == comparison.MeanRank((1.25 + 1.5) / 2, 4, 4)
    assert means["b"]["all"] == comparison.MeanRank((1.75 + 1.0) / 2, 3, 4)
    assert comparison.overall(means) == {"a": Rank(1, 2), "b": Rank(1, 2)}


@pytest.mark.parametrize(
    ("items", "chance", "flagged"),
    [
        ([1, 0] * 13, 0.5, True),  # 0.5
        ([1] * 17 + [0] * 9, 0.5, True),  # 0.65: 1.57 deviations of 0.098
        ([1] * 19 + [0] * 7, 0.5, False),  # 0.73: 2.35 deviations
        ([1] * 3 + [0] * 23, 0.5, True),  # far on the wrong side
        ([1] * 7 + [0] * 19, 0.1, True),  # 0.27: 1.95 of its own deviation of 0.087
        ([1] * 9 + [0] * 17, 0.1, False),
    ],
)
def test_an_accuracy_near_chance_has_not_converged(items: list[int], chance: float, flagged: bool) -> None:
    found = comparison.not_converged(of_items("a", [items], chance=chance))
    assert (found is not None) is flagged
    if found:
        assert f"chance ({100 * chance:.1f} %)" in found


def test_seeds_that_scatter_hide_what_items_would_show() -> None:
    sure, lucky = [[1.0] * 20, [1.0] * 20], [[1.0] * 26, [0.5] * 26, [0.4] * 26]
    assert comparison.not_converged(of_items("a", sure, chance=0.5)) is None
    assert comparison.not_converged(of_items("a", lucky, chance=0.5)) is not None


def test_a_word_error_rate_of_all_words_has_not_converged() -> None:
    def of_words(errors: float) -> Measured:
        return comparison.measured([row("a", 0, Score(WER, errors / 1000, {"all": Ratio(errors, 1000)}, chance=1.0))])[0]

    assert comparison.not_converged(of_words(997)) is not None  # DASB's DAC at a high rate: 99.5 %
    assert comparison.not_converged(of_words(1200)) is not None
    assert comparison.not_converged(of_words(600)) is None


def test_only_downstream_scores_with_a_chance_can_fail_to_converge() -> None:
    assert comparison.not_converged(of_items("a", [[0.5] * 20], axis="language_model", chance=0.5)) is None
    assert comparison.not_converged(of_items("a", [[0.5] * 20])) is None


def test_a_remembered_comparison_is_made_once_for_both_sides() -> None:
    asked = []

    def compare(left: Measured, right: Measured) -> Difference | None:
        asked.append((left.tokenizer, right.tokenizer))
        return None if right.tokenizer == "c" else Difference(1.0, 0.5, 2.0, 0.01, 9, "items")

    again = comparison.remembered(compare)
    a, b, c = (of_values(name, 1.0) for name in "abc")
    assert again(a, b) == again(a, b) == Difference(1.0, 0.5, 2.0, 0.01, 9, "items")
    assert again(b, a) == Difference(-1.0, -2.0, -0.5, 0.01, 9, "items")
    assert [again(a, c), again(c, a)] == [None, None]
    assert asked == [("a", "b"), ("a", "c")]
