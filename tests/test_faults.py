"""Full disks, folders that cannot be written, runs side by side, clocks that jump: a stage says so in one line, or ends as if nothing were.

And wherever it ends, it has written into its output folder alone.
"""

import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from killing import Disturb, command, ended_well, lay_out, start
from torch import nn

from audiotok import audio, cli, files
from audiotok.data.prompts_source import default_cache, find
from audiotok.store import TokenWriter, Utterance
from audiotok.training import checkpoint
from audiotok.training.checkpoint import TrainState
from audiotok.training.ema import EMA
from audiotok.training.optim import adamw
from audiotok.types import TokenSpec

sys.path.insert(0, str(cli.ROOT / "tools"))
import faults
import kill_check
import torture
from faults import Row

SPEC = TokenSpec(16_000, Fraction(50), (16,), "f" * 64)


def write_checkpoint(folder: Path) -> None:
    model = nn.Linear(40, 40)
    state = TrainState(model, EMA(model, decay=0.9), adamw(model, learning_rate=0.1, weight_decay=0.0))
    checkpoint.save(folder, state, records={"spec": {"rate": 50}}, keep=2)


def write_shard(folder: Path) -> None:
    codes_KN = torch.randint(0, 16, (1, 9000), generator=torch.Generator().manual_seed(0))
    TokenWriter(folder, SPEC).write(0, [Utterance("a", codes_KN, 100, "text", None, "en", 1.0)])


WRITERS: dict[str, Callable[[Path], object]] = {
    "json": lambda folder: files.write_json(folder / "a.json", list(range(3000))),
    "jsonl": lambda folder: files.write_jsonl(folder / "a.jsonl", ({"id": number} for number in range(3000))),
    "wav": lambda folder: audio.write(folder / "a.wav", torch.zeros(9000), 16_000),
    "flac": lambda folder: audio.write(folder / "a.flac", torch.rand(9000, generator=torch.Generator().manual_seed(0)), 16_000),
    "shard": write_shard,
    "checkpoint": write_checkpoint,
    "array": lambda folder: np.save(folder / "a.npy", np.arange(9000)),
}


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes; as on a full disk, writing more fails in the middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("size", [0, 2000])
def test_a_full_disk_is_an_os_error_that_leaves_nothing_half(tmp_path: Path, name: str, size: int) -> None:
    with full_disk(size), pytest.raises(OSError, match="File too large" if name in ("wav", "flac") else None):  # the system's reason
        WRITERS[name](tmp_path)
    if name != "array":
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    WRITERS[name](tmp_path)
    assert any(path.stat().st_size > size for path in tmp_path.rglob("*"))


