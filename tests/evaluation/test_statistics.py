"""Intervals: their definition, and that they cover what they promise."""

import numpy as np
import pytest

from audiotok.evaluation import statistics
from audiotok.evaluation.statistics import bootstrap_interval


def interval(values: np.ndarray, weights: np.ndarray | None = None, *, seed: int = 0, resamplings: int = 500) -> tuple[float, float]:
    weights = np.ones(len(values)) if weights is None else weights
    found = bootstrap_interval(values, weights, resamplings=resamplings, seed=seed)
    assert found is not None
    return found


def test_the_interval_is_that_of_a_loop_over_resamplings():
    generator = np.random.default_rng(5)
    errors, words = generator.integers(0, 6, 30).astype(float), generator.integers(3, 20, 30).astype(float)
    drawn = np.random.default_rng(7).integers(30, size=(200, 30))
    rates = [sum(errors[i] for i in row) / sum(words[i] for i in row) for row in drawn]
    expected = np.quantile(rates, [0.025, 0.975])
    np.testing.assert_allclose(interval(errors, words, seed=7, resamplings=200), expected, rtol=1e-12)


def test_intervals_cover_the_mean_about_95_times_in_100():
    generator = np.random.default_rng(0)
    intervals = [interval(generator.normal(3, 2, size=60), seed=trial) for trial in range(400)]
    covered = np.mean([low <= 3 <= high for low, high in intervals])
    assert 0.91 < covered < 0.98  # four standard errors of 400 trials about what the percentile bootstrap gives for 60 values (0.94)


def test_drawing_in_blocks_changes_nothing(monkeypatch):
    values = np.random.default_rng(1).normal(size=40)
    whole = interval(values)
    monkeypatch.setattr(statistics, "BLOCK", 1000)
    assert interval(values) == whole


def test_the_seed_decides():
    values = np.random.default_rng(1).normal(size=40)
    assert interval(values, seed=3) == interval(values, seed=3) != interval(values, seed=4)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_utterances_have_no_interval(count):
    assert bootstrap_interval(np.ones(count), np.ones(count), resamplings=10, seed=0) is None
