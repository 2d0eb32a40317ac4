"""Correlations over tokenizers, against scipy and by hand."""

import numpy as np
import pytest
from scipy import stats

from audiotok.bench import comparison, correlation
from audiotok.bench.comparison import Measured
from audiotok.bench.rows import Row
from audiotok.bench.task import Score
from audiotok.evaluation.metric import Column

SETTINGS = {"permutations": 9999, "seed": 0}


def table(**columns: tuple[str, bool, list[float | None]]) -> list[Measured]:
    """Scores of tokenizers named by numbers: axis, primary, a value for each."""
    rows = []
    for name, (axis, primary, values) in columns.items():
        for index, value in enumerate(values):
            score = Score(Column(name, name, "mean", "higher"), value, primary=primary)
            rows.append(Row("speech", str(index), "task", axis, 0, "ok", None, "", 0.0, (score,)))
    return comparison.measured(rows)


@pytest.mark.parametrize("count", [4, 7, 30])
def test_coefficients_are_scipys_with_and_without_ties(count: int) -> None:
    generator = np.random.default_rng(count)
    for left, right in ((generator.normal(size=count), generator.normal(size=count)), (generator.integers(0, 4, count), np.arange(count))):
        assert correlation.spearman(left, right) == pytest.approx(stats.spearmanr(left, right).statistic, abs=1e-12)
        assert correlation.pearson(left, right) == pytest.approx(stats.pearsonr(left, right).statistic, abs=1e-12)


def test_the_exact_p_value_is_scipys_over_all_orders() -> None:
    generator = np.random.default_rng(1)
    left, right = generator.normal(size=6), generator.normal(size=6)
    golden = stats.permutation_test(
        (left,), lambda x: abs(stats.pearsonr(x, right).statistic), permutation_type="pairings", alternative="greater", n_resamples=np.inf
    )
    assert correlation.permutation_p(left, right, **SETTINGS) == pytest.approx(golden.pvalue, abs=1e-12)


def test_a_perfect_order_of_four_has_the_p_value_that_counting_gives() -> None:
    found = correlation.permutation_p(np.arange(4.0), np.arange(4.0), **SETTINGS)
    assert found == pytest.approx(2 / 24)  # it and its reverse


def test_more_than_eight_are_permuted_at_random_the_same_for_one_seed() -> None:
    generator = np.random.default_rng(2)
    left = generator.normal(size=20)
    right = left + 2.5 * generator.normal(size=20)
    found = correlation.permutation_p(left, right, **SETTINGS)
    assert found == correlation.permutation_p(left, right, **SETTINGS)
    assert found == pytest.approx(stats.pearsonr(left, right).pvalue, abs=0.02)
    assert correlation.permutation_p(left, left, **SETTINGS) == 1 / 10_000


def test_token_scores_meet_the_primary_scores_of_what_they_should_foretell() -> None:
    scores = table(
        ued=("tokens", True, [0.1, 0.2, 0.3, 0.4, 0.5]),
        zipf=("tokens", False, [5, 3, 4, 1, 2]),
        accuracy=("downstream", True, [0.9, 0.8, 0.7, 0.6, 0.1]),
        pesq=("reconstruction", True, [1, 2, 3, 4, 5]),
        loss=("downstream", False, [1, 2, 3, 4, 5]),
        bits=("cost", True, [1, 2, 3, 4, 5]),
    )
    found = {(one.left[1], one.right[1]): one for one in correlation.correlations(scores, **SETTINGS)}
    assert set(found) == {("ued", "accuracy"), ("ued", "pesq"), ("zipf", "accuracy"), ("zipf", "pesq")}
    assert found["ued", "accuracy"].spearman == pytest.approx(-1)
    assert found["ued", "accuracy"].pearson == pytest.approx(np.corrcoef([0.1, 0.2, 0.3, 0.4, 0.5], [0.9, 0.8, 0.7, 0.6, 0.1])[0, 1])
    assert found["zipf", "pesq"].spearman == pytest.approx(stats.spearmanr([5, 3, 4, 1, 2], [1, 2, 3, 4, 5]).statistic)
    assert found["zipf", "pesq"].n == 5


def test_fewer_than_four_tokenizers_and_constants_correlate_with_nothing() -> None:
    told = table(ued=("tokens", True, [1, 2, 3, None, 5]), wer=("downstream", True, [1, 2, 3, 4, None]))
    assert correlation.correlations(told, **SETTINGS) == []
    told = table(ued=("tokens", True, [1, 1, 1, 1]), wer=("downstream", True, [1, 2, 3, 4]))
    assert correlation.correlations(told, **SETTINGS) == []
