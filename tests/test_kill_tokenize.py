"""`kill -9` of the tokenize stage at random moments: the store ends with the bytes of an undisturbed run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_speech_folder

ROOT = Path(__file__).resolve().parents[1]
KILL_CHECK = ROOT / "tools" / "kill_check.py"
RECIPE = """
# @package _global_
defaults:
  - override /data: speech
  - override /tokenizer: dmel
prepare:
  workers: 1
tokenize:
  batch_seconds: 4
  shard_utterances: 2
"""


def kill_check(prepared: Path, scratch: Path, *command: str, kills: int) -> subprocess.CompletedProcess:
    options = ["--prepared", str(prepared), "--kills", str(kills), "--scratch", str(scratch), "--seed", "7", "--"]
    return subprocess.run([sys.executable, str(KILL_CHECK), *options, *command], capture_output=True, text=True, timeout=300)


def test_three_kills_at_random_moments_do_not_change_a_byte_of_the_store(speech: Path, tmp_path: Path) -> None:
    corpus = tiny_speech_folder(tmp_path / "corpus", speech, utterances=24)
    recipe, prepared = tmp_path / "killed.yaml", tmp_path / "exp"
    recipe.write_text(RECIPE)
    told = [str(recipe), f"data.root={corpus}"]
    audiotok = [sys.executable, "-m", "audiotok.cli"]
    subprocess.run([*audiotok, "prepare", *told, f"exp_root={prepared}"], check=True, cwd=ROOT, stdout=subprocess.DEVNULL, timeout=120)
    ended = kill_check(prepared, tmp_path, *audiotok, "tokenize", *told, kills=3)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads(ended.stdout)
    assert report["identical"] and len(report["kills"]) == 3 and report["compared_files"] > 14


PROGRAM = """
import pathlib, sys, time
root = pathlib.Path(sys.argv[-1].split("=")[1])
(root / "a").touch()
time.sleep(0.4)
{body}
"""


@pytest.mark.parametrize(
    ("body", "difference"),
    [
        ("(root / 'b').write_text(str(time.time()))", "b has other bytes"),
        ("(root / 'attempts').open('a').write('x')", "attempts has other bytes"),
        ("(root / f'{time.time_ns()}').touch()", "is there besides"),
    ],
)
def test_the_check_itself_sees_files_that_differ(tmp_path: Path, body: str, difference: str) -> None:
    (tmp_path / "exp").mkdir()
    program = PROGRAM.format(body=body)
    if "attempts" in body:
        program = program.replace("time.sleep", "(root / 'attempts').open('a').write('y'); time.sleep")
    ended = kill_check(tmp_path / "exp", tmp_path, sys.executable, "-c", program, kills=2)
    assert ended.returncode == 1, ended.stderr
    assert any(difference in line for line in json.loads(ended.stdout)["differences"])


def test_the_check_refuses_a_stage_that_has_nothing_left_to_do_or_fails(tmp_path: Path) -> None:
    (tmp_path / "exp").mkdir()
    idle = kill_check(tmp_path / "exp", tmp_path, sys.executable, "-c", "pass", kills=1)
    assert idle.returncode == 1 and "wrote nothing" in idle.stderr
    failing = kill_check(tmp_path / "exp", tmp_path, sys.executable, "-c", "raise ValueError('no corpus')", kills=1)
    assert failing.returncode == 1 and "no corpus" in failing.stderr
