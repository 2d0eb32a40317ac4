"""A suite on disk: what is asked of a tokenizer, what has been answered, and what is still missing."""

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from audiotok import audio, files
from audiotok.bench import rows
from audiotok.bench.checks import Broken
from audiotok.bench.rows import Row
from audiotok.bench.subject import Selection, Subject, recording
from audiotok.bench.task import Task
from audiotok.data.costs import machine
from audiotok.data.manifests import file_name
from audiotok.evaluation.metric import NotApplicable, Utterance

TOKENIZER, RECORDINGS, SUITE = "tokenizer.json", "recordings", "suite.json"
TOLD_VERSIONS = (
    "audiotok", "torch", "torchaudio", "numpy", "librosa", "scikit-learn", "lhotse", "pesq", "pystoi", "jiwer", "speechmos", "resemblyzer",
    "faster-whisper", "speechbrain", "tokenizers", "encodec", "transformers", "ai-edge-litert", "soxr", "soundfile",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A task and a seed."""

    task: str
    seed: int


def planned(tasks: Mapping[str, Task], seeds: Sequence[int]) -> list[Cell]:
    """Every task once for each seed, or once where it draws nothing."""
    return [Cell(name, seed) for name, task in tasks.items() for seed in (seeds if task.seeded else seeds[:1])]


def done(folder: Path, fingerprints: Mapping[Cell, str], *, overwrite: bool) -> set[Cell]:
    """The cells that a tokenizer's folder holds already. Raises ValueError for one that was made with other settings.

    A cell whose process died or took too long is none: it is tried again.
    """
    present = {(row.task, row.seed): row for row in rows.read(folder) if row.verdict not in ("died", "timed_out")}
    found = {cell: present[cell.task, cell.seed] for cell in fingerprints if (cell.task, cell.seed) in present}
    other = [cell for cell, row in found.items() if row.provenance.get("cell") != fingerprints[cell]]
    if other and not overwrite:
        raise ValueError(
            f"{folder} holds {other[0].task} with other settings of the task, the corpora or the tokenizer; set overwrite=true to measure "
            "it again, bench.label=NAME for another row, or another bench.root"
        )
    return set() if overwrite else set(found) - set(other)


def ended(task: Task, cell: Cell, broken: Broken, *, suite: str, label: str, provenance: Mapping[str, Any]) -> Row:
    """The row of a cell whose process told nothing any more."""
    return Row(suite, label, cell.task, task.axis, cell.seed, broken.verdict, broken.reason, "", 0.0, provenance=provenance)


def describe(folder: Path, told: Mapping[str, Any], *, overwrite: bool) -> None:
    """Write tokenizer.json. Raises ValueError where the folder is another tokenizer's."""
    told, path = files.redacted(dict(told)), folder / TOKENIZER
    if path.exists() and not overwrite:
        differing = list(files.differences(files.read_json(path)["settings"], dict(told)["settings"]))
        if differing:
            key, old, new = differing[0]
            raise ValueError(
                f"{folder} is of another tokenizer ({key}: {old!r} there, {new!r} now); set bench.label=NAME, or overwrite=true"
            )
    files.write_json(path, told)


def surroundings(device: torch.device) -> dict[str, Any]:
    """Machine, versions and commit, for the provenance of a row."""
    wanted = {name.lower(): name for name in TOLD_VERSIONS}
    found = {wanted[name]: one.version for one in distributions() if (name := (one.metadata["Name"] or "").lower()) in wanted}
    return {"machine": machine(device), "versions": dict(sorted(found.items())), "commit": commit()}


def commit() -> str | None:
    """Of the clone that audiotok runs from, with + where files differ from it; None where it was installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    words = (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    try:
        head, changed = (
            subprocess.run(["git", "-C", str(root), *word], capture_output=True, text=True, check=True).stdout for word in words
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + ("+" if changed.strip() else "")


def _output(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def write_audio(subject: Subject, selection: Selection, folder: Path) -> None:
    """The sentences of the page through this subject: a FLAC each and utterances.jsonl, an empty one of what has no way back to sound.

    Raises NotApplicable where the sentences are not at hand.
    """
    if not is_written(folder):
        cuts = subject.cuts(selection)
        try:
            spoken = [subject.transmitted(cut) for cut in cuts]
        except NotApplicable:
            spoken = []
        write_utterances(spoken, folder)


def is_written(folder: Path) -> bool:
    """Whether the sentences of the page are all there."""
    return (folder / "utterances.jsonl").exists()


def write_recordings(subject: Subject, selection: Selection, folder: Path) -> None:
    """The same as they were recorded. Raises NotApplicable where they are not at hand."""
    if not is_written(folder):
        write_utterances([recording(cut) for cut in subject.cuts(selection)], folder)


def write_utterances(spoken: Iterable[Utterance], folder: Path) -> None:
    """A FLAC each, and utterances.jsonl, which says that all are there."""
    told = []
    for utterance in spoken:
        path = f"{file_name(utterance.id)}.flac"
        audio.write(folder / path, utterance.wav_T.clamp(-1, 1), utterance.sample_rate)
        told.append({"id": utterance.id, "path": path, "text": utterance.text, "language": utterance.language})
    files.write_jsonl(folder / "utterances.jsonl", told)
