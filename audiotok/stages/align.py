"""Manifests -> phonemes and how long each takes.

Reads: EXP_ROOT/data/NAME-FP/ (what prepare writes), utterances with a text.
Writes: EXP_ROOT/alignments/NAME-FP/FP/alignments.jsonl, a row {id, phonemes, durations in seconds} for each utterance of every split, and
failed.jsonl (what could not be pronounced, or whose text does not fit its audio, with the reason).
The aligner is trained on the training split itself, in any language that the phonemizer knows. What has no text is left out, or with
align.transcriber, a recogniser, read as what that hears.
Told by: align.hours, align.iterations, align.states, align.gaussians, align.transcriber; data and prepare as for prepare.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
from hydra.utils import instantiate
from lhotse import MonoCut
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from audiotok import files
from audiotok.data.aligning import Failure, align_cuts, fit_aligners
from audiotok.data.manifests import load_cuts
from audiotok.data.tokenization import num_utterances, read_cut, splits_of
from audiotok.evaluation.metric import JUDGE_RATE, NotApplicable
from audiotok.stages import paths

SECTIONS: tuple[str, ...] = ("data", "prepare", "align")


class Transcriber(Protocol):
    """What tells words from sound, as `evaluation.text.Recogniser` does."""

    def check(self, language: str | None) -> str: ...

    def hear(self, wav_T: np.ndarray, *, language: str) -> str: ...


def run(cfg: DictConfig) -> None:
    manifests, console = paths.manifests(cfg), Console()
    settings = {"manifests": paths.manifests_fingerprint(cfg), **paths.settings(cfg, "align")}
    fitting = {key: cfg.align[key] for key in ("hours", "iterations", "states", "gaussians")}

    def work(partial: Path) -> None:
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
            cuts = {split: list(load_cuts(manifests, split)) for split in splits_of(manifests)}
            if cfg.align.transcriber is not None:
                heard = progress.track(chain(*cuts.values()), total=num_utterances(manifests), description="hearing what has no text")
                fill_in(heard, instantiate(cfg.align.transcriber))
            task = progress.add_task("fitting the aligner", total=cfg.align.iterations)
            aligners = fit_aligners(cuts.get("train", []), **fitting, progress=lambda done: progress.update(task, completed=done))
            aligned = progress.track(chain(*cuts.values()), total=num_utterances(manifests), description="aligning")
            _write(partial, align_cuts(aligned, aligners), console)

    made = files.build(paths.alignments(cfg), settings, work, overwrite=cfg.overwrite)
    console.print(f"{paths.alignments(cfg)} is {'there already' if made == 'present' else 'written'}")


def fill_in(cuts: Iterable[MonoCut], transcriber: Transcriber) -> None:
    """Give each cut without a text what is heard in it, in place, where the transcriber knows its language."""
    for cut in cuts:
        supervision = cut.supervisions[0]
        if not supervision.text:
            try:
                language = transcriber.check(supervision.language)
            except NotApplicable:
                continue  # it stays without a text, and is reported as such
            supervision.text = transcriber.hear(read_cut(cut, JUDGE_RATE).numpy(), language=language).strip() or None


def _write(folder: Path, rows: Iterator[dict | Failure], console: Console) -> None:
    failed: list[Failure] = []

    def aligned() -> Iterator[dict]:
        for row in rows:
            if isinstance(row, Failure):
                failed.append(row)
            else:
                yield row

    files.write_jsonl(folder / "alignments.jsonl", aligned())
    files.write_jsonl(folder / "failed.jsonl", map(asdict, failed))
    if failed:
        console.print(f"could not be aligned: {len(failed)}, such as {failed[0].id}: {failed[0].reason}")
