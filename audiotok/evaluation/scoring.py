"""Utterances in, one row of scores each out, in Parquet; a killed run goes on where it stopped, worker processes share the work.

A row: id, text, speaker, language, seconds; a column for each number (a ratio also has NAME_numerator and NAME_denominator) and each text
of each metric; and for each metric METRIC_failed and METRIC_skipped, the reason where there is no score.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, islice
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from audiotok.data.manifests import load_cuts
from audiotok.data.workers import Pool
from audiotok.evaluation import sources
from audiotok.evaluation.metric import Column, Metric, MetricFailure, NotApplicable, Ratio, Utterance, Value
from audiotok.files import whole_file

SCORES = "utterances.parquet"
CHUNK = 16  # utterances whose scores a kill can lose

Pair = tuple[Utterance, Utterance]
Row = dict[str, Any]
Task = tuple[Path | None, str]  # the folder of a system's audio (None: the recordings themselves), the id of an utterance


def score(metrics: Mapping[str, Metric], reference: Utterance, estimate: Utterance) -> Row:
    """The row of one utterance."""
    row: Row = {
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
    system: Path | None = None,
    workers: Pool | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> pa.Table:
    """The rows of all `ids`, in their order, also written to `folder`/utterances.parquet.

    Chunks of `CHUNK` utterances are written as they are scored, each whole or absent; what `folder` holds of an earlier run with the same
    metrics is not scored again. `workers` (of `scorer`, which are told the folder of the `system`) take over as soon as they are ready; the
    rows are the same. `progress` is told how many more utterances are done.
    """
    columns, chunks = schema(metrics), folder / "chunks"
    if (folder / SCORES).exists():
        shutil.rmtree(chunks, ignore_errors=True)  # of a run killed between the two
        progress(len(ids))
        return pq.read_table(folder / SCORES)
    paths = {chunks / f"{start:08d}.parquet": ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)}
    missing = {path: chunk_ids for path, chunk_ids in paths.items() if not path.exists()}
    progress(len(ids) - sum(map(len, missing.values())))
    rows = _told(progress, _rows(chain(*missing.values()), load, metrics, system=system, workers=workers))
    for path, chunk_ids in missing.items():
        _write(path, pa.Table.from_pylist(list(islice(rows, len(chunk_ids))), schema=columns))
    scored = [pq.read_table(path) for path in sorted(chunks.glob("*.parquet"))]
    table = pa.concat_tables([columns.empty_table(), *scored])  # a system that spoke nothing has no chunk
    _write(folder / SCORES, table)
    shutil.rmtree(chunks, ignore_errors=True)
    return table


def _rows(
    ids: Iterable[str], load: Callable[[str], Pair], metrics: Mapping[str, Metric], *, system: Path | None, workers: Pool | None
) -> Iterator[Row]:
    """In order: by this process until the workers are ready, then by them."""
    coming = iter(ids)
    while workers is None or not workers.ready():
        if (id := next(coming, None)) is None:
            return
        yield score(metrics, *load(id))
    yield from workers.map((system, id) for id in coming)


def _told(progress: Callable[[int], None], rows: Iterable[Row]) -> Iterator[Row]:
    for row in rows:
        progress(1)
        yield row


def scorer(make: Callable[[], Mapping[str, Metric]], manifests: Path) -> Callable[[Task], Row]:
    """What a worker process does: load an utterance and its recording and score it with the metrics that it made."""
    metrics, recordings = make(), sources.Recordings(load_cuts(manifests, "test"))
    folder = cache(sources.AudioFolder)

    def row(task: Task) -> Row:
        system, id = task
        reference = recordings.load(id)
        return score(metrics, *sources.pair(reference, reference if system is None else folder(system).load(id)))

    return row


def _write(path: Path, table: pa.Table) -> None:
    with whole_file(path) as partial:
        pq.write_table(table, partial)
