"""What can go wrong around a stage, each made to happen: a kill, a full disk, a folder that cannot be written, two runs at once, a clock.

A fault may stop a stage, which then has to say why in one line. Run again in order, or gone on by itself, the stage has to end with the
bytes of a run that nothing happened to.
"""

import ctypes
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import kill_check
from kill_check import StageFailed, Undisturbed

TRIES = 5  # of a kill that came when all was over
SECOND = "stderr-second.txt"


class NotHere(Exception):
    """This machine cannot make a fault happen, for the reason that is told."""


@dataclass(frozen=True)
class Trial:
    """A stage to which something is to happen."""

    words: Sequence[str]
    prepared: Path  # an exp_root in which the stages before have run and this one has not
    root: Path  # where copies of that are run
    expected: Undisturbed
    chance: random.Random
    start: Callable[..., Any]  # kill_check.Start; it also takes `disturb` and `errors`, where it is told a fault of its process
    most: int = 1  # kills in a row


@dataclass
class Row:
    """What came of one fault at one stage."""

    stage: str
    fault: str
    moment: str = ""
    kills: int = 0
    outcome: str = ""
    files: int = 0  # compared
    differences: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.differences) or self.outcome.startswith("failed")


@dataclass(frozen=True)
class Happened:
    """A fault is over and the stage has ended: when it was, how many kills, and what came of it."""

    moment: str
    kills: int
    outcome: str


Fault = Callable[[Trial], AbstractContextManager[Happened]]  # in the block, the trial's root is to be compared


def row(stage: str, name: str, fault: Fault, trial: Trial) -> Row:
    """Make a fault happen, and compare."""
    found = Row(stage, name)
    try:
        with fault(trial) as happened:
            found.moment, found.kills, found.outcome = happened.moment, happened.kills, happened.outcome
            compared = kill_check.contents(trial.root)
            found.files, found.differences = len(compared), kill_check.differences(trial.expected.contents, compared)
    except StageFailed as error:
        found.outcome = f"failed: {' '.join(str(error).split())}"
    except NotHere as reason:
        found.outcome = f"skipped: {reason}"
    return found


@contextmanager
def killed(trial: Trial) -> Iterator[Happened]:
    """SIGKILL of all processes of the stage, and again of the run that goes on, `trial.most` times at most."""
    kills: list[dict] = []
    while not kills:
        kill_check.fresh(trial.prepared, trial.root)
        kills = kill_check.killed(trial.words, trial.root, trial.expected, trial.chance, start=trial.start, most=trial.most)
    kill_check.ended_well(trial.start(trial.words, trial.root), trial.root)
    yield Happened(", ".join(f"{kill['seconds']:.2f} s" for kill in kills), len(kills), "run again")


@contextmanager
def part_killed(trial: Trial, *, victim: str) -> Iterator[Happened]:
    """SIGKILL of one of the processes that do a stage's work for it."""
    for _ in range(TRIES):
        kill_check.fresh(trial.prepared, trial.root)
        moment = kill_check.struck(trial.words, trial.root, trial.expected, trial.chance, start=trial.start, victim=victim)
        if moment is not None:
            yield Happened(f"file {moment}", 1, "went on by itself")
            return
    raise StageFailed(f"{TRIES} times it had ended before a process with {victim} in its command line could be killed")


@contextmanager
def full_disk(trial: Trial) -> Iterator[Happened]:
    """A disk with room for a part of what the stage writes, then for all."""
    before = kill_check.footprint(trial.prepared)
    room = before + int(trial.chance.uniform(0.1, 0.9) * (trial.expected.room - before))
    with _disk(trial.root, room) as grow:
        shutil.copytree(trial.prepared, trial.root, dirs_exist_ok=True)
        _stopped(trial, "No space left on device")
        grow()
        kill_check.ended_well(trial.start(trial.words, trial.root), trial.root)
        yield Happened(f"{(room - before) // 1024} KiB", 0, "said so, run again with room")


