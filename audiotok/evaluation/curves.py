"""Training logs as small line charts: what was logged in, panels of SVG coordinates out."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10
from typing import Any

NOT_VALUES = {"step", "split", "time"}
POINTS = 400  # of a line, at most: more than a panel has pixels
WIDTH, HEIGHT = 340.0, 170.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 18.0, 8.0, 22.0


@dataclass(frozen=True)
class Line:
    split: str
    steps: list[int]
    values: list[float]
    path: str  # of an SVG polyline


@dataclass(frozen=True)
class Panel:
    """One value over the steps, a line for each split."""

    name: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]  # place, label
    y_ticks: list[tuple[float, str]]

    def data(self) -> str:
        """The numbers as JSON, for whoever points at the lines."""
        return json.dumps([{"split": line.split, "steps": line.steps, "values": line.values} for line in self.lines])


def panels(entries: Iterable[Mapping[str, Any]]) -> list[Panel]:
    """A panel for each value logged at two steps or more, the loss first.

    An entry has a "step" and values; its "split" is train unless it says otherwise. A value "valid/loss" is the loss of the split valid.
    """
    values: dict[str, dict[str, dict[int, float]]] = {}
    for entry in entries:
        for key, value in entry.items():
            if key in NOT_VALUES or isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
                continue
            split, _, name = key.rpartition("/")
            values.setdefault(name, {}).setdefault(split or entry.get("split", "train"), {})[int(entry["step"])] = float(value)
    drawn = {name: splits for name, splits in values.items() if max(map(len, splits.values())) > 1}
    return [_panel(name, drawn[name]) for name in sorted(drawn, key=lambda name: (name != "loss", "loss" not in name))]


def _panel(name: str, splits: Mapping[str, Mapping[int, float]]) -> Panel:
    steps = [step for points in splits.values() for step in points]
    values = [value for points in splits.values() for value in points.values()]
    x_low, x_high, y_low, y_high = min(steps), max(steps), *spread(min(values), max(values))

    def place(step: float, value: float) -> tuple[float, float]:
        x = LEFT + (step - x_low) / max(x_high - x_low, 1) * (WIDTH - LEFT - RIGHT)
        return round(x, 1), round(TOP + (y_high - value) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    lines = []
    for split, points in splits.items():
        kept = _thinned(sorted(points.items()))
        path = " ".join("{},{}".format(*place(*point)) for point in kept)
        lines.append(Line(split, [step for step, _ in kept], [value for _, value in kept], path))
    x_ticks = [(place(step, y_low)[0], label(step)) for step in ticks(x_low, x_high)]
    y_ticks = [(place(x_low, value)[1], label(value)) for value in ticks(y_low, y_high)]
    return Panel(name, lines, x_ticks, y_ticks)


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    stride = ceil(len(points) / POINTS)
    return [*points[:-1:stride], points[-1]]


def spread(low: float, high: float) -> tuple[float, float]:
    margin = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
    return low - margin, high + margin


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers within the range."""
    raw = (high - low) / 4 or 1.0
    scale = 10.0 ** floor(log10(raw))
    step = scale * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * scale >= raw * 0.999)
    return [step * index for index in range(ceil(low / step), floor(high / step) + 1)]


def label(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.4g}"
