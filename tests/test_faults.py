"""Full disks, folders that cannot be written, runs side by side, clocks that jump: a stage says so in one line, or ends as if nothing were.

And wherever it ends, it has written into its output folder alone.
"""

import ctypes
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from killing import PRELOADED, command, ended_well, lay_out
from torch import nn

from audiotok import audio, cli, files
from audiotok.store import TokenWriter, Utterance
from audiotok.training import checkpoint
from audiotok.training.checkpoint import TrainState
from audiotok.training.ema import EMA
from audiotok.training.optim import adamw
from audiotok.types import TokenSpec

sys.path.insert(0, str(cli.ROOT / "tools"))
import kill_check
import torture

SPEC = TokenSpec(16_000, Fraction(50), (16,), "f" * 64)
Disturb = Callable[[Path], None]


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
    with full_disk(size), pytest.raises(OSError):
        WRITERS[name](tmp_path)
    if name != "array":
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    WRITERS[name](tmp_path)
    assert any(path.stat().st_size > size for path in tmp_path.rglob("*"))


def _disturbed(words: list[str], errors: Path, disturb: Disturb | None, place: Path) -> None:
    os.setsid()
    sys.stdout, sys.stderr = open(os.devnull, "w"), open(errors, "w")  # noqa: SIM115, until the end of the process
    if disturb is not None:
        disturb(place)
    cli.main(words)


def ended(words: list[str], errors: Path, disturb: Disturb | None = None, place: Path = Path()) -> tuple[int | None, str]:
    """The exit status of a stage under a disturbance, and what it said."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_disturbed, args=(words, errors, disturb, place))
    process.start()
    process.join(300)
    if process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.exitcode, errors.read_text(errors="replace")


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


def backwards(_: Path) -> None:
    """Each look at the clock is an hour before the last."""
    hours, begun = count(), time.time()
    time.time = lambda: begun - 3600 * next(hours)  # type: ignore[assignment]


def test_a_stage_that_fills_the_disk_says_so_in_one_line_and_goes_on_when_there_is_room(
    prepared: Path, undisturbed: dict[str, str]
) -> None:
    words = [*command("tokenize", prepared), f"exp_root={prepared / 'exp'}"]
    status, said = ended(words, prepared / "errors", tiny_disk)
    assert status == 1 and "audiotok: " in said and "Traceback" not in said
    assert all(path.parent.name.endswith(".partial") for path in prepared.glob("exp/tokens/*/*/stage.json"))
    status, said = ended(words, prepared / "errors")
    assert status == 0, said
    assert kill_check.contents(prepared / "exp") == undisturbed


def test_a_clock_that_runs_backwards_changes_nothing(prepared: Path, undisturbed: dict[str, str]) -> None:
    words = [*command("tokenize", prepared), f"exp_root={prepared / 'exp'}", "overwrite=true"]
    status, said = ended(words, prepared / "errors", backwards)
    assert status == 0, said
    assert kill_check.contents(prepared / "exp") == undisturbed


def without_capabilities(_: Path) -> None:
    """For root too, permissions are what they say (capset of Linux, no capability left)."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def test_a_folder_that_cannot_be_written_is_named_in_one_line(prepared: Path, undisturbed: dict[str, str]) -> None:
    words = [*command("tokenize", prepared), f"exp_root={prepared / 'exp'}", "tokenize.shard_utterances=3"]
    before = kill_check.contents(prepared / "exp")
    folders = [prepared / "exp", *(path for path in (prepared / "exp").rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        status, said = ended([*words, "overwrite=true"], prepared / "errors", without_capabilities)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert status == 1 and "ermission denied" in said and "Traceback" not in said and said.count("\n") == 1, said
    assert kill_check.contents(prepared / "exp") == before


def test_two_runs_in_one_folder_do_not_meet(prepared: Path, undisturbed: dict[str, str]) -> None:
    ended_well(command("tokenize", prepared), prepared / "exp")
    (record,) = prepared.glob("exp/tokens/*/*/stage.json")
    with (
        files.locked(record.parent),
        pytest.raises(SystemExit, match=r"another process is writing .*; wait for it, or set another exp_dir"),
    ):
        cli.main([*command("tokenize", prepared), f"exp_root={prepared / 'exp'}"])


def in_a_home_of_its_own(place: Path) -> None:
    """With the home, the temporary folder and the current one in `place`, and a word on standard error for each file written elsewhere."""
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
        status, said = ended([*command(stage, prepared), f"exp_root={place / 'exp'}"], prepared / "errors", in_a_home_of_its_own, place)
        assert status == 0 and "WROTE" not in said, f"{stage}: {said}"
        assert "hf_private" not in said
    written = {path.relative_to(place).parts[0] for path in place.rglob("*") if path.is_file()}
    cached = {path.relative_to(place / "home").parts[:2] for path in (place / "home").rglob("*") if path.is_file()}
    assert written <= {"exp", "home"} and cached <= {(".cache", "audiotok")}, (written, cached)
    assert kill_check.contents(prepared / "corpus") == outside
    assert not any(b"hf_private" in path.read_bytes() for path in (place / "exp").rglob("*") if path.is_file())


def test_reduce_train_and_synthesize_end_to_the_byte_where_undisturbed_runs_do(speech: Path, tmp_path: Path) -> None:
    reports = torture.killed(speech, tmp_path, kills=3, seed=3, utterances=8, stages=("reduce", "train", "synthesize"))
    assert set(reports) == {"reduce", "train", "synthesize"}
    for stage, report in reports.items():
        assert len(report.kills) == 1 and report.compared_files > 10 and not report.differences, (stage, report.differences)
