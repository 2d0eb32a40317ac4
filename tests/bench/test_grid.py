"""A cell that dies, hangs or raises takes no other with it."""

import os
import time

import pytest

from audiotok.bench import grid
from audiotok.bench.checks import Broken


def worker():
    return work


def work(cell):
    if cell == "dies":
        os._exit(7)
    if cell == "hangs":
        time.sleep(60)
    return f"{cell} of {os.getpid()}"


def test_every_cell_is_done_once_whichever_dies_or_hangs() -> None:
    cells = ["a", "dies", "b", "hangs", "c", "d"]
    started = time.perf_counter()
    found = dict(grid.in_processes(worker, cells, num=2, seconds=8.0))
    assert time.perf_counter() - started < 40
    assert sorted(found) == sorted(cells)
    assert {name: result.verdict for name, result in found.items() if isinstance(result, Broken)} == {"dies": "died", "hangs": "timed_out"}
    assert "exit code 7" in found["dies"].reason
    assert all(str(found[name]).startswith(name) for name in "abcd")


def test_the_same_in_one_process() -> None:
    assert dict(grid.one_by_one(worker, ["a", "b"])) == {name: f"{name} of {os.getpid()}" for name in "ab"}


def test_no_cells_start_no_process() -> None:
    assert list(grid.in_processes(worker, [], num=4, seconds=1.0)) == []


def test_ray_is_named_where_it_is_missing() -> None:
    if grid.__dict__.get("ray") or __import__("importlib").util.find_spec("ray"):
        pytest.skip("Ray is installed")
    with pytest.raises(ValueError, match="pip install ray"):
        list(grid.on_ray(worker, ["a"], address="auto"))
