"""The results of every suite on one page: self-contained, from disk, without a network.

`write` makes BENCH/report/index.html and, beside it, results.json with every number that the page draws and results.parquet with a row for
each suite, tokenizer, task, seed and score.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from functools import partial
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq

from audiotok import files
from audiotok.bench import comparison, correlation, entries, sanity
from audiotok.bench.comparison import Compare, Key, Measured, Rank
from audiotok.bench.entries import TAXONOMY, Entry, Suite
from audiotok.bench.rows import NOT_APPLICABLE, OK, Row
from audiotok.bench.task import AXES
from audiotok.evaluation.figures import data_uri

REPORT, PAGE, RESULTS, TABLE = "report", "index.html", "results.json", "results.parquet"
# How the numbers of the page are computed from those measured, the same for every benchmark: they change no measurement.
RESAMPLINGS, PERMUTATIONS, SEED = 2000, 9999, 0
SENTENCES = 4  # that can be heard
COLOURS = 9  # --c0 and on in report.css
AXIS_NAMES = {
    "reconstruction": "Reconstruction",
    "tokens": "Tokens",
    "downstream": "Downstream",
    "language_model": "Language models",
    "cost": "Cost",
}
TAXONOMY_NAMES = dict(zip(TAXONOMY, ("Encoder and decoder", "Quantisation", "Training", "Streaming", "Domain")))

TEXTS = ("suite", "tokenizer", "label", "family", *TAXONOMY, "task", "axis", "verdict", "reason", "started", "provenance")
SCORE_TEXTS = ("score", "score_label", "better", "unit", "failure_reasons")
FLAT = pa.schema(
    [(name, pa.string()) for name in (*TEXTS, *SCORE_TEXTS)]
    + [(name, pa.float64()) for name in ("bits_per_second", "seconds", "scale", "value", "chance")]
    + [(name, pa.int64()) for name in ("seed", "items", "failures")]
    + [(name, pa.bool_()) for name in ("reference", "primary")]
)


def write(bench_folder: Path) -> Path:
    """The path of the page. Raises ValueError where no suite below holds a tokenizer."""
    suites = entries.suites(bench_folder)
    boards = [_finite(board(suite)) for suite in suites]
    folder = bench_folder / REPORT
    files.write_json(folder / RESULTS, {"suites": boards})
    with files.whole_file(folder / TABLE) as partial_path:
        pq.write_table(pa.Table.from_pylist([row for suite in suites for row in _flat(suite)], schema=FLAT), partial_path)
    with files.whole_file(folder / PAGE) as partial_path:
        partial_path.write_text(_page(suites, boards), encoding="utf-8")
    return folder / PAGE


def _page(suites: Sequence[Suite], boards: Sequence[Mapping[str, Any]]) -> str:
    # report.css is the evaluation report's: both pages have one look
    loaders = [jinja2.PackageLoader("audiotok.bench"), jinja2.PackageLoader("audiotok.evaluation")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("leaderboard.html.j2").render(
        boards=boards,
        data=embedded({"suites": boards}),
        axis_names=AXIS_NAMES,
        taxonomy_names=TAXONOMY_NAMES,
        choices={
            key: sorted({tokenizer["taxonomy"][key] for one in boards for tokenizer in one["tokenizers"]} - {""})
            for key in ("quantisation", "streaming", "domain")
        },
        sentences=[_sentences(suite) for suite in suites],
    )


def embedded(value: Any) -> str:
    """JSON that a script element can hold: nothing in it opens or closes an element."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    """The same with None for what JSON cannot say."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def board(suite: Suite) -> dict[str, Any]:
    """Everything that the page says of a suite, as a JSON-like value."""
    rows = suite.rows
    scores = comparison.measured(rows)
    ranked = {entry.name for entry in suite.entries if not entry.reference}
    columns = {key: [one for one in column if one.tokenizer in ranked] for key, column in comparison.by_key(scores).items()}
    compare = comparison.remembered(partial(comparison.difference, resamplings=RESAMPLINGS, seed=SEED))
    places = {key: comparison.ranks(column, compare) for key, column in columns.items() if column and column[0].primary}
    found = sanity.findings(suite, scores, compare)
    provenances = {json.dumps(row.provenance, sort_keys=True, default=str): row.provenance for row in rows}
    return {
        "name": suite.name,
        "facts": _facts(suite),
        "tokenizers": _tokenizers(suite.entries),
        "scores": _scores(scores),
        "cells": _cells(scores, places, ranked),
        "rows": _row_index(rows, list(provenances)),
        "provenances": list(provenances.values()),
        "ranks": _rank_table(places, columns),
        "differences": _differences(columns, compare),
        "correlations": _correlations(columns),
        "curves": _curves(rows),
        "findings": [asdict(finding) for finding in found],
    }


