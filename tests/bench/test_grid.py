"""A cell that dies, hangs or raises takes no other with it; the same on a Ray cluster: tests/data/test_ray_workers.py."""

import os
import time

import pytest

from audiotok.bench import grid
from audiotok.bench.checks import Broken
from audiotok.data.engines import Processes


def worker():
    return work


def work(cell):
    if cell == "dies":
        os._exit(7)
    if cell == "hangs":
        time.sleep(600)
    return f"{cell} of {os.getpid()}"


def outcomes(cells, *, asked, seconds=600.0):
    return grid.outcomes(Processes(), worker, cells, asked=asked, seconds=seconds)


def test_every_cell_is_done_once_whichever_dies_or_hangs() -> None:
    cells = ["a", "dies", "b", "hangs", "c", "d"]
    started = time.perf_counter()
    found = dict(outcomes(cells, asked=2, seconds=8.0))
    assert time.perf_counter() - started < 300
    assert sorted(found) == sorted(cells)
    assert {name: result.verdict for name, result in found.items() if isinstance(result, Broken)} == {"dies": "died", "hangs": "timed_out"}
    assert "exit code 7" in found["dies"].reason
    assert all(str(found[name]).startswith(name) for name in "abcd")


def test_the_same_in_one_process() -> None:
    assert dict(outcomes(["a", "b"], asked=0)) == {name: f"{name} of {os.getpid()}" for name in "ab"}


def test_no_cells_start_no_process() -> None:
    assert list(outcomes([], asked=4)) == []


def test_a_number_of_processes_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bench\.workers=-1: auto, or a number of workers from 1 on"):
        list(outcomes(["a"], asked=-1))
