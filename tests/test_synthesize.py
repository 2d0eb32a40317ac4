"""The synthesize stage: what it refuses."""

import json
from pathlib import Path

import pytest

from audiotok import cli, files
from audiotok.stages import paths
from audiotok.stages.voices import chosen, refuse_other_settings
from audiotok.types import TokenSpec

SPEC = TokenSpec(16000, 40, (16,) * 80, "a" * 64)


def checkpoint(folder: Path, cfg) -> Path:
    files.write_json(folder / "config.json", paths.settings(cfg, "transform", "model"))
    files.write_json(folder / "spec.json", json.loads(SPEC.to_json()))
    return folder


def test_a_checkpoint_speaks_through_what_it_was_trained_with(tmp_path: Path):
    cfg = cli.load("prompts/tts", [])
    refuse_other_settings(checkpoint(tmp_path, cfg), cfg, SPEC)


@pytest.mark.parametrize(
    ("overrides", "fingerprint", "named"),
    [([], "b" * 64, "tokens: 'aaaaaaaa' there, 'bbbbbbbb' now"), (["model.heads=8"], "a" * 64, "model.heads: 4 there, 8 now")],
)
def test_another_tokenizer_or_model_of_the_same_shape_is_refused_by_name(tmp_path: Path, overrides, fingerprint, named):
    folder = checkpoint(tmp_path, cli.load("prompts/tts", []))
    other = TokenSpec(16000, 80, (16,) * 80, fingerprint)
    with pytest.raises(ValueError, match=named):
        refuse_other_settings(folder, cli.load("prompts/tts", overrides), other)


def test_a_speaker_is_chosen_where_there_is_a_choice_and_must_exist():
    assert chosen(None, ("", "allison"), "speaker") == "allison"
    with pytest.raises(ValueError, match=r"has 2 speakers; set synthesize\.speaker"):
        chosen(None, ("", "allison", "june"), "speaker")
    with pytest.raises(ValueError, match="no speaker 'bob'"):
        chosen("bob", ("", "allison"), "speaker")
    assert chosen(3005, ("", "3005"), "speaker") == "3005", "a number, as the command line reads it"