def _facts(suite: Suite) -> dict[str, str]:
    rows = suite.rows
    started = sorted(row.started[:10] for row in rows if row.started)
    references = sum(entry.reference for entry in suite.entries)
    return {
        "Tokenizers": str(len(suite.entries) - references) + (f" and {references} for reference" if references else ""),
        "Tasks": str(len({row.task for row in rows})),
        "Seeds": ", ".join(map(str, sorted({row.seed for row in rows}))),
        "Measured": " to ".join(dict.fromkeys((started[0], started[-1]))) if started else "",
        "Machine": "; ".join(_told(rows, "machine")),
        "Commit": ", ".join(_told(rows, "commit")),
    }


def _told(rows: Iterable[Row], key: str) -> list[str]:
    """What the provenances say, each thing once."""
    values = (row.provenance.get(key) for row in rows)
    texts = (_machine(value) if isinstance(value, Mapping) else value for value in values)
    return list(dict.fromkeys(str(text) for text in texts if text))


def _machine(told: Mapping[str, Any]) -> str:
    parts = (told.get("cpu"), f"{told['cores']} cores" if told.get("cores") else "", told.get("device"))
    return ", ".join(str(part) for part in parts if part) or json.dumps(told, default=str)


def _tokenizers(tokenizers: Iterable[Entry]) -> list[dict[str, Any]]:
    """In the order of their labels, references last; those of a family share a colour."""
    colours: dict[str, int] = {}
    told = []
    for entry in sorted(tokenizers, key=lambda entry: (entry.reference, entry.label.lower())):
        plain = {key: value for key, value in vars(entry).items() if key not in ("rows", "sentences")}
        colour = colours.setdefault(entry.family or entry.name, len(colours) % COLOURS)
        told.append(plain | {"colour": colour, "fixed_length": entry.fixed_length} | _frames(entry.spec))
    return told


