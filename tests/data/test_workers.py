"""Worker processes: order, ends of every kind, and that none outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from audiotok.data.workers import Workers, num_cores


def squares() -> Callable[[int], tuple[int, int, int]]:
    """Square after a while that is the shorter the larger; 13 is unlucky, 4 is a mistake."""

    def square(number: int) -> tuple[int, int, int]:
        if number == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 4:
            raise TypeError("four")
        time.sleep(0.02 * (number % 3 == 0))
        return number * number, os.getpid(), torch.get_num_threads()

    return square


def refused() -> Callable[[int], int]:
    raise ValueError("no such weights")


def started(make: Callable, num: int = 2) -> Workers:
    workers = Workers(make, num=num, after=0.0)
    while not workers.ready():
        time.sleep(0.01)
    return workers


def gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return met


def noted(folder: Path) -> Callable[[int], tuple[int, int, int]]:
    """Squares, of which each is noted in a folder as it is done."""
    square = squares()

    def work(number: int) -> tuple[int, int, int]:
        done = square(number)
        (folder / str(number)).touch()
        return done

    return work


def test_results_come_in_order_from_all_processes_on_one_thread_each_and_no_task_is_taken_before_one_is_free(tmp_path: Path) -> None:
    at_work: list[int] = []  # as each task is taken, how many before it are not done

    def tasks() -> Iterator[int]:
        for place, number in enumerate((0, 1, 2, 3, 5, 6, 7, 8, 9)):
            at_work.append(place - len(list(tmp_path.iterdir())))
            yield number

    with started(partial(noted, tmp_path)) as workers:
        results = workers.map(tasks())
        assert next(results)[0] == 0
        rest = list(results)
        assert [square for square, _, _ in rest] == [1, 4, 9, 25, 36, 49, 64, 81]
        assert len(at_work) == 9 and max(at_work) <= 1
        assert {pid for _, pid, _ in rest} == set(workers.pids) and {threads for _, _, threads in rest} == {1}
        assert list(workers.map([])) == [] and [square for square, _, _ in workers.map([5])] == [25]
        pids = workers.pids
    assert all(gone(pid) for pid in pids)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at /proc")
def test_a_process_that_is_killed_or_fails_ends_the_run_with_how_it_ended(capfd: pytest.CaptureFixture) -> None:
    with started(squares) as workers, pytest.raises(ValueError, match=r"worker process \d+ was killed by SIGKILL; .*run again to go on"):
        list(workers.map([1, 13, 2, 3]))
    with started(squares, num=1) as workers, pytest.raises(ValueError, match=r"ended with exit code 1; its error stands above"):
        list(workers.map([4]))
    assert "TypeError: four" in capfd.readouterr().err
    with pytest.raises(ValueError, match="ended with exit code 1"):
        started(refused, num=1)
    assert "no such weights" in capfd.readouterr().err


def environment() -> Callable[[str], str | None]:
    return os.environ.get


def test_processes_keep_freed_memory_unless_the_user_has_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "7")
    with started(environment, num=1) as workers:
        assert list(workers.map(["MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"])) == ["7", str(2**40)]
    assert os.environ["MALLOC_MMAP_MAX_"] == "7" and "MALLOC_TRIM_THRESHOLD_" not in os.environ


def test_nothing_is_started_before_it_is_worth_it() -> None:
    with Workers(squares, num=2, after=60.0) as workers:
        assert not workers.ready() and not workers.ready() and workers.pids == []


PARENT = """
import sys, time
sys.path.insert(0, {folder!r})
from test_workers import squares, started
if __name__ == "__main__":
    workers = started(squares)
    print(*workers.pids, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at /proc")
def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(PARENT.format(folder=str(Path(__file__).parent)))
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]  # type: ignore[union-attr]
        assert len(pids) == 2 and not any(gone(pid) for pid in pids)
        parent.kill()
    assert wait_until(lambda: all(gone(pid) for pid in pids))


def test_the_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert num_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", partial(int, 4))
    assert num_cores() == 4