def test_a_training_state_that_the_disk_has_no_room_for_says_so_wherever_it_stops(tmp_path: Path) -> None:
    """Longer than the weights, so that each size lets these be written whole."""
    model = nn.Linear(40, 40)
    optimizer = adamw(model, learning_rate=0.1, weight_decay=0.0)
    model(torch.ones(1, 40)).sum().backward()
    optimizer.step()
    state = TrainState(model, EMA(model, decay=0.9), optimizer)
    folder = checkpoint.save(tmp_path / "whole", state, records={}, keep=1)
    least, most = ((folder / name).stat().st_size for name in ("model.safetensors", "training.pt"))
    for size in range(least + 1, most, (most - least) // 7):
        with full_disk(size), pytest.raises(OSError, match="File too large"):
            checkpoint.save(tmp_path / "refused", state, records={}, keep=1)
    assert not any(path.is_file() for path in (tmp_path / "refused").rglob("*"))


def ended(words: list[str], root: Path, disturb: Disturb | None = None) -> tuple[int, str]:
    """The exit status of a stage under a disturbance, and what it said."""
    code = kill_check.end(start(words, root, disturb=disturb))
    return code, (root.parent / kill_check.ERRORS).read_text(errors="replace")


@pytest.fixture(scope="module")
def prepared(speech: Path) -> Iterator[Path]:
    """A folder with a corpus, a recipe, and an exp_root in which `prepare` has run."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        lay_out(place, speech, utterances=8)
        ended_well(command("prepare", place), place / "exp")
        yield place


@pytest.fixture(scope="module")
def undisturbed(prepared: Path) -> dict[str, str]:
    """What is in exp once `tokenize` has run."""
    files_before = kill_check.contents(prepared / "exp")
    ended_well(command("tokenize", prepared), prepared / "exp")
    made = kill_check.contents(prepared / "exp")
    for path in set(made) - set(files_before):
        (prepared / "exp" / path).unlink()
    for folder in sorted((prepared / "exp" / "tokens").rglob("*"), reverse=True):
        folder.rmdir()
    return made


def tiny_disk(_: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))


def test_a_stage_that_fills_the_disk_says_so_in_one_line_and_goes_on_when_there_is_room(
    prepared: Path, undisturbed: dict[str, str]
) -> None:
    words = command("tokenize", prepared)
    status, said = ended(words, prepared / "exp", tiny_disk)
    assert status == 1 and "audiotok: " in said and "Traceback" not in said
    assert all(path.parent.name.endswith(".partial") for path in prepared.glob("exp/tokens/*/*/stage.json"))
    status, said = ended(words, prepared / "exp")
    assert status == 0, said
    assert kill_check.contents(prepared / "exp") == undisturbed


def test_a_folder_that_cannot_be_written_is_named_in_one_line(prepared: Path, undisturbed: dict[str, str]) -> None:
    words, exp = [*command("tokenize", prepared), "tokenize.shard_utterances=3", "overwrite=true"], prepared / "exp"
    before = kill_check.contents(exp)
    with faults.modes([exp, *(path for path in exp.rglob("*") if path.is_dir())], 0o555):
        status, said = ended(words, exp, faults.without_capabilities)
    assert status == 1 and "ermission denied" in said and "Traceback" not in said and said.count("\n") == 1, said
    assert kill_check.contents(exp) == before


def test_two_runs_in_one_folder_do_not_meet(prepared: Path, undisturbed: dict[str, str]) -> None:
    ended_well(command("tokenize", prepared), prepared / "exp")
    (record,) = prepared.glob("exp/tokens/*/*/stage.json")
    with (
        files.locked(record.parent),
        pytest.raises(SystemExit, match=r"another process is writing .*; wait for it, or set another exp_dir"),
    ):
        cli.main([*command("tokenize", prepared), f"exp_root={prepared / 'exp'}"])


def in_a_home_of_its_own(root: Path) -> None:
    """With the home, the temporary folder and the current one beside it, and a word on standard error for each file written elsewhere."""
    place = root.parent
    for name in ("home", "tmp", "cwd"):
        (place / name).mkdir(exist_ok=True)
    os.environ |= {"HOME": str(place / "home"), "TMPDIR": str(place / "tmp"), "XDG_CACHE_HOME": str(place / "home" / ".cache")}
    tempfile.tempdir = None
    os.chdir(place / "cwd")
    errors = sys.stderr

    def watch(event: str, told: tuple) -> None:
        if event == "open" and isinstance(told[0], str) and told[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            path = os.path.abspath(told[0])
            if not path.startswith((str(place), "/dev/")) and "__pycache__" not in path:
                errors.write(f"WROTE {path}\n")

    sys.addaudithook(watch)


def test_no_stage_writes_outside_of_its_output_folder_and_the_cache(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = prepared / "alone"
    place.mkdir()
    monkeypatch.setenv("HF_TOKEN", "hf_private")
    outside = kill_check.contents(prepared / "corpus")
    for stage in ("prepare", "tokenize", "reduce", "align", "train", "synthesize"):
        status, said = ended(command(stage, prepared), place / "exp", in_a_home_of_its_own)
        assert status == 0 and "WROTE" not in said, f"{stage}: {said}"
        assert "hf_private" not in said
    written = {path.relative_to(place).parts[0] for path in place.rglob("*") if path.is_file()}
    cached = {path.relative_to(place / "home").parts[:2] for path in (place / "home").rglob("*") if path.is_file()}
    assert written <= {"exp", "home", "stderr.txt"} and cached <= {(".cache", "audiotok")}, (written, cached)
    assert kill_check.contents(prepared / "corpus") == outside
    assert not any(b"hf_private" in path.read_bytes() for path in (place / "exp").rglob("*") if path.is_file())


def test_reduce_train_and_synthesize_end_to_the_byte_where_undisturbed_runs_do(speech: Path, tmp_path: Path) -> None:
    stages = ("reduce", "train", "synthesize")
    rows = list(torture.happened(speech, tmp_path, kills=3, seed=3, utterances=8, stages=stages, named=["killed"]))
    assert [row.stage for row in rows] == list(stages)
    assert all((row.kills, row.outcome, row.differences) == (1, "run again", []) and row.files > 10 for row in rows), rows


def test_a_torture_that_was_stopped_goes_on_with_the_faults_that_are_missing(speech: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"kills": 1, "seed": 3, "utterances": 8, "stages": ["tokenize"], "named": list(faults.EVERYWHERE)}
    first = next(torture.happened(speech, tmp_path / "first", **settings))
    torture.write(tmp_path, torture.begun(tmp_path, settings) | {"rows": [vars(first)]})
    done = [Row(**row) for row in torture.begun(tmp_path, settings)["rows"]]
    rows = done + list(torture.happened(speech, tmp_path / "second", **settings, done=done))
    assert [row.fault for row in rows] == list(faults.EVERYWHERE)
    assert not any(row.failed for row in rows), rows
    assert all(row.files > 10 for row in rows if not row.outcome.startswith("skipped"))
    assert f"| tokenize | killed | {first.moment} | run again | {first.files} | 0 |" in (tmp_path / "torture.md").read_text()
    with pytest.raises(ValueError, match=r"is of another run \(seed: 3 there, 4 now\); delete it, or give another --out"):
        torture.begun(tmp_path, settings | {"seed": 4})


def test_without_other_speech_the_prompts_are_the_corpus(tmp_path: Path) -> None:
    if find("en", default_cache() / "en") is None:
        pytest.skip("no prompts in the cache: audiotok prepare prompts/tts fetches them")
    lay_out(tmp_path, None, utterances=6)
    ended_well(command("prepare", tmp_path), tmp_path / "exp")
    (summary,) = tmp_path.glob("exp/data/*/summary.json")
    assert {row["split"]: row["utterances"] for row in files.read_json(summary)} == {"train": 3, "dev": 1, "test": 2}


def test_kills_are_dealt_to_the_stages_by_turns_and_other_faults_happen_once() -> None:
    shares = torture.shares_of(5, ["tokenize", "tokenize_ray", "train"], ["killed", "worker killed", "clock"])
    assert shares == {"tokenize": {"killed": 2, "clock": 1}, "tokenize_ray": {"worker killed": 2}, "train": {"killed": 1, "clock": 1}}


MANAGER = """
import pathlib, subprocess, sys, time
root = pathlib.Path(sys.argv[-1].split("=")[1])
work = "import sys, time; time.sleep(0.3)  # a-part-of-it"
for number in range(6):
    part = subprocess.run([sys.executable, "-c", work])
    {lost}
    (root / str(number)).write_text("done")
"""


def trial(place: Path, lost: str) -> faults.Trial:
    """Of a stage that has six parts done by processes, and does this where one is lost."""
    (place / "prepared").mkdir()
    words = [sys.executable, "-c", MANAGER.format(lost=lost)]
    expected = kill_check.undisturbed(words, place / "prepared", place / "exp", kill_check.start)
    return faults.Trial(words, place / "prepared", place / "exp", expected, Random(1), kill_check.start)


@pytest.mark.parametrize(
    ("lost", "outcome", "differences"),
    [
        ("while part.returncode: part = subprocess.run(part.args)", "went on by itself", []),
        ("if part.returncode: (root / 'lost').touch()", "went on by itself", ["lost is there besides"]),
        ("if part.returncode: sys.exit('a part is lost')", "failed: the stage failed with 1: a part is lost", []),
    ],
)
def test_a_process_that_does_a_part_of_a_stage_is_killed_alone(tmp_path: Path, lost: str, outcome: str, differences: list[str]) -> None:
    row = faults.row("parts", "part killed", partial(faults.part_killed, victim="a-part-of-it"), trial(tmp_path, lost))
    assert (row.outcome, row.differences) == (outcome, differences)
    assert row.failed == (lost[:5] != "while")


def test_a_stage_without_such_a_process_and_a_machine_that_mounts_nothing_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = trial(tmp_path, "pass")
    row = faults.row("parts", "part killed", partial(faults.part_killed, victim="no-such-part"), alone)
    assert row.failed and "5 times it had ended before a process with no-such-part in its command line could be killed" in row.outcome
    monkeypatch.setenv("PATH", str(tmp_path))
    row = faults.row("parts", "full disk", faults.full_disk, alone)
    assert row.outcome == "skipped: there is no command mount" and not row.failed


def test_a_stage_that_does_not_say_what_stopped_it_fails(tmp_path: Path) -> None:
    row = faults.row("parts", "read-only", faults.read_only, replace(trial(tmp_path, "pass"), start=undeterred))
    assert row.failed and "wanted to stop with 'ermission denied', it ended with" in row.outcome


def undeterred(words: list[str], root: Path, **_: Any) -> Any:
    return kill_check.start(words, root)
