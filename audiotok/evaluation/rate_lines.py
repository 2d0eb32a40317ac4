"""The bitrate study: what systems that say codes score at each rate, the same system at several rates being one line.

`transducer-1` and `transducer-2` are the system transducer with one and with two codebooks. What says no codes has no rate and is drawn
across, as what the others may come up to.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audiotok.evaluation import lines, results
from audiotok.evaluation.costs import BITS, METRIC
from audiotok.evaluation.table import column_label

Summaries = Mapping[str, Mapping[str, Any]]
KEYS = ("value", "low", "high", "n")


def rates(summaries: Summaries) -> dict[str, float]:
    """Bits per second of the systems that have a rate, lowest first."""
    cells = {name: results.cell(summary, BITS) for name, summary in summaries.items()}
    found = {name: float(cell["value"]) for name, cell in cells.items() if cell and cell["value"]}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def family(name: str) -> str:
    """The system, of a name that ends in a number of codebooks; each training of it (NAME@WHAT) by itself."""
    trained, at, what = name.partition("@")
    system, _, number = trained.rpartition("-")
    return (system if system and number.isdigit() else trained) + at + what


def numbers(summaries: Summaries) -> dict[str, Any]:
    """What the figure shows, {"columns": [{..., "families": {system: [{"system", "bits_per_second", "value" ...}]}, "without": {...}}]}.

    Values are as stored; people read them times "scale".
    """
    return {"columns": [_column(summaries, column) for column in _sided(summaries)]}


def _sided(summaries: Summaries) -> list[Mapping[str, Any]]:
    """The columns that have a better side, each once."""
    found: dict[str, Mapping[str, Any]] = {}
    for summary in summaries.values():
        for column in summary["columns"]:
            if column["metric"] != METRIC and column["better"] != "neither":
                found.setdefault(column["name"], column)
    return list(found.values())


def _column(summaries: Summaries, column: Mapping[str, Any]) -> dict[str, Any]:
    known, families = rates(summaries), dict[str, list[dict[str, Any]]]()
    cells = {name: cell for name, summary in summaries.items() if (cell := results.cell(summary, column["name"]))}
    for name, rate in known.items():
        if name in cells:
            families.setdefault(family(name), []).append({"system": name, BITS: rate, **{key: cells[name][key] for key in KEYS}})
    without = {name: {key: cell[key] for key in KEYS} for name, cell in cells.items() if name not in known}
    about = {key: column[key] for key in ("name", "label", "better", "unit", "scale", "digits")}
    return about | {"families": families, "without": without}


def draw(path: Path, found: Mapping[str, Any]) -> None:
    """A panel a column of `numbers`, over bits per second; of several trainings of a system the first."""
    panels = [
        lines.Panel(
            column_label(column),
            {
                name: {point[BITS]: point | {"scale": column["scale"]} for point in points}
                for name, points in sorted(column["families"].items())
                if name in results.once(column["families"])
            },
            {name: column["without"][name] | {"scale": column["scale"]} for name in results.once(column["without"])},
        )
        for column in found["columns"]
    ]
    lines.draw(path, panels, x_label="bit/s")
