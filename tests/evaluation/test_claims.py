"""Claims against a slow reference and numbers taken by hand."""

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from audiotok.evaluation import claims, results
from audiotok.evaluation.claims import Claim, Origin, difference, held, markdown, verdict
from audiotok.evaluation.metric import Column
from audiotok.evaluation.statistics import paired_interval

IDS = ["a_-5dB", "a_10dB", "b_-5dB", "b_10dB"]
ORIGINS = {id: Origin(id[0], float(id[2:-2])) for id in IDS}


class Quality:
    columns = (
        Column("pesq", "PESQ", "mean", "higher"),
        Column("dwer", "dWER", "ratio", "lower", unit="%", scale=100),
        Column("delay", "Delay", "mean"),
    )
    judge = "a hand"


def rows(pesq: list[float | None], errors: list[float]) -> pa.Table:
    words, count = [10.0, 10.0, 30.0, 30.0], len(IDS)
    return pa.table(
        {
            "id": IDS,
            "seconds": [1.0] * count,
            "pesq": pa.array(pesq, pa.float64()),
            "dwer": [made / said for made, said in zip(errors, words)],
            "dwer_numerator": errors,
            "dwer_denominator": words,
            "delay": [0.0] * count,
            "quality_failed": pa.array([None if value is not None else "silence" for value in pesq], pa.string()),
            "quality_skipped": pa.array([None] * count, pa.string()),
        }
    )


def compared(scores: dict[str, pa.Table], *made: Claim) -> list[dict]:
    summaries = {name: results.summarise(table, {"quality": Quality()}, resamplings=50, seed=0) for name, table in scores.items()}
    told = {f"claim {number}": claim for number, claim in enumerate(made)}
    return held(told, scores, summaries, ORIGINS, resamplings=200, seed=0)


GOOD, BAD = rows([2.0, 3.0, 2.5, 3.5], [1, 0, 9, 0]), rows([1.5, 2.0, 1.0, 3.0], [2, 1, 3, 6])


def test_a_difference_is_that_of_the_means_over_all_and_at_each_level() -> None:
    (found,) = compared({"good": GOOD, "bad": BAD}, Claim("good", "bad", None))
    pesq, dwer = found["columns"]
    assert (pesq["name"], dwer["name"]) == ("pesq", "dwer")  # delay has no better side
    assert pesq["all"]["value"] == pytest.approx((0.5 + 1.0 + 1.5 + 0.5) / 4)
    assert dwer["all"]["value"] == pytest.approx(10 / 80 - 12 / 80)
    assert {level: cell["value"] for level, cell in dwer["levels"].items()} == {
        "-5": pytest.approx(10 / 40 - 5 / 40),
        "10": pytest.approx(0 - 7 / 40),
    }
    assert (pesq["all"]["utterances"], pesq["all"]["recordings"], pesq["all"]["left_out"]) == (4, 2, 0)


def test_the_interval_draws_recordings_with_all_their_levels() -> None:
    (found,) = compared({"good": GOOD, "bad": BAD}, Claim("good", "bad", ["pesq", "dwer"]))
    pesq, dwer = (column["all"] for column in found["columns"])
    # of two recordings the draws are aa, ab and bb: the ends of the interval are a alone and b alone
    assert (pesq["low"], pesq["high"]) == (pytest.approx(0.75), pytest.approx(1.0)) and pesq["verdict"] == "holds"
    assert (dwer["low"], dwer["high"]) == (pytest.approx(1 / 20 - 3 / 20), pytest.approx(0)) and dwer["verdict"] == "not told apart"


def test_the_interval_is_that_of_a_loop_over_resamplings() -> None:
    generator = np.random.default_rng(3)
    left, right = (np.stack([generator.integers(0, 6, 20), generator.integers(3, 20, 20)], axis=1).astype(float) for _ in range(2))
    drawn = np.random.default_rng(7).integers(20, size=(300, 20))
    slow = [
        sum(left[i, 0] for i in row) / sum(left[i, 1] for i in row) - sum(right[i, 0] for i in row) / sum(right[i, 1] for i in row)
        for row in drawn
    ]
    found = paired_interval(left[None], right[None], resamplings=300, seed=7)
    np.testing.assert_allclose(found, np.quantile(slow, [0.025, 0.975]), rtol=1e-10)
    assert paired_interval(left[None, :1], right[None, :1], resamplings=10, seed=0) is None


