"""Scores as lines over what a study varies: a panel a metric, a line a system, its 95 % intervals as bars."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

COLUMNS, PANEL = 3, (4.0, 2.8)  # inches

Cell = Mapping[str, Any]  # a column of `results.summarise`


@dataclass(frozen=True)
class Panel:
    """Cells by place on the x axis of each line; `levels` are of systems that have no place there, drawn across."""

    title: str
    lines: Mapping[str, Mapping[float, Cell]]
    levels: Mapping[str, Cell] = field(default_factory=dict)


def draw(path: Path, panels: Sequence[Panel], *, x_label: str, x_ticks: Sequence[float] | None = None) -> None:
    """`x_ticks` None: a logarithmic axis. A cell without a value has no point."""
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(PANEL[0] * COLUMNS, PANEL[1] * rows), layout="constrained")
    for place, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, COLUMNS, place)
        _fill(axes, panel)
        axes.set(title=panel.title, xlabel=x_label, **({"xscale": "log"} if x_ticks is None else {"xticks": x_ticks}))
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def _fill(axes: Any, panel: Panel) -> None:
    for number, (name, cells) in enumerate(panel.lines.items()):
        look = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3], "marker": ".sx"[number // 10 % 3]}
        _line(axes, name, {place: cell for place, cell in cells.items() if cell["value"] is not None}, **look)
    for number, (name, cell) in enumerate(panel.levels.items()):
        if cell["value"] is not None:
            axes.axhline(cell["value"] * cell["scale"], label=name, linestyle=("--", ":", "-.")[number % 3], color="grey", linewidth=1)


def _line(axes: Any, name: str, cells: Mapping[float, Cell], **look: str) -> None:
    """Where one utterance says nothing of its spread, a bar of no length."""
    middle = [cell["value"] * cell["scale"] for cell in cells.values()]
    below, above = (
        [abs(cell["value"] - (cell["value"] if cell[end] is None else cell[end])) * cell["scale"] for cell in cells.values()]
        for end in ("low", "high")
    )
    axes.errorbar(list(cells), middle, yerr=[below, above], label=name, markersize=4, capsize=2, linewidth=1, **look)
