"""Tasks in parallel processes, each by itself: one that dies or never ends takes no other with it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import Any, Literal

import torch

Work = Callable[[Any], Any]  # of one task

GOODBYE = 5.0  # seconds
OVERDUE = "no end within the time that a task is given"


@dataclass(frozen=True)
class Lost:
    """In place of a task's result."""

    verdict: Literal["died", "timed_out"]
    reason: str


@dataclass
class _Process:
    process: BaseProcess
    connection: Connection
    ready: bool = False
    task: Any = None
    until: float = float("inf")


def in_processes(make: Callable[[], Work], tasks: Sequence[Any], *, num: int, seconds: float) -> Iterator[tuple[Any, Any | Lost]]:
    """(task, its result) as they are done; `Lost` for a task whose process died, or that took more than `seconds`.

    Each of `num` processes calls `make()` once, on one thread; one that has ended is replaced. Tasks, `make` and results are pickled.
    Raises ValueError where a process ends before it has made anything: so would every other.
    """
    waiting = list(reversed(tasks))
    processes = [_started(make) for _ in range(min(num, len(tasks)))]
    try:
        while waiting or any(one.task is not None for one in processes):
            connection.wait([one.connection for one in processes if one.task is not None or not one.ready], timeout=1.0)
            for place, one in enumerate(processes):
                if (result := _told(one)) is not None:
                    yield one.task, result
                    one.task, one.until = None, float("inf")
                    if isinstance(result, Lost):
                        processes[place] = one = _started(make)
                if one.ready and one.task is None and waiting:
                    _give(one, waiting.pop(), seconds)
    finally:
        for one in processes:
            one.connection.close()  # at which what waits for a task ends by itself
        for one in processes:
            if one.task is None:
                one.process.join(GOODBYE)
            one.process.kill()
            one.process.join()


def one_by_one(make: Callable[[], Work], tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """The same in this process, which dies with a task that does."""
    work = make()
    for task in tasks:
        yield task, work(task)


def _started(make: Callable[[], Work]) -> _Process:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(make, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Process(process, ours)


def _give(one: _Process, task: Any, seconds: float) -> None:
    one.task, one.until = task, monotonic() + seconds
    try:
        one.connection.send(task)
    except (BrokenPipeError, ConnectionResetError):
        return  # it has ended: the next look at it says so


def _told(one: _Process) -> Any | Lost | None:
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
        return Lost("died", how)
    if monotonic() > one.until:
        one.process.kill()
        one.process.join()
        return Lost("timed_out", OVERDUE)
    return None


def _serve(make: Callable[[], Work], tasks: Connection) -> None:
    torch.set_num_threads(1)
    work = make()
    try:
        tasks.send(True)
        while True:
            tasks.send(work(tasks.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
