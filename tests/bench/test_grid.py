"""A cell that dies, hangs or raises takes no other with it."""

import importlib.util
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
        time.sleep(600)
    return f"{cell} of {os.getpid()}"


def test_every_cell_is_done_once_whichever_dies_or_hangs() -> None:
    cells = ["a", "dies", "b", "hangs", "c", "d"]
    started = time.perf_counter()
    found = dict(grid.in_processes(worker, cells, num=2, seconds=8.0))
    assert time.perf_counter() - started < 300
    assert sorted(found) == sorted(cells)
    assert {name: result.verdict for name, result in found.items() if isinstance(result, Broken)} == {"dies": "died", "hangs": "timed_out"}
    assert "exit code 7" in found["dies"].reason
    assert all(str(found[name]).startswith(name) for name in "abcd")


def test_the_same_in_one_process() -> None:
    assert dict(grid.one_by_one(worker, ["a", "b"])) == {name: f"{name} of {os.getpid()}" for name in "ab"}


def test_no_cells_start_no_process() -> None:
    assert list(grid.in_processes(worker, [], num=4, seconds=1.0)) == []


def test_ray_is_named_where_it_is_missing() -> None:
    if importlib.util.find_spec("ray"):
        pytest.skip("Ray is installed")
    with pytest.raises(ValueError, match="pip install ray"):
        list(grid.on_ray(worker, ["a"], address="auto"))


def test_the_same_on_a_ray_of_this_machine() -> None:
    ray = pytest.importorskip("ray", reason="pip install ray")
    try:
        found = dict(grid.on_ray(worker, ["a", "dies", "b"], address="local"))
    finally:
        ray.shutdown()
    assert sorted(found) == ["a", "b", "dies"]
    assert isinstance(found["dies"], Broken) and found["dies"].verdict == "died"
    assert found["a"].startswith("a of") and found["b"].startswith("b of")
