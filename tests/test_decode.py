"""Tokens back to sound: what the system is called, and what it costs."""

from pathlib import Path

import pytest
from omegaconf import DictConfig
from tiny import tiny_speech_folder

from audiotok import cli, files
from audiotok.stages import decode, paths, prepare, tokenize


@pytest.fixture
def told(speech: Path, tmp_path: Path) -> list[str]:
    corpus = tiny_speech_folder(tmp_path / "corpus", speech, utterances=6)
    return ["data=speech", f"data.root={corpus}", f"exp_root={tmp_path}/exp", "prepare.workers=1", "select.min_words=1"]


def config(*settings: str) -> DictConfig:
    return cli.load("speech/resynthesis", ["tokenizer=dmel", "tokenizer.vocoder.iterations=2", *settings])


def test_one_tokenizer_is_several_systems_by_name_each_with_its_costs_measured_once(told, capsys):
    for stage in (prepare, tokenize):
        stage.run(config(*told))
    for iterations in (1, 3):
        decode.run(config(*told, f"tokenizer.vocoder.iterations={iterations}", f"decode.system=dmel-{iterations}"))
    decode.run(config(*told))
    audio = paths.audio(config(*told))
    assert sorted(folder.name for folder in audio.iterdir() if folder.is_dir()) == ["dmel", "dmel-1", "dmel-3"]
    measured = files.read_json(audio / "dmel-1" / "costs.json")
    assert set(measured["real_time_factor"]) == {"encode", "decode", "both"} and measured["parameters"] is None
    assert (measured["conditions"]["threads"], measured["conditions"]["utterances"]) == (1, 2)
    before = {path: path.stat().st_mtime_ns for path in audio.rglob("*.json")}
    decode.run(config(*told, "decode.threads=2"))  # how it is timed is no part of what is made
    assert "is there already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_no_more_speech_is_timed_than_is_told_and_an_interrupted_run_times_it_once(told, monkeypatch):
    for stage in (prepare, tokenize):
        stage.run(config(*told))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(files, "write_jsonl", killed)
        decode.run(config(*told, "decode.timed_seconds=0.1"))
    folder = paths.audio(config(*told)) / "dmel"
    begun = folder.with_name("dmel.partial") / "costs.json"
    assert files.read_json(begun)["conditions"]["utterances"] == 1
    changed = begun.stat().st_mtime_ns
    decode.run(config(*told, "decode.timed_seconds=0.1"))
    assert (folder / "costs.json").stat().st_mtime_ns == changed
