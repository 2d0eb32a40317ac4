"""The train stage under torchrun: one process and two, whole or sharded, fill their folder alike."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_distil import RECIPE, SMALL
from tiny import tiny_libritts

from audiotok import cli, files
from audiotok.training import logging

pytest.importorskip("gruut", reason="needs the tts extra")


@pytest.fixture(scope="module")
def aligned(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a tiny corpus that is ready to be learnt from."""
    folder = tmp_path_factory.mktemp("ranks")
    root = tiny_libritts(folder / "LibriTTS", speech, utterances=3)
    own = ["train.accumulate=2", "train.batch_frames=1200", "model.dropout=0.1"]
    settings = [f"data.root={root}", f"exp_root={folder}/exp", "prepare.workers=1", "tokenize.workers=1", *SMALL, *own]
    for each in ("prepare", "tokenize", "align"):
        cli.main([each, RECIPE, *settings])
    return settings


def torchrun(*words: str) -> subprocess.CompletedProcess:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "audiotok.cli"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*launch, *words], cwd=cli.ROOT, env=environment, capture_output=True, text=True, timeout=300)


def losses(exp_dir: Path) -> list[float]:
    return [entry["loss"] for entry in logging.read(exp_dir / "train")]


@pytest.fixture(scope="module")
def alone(aligned: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EXP_DIR of one process."""
    exp_dir = tmp_path_factory.mktemp("alone")
    cli.main(["train", RECIPE, *aligned, f"exp_dir={exp_dir}"])
    return exp_dir


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_processes_learn_as_one_does_and_write_one_folder(aligned: list[str], alone: Path, tmp_path: Path, sharding: str) -> None:
    ended = torchrun("train", RECIPE, *aligned, f"exp_dir={tmp_path}", f"train.sharding={sharding}")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("utterances to learn from") == 1, "the first process alone speaks"
    assert losses(tmp_path) == pytest.approx(losses(alone), abs=1e-3) and len(losses(alone)) >= 4
    made = [files.settings_of(folder / "train") for folder in (alone, tmp_path)]
    assert made[0] == made[1] and "sharding" not in made[0]["train"]
    cli.main(["train", RECIPE, *aligned, f"exp_dir={tmp_path}"])  # there already, for one process too


def test_a_step_of_one_batch_cannot_be_dealt_to_two_processes(aligned: list[str], tmp_path: Path) -> None:
    ended = torchrun("train", RECIPE, *aligned, f"exp_dir={tmp_path}", "train.accumulate=1")
    assert ended.returncode and "train.accumulate=1 batches of a step cannot be dealt to 2 processes; set a multiple of 2" in ended.stderr
