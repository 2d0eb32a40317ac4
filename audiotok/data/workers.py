"""Processes that each hold one function and do tasks with it; the results come in the order of the tasks.

A process computes on one thread: as many as there are cores fill them, and sums round the same however many there are. It is started anew
(no fork: threads and their locks would be copied half-way), ends when its parent does, however that ended, and writes nothing.
"""

import os
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from time import monotonic
from types import TracebackType
from typing import Any, NoReturn, Protocol

import torch

# glibc gives freed activations back to the system and takes them anew, zeroed, for the next layer: a tenth of EnCodec's time
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}

GOODBYE = 2.0  # seconds: what waits for a task ends within them by itself, and gives back the semaphores of its libraries


class Pool(Protocol):
    """Workers, wherever they are, each with a function of one task."""

    def ready(self) -> bool:
        """Whether they take over from the process that asks."""

    def map(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Each task's result, in order. A task is taken when a worker is free for it. Raises ValueError where one has no result."""


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    ready: bool = False


class Workers:
    """`num` processes with what `make()` returns there, a function of one task; `make`, tasks and results are pickled.

    They are started `after` seconds after the first look at `ready`, since starting one costs seconds: what is done before then needs
    none. Use as a context: at its end they are gone.
    """

    def __init__(self, make: Callable[[], Callable[[Any], Any]], *, num: int, after: float) -> None:
        self.make, self.num, self.after = make, num, after
        self._first_look: float | None = None
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            if kind is None and worker.ready:
                worker.process.join(GOODBYE)
            worker.process.terminate()
            worker.process.join()

    @property
    def pids(self) -> list[int | None]:
        """Of the processes that have been started."""
        return [worker.process.pid for worker in self._workers]

    def ready(self) -> bool:
        """Whether every process waits for a task. Raises ValueError where one has ended."""
        if self._first_look is None:
            self._first_look = monotonic()
        if not self._workers and monotonic() >= self._first_look + self.after:
            self.start()
        for worker in self._workers:
            if not worker.ready and worker.connection.poll():
                worker.ready = _received(worker)
        return bool(self._workers) and all(worker.ready for worker in self._workers)

    def start(self) -> None:
        """Start the processes; they become ready by and by."""
        context = get_context("spawn")
        for _ in range(self.num):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(self.make, theirs), daemon=True)
            with _environment(KEEP_MEMORY):
                process.start()
            theirs.close()  # theirs alone holds it open, so that its end is seen here
            self._workers.append(_Worker(process, ours))

    def map(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Each task's result, in order. A task is taken when a process is free for it. Raises ValueError where a process ends."""
        coming, taken, given = enumerate(tasks), 0, 0
        working: dict[Connection, tuple[_Worker, int]] = {}
        done: dict[int, Any] = {}
        idle = list(self._workers)
        while True:
            while idle and (task := next(coming, None)) is not None:
                worker, taken = idle.pop(), taken + 1
                _send(worker, task[1])
                working[worker.connection] = worker, task[0]
            while given in done:
                yield done.pop(given)
                given += 1
            if not working:
                return
            for finished in connection.wait(list(working)):
                worker, number = working.pop(finished)  # type: ignore[call-overload]
                done[number] = _received(worker)
                idle.append(worker)


def num_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """What a process that is started in the block finds set, unless the user has set it otherwise."""
    missing = {name: value for name, value in more.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def _send(worker: _Worker, task: Any) -> None:
    # plain pickle: multiprocessing's own would pass tensors as file descriptors that die with their process
    try:
        worker.connection.send_bytes(pickle.dumps(task))
    except (BrokenPipeError, ConnectionResetError):
        _raise_ended(worker)


def _received(worker: _Worker) -> Any:
    try:
        content = worker.connection.recv_bytes()
    except (EOFError, OSError):
        _raise_ended(worker)
    return pickle.loads(content)  # noqa: S301, our own process


def _raise_ended(worker: _Worker) -> NoReturn:
    worker.process.join()
    code = worker.process.exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}; its error stands above"
    raise ValueError(f"worker process {worker.process.pid} {how}; what is written stays: run again to go on, with fewer if memory ran out")


def _serve(make: Callable[[], Callable[[Any], Any]], tasks: Connection) -> None:
    """The life of a process: say that it is ready, then a result for each task, until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    torch.set_num_threads(1)
    work = make()
    try:
        tasks.send_bytes(pickle.dumps(True))
        while True:
            task = pickle.loads(tasks.recv_bytes())  # noqa: S301, our own process
            tasks.send_bytes(pickle.dumps(work(task)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
