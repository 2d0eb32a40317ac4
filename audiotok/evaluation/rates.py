"""Quality against bits: families of systems, and a panel for each metric with a line for each family."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import ceil, floor, log10
from typing import Any

from audiotok import files
from audiotok.evaluation import results
from audiotok.evaluation.costs import BITS, METRIC
from audiotok.evaluation.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, label, spread, ticks


@dataclass(frozen=True)
class Point:
    system: str
    rate: float  # bits per second
    value: float  # as people read it
    text: str
    x: float
    y: float


@dataclass(frozen=True)
class Family:
    """Systems that are one at several rates, or a single one."""

    name: str
    points: list[Point]  # by rate
    path: str  # of an SVG polyline


@dataclass(frozen=True)
class Panel:
    """One metric over bits per second, on a logarithmic axis."""

    name: str
    better: str
    families: list[Family]
    x_ticks: list[tuple[float, str]]  # place, label
    y_ticks: list[tuple[float, str]]

    def data(self) -> dict[str, Any]:
        """The numbers of the figure."""
        return {
            "metric": self.name,
            "better": self.better,
            "families": {
                family.name: [{"system": point.system, BITS: point.rate, "value": point.value} for point in family.points]
                for family in self.families
            },
        }


def families(settings: Mapping[str, Mapping[str, Any] | None]) -> dict[str, list[str]]:
    """The systems by family, under what their names have in common; `settings` are those of each system's tokenizer, None: not known.

    One family are tokenizers that differ in a single number, the same for all of them: how many codebooks, what bit rate.
    """
    groups: list[list[str]] = []
    for name, told in settings.items():
        for group in groups:
            apart = {_number_apart(settings[other], told) for other in group}
            if len(apart) == 1 and None not in apart:
                group.append(name)
                break
        else:
            groups.append([name])
    named = [(_shared(group).rstrip("-_.") if len(group) > 1 else group[0], group) for group in groups]
    taken = [name for name, _ in named]
    return {name if name and taken.count(name) == 1 else group[0]: group for name, group in named}


def _shared(names: Sequence[str]) -> str:
    """What all of the names begin with."""
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names))
    return "".join(letters[0] for letters in same)


def _number_apart(left: Mapping[str, Any] | None, right: Mapping[str, Any] | None) -> str | None:
    """The key of the only setting in which two tokenizers differ, where that is a number, or null for one."""
    if left is None or right is None:
        return None
    apart = list(files.differences(dict(left), dict(right)))
    numbers = all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for _, *two in apart for value in two)
    return apart[0][0] if len(apart) == 1 and numbers else None


def panels(summaries: Mapping[str, dict[str, Any]], members: Mapping[str, Sequence[str]]) -> list[Panel]:
    """A panel for the first column of each metric that says what is better; none where fewer than two systems tell their rate."""
    rates = {name: cell["value"] for name, summary in summaries.items() if (cell := results.cell(summary, BITS)) and cell["value"]}
    if len(rates) < 2:
        return []
    firsts: dict[str, dict[str, Any]] = {}
    for summary in summaries.values():
        for column in summary["columns"]:
            if column["metric"] != METRIC and column["better"] != "neither":
                firsts.setdefault(column["metric"], column)
    drawn = [_panel(column, summaries, rates, members) for column in firsts.values()]
    return [panel for panel in drawn if sum(len(family.points) for family in panel.families) > 1]


def _panel(
    column: Mapping[str, Any], summaries: Mapping[str, dict[str, Any]], rates: Mapping[str, float], members: Mapping[str, Sequence[str]]
) -> Panel:
    cells = {name: results.cell(summaries[name], column["name"]) for name in rates}
    values = {name: cell["value"] * cell["scale"] for name, cell in cells.items() if cell and cell["value"] is not None}
    x_low, x_high = (log10(edge) for edge in (min(rates.values()) / 1.15, max(rates.values()) * 1.15))
    y_low, y_high = spread(min(values.values(), default=0.0), max(values.values(), default=1.0))

    def place(rate: float, value: float) -> tuple[float, float]:
        x = LEFT + (log10(rate) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        return round(x, 1), round(TOP + (y_high - value) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    def point(name: str) -> Point:
        text = f"{name}: {values[name]:.{column['digits']}f} at {rates[name]:.0f} bit/s"
        return Point(name, rates[name], values[name], text, *place(rates[name], values[name]))

    lines = []
    for family, names in members.items():
        points = sorted((point(name) for name in names if name in values), key=lambda point: point.rate)
        lines.append(Family(family, points, " ".join(f"{point.x},{point.y}" for point in points)))
    unit = f" ({column['unit']})" if column["unit"] else ""
    x_ticks = [(place(rate, y_low)[0], f"{rate:g}" if rate < 1000 else f"{rate / 1000:g}k") for rate in _decades(x_low, x_high)]
    y_ticks = [(place(10**x_low, value)[1], label(value)) for value in ticks(y_low, y_high)]
    return Panel(f"{column['label']}{unit}", column["better"], lines, x_ticks, y_ticks)


def _decades(low: float, high: float) -> Iterable[float]:
    """1, 2 and 5 times the powers of ten between 10^low and 10^high."""
    rates = (factor * 10.0**power for power in range(floor(low), ceil(high) + 1) for factor in (1, 2, 5))
    return [rate for rate in rates if low <= log10(rate) <= high]
