"""Utterances in, one row of scores each out, in Parquet; a killed run goes on where it stopped.

A row: id, text, speaker, language, seconds; a column for each number (a ratio also has NAME_numerator and NAME_denominator) and each text
of each metric; and for each metric METRIC_failed and METRIC_skipped, the reason where there is no score.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from audiotok.evaluation.metric import Column, Metric, MetricFailure, NotApplicable, Ratio, Utterance, Value
from audiotok.files import whole_file

SCORES = "utterances.parquet"
CHUNK = 16  # utterances whose scores a kill can lose

Pair = tuple[Utterance, Utterance]


def score(metrics: Mapping[str, Metric], reference: Utterance, estimate: Utterance) -> dict[str, Any]:
    """The row of one utterance."""
    row: dict[str, Any] = {
        "id": reference.id,
        "text": reference.text,
        "speaker": reference.speaker,
        "language": reference.language,
        "seconds": estimate.seconds,
    }
    for name, metric in metrics.items():
        try:
            row |= _cells(metric(reference, estimate))
        except MetricFailure as failure:
            row[f"{name}_failed"] = str(failure)
        except NotApplicable as reason:
            row[f"{name}_skipped"] = str(reason)
    return row


def _cells(values: Mapping[str, Value]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Ratio):
            cells |= {f"{name}_numerator": value.numerator, f"{name}_denominator": value.denominator}
            value = value.numerator / value.denominator
        if not isinstance(value, str) and not isfinite(value):
            raise MetricFailure(f"{name} came out as {value}")
        cells[name] = value
    return cells


def schema(metrics: Mapping[str, Metric]) -> pa.Schema:
    """The columns of the rows that these metrics give. Raises ValueError where two would fill the same one."""
    fields = [("id", pa.string()), ("text", pa.string()), ("speaker", pa.string()), ("language", pa.string()), ("seconds", pa.float64())]
    for name, metric in metrics.items():
        fields += [field for column in metric.columns for field in _fields(column)]
        fields += [(f"{name}_failed", pa.string()), (f"{name}_skipped", pa.string())]
    names = [name for name, _ in fields]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two metrics fill the column {repeated[0]!r}; leave one of them out of the metrics config")
    return pa.schema(fields)


def _fields(column: Column) -> list[tuple[str, pa.DataType]]:
    if column.kind == "text":
        return [(column.name, pa.string())]
    parts = ["_numerator", "_denominator"] if column.kind == "ratio" else []
    return [(column.name + part, pa.float64()) for part in ["", *parts]]


def score_all(
    ids: Sequence[str],
    load: Callable[[str], Pair],
    metrics: Mapping[str, Metric],
    *,
    folder: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> pa.Table:
    """The rows of all `ids`, in their order, also written to `folder`/utterances.parquet.

    Chunks of `CHUNK` utterances are written as they are scored, each whole or absent; what `folder` holds of an earlier run with the same
    metrics is not scored again. `progress` is told how many more utterances are done.
    """
    columns, chunks = schema(metrics), folder / "chunks"
    if (folder / SCORES).exists():
        shutil.rmtree(chunks, ignore_errors=True)  # of a run killed between the two
        progress(len(ids))
        return pq.read_table(folder / SCORES)
    for start in range(0, len(ids), CHUNK):
        chunk_ids, path = ids[start : start + CHUNK], chunks / f"{start:08d}.parquet"
        if not path.exists():
            rows = [score(metrics, *load(id)) for id in chunk_ids]
            _write(path, pa.Table.from_pylist(rows, schema=columns))
        progress(len(chunk_ids))
    scored = [pq.read_table(path) for path in sorted(chunks.glob("*.parquet"))]
    table = pa.concat_tables([columns.empty_table(), *scored])  # a system that spoke nothing has no chunk
    _write(folder / SCORES, table)
    shutil.rmtree(chunks, ignore_errors=True)
    return table


def _write(path: Path, table: pa.Table) -> None:
    with whole_file(path) as partial:
        pq.write_table(table, partial)
