"""Workers on a Ray cluster. A task whose worker or node died is done again by another, and no caller notices but by the time.

A worker is an actor that computes on one thread, in the folder of this process and with its module path, so the nodes must find the same
files there: a shared file system, or one machine. It writes nothing. Ray is optional: `pip install 'audiotok[ray]'`.
"""

import logging
import os
import socket
import sys
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from time import monotonic
from types import ModuleType, TracebackType
from typing import Any

import torch

from audiotok import files
from audiotok.data.attempts import OVERDUE, Lost, Work
from audiotok.data.workers import KEEP_MEMORY

CONNECT = 10.0  # seconds
LOOK = 5.0  # seconds between looks at the clock, while nothing happens
AHEAD = 8  # tasks for each worker that may be taken before the first of them has its result
PASSED_ON = ("AUDIOTOK_", "ONEDNN_", "MALLOC_", "HF_")  # how variables begin that a worker finds set as they are here


@dataclass(frozen=True)
class _Gone:
    """A worker died at its task."""

    reason: str


@dataclass(eq=False)
class _Place:
    """Of one worker, whoever fills it."""

    actor: Any
    promise: Any | None  # of its being ready, then of a task's result
    ready: bool = False
    task: tuple[int, Any] | None = None
    until: float = float("inf")
    losses: int = 0  # of workers that never became ready, in a row


def ray_workers(
    make: Callable[[], Work],
    *,
    num: int | None,
    address: str,
    resources: Mapping[str, float],
    retries: int,
    patience: float,
    most: int | None = None,
) -> "RayWorkers":
    """`num` workers on the cluster at `address`, as many as fit where that is None, but no more than `most`, for fewer tasks.

    Raises ValueError without Ray or such a cluster.

    `resources` of one: num_cpus, num_gpus. For the rest see `RayWorkers`.
    """
    ray = connected(address)
    fitting = num if num is not None else sum(_fitting(node["Resources"], resources) for node in ray.nodes() if node["Alive"])
    if not fitting:
        raise ValueError(f"no node of the Ray cluster has {_told(resources)}; it has {_total(ray)}; set engine.num_cpus or engine.num_gpus")
    num = fitting if most is None else min(fitting, most)
    return RayWorkers(ray, make, num=num, resources=resources, retries=retries, patience=patience)


def connected(address: str) -> ModuleType:
    """The package ray, in this process's session with the cluster: the one that there is, or a new one."""
    try:
        import ray  # noqa: PLC0415, optional
    except ImportError as error:
        raise ValueError("engine=ray: Ray is not installed; pip install 'audiotok[ray]', or set engine=processes") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers
    if not ray.is_initialized():
        own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        try:
            _refuse_nobody(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **own)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"engine.address={address}: {reason}; start a cluster with `ray start --head`, or set local") from error
    return ray


