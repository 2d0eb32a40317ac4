#!/usr/bin/env python3
"""Kill a stage at random moments, run it again, and compare every file's bytes with those of an undisturbed run.

    tools/kill_check.py --prepared exp --kills 10 -- audiotok tokenize prompts/tts

The command is run with `exp_root=FOLDER` behind it, in a folder that starts as a copy of --prepared (an exp_root in which the stages before
have run and this one has not). One undisturbed run says when the stage writes its first file and when it ends. Then the stage is started
and killed (SIGKILL, with its children) at moments drawn from that stretch, or run on where the kill before it left off. When it ends before
its moment has come, or after --chain kills in a row, it is run to its end and compared, and the next kill starts from a fresh copy.

Compared are the names of all files and the SHA-256 of their content, except, of these, the content:

    events.out.tfevents*    TensorBoard: the time of day is in it, in its name too, so the name is not compared either
    log.jsonl               compared without its "time"
    cells/*.parquet         a row of the benchmark: compared without when it began and how long it took, and where its task is the cost of a
                            tokenizer, which are times, without its scores and items
    report/                 the benchmark's page, drawn of these rows: not compared
    .*.lock                 empty

Prints one JSON object; its "identical" says how it went, and so does the exit status. Of a stage whose work is done by processes below it
(Ray's workers, torchrun's ranks) `struck` kills one of those alone: the stage has to go on by itself.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow.parquet as pq

COST = "cost-"  # tasks whose scores are times
ERRORS = "stderr.txt"
POLL, QUICK_POLL = 0.02, 0.005  # seconds between looks at the folder
LATEST = 1800  # seconds that a stage may take
PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes


class Running(Protocol):
    """A process that leads a group of its own, as subprocess.Popen is."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


Start = Callable[[Sequence[str], Path], Running]


class StageFailed(Exception):
    """It did not end as it has to, with what it said."""


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to."""

    first_write: float  # seconds until the first file appears
    seconds: float  # until the end
    contents: dict[str, str]  # see `contents`
    num_before: int  # files in --prepared
    room: int  # bytes that all of them take


@dataclass
class Report:
    """What a check did."""

    command: list[str]
    seed: int
    undisturbed_seconds: float
    first_write_seconds: float
    kills: list[dict] = field(default_factory=list)  # when each fell, and how many files were there by then
    compared_runs: int = 0
    compared_files: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        return not self.differences and self.compared_runs > 0


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        try:
            report = check(options.command, options.prepared, Path(scratch), kills=options.kills, chain=options.chain, seed=options.seed)
        except StageFailed as error:
            raise SystemExit(str(error)) from None
    print(json.dumps(asdict(report) | {"identical": report.identical}, indent=2))
    raise SystemExit(0 if report.identical else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True, help="an exp_root with what the stage needs")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--chain", type=int, default=4, help="kills of one run at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, help="where copies are made; the system's temporary folder if not given")
    parser.add_argument("command", nargs="+", help="behind --: the stage, without exp_root=")
    return parser.parse_args()


def check(command: Sequence[str], prepared: Path, scratch: Path, *, kills: int, chain: int, seed: int) -> Report:
    """Kill the command `kills` times in all; every run that was killed is brought to its end and compared. Raises StageFailed."""
    root, moments = scratch / "exp", random.Random(seed)
    expected = undisturbed(command, prepared, root, start)
    report = Report(list(command), seed, round(expected.seconds, 3), round(expected.first_write, 3))
    while len(report.kills) < kills:
        fresh(prepared, root)
        report.kills += killed(command, root, expected, moments, start=start, most=min(chain, kills - len(report.kills)))
        ended_well(start(command, root), root)
        compared = contents(root)
        report.compared_runs += 1
        report.compared_files += len(compared)
        report.differences += differences(expected.contents, compared)
    return report


def fresh(prepared: Path, root: Path) -> None:
    """Make `root` what the stage starts from. It is one path for all runs, as configs that are saved hold it."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(prepared, root)


def undisturbed(command: Sequence[str], prepared: Path, root: Path, start: Start) -> Undisturbed:
    """Run the command as it is. Raises StageFailed where it fails, and where it has nothing to do."""
    fresh(prepared, root)
    before, begun, first = set(_files(root)), time.monotonic(), None
    process = start(command, root)
    while process.poll() is None:
        if first is None and set(_files(root)) - before:
            first = time.monotonic() - begun
        time.sleep(POLL)
    ended_well(process, root)
    whole = time.monotonic() - begun
    if set(_files(root)) == before:
        raise StageFailed(f"{' '.join(command)} wrote nothing: its output is in --prepared already")
    return Undisturbed(first or whole, whole, contents(root), len(before), footprint(root))


