"""Groups of codes from the shell: saved as the coarse rule makes them, described, drawn, and heard."""

import json
from pathlib import Path

import pytest
from tiny import tiny_speech_folder

from audiotok import cli
from audiotok.decoding import kernels

RECIPE = """
# @package _global_
defaults:
  - override /data: speech
  - override /tokenizer: codec
  - override /acceptance: coarse_hard
prepare: { workers: 1 }
tokenize: { workers: 1 }
"""


@pytest.fixture(scope="module")
def told(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("groups")
    corpus = tiny_speech_folder(root / "corpus", speech, utterances=4)
    (root / "grouped.yaml").write_text(RECIPE)
    told = [str(root / "grouped.yaml"), f"data.root={corpus}", f"exp_root={root / 'exp'}"]
    for stage in ("prepare", "tokenize"):
        cli.main([stage, *told])
    return told


def folder(told: list[str], choice: str) -> Path:
    return Path(told[2].removeprefix("exp_root=")) / "grouped" / "groups" / "codec" / choice


def test_groups_are_saved_described_and_heard(told: list[str]) -> None:
    cli.main(["groups", *told, "acceptance.similarity.threshold=0.6"])
    made = folder(told, "coarse_hard")
    saved, settings = kernels.load(made / "groups.safetensors")
    about = json.loads((made / "groups.json").read_text())["codebooks"]
    assert settings == {"kind": "Hard", "threshold": 0.6} and len(saved) == len(about) == 6
    for kernel, one in zip(saved, about):
        assert kernel.describe() == {key: one[key] for key in ("mean_size", "max_size", "coverage")}
        assert sum(one["sizes"].values()) == one["codes"] == kernel.size
        assert all(more >= less for more, less in zip(one["mean_sizes"], one["mean_sizes"][1:])), "a higher threshold holds fewer"
    page = (made / "groups.html").read_text()
    assert page.count("<audio") >= 6 * 2 and "data:audio/flac" in page and page.count('scope="row">codebook') >= 6


def test_a_rule_without_groups_is_refused(told: list[str]) -> None:
    with pytest.raises(SystemExit, match="acceptance=exact has no groups; choose coarse_hard"):
        cli.main(["groups", *told, "acceptance=exact"])
