"""Tasks in parallel processes, each by itself: one that dies or never ends takes no other with it.

A process ends when its parent does, however that ended and whatever it is at.
"""

import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from threading import Thread
from time import monotonic
from typing import Any, Literal

import torch

Work = Callable[[Any], Any]  # of one task

GOODBYE = 5.0  # seconds
READY, BEGUN = b"ready", b"begun"  # what a process says besides results: that it waits for tasks, that it has taken one
UNBEGUN = object()  # in place of the result of a task that was sent to a process which ended before it took it
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
    proven: bool = False  # it has done a task
    task: tuple[Any] | None = None  # what it is at, or was sent
    begun: bool = False  # it has taken that
    until: float = float("inf")


def in_processes(make: Callable[[], Work], tasks: Sequence[Any], *, num: int, seconds: float) -> Iterator[tuple[Any, Any | Lost]]:
    """(task, its result) as they are done; `Lost` for a task whose process died, or that took more than `seconds`.

    Each of `num` processes calls `make()` once, on one thread; one that has ended is replaced. Tasks, `make` and results are pickled.
    Raises ValueError where a process ends before it has made anything: so would every other.
    """
    waiting, processes = deque(tasks), list[_Process]()
    try:
        processes += (_started(make) for _ in range(min(num, len(tasks))))
        while waiting or any(one.task is not None for one in processes):
            connection.wait([one.connection for one in processes if one.task is not None or not one.ready], timeout=1.0)
            for place, one in enumerate(processes):
                for result in _told(one):
                    assert one.task is not None, "of nothing else is there a result"
                    if result is UNBEGUN:
                        waiting.appendleft(one.task[0])
                    else:
                        yield one.task[0], result
                    one.task, one.until = None, float("inf")
                    if (result is UNBEGUN or isinstance(result, Lost)) and waiting:
                        processes[place] = one = _started(make)
                if one.ready and one.task is None and waiting:
                    if _given(one, waiting[0], seconds):
                        waiting.popleft()
                    else:
                        processes[place] = _started(make)
    finally:
        _ended(processes)


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


def _ended(processes: Sequence[_Process]) -> None:
    for one in processes:
        one.connection.close()  # at which what waits for a task ends by itself
    for one in processes:
        if one.ready and one.task is None:
            one.process.join(GOODBYE)
        one.process.kill()
        one.process.join()


def _given(one: _Process, task: Any, seconds: float) -> bool:
    """Whether a task could be sent to a process; not where that has ended since its last one, of which this task is not guilty."""
    # plain pickle: multiprocessing's own would pass tensors as file descriptors that die with their process
    content = pickle.dumps(task)
    try:
        one.connection.send_bytes(content)
    except (BrokenPipeError, ConnectionResetError):
        _refuse_unproven(one)
        return False
    one.task, one.begun, one.until = (task,), False, monotonic() + seconds
    return True


def _told(one: _Process) -> list[Any | Lost]:
    """The result of its task, or why there is none; an empty list as long as there is nothing to tell."""
    if one.task is None and one.ready:
        return []
    try:
        said = one.connection.recv_bytes() if one.connection.poll() else None
    except (EOFError, OSError):  # between two messages, or in the middle of one
        if one.task is None or not one.begun:
            _refuse_unproven(one)
            return [UNBEGUN]
        return [Lost("died", _how_it_ended(one))]
    if said == READY:
        one.ready = True
    elif said == BEGUN:
        one.begun = True
    elif said is not None:
        one.proven = True
        return [pickle.loads(said)]  # noqa: S301, our own process
    if monotonic() > one.until:
        one.process.kill()
        one.process.join()
        return [Lost("timed_out", OVERDUE)]
    return []


def _refuse_unproven(one: _Process) -> None:
    """Raise ValueError where a process has ended that has done nothing yet."""
    if not one.proven:
        raise ValueError(f"a process of the grid could not begin: {_how_it_ended(one)}; its error stands above")


def _how_it_ended(one: _Process) -> str:
    one.process.join()
    code = one.process.exitcode or 0
    return f"its process {'was killed by signal' if code < 0 else 'ended with exit code'} {abs(code)}"


def _serve(make: Callable[[], Work], tasks: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    work = make()
    try:
        tasks.send_bytes(READY)
        while True:
            content = tasks.recv_bytes()
            tasks.send_bytes(BEGUN)
            task = pickle.loads(content)  # noqa: S301, our own process
            tasks.send_bytes(pickle.dumps(work(task)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _end_with_parent() -> None:
    """What never ends hears nothing of a parent that is gone."""
    parent = parent_process()
    assert parent is not None, "it was started by one"
    parent.join()
    os._exit(1)
