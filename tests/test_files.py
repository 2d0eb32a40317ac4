"""A stage's folder is made once, whole or not at all, and never of two minds."""

import fcntl
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from audiotok import files
from audiotok.types import TokenSpec


def fill(partial: Path) -> None:
    (partial / "data.txt").write_text("all of it")


def refuse_to_work(partial: Path) -> None:
    raise AssertionError("done twice")


def test_a_folder_is_made_once(tmp_path):
    assert files.build(tmp_path / "out", {"a": 1}, fill) == "made"
    assert files.build(tmp_path / "out", {"a": 1}, refuse_to_work) == "present"
    assert files.settings_of(tmp_path / "out") == {"a": 1}
    assert not (tmp_path / "out.partial").exists()


def test_other_settings_are_refused_by_the_keys_that_differ(tmp_path):
    files.build(tmp_path / "out", {"a": {"b": 1, "c": 2}}, fill)
    with pytest.raises(ValueError, match=r"\(a\.b: 1 there, 3 now\); set overwrite=true"):
        files.build(tmp_path / "out", {"a": {"b": 3, "c": 2}}, refuse_to_work)


def test_overwrite_makes_a_folder_anew(tmp_path):
    files.build(tmp_path / "out", {"a": 1}, fill)
    for settings in ({"a": 2}, {"a": 2}):
        assert files.build(tmp_path / "out", settings, fill, overwrite=True) == "made"
    assert files.settings_of(tmp_path / "out") == {"a": 2}


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="was not made by audiotok"):
        files.build(tmp_path / "out", {}, fill)
    assert (tmp_path / "out" / "thesis.txt").exists()


def interrupted(partial: Path) -> None:
    (partial / "part-0").touch()
    raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_from_its_finished_work_and_only_with_its_settings(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        files.build(tmp_path / "out", {"a": 1}, interrupted, resumable="part-*")
    with pytest.raises(ValueError, match="a: 1 there, 2 now"):
        files.build(tmp_path / "out", {"a": 2}, fill, resumable="part-*")
    found = []
    files.build(tmp_path / "out", {"a": 1}, lambda partial: found.extend(path.name for path in partial.glob("part-*")), resumable="part-*")
    assert found == ["part-0"]


def test_an_unfinished_folder_without_finished_work_stands_in_nobodys_way(tmp_path):
    def fails_at_once(partial: Path) -> None:
        (partial / "log.jsonl").touch()
        raise ValueError("a wrong setting")

    with pytest.raises(ValueError, match="a wrong setting"):
        files.build(tmp_path / "out", {"a": 1}, fails_at_once, resumable="part-*")
    assert files.build(tmp_path / "out", {"a": 2}, fill, resumable="part-*") == "made"
    assert not (tmp_path / "out" / "log.jsonl").exists()


KILLED = """
import os, sys
from pathlib import Path
from audiotok import files

def end(*told, **also):
    if files.SUMS in str(told[0]):
        os._exit(9)
    return was(*told, **also)

was = getattr({owner}, "{call}")
{owner}.{call} = end
files.build(Path(sys.argv[1]), {{"a": 1}}, lambda partial: (partial / "part-0").write_text("0"), resumable="part-*")
"""


@pytest.mark.parametrize(("owner", "call"), [("os", "replace"), ("Path", "chmod"), ("Path", "unlink")])
def test_a_run_that_goes_on_sums_nothing_that_the_killed_one_was_writing(tmp_path, owner, call):
    script = KILLED.format(owner=owner, call=call)
    assert subprocess.run([sys.executable, "-c", script, tmp_path / "out"], check=False).returncode == 9
    left = [path.name for path in (tmp_path / "out.partial").iterdir() if path.name.startswith(".")]
    assert left
    files.build(tmp_path / "out", {"a": 1}, lambda partial: None, resumable="part-*")
    assert set(files.sums_of(tmp_path / "out")) == {"part-0", files.RECORD}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"part-0", files.RECORD, files.SUMS}


def test_two_processes_cannot_fill_one_folder(tmp_path):
    with open(tmp_path / ".out.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process is writing"):
            files.build(tmp_path / "out", {}, fill)


@pytest.mark.parametrize("write", [files.whole_file, files.whole_folder])
def test_what_fails_half_way_leaves_what_was_there(tmp_path, write):
    def once(text: str, *, fail: bool) -> None:
        with write(tmp_path / "out") as partial:
            (partial if write is files.whole_file else partial / "file").write_text(text)
            if fail:
                raise RuntimeError("power cut")

    once("old", fail=False)
    with pytest.raises(RuntimeError):
        once("half", fail=True)
    path = tmp_path / "out" if write is files.whole_file else tmp_path / "out" / "file"
    assert path.read_text() == "old"
    once("new", fail=False)
    assert path.read_text() == "new"
    assert [found.name for found in tmp_path.iterdir()] == ["out"]


def test_a_stage_that_has_not_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="run `audiotok prepare prompts/tts`"):
        files.fingerprint_of(tmp_path / "data", made_by="prepare prompts/tts")


def test_a_spec_knows_its_rates_and_survives_json():
    spec = TokenSpec(44100, Fraction(441, 10), (1024, 16), "f")
    assert spec.hop == 1000
    assert spec.num_frames(1001) == 2 and spec.num_samples(2) == 2000
    assert spec.bits_per_second == pytest.approx(44.1 * 14)
    assert spec.vocabulary_offsets == (0, 1024)
    assert TokenSpec.from_json(spec.to_json()) == spec
    with pytest.raises(ValueError, match="at least one codebook"):
        TokenSpec(16000, Fraction(50), (), "f")
