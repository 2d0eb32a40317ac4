"""Scores against scikit-learn and slow references, and what counts as chance."""

import numpy as np
import pytest
from scipy.stats import binom
from sklearn import metrics

from audiotok.evaluation.probes import scores


def trials(seed: int, *, count: int = 200, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    same = generator.random(count) < generator.uniform(0.1, 0.9)
    same[:2] = True, False
    values = generator.normal(size=count) + generator.uniform(0, 3) * same
    return (values.round(1) if ties else values), same


def slow_rates(values, same, threshold):
    missed = sum(value < threshold for value, true in zip(values, same) if true)
    alarms = sum(value >= threshold for value, true in zip(values, same) if not true)
    return missed / sum(same), alarms / sum(~same)


@pytest.mark.parametrize("ties", [False, True])
def test_the_error_curve_is_that_of_every_threshold_by_itself(ties):
    values, same = trials(0, ties=ties)
    misses, alarms, thresholds = scores.error_curve(values, same)
    assert sorted(set(values), reverse=True) == thresholds[1:].tolist()
    for missed, alarm, threshold in zip(misses, alarms, thresholds):
        assert slow_rates(values, same, threshold) == pytest.approx((missed, alarm), abs=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_the_equal_error_rate_is_where_the_roc_curve_crosses(seed):
    values, same = trials(seed, ties=seed % 2 == 0)
    alarms, hits, _ = metrics.roc_curve(same, values, drop_intermediate=False)
    grid = np.linspace(0, 1, 2_000_001)  # along the straight lines between the curve's points
    at = np.interp(grid * (len(hits) - 1), np.arange(len(hits)), 1 - hits - alarms)
    share = grid[np.argmin(np.abs(at))] * (len(hits) - 1)
    expected = np.interp(share, np.arange(len(hits)), alarms)
    assert scores.equal_error_rate(values, same)[0] == pytest.approx(expected, abs=1e-5)


def test_the_equal_error_rate_of_known_cases():
    same = np.array([True] * 4 + [False] * 4)
    assert scores.equal_error_rate(np.array([5.0, 6, 7, 8, 1, 2, 3, 4]), same)[0] == 0
    assert scores.equal_error_rate(np.array([1.0, 2, 3, 4, 5, 6, 7, 8]), same)[0] == 1
    assert scores.equal_error_rate(np.array([4.0, 6, 7, 8, 1, 2, 3, 5]), same)[0] == 0.25
    assert scores.equal_error_rate(np.zeros(8), same)[0] == 0.5


def test_its_threshold_splits_the_errors_evenly():
    values, same = trials(3, count=5000)
    rate, threshold = scores.equal_error_rate(values, same)
    assert slow_rates(values, same, threshold) == pytest.approx((rate, rate), abs=2e-3)


@pytest.mark.parametrize("seed", range(5))
def test_the_detection_cost_is_the_least_of_all_thresholds(seed):
    values, same = trials(seed)
    slow = min(0.01 * missed + 0.99 * alarm for missed, alarm in (slow_rates(values, same, t) for t in [*values, np.inf]))
    assert scores.min_dcf(values, same, target_prior=0.01) == pytest.approx(slow / 0.01, abs=1e-12)


def test_trials_of_one_kind_or_without_a_score_are_refused():
    with pytest.raises(ValueError, match="got 3 and 0"):
        scores.error_curve(np.arange(3), np.array([True] * 3))
    with pytest.raises(ValueError, match="1 of 3 trials have no finite score"):
        scores.error_curve(np.array([1, np.nan, 2]), np.array([True, False, True]))


@pytest.mark.parametrize("seed", range(5))
def test_accuracy_f1_and_confusion_are_those_of_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    truth, answers = (generator.choice(list("abcde")[:kinds], 60).tolist() for kinds in (5, 4))
    found = scores.label_scores([str(n) for n in range(60)], truth, answers, classes="abcd")
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, answers))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(truth, answers, average="macro", zero_division=0))
    table = metrics.confusion_matrix(truth, answers, labels=list("abcde"))
    assert all(
        found.confusion.get(true, {}).get(answer, 0) == table[i, j] for i, true in enumerate("abcde") for j, answer in enumerate("abcde")
    )
    assert found.unseen == truth.count("e")
    assert sum(found.items.values()) == round(found.accuracy * 60)
    assert found.largest_share == max(truth.count(name) for name in "abcde") / 60 and found.uniform == 0.25


@pytest.mark.parametrize(("chance", "count"), [(0.1, 200), (0.5, 40), (0.25, 1000)])
def test_guessing_is_near_chance_most_of_the_time_and_knowing_is_not(chance, count):
    near = [scores.near_chance(right / count, chance=chance, count=count) for right in range(count + 1)]
    covered = sum(binom.pmf(right, count, chance) for right in range(count + 1) if near[right])
    assert 0.96 < covered < 0.99  # two standard deviations of a normal, on one side: 0.977
    assert near == sorted(near, reverse=True) and not near[-1]