def killed(
    command: Sequence[str], root: Path, expected: Undisturbed, chance: random.Random, *, start: Start, most: int
) -> list[dict[str, float]]:
    """Kill the command, and what goes on of it, `most` times or until it ends before its moment: when each kill fell."""
    kills: list[dict[str, float]] = []
    while len(kills) < most:
        moment = chance.uniform(0.9 * expected.first_write, expected.seconds)
        if not _killed(command, root, start, after=moment):
            break
        kills.append({"seconds": round(moment, 3), "files": len(_files(root))})
    return kills


def struck(command: Sequence[str], root: Path, expected: Undisturbed, chance: random.Random, *, start: Start, victim: str) -> int | None:
    """Kill one process below the command, of those with `victim` in their command line, and wait until the command has ended by itself.

    The moment is a number of files, drawn of those that the command writes, which is returned; None where it ended before. Raises
    StageFailed where it does not end well.
    """
    moment = chance.randint(1, max(1, 2 * (len(expected.contents) - expected.num_before) // 3))
    process, hit = start(command, root), False
    while not hit and process.poll() is None:
        if len(_files(root)) >= expected.num_before + moment and (pids := processes_below(process.pid, victim)):
            os.kill(chance.choice(pids), signal.SIGKILL)
            hit = True
        time.sleep(QUICK_POLL)
    ended_well(process, root)
    return moment if hit else None


def processes_below(pid: int, named: str) -> list[int]:
    """The processes that a process has started, and those that they have, with a word in their command line."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    below, found = {pid}, {pid}
    while found:
        found = {child for child, parent in parents.items() if parent in found}
        below |= found
    return sorted(child for child in below - {pid} if named in _command_line(child))


def _command_line(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _killed(command: Sequence[str], root: Path, start: Start, *, after: float) -> bool:
    """Whether the command still ran after so many seconds, and was killed."""
    process = start(command, root)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    ended_well(process, root)
    return False


def start(command: Sequence[str], root: Path) -> subprocess.Popen:
    """The command as a program of the shell, on an exp_root, its errors beside that."""
    with open(root.parent / ERRORS, "wb") as errors:
        return subprocess.Popen([*command, f"exp_root={root}"], stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True)


def ended_well(process: Running, root: Path) -> None:
    """Wait for the end of a command. Raises StageFailed where it is none without an error."""
    if code := end(process):
        errors = (root.parent / ERRORS).read_text(errors="replace")
        raise StageFailed(f"the stage failed with {code}:\n{errors[-3000:]}")


def end(process: Running) -> int:
    """The exit status of a command. Raises StageFailed where it has none within `LATEST` seconds; it is killed then."""
    try:
        return process.wait(LATEST)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise StageFailed(f"no end within {LATEST} s") from None


def contents(root: Path) -> dict[str, str]:
    """Every file that is compared, by its path in the folder, with the digest of what is compared of it."""
    return {str(path.relative_to(root)): _digest(path) for path in _files(root) if not path.name.startswith("events.out.tfevents")}


def footprint(root: Path) -> int:
    """Bytes that a folder's files take, each of whole pages."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in _files(root))


def num_files(root: Path) -> int:
    return len(_files(root))


def _row(path: Path) -> bytes:
    """Of a row of the benchmark, what does not depend on the time of day and on the machine's speed."""
    (row,) = pq.read_table(path).to_pylist()
    times = {"started", "seconds"} | ({"scores", "detail"} if path.name.startswith(COST) else set())
    return json.dumps({key: value for key, value in row.items() if key not in times}, default=str).encode()


def _files(root: Path) -> list[Path]:
    """In order; unlike rglob, os.walk bears folders that vanish meanwhile."""
    return sorted(Path(folder) / name for folder, _, names in os.walk(root) for name in names)


def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.parent.name == "cells":
        content = _row(path)
    elif path.parent.name == "report" or (path.parent.name == "items" and path.name.startswith(COST)):
        content = b""
    elif path.name == "log.jsonl":
        entries = [json.loads(line) for line in content.splitlines()]
        content = json.dumps([{key: value for key, value in entry.items() if key != "time"} for entry in entries]).encode()
    return hashlib.sha256(content).hexdigest()


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Between two `contents`, a line each."""
    missing = [f"{path} is missing" for path in expected.keys() - found.keys()]
    added = [f"{path} is there besides" for path in found.keys() - expected.keys()]
    changed = [f"{path} has other bytes" for path in expected.keys() & found.keys() if expected[path] != found[path]]
    return sorted(missing + added + changed)


if __name__ == "__main__":
    main()
