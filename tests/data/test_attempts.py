"""Processes that each do a task by itself: whose fault an end is, and that none outlives its parent. Their outcomes: bench/test_grid.py."""

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import torch
from test_workers import gone, wait_until

from audiotok.data.attempts import Lost, in_processes


def cut_off(connection: Any, content: bytes) -> None:
    """Send a message's length and its first bytes, then die."""
    connection._send(struct.pack("!i", len(content)) + bytes(content[:5]))
    os._exit(7)


def work(task: Any) -> Any:
    match task:
        case "dies afterwards":
            Timer(0.3, os._exit, [9]).start()
            return os.getpid()
        case "dies in the middle of its answer":
            Connection._send_bytes = cut_off  # type: ignore[attr-defined]
        case "tensor":
            return torch.arange(4)
    return task


def worker() -> Callable[[Any], Any]:
    return work


def refused() -> Callable[[Any], Any]:
    raise ValueError("no such weights")


def outcomes(tasks: list[Any], *, make: Callable = worker) -> Any:
    return in_processes(make, tasks, num=1, seconds=600.0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at /proc")
def test_a_process_that_dies_between_two_tasks_takes_neither_with_it() -> None:
    found = []
    for task, result in outcomes(["dies afterwards", None, "tensor"]):
        if task == "dies afterwards":
            assert wait_until(lambda pid=result: gone(pid), seconds=60.0)  # type: ignore[misc]
        found.append((task, result))
    assert [task for task, _ in found] == ["dies afterwards", None, "tensor"]
    assert found[1][1] is None, "a result like any other"
    assert torch.equal(found[2][1], torch.arange(4)) and not found[2][1].is_shared(), "its memory outlives the process"


def test_a_process_that_dies_in_the_middle_of_its_answer_takes_one_task_with_it_and_one_that_cannot_begin_ends_all() -> None:
    found = dict(outcomes(["dies in the middle of its answer", "a"]))
    assert found == {"dies in the middle of its answer": Lost("died", "its process ended with exit code 7"), "a": "a"}
    with pytest.raises(
        ValueError, match=r"a process of the grid could not begin: its process ended with exit code 1; its error stands above"
    ):
        list(outcomes(["a"], make=refused))


PARENT = """
import os, sys, time
sys.path.insert(0, {folder!r})
from audiotok.data.attempts import in_processes

def hangs(task):
    print(os.getpid(), flush=True)
    time.sleep(600)

def make():
    return hangs

if __name__ == "__main__":
    list(in_processes(make, [0], num=1, seconds=600.0))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at /proc")
def test_a_task_that_never_ends_does_not_outlive_the_parent_of_its_process(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(PARENT.format(folder=str(Path(__file__).parents[2])))
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())  # type: ignore[union-attr]
        assert not gone(pid)
        parent.kill()
    assert wait_until(lambda: gone(pid), seconds=60.0)
