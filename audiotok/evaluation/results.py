"""Scores of utterances in, the figures that a paper would quote out: means with intervals, failures with reasons, judges by name."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from audiotok import files
from audiotok.evaluation.metric import Column
from audiotok.evaluation.statistics import bootstrap_interval

SUMMARY = "summary.json"
RESULTS = "results.json"


class Scored(Protocol):
    """What a summary says of a metric."""

    @property
    def columns(self) -> tuple[Column, ...]: ...

    @property
    def judge(self) -> str: ...


@dataclass(frozen=True)
class _Remembered:
    columns: tuple[Column, ...]
    judge: str


def summarise(
    table: pa.Table, metrics: Mapping[str, Scored], *, unspoken: Iterable[str] = (), resamplings: int, seed: int
) -> dict[str, Any]:
    """One system's results as a JSON-like value.

    {"utterances", "seconds", "unspoken": {reason: count}, "judges": {metric: judge}, "failures": {metric: {reason: count}}, "skipped":
    likewise, "columns": [...]} with a column for each number: its description, "value", the 95 % interval "low" and "high" (null for one
    utterance), "n" utterances scored, "failed" and "skipped" ones. Values are as stored; people read them times "scale". `unspoken` are the
    reasons why a system did not speak what it was asked for; those utterances have no row.
    """
    return {
        "utterances": len(table),
        "seconds": round(float(pc.sum(table["seconds"]).as_py() or 0), 3),
        "unspoken": dict(Counter(unspoken).most_common()),
        "judges": {name: metric.judge for name, metric in metrics.items()},
        "failures": {name: _reasons(table[f"{name}_failed"]) for name in metrics},
        "skipped": {name: _reasons(table[f"{name}_skipped"]) for name in metrics},
        "columns": [
            {**_describe(name, column, table), **_average(table, column, resamplings=resamplings, seed=seed)}
            for name, metric in metrics.items()
            for column in metric.columns
            if column.kind != "text"
        ],
    }


def summarise_part(table: pa.Table, summary: Mapping[str, Any], *, resamplings: int, seed: int) -> dict[str, Any]:
    """The summary of some of a system's rows, in the columns of the `summary` of all of them."""
    known = [field.name for field in fields(Column)]
    metrics = {
        name: _Remembered(
            tuple(Column(**{key: column[key] for key in known}) for column in summary["columns"] if column.get("metric") == name), judge
        )
        for name, judge in summary["judges"].items()
    }
    return summarise(table, metrics, resamplings=resamplings, seed=seed)


def _reasons(column: pa.ChunkedArray) -> dict[str, int]:
    return dict(Counter(reason for reason in column.to_pylist() if reason).most_common())


def _describe(metric: str, column: Column, table: pa.Table) -> dict[str, Any]:
    counts = {key: len(table) - table[f"{metric}_{key}"].null_count for key in ("failed", "skipped")}
    return {**asdict(column), "metric": metric, **counts}


def _average(table: pa.Table, column: Column, *, resamplings: int, seed: int) -> dict[str, Any]:
    scored = table.filter(pc.is_valid(table[column.name]))
    if not len(scored):
        return {"value": None, "low": None, "high": None, "n": 0}
    ratio = column.kind == "ratio"
    numerators = scored[f"{column.name}_numerator" if ratio else column.name].to_numpy()
    denominators = scored[f"{column.name}_denominator"].to_numpy() if ratio else np.ones(len(scored))
    low, high = bootstrap_interval(numerators, denominators, resamplings=resamplings, seed=seed) or (None, None)
    return {"value": float(numerators.sum() / denominators.sum()), "low": low, "high": high, "n": len(scored)}


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The summary of each system, the recordings first, as `evaluate` collected them. Raises ValueError where it has not yet."""
    if not (folder / RESULTS).exists():
        raise ValueError(f"{folder} holds no {RESULTS}; run `audiotok evaluate` with the same recipe and settings first")
    return files.read_json(folder / RESULTS)["systems"]


def once(names: Iterable[str]) -> list[str]:
    """The names of systems, less those of further trainings, NAME@WHAT where NAME is there: what a figure has room for."""
    names = list(names)
    return [name for name in names if "@" not in name or name.partition("@")[0] not in names]


def column_names(summaries: Mapping[str, dict[str, Any]]) -> list[str]:
    """The columns that any of the systems has, in the order of the metrics."""
    return list(dict.fromkeys(column["name"] for summary in summaries.values() for column in summary["columns"]))


def cell(summary: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """One column of one system; None where it was not measured."""
    return next((column for column in summary["columns"] if column["name"] == name), None)


def number(column: Mapping[str, Any], key: str = "value") -> str:
    """A value as people read it; a dash where there is none."""
    value = column[key]
    return "–" if value is None else f"{value * column['scale']:.{column['digits']}f}"