def test_trainings_are_drawn_as_a_loop_draws_them() -> None:
    generator = np.random.default_rng(3)
    left, right = (
        np.stack([generator.integers(0, 6, (count, 20)), generator.integers(3, 20, (count, 20))], axis=2).astype(float) for count in (3, 2)
    )
    groups = np.random.default_rng(7).integers(20, size=(300, 20))
    slow = np.zeros(300)
    for sign, sums, side in ((1, left, 0), (-1, right, 1)):
        trainings = np.random.default_rng([7, side]).integers(len(sums), size=(300, len(sums) - 1))
        for place in range(300):
            told = [sums[training, group] for training in trainings[place] for group in groups[place]]
            slow[place] += sign * sum(made for made, _ in told) / sum(said for _, said in told)
    of_each = [[sum(row[:, 0]) / sum(row[:, 1]) for row in sums] for sums in (left, right)]
    variances = [np.var(rates, ddof=1) / len(rates) for rates in of_each]
    freedom = np.var(slow) ** 2 / (variances[0] ** 2 / 2 + variances[1] ** 2 / 1)
    value = left[..., 0].sum() / left[..., 1].sum() - right[..., 0].sum() / right[..., 1].sum()
    wider = stats.t.ppf(0.975, freedom) / 1.959964
    assert wider > 1
    found = paired_interval(left, right, resamplings=300, seed=7)
    np.testing.assert_allclose(found, value + wider * (np.quantile(slow, [0.025, 0.975]) - value), rtol=1e-6)


def test_intervals_of_systems_that_are_alike_hold_0_about_95_times_in_100() -> None:
    """Five mixes of a recording share what it is like: an interval over mixes, not recordings, would hold 0 far less often."""
    generator, inside, ignored = np.random.default_rng(0), [], []
    for trial in range(300):
        own = np.repeat(generator.normal(size=30), 5) + 0.2 * generator.normal(size=150)
        left, right = ([{f"{i}": (value, 1.0) for i, value in enumerate(values)}] for values in (own, np.zeros(150)))
        for found, size in ((inside, 5), (ignored, 1)):
            origins = {f"{i}": Origin(f"{i // size}", None) for i in range(150)}
            made = difference(left, right, origins, higher=True, resamplings=200, seed=trial)
            assert made is not None
            found.append(made.verdict == "not told apart")
    assert 0.90 < np.mean(inside) < 0.98 and np.mean(ignored) < 0.75


@pytest.mark.parametrize("trainings", [2, 5])
def test_intervals_know_of_what_trainings_differ_by(trainings: int) -> None:
    """Recipes that are alike, few trainings of each: of one training of each the interval over recordings would hold 0 far less often."""
    generator, inside, ignored = np.random.default_rng(0), [], []
    for trial in range(300):
        sides = generator.normal(size=(2, trainings, 1)) + generator.normal(size=(2, trainings, 40))  # a training's worth, a recording's
        left_TG2, right_UG2 = np.stack([sides, np.ones_like(sides)], axis=-1)
        for found, count in ((inside, trainings), (ignored, 1)):
            low, high = paired_interval(left_TG2[:count], right_UG2[:count], resamplings=200, seed=trial)  # type: ignore[misc]
            found.append(low <= 0 <= high)
    assert 0.90 < np.mean(inside) < 0.98 and np.mean(ignored) < 0.5


