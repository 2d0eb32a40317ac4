"""One page to see, hear and search what was made: self-contained, from disk, without a network.

`write` turns results and examples into report.html and, beside it, results.json with every table and curve of the page as data.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from audiotok import files
from audiotok.evaluation import curves, figures, rates, results
from audiotok.evaluation.metric import Utterance
from audiotok.evaluation.text import marked

PAGE = "report.html"
COLOURS = 9  # --c0 and on in report.css
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)  # seconds between the marks of a time axis


@dataclass(frozen=True)
class Version:
    """One utterance as one system spoke it; `row` is its row of scores, `codes_KN` its tokens where they are known."""

    system: str
    utterance: Utterance
    row: Mapping[str, Any]
    codes_KN: np.ndarray | None = None
    codebook_sizes: Sequence[int] = ()
    rounds: Sequence[Sequence[int]] = ()  # of speculative decoding: positions drafted, and how many of them stand


@dataclass(frozen=True)
class Example:
    """One sentence in all its versions, the recording first."""

    id: str
    text: str
    versions: Sequence[Version]


def write(
    folder: Path,
    *,
    recipe: str,
    facts: Mapping[str, str],
    settings: str,
    summaries: Mapping[str, dict[str, Any]],
    families: Mapping[str, Sequence[str]],
    log: Sequence[Mapping[str, Any]],
    examples: Iterable[Example],
) -> Path:
    """The path of report.html in `folder`; results.json lies beside it.

    `facts` are short statements for the head of the page, `settings` the resolved config as text, `families` the systems by
    what they are at several rates, `log` the entries of the training log.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("audiotok.evaluation"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    drawn, data = [], []
    for example in examples:
        drawn.append(_draw(example, summaries))
        data.append(
            {"id": example.id, "text": example.text, "systems": {version.system: dict(version.row) for version in example.versions}}
        )
    colours = {system: index % COLOURS for index, names in enumerate(families.values()) for system in names}
    rate_panels = rates.panels(summaries, families)
    page = environment.get_template("report.html.j2").render(
        recipe=recipe,
        facts=facts,
        settings=settings,
        summaries=summaries,
        judges=_judges(summaries),
        table=_table(summaries),
        colours=colours,
        families=families,
        rate_panels=rate_panels,
        rated={point.system for panel in rate_panels for family in panel.families for point in family.points},
        panels=curves.panels(log),
        chart={name: getattr(curves, name) for name in ("WIDTH", "HEIGHT", "LEFT", "RIGHT", "TOP", "BOTTOM")},
        examples=drawn,
        drafted=any(version["fates"] for example in drawn for version in example["versions"]),
    )
    with files.whole_file(folder / PAGE) as partial:
        partial.write_text(page, encoding="utf-8")
    figure = [panel.data() for panel in rate_panels]
    files.write_json(
        folder / results.RESULTS,
        {"recipe": recipe, "facts": facts, "systems": summaries, "rates": figure, "training": list(log), "examples": data},
    )
    return folder / PAGE


def _judges(summaries: Mapping[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """(metric, who judged it); the systems are named where it was not the same for all."""
    by_metric: dict[str, dict[str, list[str]]] = {}
    for system, summary in summaries.items():
        for metric, judge in summary["judges"].items():
            by_metric.setdefault(metric, {}).setdefault(judge, []).append(system)
    return [
        (metric if len(judges) == 1 else f"{metric} of {', '.join(systems)}", judge)
        for metric, judges in by_metric.items()
        for judge, systems in judges.items()
    ]


def _table(summaries: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Heads of the columns and, for each system, cells with texts and the places of the interval on the column's own scale (0 to 1)."""
    names = results.column_names(summaries)
    cells = {name: [results.cell(summary, name) for summary in summaries.values()] for name in names}
    heads = [next(found for found in column if found) for column in cells.values()]
    drawn = [[_cell(found, column) for found in column] for column in cells.values()]
    return {"heads": heads, "rows": [(system, [column[index] for column in drawn]) for index, system in enumerate(summaries)]}


def _cell(found: Mapping[str, Any] | None, column: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    if found is None:
        return {"text": "", "interval": "", "bar": None, "unscored": []}
    ends = [other[key] for other in column if other for key in ("low", "value", "high") if other[key] is not None]
    bar = None
    if found["low"] is not None and max(ends) > min(ends):
        bar = [(found[key] - min(ends)) / (max(ends) - min(ends)) for key in ("low", "value", "high")]
    interval = "" if found["low"] is None else f"{results.number(found, 'low')} – {results.number(found, 'high')}"
    unscored = [(kind, f"{found[kind]} {kind}") for kind in ("failed", "skipped") if found[kind]]
    return {"text": results.number(found), "interval": interval, "bar": bar, "unscored": unscored}


def _draw(example: Example, summaries: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    seconds = max(version.utterance.seconds for version in example.versions)
    mels = [figures.spectrogram(version.utterance) for version in example.versions]
    loudest = max(float(mel_MN.max()) for mel_MN in mels)
    versions = [_draw_version(version, mel_MN, loudest, seconds, summaries) for version, mel_MN in zip(example.versions, mels)]
    first = example.versions[0].utterance
    about = [first.language or "", first.speaker or "", f"{first.seconds:.1f} s"]
    return {
        "id": example.id,
        "text": example.text,
        "about": " · ".join(part for part in about if part),
        "seconds": seconds,
        "ticks": _time_axis(seconds),
        "versions": versions,
        "wers": json.dumps({version.system: version.row.get("wer") for version in example.versions}),
    }


def _draw_version(
    version: Version, mel_MN: np.ndarray, loudest: float, longest: float, summaries: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    row, columns = version.row, summaries[version.system]["columns"]
    codes = version.codes_KN
    return {
        "system": version.system,
        "seconds": version.utterance.seconds,
        "width": 100 * version.utterance.seconds / longest,
        "sound": figures.sound(version.utterance),
        "spectrogram": figures.spectrogram_image(mel_MN, loudest=loudest),
        "codes": None if codes is None else figures.codes_image(codes, version.codebook_sizes),
        "codes_shape": "" if codes is None else f"{codes.shape[0]} codebooks × {codes.shape[1]} frames",
        "codes_height": 0 if codes is None else min(96, max(40, 8 * codes.shape[0])),
        "fates": figures.fates_image(version.rounds) if version.rounds else None,
        "fates_told": _fates_told(version.rounds) if version.rounds else "",
        "heard": row.get("heard"),
        "words": marked(row["words_meant"], row["words_heard"]) if row.get("words_meant") else [],
        "wer": row.get("wer"),
        "scores": [
            (column["label"], f"{row[column['name']] * column['scale']:.{column['digits']}f}{_unit(column)}")
            for column in columns
            if row.get(column["name"]) is not None
        ],
        "failures": [f"{name}: {row[f'{name}_failed']}" for name in summaries[version.system]["judges"] if row.get(f"{name}_failed")],
    }


def _fates_told(rounds: Sequence[Sequence[int]]) -> str:
    drafted, accepted = (sum(each) for each in zip(*rounds))
    share = f"{100 * accepted / drafted:.0f} % of the drafts stand" if drafted else "nothing was drafted"
    return f"{share}, {1 + accepted / len(rounds):.2f} positions a step of the model"


def _unit(column: Mapping[str, Any]) -> str:
    return f" {column['unit']}" if column["unit"] else ""


def _time_axis(seconds: float) -> list[tuple[float, str]]:
    """Marks as (percent of the width, label)."""
    step = next((step for step in TICKS if seconds / step <= 8), TICKS[-1])
    return [
        (100 * index * step / seconds, f"{index * step:g} s") for index in range(int(0.97 * seconds / step) + 1)
    ]  # no label beyond the edge
