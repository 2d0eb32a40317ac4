"""Stages that are killed at any moment: a tiny recipe for each, and processes that start in no time.

The processes are forked off one that has imported all that stages need, so that a kill falls into the stage and not into its imports.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from tiny import tiny_speech_folder

from audiotok import cli

RECIPE = """
# @package _global_
defaults:
  - override /data: speech
  - override /tokenizer: dmel
  - override /transform: run_length
data: {language: en}
prepare: {workers: 1}
tokenize: {batch_seconds: 4, shard_utterances: 2, workers: 1}
align: {iterations: 4, gaussians: 1}
model: {width: 32, layers: 1, heads: 2, feed_forward: 48}
train: {steps: 12, save_every: 3, validate_every: 4, log_every: 2, batch_frames: 4000, warmup_steps: 2}
select: {max_utterances: 2, min_words: 1}
synthesize: {max_seconds: 2}
"""
SUITE = """
# @package _global_
defaults:
  - /data@corpora.speech: speech
  - /task@tasks.laws: laws
  - /task@tasks.codebook_use: codebook_use
  - /task@tasks.cost: cost
  - override /data: speech
  - override /tokenizer: dmel
prepare: {workers: 1}
bench: {aligned: [], seeds: [0], workers: 0, root: "${exp_root}/bench", listen: {min_seconds: 0}}
"""
SPEAKING = ("align", "train", "synthesize")  # stages that the transform of the other ones is none for
ORDER = ("tokenize", "reduce", "align", "train", "synthesize", "bench")
KILLED = ("tokenize", "reduce", "train", "synthesize", "bench")
PRELOADED = ["audiotok.cli", "audiotok.store", "audiotok.tokenizers.dmel", "audiotok.models.ar_tts", "audiotok.synthesis.speech"]


def command(stage: str, place: Path) -> list[str]:
    """The words of a stage, but for exp_root; `place` holds what `lay_out` wrote."""
    if stage == "bench":
        return [stage, str(place / "suite.yaml"), f"corpora.speech.root={place / 'corpus'}"]
    return [stage, str(place / "killed.yaml"), f"data.root={place / 'corpus'}", *(["transform=parallel"] if stage in SPEAKING else [])]


def lay_out(place: Path, speech: Path, *, utterances: int) -> None:
    """A corpus, a recipe and a suite."""
    tiny_speech_folder(place / "corpus", speech, utterances=utterances)
    (place / "killed.yaml").write_text(RECIPE)
    (place / "suite.yaml").write_text(SUITE)


class Forked:
    """A stage in a process of its own, as kill_check wants it."""

    def __init__(self, process: BaseProcess) -> None:
        self._process, self.pid = process, process.pid or 0

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a stage", timeout or 0)
        return self._process.exitcode


def start(words: Sequence[str], root: Path) -> Forked:
    """The stage on an exp_root, its errors beside that."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_run, args=([*words, f"exp_root={root}"], root.parent / "stderr.txt"))
    process.start()
    return Forked(process)


def ended_well(words: Sequence[str], root: Path) -> None:
    """Run a stage to its end. Raises RuntimeError with what it said where it fails."""
    if start(words, root).wait():
        raise RuntimeError((root.parent / "stderr.txt").read_text(errors="replace")[-3000:])


def _run(words: list[str], errors: Path) -> None:
    os.setsid()  # so that a kill takes the children too
    sys.stdout, sys.stderr = open(os.devnull, "w"), open(errors, "w")  # noqa: SIM115, until the end of the process
    cli.main(words)