@contextmanager
def _disk(place: Path, size: int) -> Iterator[Callable[[], object]]:
    """A file system of so many bytes at an empty folder; what is yielded makes it large. Raises NotHere where none can be mounted."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
    try:
        yield partial(_mount, "-o", "remount,size=50%", str(place))
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _mount(*words: str) -> None:
    try:
        subprocess.run(["mount", *words], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise NotHere("there is no command mount") from None
    except subprocess.CalledProcessError as error:
        raise NotHere(f"no file system can be mounted: {error.stderr.strip()}") from None


@contextmanager
def read_only(trial: Trial) -> Iterator[Happened]:
    """Folders that nobody may write, then that one may."""
    kill_check.fresh(trial.prepared, trial.root)
    folders = [trial.root, *(path for path in trial.root.rglob("*") if path.is_dir())]
    with modes(folders, 0o555):
        _stopped(trial, "ermission denied", disturb=without_capabilities)
        written = kill_check.differences(kill_check.contents(trial.prepared), kill_check.contents(trial.root))
        if written:
            raise StageFailed(f"in folders that cannot be written: {written}")
    kill_check.ended_well(trial.start(trial.words, trial.root), trial.root)
    yield Happened("its begin", 0, "said so, run again with leave")


@contextmanager
def modes(folders: Sequence[Path], mode: int) -> Iterator[None]:
    """Folders as they may be used in the block."""
    for folder in folders:
        folder.chmod(mode)
    try:
        yield
    finally:
        for folder in folders:
            folder.chmod(0o755)


def without_capabilities(_: Path) -> None:
    """For root too, permissions are what they say (capset of Linux, no capability left)."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


@contextmanager
def two_runs(trial: Trial) -> Iterator[Happened]:
    """A second run as soon as the first has written a file: it may leave the folder to the first, or find all done."""
    kill_check.fresh(trial.prepared, trial.root)
    first = trial.start(trial.words, trial.root)
    while first.poll() is None and kill_check.num_files(trial.root) <= trial.expected.num_before:
        time.sleep(kill_check.QUICK_POLL)
    second = trial.start(trial.words, trial.root, errors=SECOND)
    kill_check.ended_well(first, trial.root)
    code, said = kill_check.end(second), (trial.root.parent / SECOND).read_text(errors="replace")
    if code and ("another process is writing" not in said or "Traceback" in said):
        raise StageFailed(f"the second run ended with {code}: {said[-1000:]}")
    yield Happened("the first file", 0, "left to the first" if code else "the second ended well too")


@contextmanager
def jumping_clock(trial: Trial) -> Iterator[Happened]:
    """A kill, all files of any time of the century, and a clock that runs backwards by the hour."""
    start = partial(trial.start, disturb=backwards)
    kill_check.fresh(trial.prepared, trial.root)
    _scramble_times(trial)
    kills = kill_check.killed(trial.words, trial.root, trial.expected, trial.chance, start=start, most=1)
    _scramble_times(trial)
    kill_check.ended_well(start(trial.words, trial.root), trial.root)
    yield Happened(", ".join(f"{kill['seconds']:.2f} s" for kill in kills) or "no kill", len(kills), "run again")


def _scramble_times(trial: Trial) -> None:
    for path in sorted(trial.root.rglob("*")):
        moment = trial.chance.randrange(2**32)
        os.utime(path, (moment, moment))


def backwards(_: Path) -> None:
    """Each look at the clock is an hour before the last."""
    hours, begun = count(), time.time()
    time.time = lambda: begun - 3600 * next(hours)  # type: ignore[assignment]


def _stopped(trial: Trial, wanted: str, **told: Any) -> None:
    """Run the stage, which has to stop with a line that says why. Raises StageFailed where it does anything else."""
    process = trial.start(trial.words, trial.root, **told)
    code, said = kill_check.end(process), (trial.root.parent / kill_check.ERRORS).read_text(errors="replace")
    if code != 1 or "audiotok: " not in said or wanted not in said or "Traceback" in said:
        raise StageFailed(f"wanted to stop with {wanted!r}, it ended with {code} and said {said[-1000:]!r}")


FAULTS: dict[str, Fault] = {
    "killed": killed,
    "full disk": full_disk,
    "read-only": read_only,
    "two runs": two_runs,
    "clock": jumping_clock,
    "worker killed": partial(part_killed, victim="ray::_Actor"),
    "rank killed": partial(part_killed, victim="audiotok.cli"),
}
KILLS = ("killed", "worker killed", "rank killed")
OF_STAGE = {"tokenize_ray": ("worker killed",), "train_ranks": ("rank killed",)}  # of the other stages, all that kill no part
EVERYWHERE = tuple(name for name in FAULTS if name not in ("worker killed", "rank killed"))