def test_a_claim_is_of_all_trainings_of_a_system() -> None:
    again = rows([3.0, 4.0, 3.5, 4.5], [3, 2, 9, 2])
    (found,) = compared({"good": GOOD, "good@1": again, "good-2": BAD, "bad": BAD}, Claim("good", "bad", ["pesq", "dwer"]))
    pesq, dwer = (column["all"] for column in found["columns"])
    assert found["trainings"] == [["good", "good@1"], ["bad"]]
    assert pesq["value"] == pytest.approx((0.875 + 1.875) / 2) and pesq["each"] == ([2.75, 3.75], [1.875])
    assert dwer["value"] == pytest.approx((10 + 16) / 160 - 12 / 80)
    # of two trainings one is drawn, and of two recordings the draws are aa, ab and bb: the ends are those of one of each, and further away
    assert pesq["low"] < 0.75 and pesq["high"] > 2.0
    assert (
        "intervals over recordings and trainings, 2 of `good` and 1 of `bad` (what another of that would be is not in them):"
        in markdown([found])
    )
    (found,) = compared({"good@1": again, "bad": BAD}, Claim("good", "bad", ["pesq"]))
    assert not found["missing"] and found["columns"][0]["all"]["value"] == pytest.approx(1.875)
    (found,) = compared({"good": GOOD, "good@1": again, "bad": BAD}, Claim("good@1", "bad", ["pesq"]))
    assert found["trainings"] == [["good@1"], ["bad"]]


def test_a_training_that_is_a_copy_of_another_is_refused() -> None:
    with pytest.raises(ValueError, match=r"good and good@1 have the same scores of every utterance.* with another seed= than good"):
        compared({"good": GOOD, "good@1": GOOD, "bad": BAD}, Claim("good", "bad", None))


def test_a_difference_is_of_what_both_were_scored_on() -> None:
    (found,) = compared({"good": rows([2.0, None, 2.5, 3.5], [0] * 4), "bad": BAD}, Claim("good", "bad", ["pesq"]))
    (pesq,) = found["columns"]
    assert pesq["all"]["value"] == pytest.approx((0.5 + 1.5 + 0.5) / 3) and pesq["all"]["left_out"] == 1
    assert pesq["levels"]["10"]["utterances"] == 1 and pesq["levels"]["10"]["verdict"] == "not told apart"
    (found,) = compared({"good": rows([None, None, None, None], [0] * 4), "bad": BAD}, Claim("good", "bad", ["pesq"]))
    assert found["columns"][0]["all"] is None and "| – |" in markdown([found])


@pytest.mark.parametrize(
    ("low", "high", "higher", "wanted"),
    [
        (0.1, 0.2, True, "holds"),
        (0.1, 0.2, False, "does not hold"),
        (-0.2, -0.1, True, "does not hold"),
        (-0.2, -0.1, False, "holds"),
        (-0.1, 0.1, True, "not told apart"),
        (0.0, 0.1, True, "not told apart"),
        (None, None, True, "not told apart"),
    ],
)
def test_a_claim_holds_where_the_whole_interval_is_on_its_side(low, high, higher, wanted) -> None:
    assert verdict(low, high, higher=higher) == wanted


def test_a_claim_of_what_is_not_scored_is_said_not_to_be_measured() -> None:
    (found,) = compared({"good": GOOD}, Claim("good", "units", None))
    assert found["missing"] == ["units"] and not found["columns"]
    assert "not measured, units is not scored" in markdown([found])


def test_the_page_shows_differences_as_people_read_them() -> None:
    text = markdown(compared({"good": GOOD, "bad": BAD}, Claim("good", "bad", None)))
    assert "| | all | -5 dB | 10 dB |" in text and "### claim 0" in text
    assert "| PESQ ↑ | +0.88<br>+0.75 – +1.00<br>holds |" in text
    assert "| dWER (%) ↓ | -2.50<br>-10.00 – +0.00<br>not told apart | +12.50<br>" in text


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"claim 'claim 0': 'delay' is no column with a better side; of good these are pesq, dwer"):
        compared({"good": GOOD, "bad": BAD}, Claim("good", "bad", ["delay"]))
    with pytest.raises(ValueError, match="good: 4 utterances are not in the test set, the first is 'a_-5dB'"):
        claims.held({}, {"good": GOOD}, {}, {}, resamplings=5, seed=0)
