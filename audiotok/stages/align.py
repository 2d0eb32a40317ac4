"""Manifests -> phonemes and how long each takes.

Reads: EXP_ROOT/data/NAME-FP/ (what prepare writes), utterances with a text.
Writes: EXP_ROOT/alignments/NAME-FP/FP/alignments.jsonl, a row {id, phonemes, durations in seconds} for each utterance of every split, and
failed.jsonl (what could not be pronounced, or whose text does not fit its audio, with the reason).
The aligner is trained on the training split itself, in any language that the phonemizer knows.
Told by: align.hours, align.iterations, align.states, align.gaussians; data and prepare as for prepare.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from audiotok import files
from audiotok.data.aligning import Failure, align_cuts, fit_aligners
from audiotok.data.manifests import load_cuts
from audiotok.data.tokenization import num_utterances, splits_of
from audiotok.stages import paths

SECTIONS: tuple[str, ...] = ("data", "prepare", "align")


def run(cfg: DictConfig) -> None:
    manifests, console = paths.manifests(cfg), Console()
    settings = {"manifests": paths.manifests_fingerprint(cfg), **paths.settings(cfg, "align")}

    def work(partial: Path) -> None:
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
            fitting = progress.add_task("fitting the aligner", total=cfg.align.iterations)
            aligners = fit_aligners(
                load_cuts(manifests, "train"), **cfg.align, progress=lambda done: progress.update(fitting, completed=done)
            )
            cuts = (cut for split in splits_of(manifests) for cut in load_cuts(manifests, split))
            rows = align_cuts(progress.track(cuts, total=num_utterances(manifests), description="aligning"), aligners)
            _write(partial, rows, console)

    made = files.build(paths.alignments(cfg), settings, work, overwrite=cfg.overwrite)
    console.print(f"{paths.alignments(cfg)} is {'there already' if made == 'present' else 'written'}")


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
