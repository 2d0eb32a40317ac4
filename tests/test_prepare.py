"""The prepare stage from the command line to the manifests that every later stage reads."""

import json
import time
from pathlib import Path

import pytest
import soundfile
from omegaconf import DictConfig
from tiny import tiny_libritts, tiny_speech_folder

from audiotok import cli
from audiotok.data.manifests import load_cuts
from audiotok.stages import paths, prepare


def load(root: Path, exp: Path, *overrides: str, data: str = "speech") -> DictConfig:
    return cli.load("prompts/tts", [f"data={data}", f"data.root={root}", f"exp_root={exp}", "prepare.workers=2", *overrides])


def test_a_folder_of_speech_is_prepared_and_the_second_run_does_nothing(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = load(tiny_speech_folder(tmp_path / "tiny", speech, utterances=6), tmp_path / "exp")
    prepare.run(cfg)
    folder = paths.manifests(cfg)
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("split", "utterances", "hours", "speakers", "languages", "rejected", "train", "dev", "test"))
    assert {split: len(load_cuts(folder, split)) for split in ("train", "dev", "test")} == {"train": 3, "dev": 1, "test": 2}
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    start = time.monotonic()
    prepare.run(cfg)
    assert time.monotonic() - start < 5
    assert "is there already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_bad_recordings_are_counted_on_the_screen_and_the_stage_goes_on(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tiny_speech_folder(tmp_path / "tiny", speech, utterances=6)
    first, second = sorted(root.glob("*.flac"))[:2]
    first.write_bytes(first.read_bytes()[:5000])
    stereo = soundfile.read(second)[0].repeat(2).reshape(-1, 2)
    soundfile.write(second, stereo, 16000)
    cfg = load(root, tmp_path / "exp", "prepare.max_rejected=0.2")
    prepare.run(cfg)
    assert "left out: 1" in capsys.readouterr().out
    folder = paths.manifests(cfg)
    (row,) = map(json.loads, (folder / "rejected.jsonl").read_text().splitlines())
    assert row["path"] == str(first) and "truncated" in row["reason"]
    assert [path.stem for path in (folder / "audio").rglob("*.flac")] == [second.stem]
    assert sum(len(load_cuts(folder, split)) for split in ("train", "dev", "test") if (folder / f"cuts_{split}.jsonl.gz").exists()) == 5


def test_too_many_bad_recordings_end_the_stage_with_one_line_and_leave_no_folder(speech: Path, tmp_path: Path) -> None:
    root = tiny_speech_folder(tmp_path / "tiny", speech, utterances=3)
    next(root.glob("*.flac")).write_bytes(b"")
    with pytest.raises(SystemExit, match=r"^audiotok: 1 of 3 recordings are bad, more than prepare\.max_rejected=0\.05 allows[^\n]*$"):
        cli.main(["prepare", "prompts/tts", "data=speech", f"data.root={root}", f"exp_root={tmp_path / 'exp'}"])
    assert not paths.manifests(load(root, tmp_path / "exp")).exists()


def test_libritts_is_prepared_by_its_recipe(speech: Path, tmp_path: Path) -> None:
    cfg = load(tiny_libritts(tmp_path / "LibriTTS", speech, utterances=2), tmp_path / "exp", data="libritts")
    prepare.run(cfg)
    assert paths.manifests(cfg).name.startswith("libritts-")
    assert [len(load_cuts(paths.manifests(cfg), split)) for split in ("train", "dev", "test")] == [2, 2, 2]


def test_a_missing_corpus_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^audiotok: data\.root is not set; get the corpus from https://www\.openslr\.org/60[^\n]*$"):
        cli.main(["prepare", "libritts/tts", f"exp_root={tmp_path}"])
