"""The figure of quality against bits: which systems are one line, and what it shows of each."""

from pathlib import Path

import pytest

from audiotok.evaluation import rate_lines, results
from audiotok.evaluation.costs import BITS, COLUMNS, METRIC

PESQ = {"name": "pesq", "label": "PESQ", "kind": "mean", "better": "higher", "unit": "", "scale": 1.0, "digits": 2, "metric": "pesq"}


def summary(pesq: float | None, bits: float | None) -> dict:
    told = {"name": BITS, "label": COLUMNS[0].label, "better": "neither", "unit": "bit/s", "scale": 1.0, "digits": 0, "metric": METRIC}
    return {
        "columns": [
            told | {"value": bits, "low": None, "high": None, "n": 1},
            PESQ | {"value": pesq, "low": None if pesq is None else pesq - 0.1, "high": None if pesq is None else pesq + 0.2, "n": 3},
        ]
    }


SUMMARIES = {
    "transducer": summary(2.5, 3000.0),
    "transducer-1": summary(1.5, 500.0),
    "ceiling-1": summary(1.8, 500.0),
    "ceiling-2": summary(None, 1000.0),
    "mask": summary(3.0, None),
}


def test_a_system_at_several_rates_is_one_line_and_what_has_no_rate_goes_across() -> None:
    (column,) = rate_lines.numbers(SUMMARIES)["columns"]
    points = {name: [(point[BITS], point["value"]) for point in family] for name, family in column["families"].items()}
    assert points == {"transducer": [(500.0, 1.5), (3000.0, 2.5)], "ceiling": [(500.0, 1.8), (1000.0, None)]}
    assert column["families"]["transducer"][0]["low"] == pytest.approx(1.4) and list(column["without"]) == ["mask"]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("transducer-12", "transducer"),
        ("transducer-12@seed-1", "transducer@seed-1"),
        ("transducer@1", "transducer@1"),
        ("a-b-3", "a-b"),
        ("-3", "-3"),
        ("x-ray", "x-ray"),
        ("3", "3"),
    ],
)
def test_a_family_is_what_stands_before_the_number_of_codebooks(name: str, wanted: str) -> None:
    assert rate_lines.family(name) == wanted


def test_the_figure_names_every_line(tmp_path: Path) -> None:
    rate_lines.draw(tmp_path / "rates.svg", rate_lines.numbers(SUMMARIES))
    text = (tmp_path / "rates.svg").read_text()
    assert all(f"<!-- {name} -->" in text for name in ("transducer", "ceiling", "mask", "bit/s"))


def test_a_figure_has_one_training_of_a_system_and_every_system() -> None:
    names = ["conformer@1", "transducer", "transducer@1", "transducer@first", "transducer-1@1"]
    assert results.once(names) == ["conformer@1", "transducer", "transducer-1@1"]
