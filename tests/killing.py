"""Stages that are killed at any moment: a tiny recipe for each, and processes that start in no time.

The processes are forked off one that has imported all that stages need, so that a kill falls into the stage and not into its imports.
"""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from tiny import tiny_speech_folder

from audiotok import cli
from audiotok.data.prompts import spoken_prompts
from audiotok.data.prompts_source import installed

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
bench: {aligned: [], seeds: [0], workers: 0, root: "${exp_root}/bench", listen: {min_seconds: 0, where: {dataset: [librispeech, prompts]}}}
"""
RANKS = "torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 3 --monitor-interval 0.1 -m audiotok.cli"
SPEAKING = ("align", "train", "synthesize")  # stages that the transform of the other ones is none for
ORDER = ("tokenize", "reduce", "align", "train", "synthesize", "bench")
KILLED = ("tokenize", "tokenize_ray", "reduce", "train", "train_ranks", "synthesize", "bench")
SHORTEST = 16_000  # bytes of a prompt in G.722: two seconds
PRELOADED = ["audiotok.cli", "audiotok.store", "audiotok.tokenizers.dmel", "audiotok.models.ar_tts", "audiotok.synthesis.speech"]

Disturb = Callable[[Path], None]  # done in a stage's process before it begins, told where its outputs lie


def command(stage: str, place: Path) -> list[str]:
    """The words of a stage, but for exp_root; `place` holds what `lay_out` wrote.

    tokenize_ray is tokenize on a Ray of this machine; train_ranks is train on two ranks, and a program's words.
    """
    if stage == "tokenize_ray":
        return [*command("tokenize", place), "tokenize.workers=2", "engine=ray", "engine.address=local"]
    if stage == "train_ranks":
        return [sys.executable, "-m", *RANKS.split(), *command("train", place), "train.accumulate=2"]
    if stage == "bench":
        return [stage, str(place / "suite.yaml"), f"corpora.speech.root={place / 'corpus'}"]
    return [stage, str(place / "killed.yaml"), f"data.root={place / 'corpus'}", *(["transform=parallel"] if stage in SPEAKING else [])]


def lay_out(place: Path, speech: Path | None, *, utterances: int) -> None:
    """A corpus, of the prompts where there is no other speech, a recipe and a suite."""
    if speech is None:
        _prompts_folder(place / "corpus", utterances)
    else:
        tiny_speech_folder(place / "corpus", speech, utterances=utterances)
    (place / "killed.yaml").write_text(RECIPE)
    (place / "suite.yaml").write_text(SUITE)


def _prompts_folder(folder: Path, utterances: int) -> None:
    """The shortest prompts of two seconds or more, fetched where they are not at hand, with a manifest.tsv."""
    long_enough = [one for one in spoken_prompts(installed(["en"], root=None, cache=None)["en"]) if one.path.stat().st_size >= SHORTEST]
    chosen = sorted(long_enough, key=lambda one: (one.path.stat().st_size, one.key))[:utterances]
    folder.mkdir(parents=True)
    with open(folder / "manifest.tsv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["dataset", "path", "speaker", "text", "split"])
        for index, one in enumerate(chosen):
            name = f"{one.key.replace('/', '_')}{one.path.suffix}"
            shutil.copy(one.path, folder / name)
            writer.writerow(["prompts", name, "Allison", one.text, "test" if index in (0, 4) else "dev" if index == 1 else "train"])


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


def start(words: Sequence[str], root: Path, *, disturb: Disturb | None = None, errors: str = "stderr.txt") -> Forked:
    """The stage on an exp_root, begun, its errors in a file beside that."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    begun, begins = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=([*words, f"exp_root={root}"], root.parent / errors, disturb, root, begins))
    process.start()
    begins.close()
    begun.recv()  # until then it could not be killed with its children
    return Forked(process)


def ended_well(words: Sequence[str], root: Path) -> None:
    """Run a stage to its end. Raises RuntimeError with what it said where it fails."""
    if start(words, root).wait():
        raise RuntimeError((root.parent / "stderr.txt").read_text(errors="replace")[-3000:])


def _run(words: list[str], errors: Path, disturb: Disturb | None, root: Path, begins: Connection) -> None:
    os.setsid()  # so that a kill takes the children too
    begins.send(None)
    begins.close()
    sys.stdout, sys.stderr = open(os.devnull, "w"), open(errors, "w")  # noqa: SIM115, until the end of the process
    if disturb is not None:
        disturb(root)
    cli.main(words)
