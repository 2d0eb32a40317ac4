"""A cell of the grid (tokenizer x task x seed) as one row of one Parquet file, with all that says where its numbers come from.

    BENCH/SUITE/TOKENIZER/cells/TASK-SEED.parquet    one row: suite, tokenizer, task, axis, seed, verdict, reason, started (ISO 8601, UTC),
                                                     seconds, scores (a list of structs), detail (JSON), provenance (JSON)
    BENCH/SUITE/TOKENIZER/items/TASK-SEED.parquet    what the scores are means of: score, id, numerator, denominator
    BENCH/SUITE/TOKENIZER/tokenizer.json             label, taxonomy, spec, settings, fingerprints
    BENCH/SUITE/TOKENIZER/audio/                     the sentences of the page: utterances.jsonl and FLAC
    BENCH/SUITE/suite.json                           the resolved suite, its tasks in order

`verdict` is "ok", "not_applicable" (with the reason), or what was wrong with the tokenizer (`audiotok.bench.checks.VERDICTS`).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from audiotok.bench.task import Score
from audiotok.evaluation.metric import Column, Ratio
from audiotok.files import whole_file

OK, NOT_APPLICABLE = "ok", "not_applicable"

SCORE = pa.struct(
    [
        ("name", pa.string()),
        ("label", pa.string()),
        ("kind", pa.string()),
        ("better", pa.string()),
        ("unit", pa.string()),
        ("scale", pa.float64()),
        ("digits", pa.int64()),
        ("value", pa.float64()),
        ("chance", pa.float64()),
        ("primary", pa.bool_()),
        ("n", pa.int64()),
        ("failures", pa.string()),  # JSON: reason -> count
    ]
)
SCHEMA = pa.schema(
    [
        ("suite", pa.string()),
        ("tokenizer", pa.string()),
        ("task", pa.string()),
        ("axis", pa.string()),
        ("seed", pa.int64()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("started", pa.string()),
        ("seconds", pa.float64()),
        ("scores", pa.list_(SCORE)),
        ("detail", pa.string()),
        ("provenance", pa.string()),
    ]
)
ITEMS = pa.schema([("score", pa.string()), ("id", pa.string()), ("numerator", pa.float64()), ("denominator", pa.float64())])


@dataclass(frozen=True)
class Row:
    """One cell's result. `provenance`: fingerprints (tokenizer, task settings, corpora), versions, machine, commit, judges."""

    suite: str
    tokenizer: str
    task: str
    axis: str
    seed: int
    verdict: str
    reason: str | None
    started: str
    seconds: float
    scores: tuple[Score, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        return f"{self.task}-{self.seed}.parquet"


def write(row: Row, folder: Path) -> None:
    """Into `folder`/items and `folder`/cells, in this order, each file whole or absent: a cell that is there has its items."""
    items = [item for score in row.scores for item in _items(score)]
    with whole_file(folder / "items" / row.file_name) as partial:
        pq.write_table(pa.Table.from_pylist(items, schema=ITEMS), partial)
    plain = {name: getattr(row, name) for name in SCHEMA.names if name not in ("scores", "detail", "provenance")}
    plain["scores"] = [_score(score) for score in row.scores]
    plain |= {name: json.dumps(getattr(row, name), ensure_ascii=False, default=str) for name in ("detail", "provenance")}
    with whole_file(folder / "cells" / row.file_name) as partial:
        pq.write_table(pa.Table.from_pylist([plain], schema=SCHEMA), partial)


def _score(score: Score) -> dict[str, Any]:
    told = {"value": score.value, "chance": score.chance, "primary": score.primary, "n": len(score.items)}
    return asdict(score.column) | told | {"failures": json.dumps(dict(score.failures), ensure_ascii=False)}


def _items(score: Score) -> Iterable[dict[str, Any]]:
    for id, value in score.items.items():
        ratio = value if isinstance(value, Ratio) else Ratio(float(value), 1.0)
        yield {"score": score.column.name, "id": id, "numerator": float(ratio.numerator), "denominator": float(ratio.denominator)}


def read(folder: Path) -> list[Row]:
    """Every cell below a tokenizer's folder, with its items."""
    return [_read(path) for path in sorted((folder / "cells").glob("*.parquet"))]


def _read(path: Path) -> Row:
    plain = pq.read_table(path).to_pylist()[0]
    items: dict[str, dict[str, Ratio]] = {}
    for item in pq.read_table(path.parent.with_name("items") / path.name).to_pylist():
        items.setdefault(item["score"], {})[item["id"]] = Ratio(item["numerator"], item["denominator"])
    scores = tuple(_score_of(told, items.get(told["name"], {})) for told in plain.pop("scores"))
    detail, provenance = (json.loads(plain.pop(name)) for name in ("detail", "provenance"))
    return Row(**plain, scores=scores, detail=detail, provenance=provenance)


def _score_of(told: dict[str, Any], items: Mapping[str, Ratio]) -> Score:
    column = Column(**{name: told[name] for name in ("name", "label", "kind", "better", "unit", "scale", "digits")})
    return Score(column, told["value"], items, json.loads(told["failures"]), told["chance"], told["primary"])