def _refuse_nobody(address: str) -> None:
    """Raise OSError where nobody listens, for which Ray itself would wait minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT).close()


class RayWorkers:
    """`num` actors with what `make()` returns there, a function of one task.

    They are started for the first task. A task whose worker died is done again by another, at most `retries` times. Raises ValueError
    where `make` fails, where a place loses that many workers before they could begin, and where none is there for `patience` seconds.
    Use as a context: at its end they are gone.
    """

    def __init__(
        self, ray: ModuleType, make: Callable[[], Work], *, num: int, resources: Mapping[str, float], retries: int, patience: float
    ) -> None:
        self.ray, self.make, self.num, self.resources, self.retries, self.patience = ray, make, num, resources, retries, patience
        self._actor = ray.remote(_Actor).options(**resources, max_restarts=0, runtime_env={"env_vars": _environment()})
        self._places: list[_Place] = []
        self._seen = 0.0  # when a worker was last there

    def __enter__(self) -> "RayWorkers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for place in self._places:
            self.ray.kill(place.actor)
        self._places = []

    def ready(self) -> bool:
        """Always: this process, whose device may be another, computes nothing."""
        return True

    def map(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Each task's result, in order. A task is taken when a worker is free for it, but no more than `AHEAD` of each worker's before the
        oldest has its result, which others wait for here. Raises ValueError where one has no result."""
        queue, done = _Queue(tasks, window=AHEAD * self.num), dict[int, Any]()
        with closing(self._attempts(queue, float("inf"))) as results:
            for number, _, result in results:
                if isinstance(result, Lost):
                    raise ValueError(f"{result.reason}; what is written stays: run again to go on")
                done[number] = result
                while queue.given in done:
                    queue.given += 1
                    yield done.pop(queue.given - 1)

    def attempts(self, tasks: Iterable[Any], *, seconds: float) -> Iterator[tuple[int, Any, Any | Lost]]:
        """(number of the task, task, result) as they are done; `Lost` for a task that fails, or takes more than `seconds`."""
        return self._attempts(_Queue(tasks, window=float("inf")), seconds)

    def _attempts(self, queue: "_Queue", seconds: float) -> Generator[tuple[int, Any, Any | Lost]]:
        assert all(place.task is None for place in self._places), "the tasks of one call after those of another"
        self._seen = monotonic()
        try:
            while self._handed_out(queue, seconds):
                for place in self._heard_of():
                    task, result = place.task, self._taken(place)
                    if task is None:
                        continue
                    if not isinstance(result, _Gone):
                        yield *task, result
                    elif queue.losses[task[0]] < self.retries:
                        queue.again(task)
                    else:
                        died = f"{self.retries + 1} workers of the Ray cluster died at the same task"
                        yield *task, Lost("died", f"{died} ({result.reason})")
        finally:
            self._give_up()

    def _give_up(self) -> None:
        """End the workers at whose tasks nobody will look any more: their results are no other call's."""
        for place in self._places:
            if place.task is not None:
                self.ray.kill(place.actor)
        self._places = [place for place in self._places if place.task is None]

    def _handed_out(self, queue: "_Queue", seconds: float) -> bool:
        """Give a task to each worker that waits for one; whether anything is under way or left."""
        for place in self._places:
            if place.ready and place.task is None and (task := queue.next()) is not None:
                place.task, place.promise, place.until = task, place.actor.do.remote(task[1]), monotonic() + seconds
        under_way = any(place.task is not None for place in self._places) or queue.any_left()
        if under_way:
            self._places += [_Place(*self._started()) for _ in range(self.num - len(self._places))]
        return under_way

    def _heard_of(self) -> list[_Place]:
        """The places of which there is news: a worker is ready, a result has come, one has died, time is over."""
        promises = {place.promise: place for place in self._places if place.promise is not None}
        told, _ = self.ray.wait(list(promises), timeout=LOOK)
        if any(place.ready for place in self._places):
            self._seen = monotonic()
        elif monotonic() > self._seen + self.patience and not told:
            wanted = f"{self.num} workers of {_told(self.resources)}"
            raise ValueError(f"not one of {wanted} has begun within {self.patience:.0f} s; the Ray cluster has {_total(self.ray)}")
        overdue = [place for place in self._places if monotonic() > place.until and place.promise not in told]
        return [promises[promise] for promise in told] + overdue

    def _taken(self, place: _Place) -> Any:
        """What came of a place's task, `_Gone` where its worker died; the place is ready for the next, or has a new worker."""
        promise, ready, overdue = place.promise, place.ready, monotonic() > place.until
        place.promise, place.task, place.ready, place.until = None, None, True, float("inf")
        if overdue and not self.ray.wait([promise], timeout=0)[0]:
            self._replace(place)
            return Lost("timed_out", OVERDUE)
        try:
            return self.ray.get(promise)
        except self.ray.exceptions.RayTaskError as error:  # of the task's own
            return Lost("died", f"a worker failed: {_last_line(error)}")
        except self.ray.exceptions.RayError as error:
            if getattr(error, "actor_init_failed", False):
                raise ValueError(f"a worker could not begin: {_last_line(error)}") from error
            place.losses = 0 if ready else place.losses + 1
            if place.losses > self.retries:
                raise ValueError(f"{place.losses} workers of the Ray cluster died before they could begin: {_last_line(error)}") from error
            self._replace(place)
            return _Gone(_last_line(error))

    def _replace(self, place: _Place) -> None:
        self.ray.kill(place.actor)
        place.actor, place.promise = self._started()
        place.ready = False

    def _started(self) -> tuple[Any, Any]:
        actor = self._actor.remote(self.make, os.getcwd())
        return actor, actor.ready.remote()


class _Actor:
    """The life of a worker."""

    def __init__(self, make: Callable[[], Work], folder: str) -> None:
        try:
            os.chdir(folder)
        except OSError as error:
            raise ValueError(f"{error}: the nodes of a Ray cluster must share the folder that the stage is started in") from error
        torch.set_num_threads(1)
        self.work = make()

    def ready(self) -> None:
        return

    def do(self, task: Any) -> Any:
        return self.work(task)


class _Queue:
    """Tasks with their numbers; those that are to be done again come first, and of the others none beyond a window."""

    def __init__(self, tasks: Iterable[Any], *, window: float) -> None:
        self.losses = Counter[int]()  # of workers, by the task's number
        self.given = 0  # results, in order
        self._window, self._taken = window, 0
        self._coming, self._waiting = enumerate(tasks), deque[tuple[int, Any]]()

    def next(self) -> tuple[int, Any] | None:
        """None where there is no other task, or none yet."""
        if self._taken >= self.given + self._window and not self._waiting:
            return None
        return self._waiting.popleft() if self._waiting else self._new()

    def _new(self) -> tuple[int, Any] | None:
        if (task := next(self._coming, None)) is not None:
            self._taken += 1
        return task

    def any_left(self) -> bool:
        if not self._waiting and (task := self._new()) is not None:
            self._waiting.append(task)
        return bool(self._waiting)

    def again(self, task: tuple[int, Any]) -> None:
        """Do a task that a worker died at."""
        self.losses[task[0]] += 1
        self._waiting.appendleft(task)


def _environment() -> dict[str, str]:
    """What a worker finds set: this process's module path, where a tokenizer of the user's own is found, and what bounds its memory.

    No secret is among it, as Ray writes it into logs of all nodes; those have their own.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    passed_on = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON) and not files.SECRET.search(name)}
    return KEEP_MEMORY | passed_on | {"PYTHONPATH": path}


def _fitting(has: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """Workers that fit on a node."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    return min((int(has.get(names[name], 0) / amount) for name, amount in wanted.items() if amount), default=0)


def _told(resources: Mapping[str, float]) -> str:
    return f"{resources['num_cpus']:g} CPUs and {resources['num_gpus']:g} GPUs"


def _total(ray: ModuleType) -> str:
    found = ray.cluster_resources()
    return f"{len(ray.nodes())} nodes with {found.get('CPU', 0):g} CPUs and {found.get('GPU', 0):g} GPUs"


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
