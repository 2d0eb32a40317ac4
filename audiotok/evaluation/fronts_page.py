"""The account of all reductions as a page, a table in Markdown, JSON and one SVG figure a tokenizer."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from audiotok import files
from audiotok.evaluation import fronts
from audiotok.evaluation.figures import data_uri
from audiotok.evaluation.fronts import Reduction, Verdict

PAGE, DATA, TABLE = "account.html", "account.json", "account.md"
RATES = {"codes": "codes/s", "fixed_bits": "bit/s", "lm_bits": "bit/s, language model"}
NUMBERS = {  # key: (head, digits)
    "positions": ("positions/s", 1),
    "codes": ("codes/s", 1),
    "fixed_bits": ("bit/s", 0),
    "coded_bits": ("bit/s, arithmetic", 0),
    "lm_bits": ("bit/s, language model", 0),
    "context_seconds": ("s in 2,048 codes", 1),
    "apply_speed": ("Mcodes/s there", 1),
    "invert_speed": ("Mcodes/s back", 1),
}
PICTURE = "matrix.png"
COLOURS = ("#7a7f87", "#d1622b", "#2f5fd0", "#218a63", "#a4449c", "#a37b00", "#2190a8", "#66742b", "#b03a5b")  # of report.css


@dataclass(frozen=True)
class Settings:
    """`plain` are the transforms that are plain downsampling, `solved_by` the one that says which utterances are hard, by `words`."""

    plain: Sequence[str]
    solved_by: str
    words: str
    resamplings: int
    seed: int


def write(folder: Path, reductions: Sequence[Reduction], *, recipe: str, told: Settings) -> Path:
    """The path of account.html in `folder`; account.json, account.md and TOKENIZER.svg lie beside it."""
    tokenizers = {one.tokenizer: [other for other in reductions if other.tokenizer == one.tokenizer] for one in reductions}
    tables = {name: _table(rows, told) for name, rows in tokenizers.items()}
    figures = {name: _figure(rows, told.plain) for name, rows in tokenizers.items()}
    for name, figure in figures.items():
        _write_text(folder / f"{name}.svg", figure)
    files.write_json(folder / DATA, {"recipe": recipe, "plain": list(told.plain), "tokenizers": tables})
    _write_text(folder / TABLE, "\n".join(_markdown(name, table) for name, table in tables.items()))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("audiotok.evaluation"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("account.html.j2").render(
        recipe=recipe,
        tables=tables,
        figures={name: data_uri(figure.encode(), "image/svg+xml") for name, figure in figures.items()},
        pictures={name: _pictures(rows) for name, rows in tokenizers.items()},
        numbers=NUMBERS,
        shown=shown,
        told=told,
    )
    _write_text(folder / PAGE, page)
    return folder / PAGE


def _write_text(path: Path, text: str) -> None:
    with files.whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _table(rows: Sequence[Reduction], told: Settings) -> dict[str, Any]:
    """{"columns", "hard", "rows"}: every number of one tokenizer, and its verdicts."""
    columns = next((one.columns for one in rows if one.columns), {})
    untouched = next((one for one in rows if one.columns and one.transform == told.plain[0]), None)
    plain = [one for one in rows if one.transform in told.plain and one.columns]
    judge = next((one for one in plain if one.transform == told.solved_by), None)
    hard = fronts.hard(judge, told.words) if judge and told.words in columns else set()
    lines = [_line(one, untouched, plain, columns, hard, told) for one in rows]
    return {"columns": {name: {key: column[key] for key in ("label", "better", "unit", "digits")} for name, column in columns.items()},
            "hard": len(hard), "rows": lines}  # fmt: skip


def _line(
    one: Reduction, untouched: Reduction | None, plain: Sequence[Reduction], columns: Mapping[str, Any], hard: set[str], told: Settings
) -> dict[str, Any]:
    heard = one if one.columns else untouched if one.numbers["lossless"] else None  # what loses nothing sounds as what is left alone
    compared = one.columns and one.transform not in told.plain
    settings: dict[str, Any] = {"resamplings": told.resamplings, "seed": told.seed}
    verdicts = {name: fronts.verdict(one, plain, name, **settings) for name in columns} if compared else {}
    on_hard = {name: fronts.verdict(one, plain, name, ids=hard, **settings) for name in columns} if compared and hard else {}
    return {
        "transform": one.transform,
        "family": one.family,
        "lossless": one.numbers["lossless"],
        "plain": one.transform in told.plain,
        **{key: one.numbers[key] for key in NUMBERS},
        "scores": {name: fronts.mean(heard, name) for name in columns} if heard else {},
        "hard_scores": {name: fronts.mean(heard, name, ids=hard) for name in columns} if heard and hard else {},
        "verdicts": {name: _told(found) for name, found in verdicts.items()},
        "hard_verdicts": {name: _told(found) for name, found in on_hard.items()},
    }


def _told(found: Verdict | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found) | {"word": found.word}


def shown(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


MARKS = {"better": " ▲", "worse": " ▼", "level": " ="}


def _markdown(name: str, table: Mapping[str, Any]) -> str:
    arrows = {"higher": " ↑", "lower": " ↓"}
    columns = table["columns"]
    heads = ["", *(head for head, _ in NUMBERS.values()), *(column["label"] + arrows[column["better"]] for column in columns.values())]
    lines = [f"### {name}\n", f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for row in table["rows"]:
        cells = [row["transform"], *(shown(row[key], digits) for key, (_, digits) in NUMBERS.items())]
        for column, about in columns.items():
            found = row["verdicts"].get(column)
            cells.append(shown(row["scores"].get(column), about["digits"]) + (MARKS[found["word"]] if found else ""))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _pictures(rows: Sequence[Reduction]) -> dict[str, str]:
    found = {one.transform: one.folder / PICTURE for one in rows}
    return {name: data_uri(path.read_bytes(), "image/png") for name, path in found.items() if path.exists()}


def _figure(rows: Sequence[Reduction], plain: Sequence[str]) -> str:
    """SVG: a row for each column of scores, a panel for each kind of rate; plain downsampling as a line, the front as another."""
    heard = [one for one in rows if one.columns]
    columns = heard[0].columns if heard else {}
    figure = Figure(figsize=(4.6 * len(RATES), 3.1 * max(1, len(columns))), layout="constrained")
    families = list(dict.fromkeys(one.family for one in rows))
    for row, (name, column) in enumerate(columns.items()):
        for place, (rate, label) in enumerate(RATES.items()):
            axes = figure.add_subplot(len(columns), len(RATES), row * len(RATES) + place + 1)
            _panel(axes, heard, families, plain, name, column, rate)
            axes.set_xlabel(label)
            axes.set_ylabel(f"{column['label']} {'↑' if column['better'] == 'higher' else '↓'}")
    dots = [_dot(COLOURS[index % len(COLOURS)], family) for index, family in enumerate(families)]
    figure.legend(handles=dots, loc="outside upper center", ncols=min(len(dots), 6), frameon=False)
    return _svg(figure)


def _panel(
    axes: Any,
    rows: Sequence[Reduction],
    families: Sequence[str],
    plain: Sequence[str],
    name: str,
    column: Mapping[str, Any],
    rate: str,
) -> None:
    points = [(one, one.numbers[rate], fronts.mean(one, name)) for one in rows]
    known = [(one, x, y) for one, x, y in points if y is not None]
    best = set(fronts.front([(one.transform, x, y) for one, x, y in known], better=column["better"]))
    edge = sorted((x, y) for one, x, y in known if one.transform in best)
    straight = sorted((x, y) for one, x, y in known if one.transform in plain)
    axes.plot(*zip(*straight), color=COLOURS[0], linewidth=1.2, linestyle="--", zorder=1)
    axes.plot(*zip(*edge), color="#1d1f23", linewidth=0.8, zorder=1)
    for one, x, y in known:
        axes.plot(
            x, y, "o", color=COLOURS[families.index(one.family) % len(COLOURS)], markersize=6 if one.transform in best else 4, zorder=2
        )
        axes.annotate(one.transform, (x, y), fontsize=5.5, xytext=(3, 3), textcoords="offset points", color="#1d1f23")
    axes.set_xscale("log")
    axes.grid(visible=True, color="#e3e1dc", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _dot(colour: str, label: str) -> Any:
    return Line2D([], [], marker="o", linestyle="", color=colour, label=label)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "audiotok"}):  # text stays text; the same bytes every time
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()
