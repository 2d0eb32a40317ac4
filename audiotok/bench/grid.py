"""Cells in parallel processes, each by itself: one that dies or never ends takes no other with it.

On a cluster the same cells are Ray tasks (`on_ray`). Whoever runs them, a cell's row is written by the process that asked for it, as soon
as it is done, so that a killed grid goes on with the cells that are missing.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import Any

import torch

from audiotok.bench.checks import Broken

Work = Callable[[Any], Any]  # of one cell

GOODBYE = 5.0  # seconds


@dataclass
class _Process:
    process: BaseProcess
    connection: Connection
    ready: bool = False
    cell: Any = None
    until: float = float("inf")


def in_processes(make: Callable[[], Work], cells: Sequence[Any], *, num: int, seconds: float) -> Iterator[tuple[Any, Any | Broken]]:
    """(cell, its result) as they are done; `Broken` of a cell whose process died, or that took more than `seconds`.

    Each of `num` processes calls `make()` once, on one thread; one that has ended is replaced. Cells, `make` and results are pickled.
    Raises ValueError where a process ends before it has made anything: so would every other.
    """
    waiting = list(reversed(cells))
    processes = [_started(make) for _ in range(min(num, len(cells)))]
    try:
        while waiting or any(one.cell is not None for one in processes):
            connection.wait([one.connection for one in processes if one.cell is not None or not one.ready], timeout=1.0)
            for place, one in enumerate(processes):
                if (result := _told(one)) is not None:
                    yield one.cell, result
                    one.cell, one.until = None, float("inf")
                    if isinstance(result, Broken):
                        processes[place] = one = _started(make)
                if one.ready and one.cell is None and waiting:
                    _give(one, waiting.pop(), seconds)
    finally:
        for one in processes:
            one.connection.close()  # at which what waits for a cell ends by itself
        for one in processes:
            if one.cell is None:
                one.process.join(GOODBYE)
            one.process.kill()
            one.process.join()


def one_by_one(make: Callable[[], Work], cells: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """The same in this process."""
    work = make()
    for cell in cells:
        yield cell, work(cell)


def on_ray(make: Callable[[], Work], cells: Sequence[Any], *, address: str) -> Iterator[tuple[Any, Any | Broken]]:
    """The same on a Ray cluster; `address` as ray.init takes it. Raises ValueError without Ray. Folders must be shared by its nodes."""
    try:
        import ray  # noqa: PLC0415, optional
    except ImportError as error:
        raise ValueError("bench.ray is set but Ray is not installed; pip install ray, or set bench.ray=null") from error
    path = os.pathsep.join(entry for entry in sys.path if entry)  # where a tokenizer of the user's own is found
    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": path}})

    @ray.remote(num_cpus=1, max_retries=0)
    def work(cell: Any) -> Any:
        torch.set_num_threads(1)
        return make()(cell)

    running = {work.remote(cell): cell for cell in cells}
    while running:
        (done, *_), _ = ray.wait(list(running), num_returns=1)
        cell = running.pop(done)
        try:
            yield cell, ray.get(done)
        except ray.exceptions.RayError as error:
            yield cell, Broken("died", str(error).strip().splitlines()[-1])


def _started(make: Callable[[], Work]) -> _Process:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(make, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Process(process, ours)


def _give(one: _Process, cell: Any, seconds: float) -> None:
    one.cell, one.until = cell, monotonic() + seconds
    try:
        one.connection.send(cell)
    except (BrokenPipeError, ConnectionResetError):
        return  # it has ended: the next look at it says so


def _told(one: _Process) -> Any | Broken | None:
    """A result, or why there is none; None as long as there is nothing to tell."""
    try:
        if one.connection.poll():
            told = one.connection.recv()
            if one.ready:
                return told
            one.ready = True
    except (EOFError, ConnectionResetError):
        one.process.join()
        code = one.process.exitcode or 0
        how = f"its process {'was killed by signal' if code < 0 else 'ended with exit code'} {abs(code)}"
        if not one.ready:
            raise ValueError(f"a process of the grid could not begin: {how}; its error stands above") from None
        return Broken("died", how)
    if monotonic() > one.until:
        one.process.kill()
        one.process.join()
        return Broken("timed_out", "no end within bench.cell_minutes")
    return None


def _serve(make: Callable[[], Work], cells: Connection) -> None:
    torch.set_num_threads(1)
    work = make()
    try:
        cells.send(True)
        while True:
            cells.send(work(cells.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
