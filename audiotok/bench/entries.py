"""A folder of results as values: suites, their tokenizers, the sentences that can be heard.

BENCH/SUITE/suite.json                 {"tasks": ...}: names in order, or settings by name
BENCH/SUITE/TOKENIZER/tokenizer.json   label, taxonomy, spec, bits_per_second, fingerprint, settings, family, reference
BENCH/SUITE/TOKENIZER/cells, items     see `audiotok.bench.rows`
BENCH/SUITE/TOKENIZER/audio            utterances.jsonl (id, path, text, language), FLAC; likewise BENCH/SUITE/recordings/audio
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import log2
from pathlib import Path
from typing import Any

from audiotok import files
from audiotok.bench import rows
from audiotok.bench.rows import Row
from audiotok.evaluation.rates import families

RECORDINGS = "recordings"  # the folder of the original audio, and the name of the reference that is scored on it
TAXONOMY = ("encoder_decoder", "quantisation", "training", "streaming", "domain")


@dataclass(frozen=True)
class Sentence:
    """One utterance that the page plays."""

    id: str
    path: Path
    text: str
    language: str


@dataclass(frozen=True)
class Entry:
    """One tokenizer of a suite. A `reference` (continuous top line, baseline) is shown and not ranked."""

    name: str
    label: str
    rows: tuple[Row, ...] = ()
    taxonomy: Mapping[str, str] = field(default_factory=dict)  # all of TAXONOMY, as text; "" where it is not told
    spec: Mapping[str, Any] = field(default_factory=dict)
    bits_per_second: float | None = None
    fingerprint: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    family: str | None = None  # what tokenizers are that are one at several rates
    reference: bool = False
    sentences: tuple[Sentence, ...] = ()

    @property
    def fixed_length(self) -> float | None:
        """Bits per second of codes written with as many bits each as its codebook needs; None where the spec does not tell."""
        if not self.spec.get("codebook_sizes") or not self.spec.get("frame_rate"):
            return None
        return float(Fraction(self.spec["frame_rate"])) * sum(log2(size) for size in self.spec["codebook_sizes"])


@dataclass(frozen=True)
class Suite:
    """One suite with every tokenizer that has results in it."""

    name: str
    tasks: tuple[str, ...]  # in the order of the suite; tasks that it does not name come after
    entries: tuple[Entry, ...]
    recordings: tuple[Sentence, ...] = ()

    @property
    def rows(self) -> list[Row]:
        """Of all tokenizers, in the order of the tasks."""
        order = {task: index for index, task in enumerate(self.tasks)}
        return sorted((row for entry in self.entries for row in entry.rows), key=lambda row: (order[row.task], row.seed))


def suites(bench_folder: Path) -> list[Suite]:
    """Every suite below. Raises ValueError where there is none."""
    folders = sorted({path.parent.parent for path in bench_folder.glob("*/*/tokenizer.json")})
    if not folders:
        raise ValueError(f"{bench_folder} holds no SUITE/TOKENIZER/tokenizer.json; run `audiotok bench` into it first")
    return [_suite(folder) for folder in folders]


def _suite(folder: Path) -> Suite:
    entries = tuple(_entry(path.parent) for path in sorted(folder.glob("*/tokenizer.json")))
    told = files.read_json(folder / "suite.json") if (folder / "suite.json").exists() else {}
    tasks = dict.fromkeys([*told.get("tasks", ()), *(row.task for entry in entries for row in entry.rows)])
    return Suite(folder.name, tuple(tasks), _in_families(entries), tuple(_sentences(folder / RECORDINGS / "audio")))


def _in_families(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """With the family of those that tell none: tokenizers whose settings differ in a single number are one at several rates."""
    members = families({entry.name: entry.settings or None for entry in entries if entry.family is None})
    found = {name: family for family, names in members.items() if len(names) > 1 for name in names}
    return tuple(replace(entry, family=entry.family or found.get(entry.name)) for entry in entries)


def _entry(folder: Path) -> Entry:
    told = files.read_json(folder / "tokenizer.json")
    taxonomy = told.get("taxonomy") or {}
    return Entry(
        name=folder.name,
        label=told["label"],
        rows=tuple(replace(row, tokenizer=folder.name) for row in rows.read(folder)),
        taxonomy={key: _text(taxonomy.get(key)) for key in TAXONOMY},
        spec=told.get("spec") or {},
        bits_per_second=told.get("bits_per_second"),
        fingerprint=told.get("fingerprint") or "",
        settings=told.get("settings") or {},
        family=told.get("family"),
        reference=bool(told.get("reference")),
        sentences=tuple(_sentences(folder / "audio")),
    )


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _sentences(folder: Path) -> Iterator[Sentence]:
    if (folder / "utterances.jsonl").exists():
        for told in files.read_jsonl(folder / "utterances.jsonl"):
            yield Sentence(told["id"], folder / told["path"], told.get("text") or "", told.get("language") or "")
