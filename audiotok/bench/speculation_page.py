"""Speed against quality as a figure (SVG), a page that holds it with tables and sound, and the same numbers as JSON."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from audiotok import files
from audiotok.bench.speculation import PLAIN, Trial
from audiotok.evaluation import figures
from audiotok.evaluation.metric import Utterance
from audiotok.synthesis.voice import Spoken

PAGE, DATA, FIGURE = "speculation.html", "speculation.json", "speculation.svg"
COLOURS = ("#2f5fd0", "#d1622b", "#218a63", "#a4449c", "#a37b00", "#2190a8", "#66742b", "#b03a5b", "#7a7f87")  # of report.css
MARKS = "osDv^P*"  # of the ways, when their colours are all used
INK = "#1d1f23"


def write(folder: Path, told: Mapping[str, Any], trials: Sequence[Trial], *, listen: int) -> Path:
    """The path of speculation.html in `folder`; speculation.json and speculation.svg lie beside it.

    `told` is what `speculation.compared` gives, with "title" and "facts"; `listen` sentences of the first round can be heard in all ways.
    """
    figure = drawing(told)
    files.write_json(folder / DATA, dict(told))
    _write_text(folder / FIGURE, figure)
    loaders = [jinja2.PackageLoader("audiotok.bench"), jinja2.PackageLoader("audiotok.evaluation")]  # report.css is the evaluation's
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("speculation.html.j2").render(
        told=told,
        plain=PLAIN,
        figure=figures.data_uri(figure.encode(), "image/svg+xml"),
        score=score,
        change=change,
        speed_up=speed_up,
        sounds=_sounds(trials, listen),
    )
    _write_text(folder / PAGE, page)
    return folder / PAGE


def _write_text(path: Path, text: str) -> None:
    with files.whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def score(value: float | None, column: Mapping[str, Any]) -> str:
    return "–" if value is None else f"{value * column['scale']:.{column['digits']}f}"


def change(found: Mapping[str, Any] | None, column: Mapping[str, Any]) -> str:
    """A difference and its interval; nothing where there is none."""
    if found is None:
        return ""
    estimate, low, high = (f"{found[key] * column['scale']:+.{column['digits']}f}" for key in ("estimate", "low", "high"))
    return f"{estimate} ({low} to {high})"


def speed_up(found: Mapping[str, float | None]) -> str:
    shown = "–" if found["value"] is None else f"{found['value']:.2f}"
    return shown if found["low"] is None else f"{shown} ({found['low']:.2f} to {found['high']:.2f})"


def drawing(told: Mapping[str, Any]) -> str:
    """SVG: a panel for each score, its difference to the plain way's over the speed-up in CPU time, both with their intervals."""
    columns, ways = told["columns"], [(name, way) for name, way in told["ways"].items() if name != PLAIN]
    across = min(3, max(1, len(columns)))
    down = -(-max(1, len(columns)) // across)
    figure = Figure(figsize=(4.2 * across, 3.2 * down + 0.3 * (1 + len(ways) // 3)), layout="constrained")
    handles: list[Any] = []
    for place, column in enumerate(columns):
        axes = figure.add_subplot(down, across, place + 1)
        handles = [_point(axes, index, way, column) for index, (_, way) in enumerate(ways)]
        _frame(axes, column)
    figure.legend(handles, [name for name, _ in ways], loc="outside upper center", ncols=3, frameon=False, fontsize=7)
    return _svg(figure)


def _point(axes: Any, index: int, way: Mapping[str, Any], column: Mapping[str, Any]) -> Any:
    """Without a difference, which is where nothing was scored, there is an empty mark on no place."""
    found, speed, scale = way["differences"].get(column["name"]), way["speed_up"]["cpu"], column["scale"]
    known = found is not None and speed["value"] is not None
    style = {"fmt": MARKS[index // len(COLOURS) % len(MARKS)], "color": COLOURS[index % len(COLOURS)], "markersize": 5, "linewidth": 1}
    if not known:
        return axes.errorbar([], [], **style)
    x, y = speed["value"], found["estimate"] * scale
    x_ends = None if speed["low"] is None else [[max(0.0, x - speed["low"])], [max(0.0, speed["high"] - x)]]
    y_ends = [[max(0.0, y - found["low"] * scale)], [max(0.0, found["high"] * scale - y)]]
    return axes.errorbar([x], [y], xerr=x_ends, yerr=y_ends, **style)


def _frame(axes: Any, column: Mapping[str, Any]) -> None:
    arrow = {"higher": " ↑", "lower": " ↓", "neither": ""}[column["better"]]
    unit = f" ({column['unit']})" if column["unit"] else ""
    axes.plot([1], [0], "+", color=INK, markersize=9)
    axes.axhline(0, color=INK, linewidth=0.6, zorder=0)
    axes.axvline(1, color=INK, linewidth=0.6, zorder=0)
    axes.set_xlabel("times as fast as the model by itself (CPU)")
    axes.set_ylabel(f"change of {column['label']}{unit}{arrow}")
    axes.grid(visible=True, color="#e3e1dc", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "audiotok"}):  # text stays text; the same bytes every time
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()


def _sounds(trials: Sequence[Trial], most: int) -> dict[str, dict[str, str]]:
    """By text and way, of the first round: data: URIs."""
    heard: dict[str, dict[str, str]] = {}
    for one in trials:
        if one.round == 0 and isinstance(one.result, Spoken):
            text = one.result.request.text
            if text in heard or len(heard) < most:
                heard.setdefault(text, {})[one.way] = figures.sound(Utterance(text, one.result.wav_T, one.result.sample_rate))
    return heard