def _frames(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Frames per second as a number, and codebooks as people write them: 8 × 1024."""
    sizes = list(spec.get("codebook_sizes") or ())
    runs = [(size, len(list(run))) for size, run in groupby(sizes)]
    frames = float(Fraction(spec["frame_rate"])) if spec.get("frame_rate") else None
    return {"frames": frames, "codebooks": ", ".join(f"{count} × {size}" for size, count in runs)}


def _scores(scores: Sequence[Measured]) -> list[dict[str, Any]]:
    """The columns, axis by axis; primary ones first within a task. Where an axis has no primary score, all of them are shown."""
    columns = comparison.by_key(scores)
    shown = {column[0].axis for column in columns.values() if column[0].primary}
    order = {task: index for index, task in enumerate(dict.fromkeys(one.task for one in scores))}
    told = [
        {"key": joined(key), "task": key[0], "axis": column[0].axis, "primary": column[0].primary, "chance": column[0].chance}
        | {"shown": column[0].primary or column[0].axis not in shown}
        | asdict(column[0].column)
        for key, column in columns.items()
    ]
    return sorted(told, key=lambda score: (AXES.index(score["axis"]), order[score["task"]], not score["primary"]))


def joined(key: Key) -> str:
    return "/".join(key)


def _cells(scores: Iterable[Measured], places: Mapping[Key, Mapping[str, Rank]], ranked: set[str]) -> dict[str, dict[str, Any]]:
    """By score, then by tokenizer."""
    cells: dict[str, dict[str, Any]] = {}
    for key, column in comparison.by_key(scores).items():
        values = [one.sign * one.mean for one in column if one.tokenizer in ranked and one.mean is not None and one.sign]
        for one in column:
            best = one.tokenizer in ranked and len(values) > 1 and one.mean is not None and one.sign * one.mean == max(values)
            cells.setdefault(joined(key), {})[one.tokenizer] = _cell(one, places.get(key, {}).get(one.tokenizer)) | {"best": best}
    return cells


def _cell(one: Measured, place: Rank | None) -> dict[str, Any]:
    scale, digits = one.column.scale, one.column.digits
    reason = comparison.not_converged(one)
    return {
        "mean": one.mean,
        "sd": one.sd,
        "n": len(one.values),
        "items": len(one.ids()),
        "interval": comparison.interval(one, resamplings=RESAMPLINGS, seed=SEED),
        "values": {str(seed): value for seed, value in one.values.items()},
        "text": "–" if one.mean is None else f"{one.mean * scale:.{digits}f}",
        "spread": "" if one.sd is None else f"{one.sd * scale:.{digits}f}",
        "rank": place.text if place else "",
        "failures": dict(one.failures),
        "flags": [{"kind": "not converged", "reason": reason}] if reason else [],
    }


def _row_index(rows: Iterable[Row], provenances: Sequence[str]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By tokenizer, then by task: a cell's verdict, and which of the provenances is its own."""
    places = {text: index for index, text in enumerate(provenances)}
    index: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        told = {name: getattr(row, name) for name in ("seed", "verdict", "reason", "started", "seconds")}
        told["provenance"] = places[json.dumps(row.provenance, sort_keys=True, default=str)]
        told["wrong"] = row.verdict not in (OK, NOT_APPLICABLE)
        index.setdefault(row.tokenizer, {}).setdefault(row.task, []).append(told)
    return index


def _rank_table(places: Mapping[Key, Mapping[str, Rank]], columns: Mapping[Key, Sequence[Measured]]) -> dict[str, Any]:
    means = comparison.mean_ranks(places, {key: columns[key][0].axis for key in places})
    overall = comparison.overall(means)
    return {
        "axes": [axis for axis in AXES if any(axis in found for found in means.values())],
        "tokenizers": {
            name: {"place": asdict(overall[name]) | {"text": overall[name].text}}
            | {"means": {axis: asdict(rank) for axis, rank in means[name].items()}}
            for name in sorted(overall, key=lambda name: overall[name].first)
        },
    }


def _differences(columns: Mapping[Key, Sequence[Measured]], compare: Compare) -> dict[str, list[dict[str, Any]]]:
    """By primary score: every pair of ranked tokenizers, once."""
    found: dict[str, list[dict[str, Any]]] = {}
    for key, column in columns.items():
        scored = [one for one in column if one.primary and one.mean is not None]
        for index, left in enumerate(scored):
            for right in scored[index + 1 :]:
                apart, signs = compare(left, right), comparison.sign_test(left, right)
                pair = {"left": left.tokenizer, "right": right.tokenizer, "signs": asdict(signs) if left.items and right.items else None}
                found.setdefault(joined(key), []).append(pair | {"difference": asdict(apart) if apart else None})
    return found


def _correlations(columns: Mapping[Key, Sequence[Measured]]) -> list[dict[str, Any]]:
    scores = [one for column in columns.values() for one in column]
    found = correlation.correlations(scores, permutations=PERMUTATIONS, seed=SEED)
    return [asdict(one) | {"left": joined(one.left), "right": joined(one.right)} for one in found]


def _curves(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Of the first seed that has them."""
    curves: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        for curve in row.detail.get("curves", ()):
            told = {"tokenizer": row.tokenizer, "task": row.task, "seed": row.seed}
            curves.setdefault((row.tokenizer, row.task, curve["name"]), told | {key: curve[key] for key in ("name", "kind", "points")})
    return list(curves.values())


def _sentences(suite: Suite) -> list[dict[str, Any]]:
    """The first sentences of the recordings with every version of them, as data: URIs."""
    versions = {entry.name: {sentence.id: sentence for sentence in entry.sentences} for entry in suite.entries}
    known = dict.fromkeys(sentence.id for entry in suite.entries for sentence in entry.sentences)
    recorded = {sentence.id: sentence for sentence in suite.recordings}
    told = []
    for id in [*(id for id in recorded if id in known), *(id for id in known if id not in recorded)][:SENTENCES]:
        own = {name: sentences[id] for name, sentences in versions.items() if id in sentences and name != entries.RECORDINGS}
        first = recorded.get(id) or next(iter(own.values()))
        sounds = {name: data_uri(sentence.path.read_bytes(), "audio/flac") for name, sentence in own.items()}
        recording = data_uri(recorded[id].path.read_bytes(), "audio/flac") if id in recorded else None
        told.append({"id": id, "text": first.text, "language": first.language, "recording": recording, "sounds": sounds})
    return told


def _flat(suite: Suite) -> Iterable[dict[str, Any]]:
    """A row for each score of each cell; of a cell without scores, one without a score."""
    for entry in suite.entries:
        about = {name: getattr(entry, name) for name in ("label", "family", "reference", "bits_per_second")} | dict(entry.taxonomy)
        for row in entry.rows:
            told = {
                name: getattr(row, name)
                for name in ("suite", "tokenizer", "task", "axis", "seed", "verdict", "reason", "started", "seconds")
            }
            told["provenance"] = json.dumps(row.provenance, ensure_ascii=False, default=str)
            yield from ({**about, **told, **score} for score in [_flat_score(score) for score in row.scores] or [{}])


def _flat_score(score: Any) -> dict[str, Any]:
    column = score.column
    return {
        "score": column.name,
        "score_label": column.label,
        **{name: getattr(column, name) for name in ("better", "unit", "scale")},
        **{name: getattr(score, name) for name in ("value", "chance", "primary")},
        "items": len(score.items),
        "failures": sum(score.failures.values()),
        "failure_reasons": json.dumps(dict(score.failures), ensure_ascii=False),
    }
