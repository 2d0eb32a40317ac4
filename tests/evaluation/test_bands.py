"""Scores by signal-to-noise ratio, against means taken by hand."""

import pyarrow as pa
import pytest

from audiotok.evaluation import bands, results
from audiotok.evaluation.metric import Column

SNRS = {"a": -5.0, "b": -5.0, "c": 10.0, "d": 10.0}


class Quality:
    columns = (Column("pesq", "PESQ", "mean", "higher"), Column("dwer", "dWER", "ratio", "lower", unit="%", scale=100))
    judge = "a hand"


def rows(pesq: list[float | None], errors: list[float]) -> pa.Table:
    words = [10.0, 30.0, 10.0, 10.0]
    return pa.table(
        {
            "id": list(SNRS),
            "seconds": [1.0, 2.0, 3.0, 4.0],
            "pesq": pa.array(pesq, pa.float64()),
            "dwer": [made / said for made, said in zip(errors, words)],
            "dwer_numerator": errors,
            "dwer_denominator": words,
            "quality_failed": pa.array([None if value is not None else "silence" for value in pesq], pa.string()),
            "quality_skipped": pa.array([None] * 4, pa.string()),
        }
    )


@pytest.fixture
def found() -> bands.Bands:
    scores = {"unprocessed": rows([1.0, 1.5, 2.0, None], [10, 0, 2, 1]), "mask": rows([2.0, 2.5, 3.0, 4.0], [1, 3, 0, 0])}
    summaries = {name: results.summarise(table, {"quality": Quality()}, resamplings=50, seed=0) for name, table in scores.items()}
    return bands.by_band(scores, summaries, SNRS, resamplings=200, seed=0)


def test_a_band_is_the_mean_of_its_utterances_and_counts_what_failed(found: bands.Bands) -> None:
    values = {
        (snr, system): [column["value"] for column in summary["columns"]] for snr, band in found.items() for system, summary in band.items()
    }
    assert values == {
        (-5.0, "unprocessed"): [1.25, pytest.approx(10 / 40)],
        (-5.0, "mask"): [2.25, pytest.approx(4 / 40)],
        (10.0, "unprocessed"): [2.0, pytest.approx(3 / 20)],
        (10.0, "mask"): [3.5, 0.0],
    }
    pesq = results.cell(found[10.0]["unprocessed"], "pesq")
    assert pesq is not None and (pesq["n"], pesq["failed"], pesq["low"]) == (1, 1, None)
    assert found[10.0]["unprocessed"]["failures"] == {"quality": {"silence": 1}} and found[-5.0]["mask"]["seconds"] == 3.0


def test_all_of_a_systems_utterances_in_one_band_are_the_summary_of_the_system() -> None:
    table = rows([1.0, 1.5, 2.0, None], [10, 0, 2, 1])
    whole = results.summarise(table, {"quality": Quality()}, resamplings=50, seed=3)
    assert results.summarise_part(table, whole, resamplings=50, seed=3) == whole


def test_an_interval_lies_around_its_mean(found: bands.Bands) -> None:
    pesq = results.cell(found[-5.0]["mask"], "pesq")
    assert pesq is not None and (pesq["low"], pesq["high"]) == (2.0, 2.5)


def test_tables_and_figure_name_every_band_and_system(found: bands.Bands, tmp_path) -> None:
    text = bands.markdown(found)
    assert [line for line in text.splitlines() if line.startswith("###")] == ["### -5 dB", "### 10 dB"]
    assert text.count("| mask | 2 | ") == 2 and "dWER (%) ↓" in text
    for name in ("one.svg", "two.svg"):
        bands.draw(tmp_path / name, found)
    assert (tmp_path / "one.svg").stat().st_size > 1000 and "<svg" in (tmp_path / "one.svg").read_text()


def test_an_utterance_of_no_mix_is_refused() -> None:
    table = rows([1.0, 1.5, 2.0, 2.0], [0, 0, 0, 0])
    with pytest.raises(ValueError, match="mask: 1 utterances are of no mix, the first is 'd'"):
        bands.by_band({"mask": table}, {"mask": {}}, {"a": 0.0, "b": 0.0, "c": 0.0}, resamplings=5, seed=0)
