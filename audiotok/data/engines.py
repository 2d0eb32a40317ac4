"""Where a stage's work is done: in processes of this machine, or on a Ray cluster. The stage's code and the bytes it writes are the same.

A stage tells an engine what a worker is made of (`make`, called once in each) and hands it tasks; it writes the results itself.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from audiotok.data import attempts
from audiotok.data.attempts import Lost, Work
from audiotok.data.ray_workers import RayWorkers, ray_workers
from audiotok.data.workers import Pool, Workers, num_cores

Asked = Literal["auto"] | int  # how many workers a stage's setting wants


class Engine(Protocol):
    """What a stage is told as `engine`."""

    def workers(
        self, make: Callable[[], Work], *, asked: Asked, setting: str, after: float, gpu: bool
    ) -> AbstractContextManager[Pool | None]:
        """Workers whose results come in order; None where this process is enough.

        `asked` is what the config's `setting` says, `gpu` whether the work is done on one here. Of "auto" many, where they have to be
        waited for, they come after `after` seconds. Raises ValueError for a number that is none.
        """

    def attempts(
        self, make: Callable[[], Work], tasks: Sequence[Any], *, asked: Asked, setting: str, seconds: float
    ) -> Iterator[tuple[Any, Any | Lost]]:
        """(task, its result) as they are done, `Lost` for a task that has none: its worker died, or it took more than `seconds`."""


@dataclass(frozen=True)
class Processes:
    """Processes of this machine, one a core where "auto" many are asked for; a GPU is fed by one."""

    def workers(
        self, make: Callable[[], Work], *, asked: Asked, setting: str, after: float, gpu: bool
    ) -> AbstractContextManager[Pool | None]:
        num = num_cores() if asked == "auto" else _number(asked, setting)
        if gpu or num == 1:
            return nullcontext()
        return Workers(make, num=num, after=after if asked == "auto" else 0.0)

    def attempts(
        self, make: Callable[[], Work], tasks: Sequence[Any], *, asked: Asked, setting: str, seconds: float
    ) -> Iterator[tuple[Any, Any | Lost]]:
        """As of every engine; 0 is this process, which waits for a task as long as it takes."""
        if asked == 0:
            return attempts.one_by_one(make, tasks)
        num = num_cores() if asked == "auto" else _number(asked, setting)
        return attempts.in_processes(make, tasks, num=num, seconds=seconds)


@dataclass(frozen=True)
class Ray:
    """Actors on a Ray cluster, as many as fit where "auto" many are asked for. What they read lies where all nodes find it.

    A task whose actor or node died is done again by another, at most `retries` times.
    """

    address: str  # of a running cluster: host:port, ray://host:port, or auto for the one that this machine is of; local for one of its own
    num_cpus: float  # of a worker
    num_gpus: float  # of a worker; a quarter is four workers on a GPU
    retries: int
    patience: float  # seconds without any worker, after which it is given up

    def workers(
        self, make: Callable[[], Work], *, asked: Asked, setting: str, after: float, gpu: bool
    ) -> AbstractContextManager[Pool | None]:
        return self._made(make, asked=asked, setting=setting)

    def attempts(
        self, make: Callable[[], Work], tasks: Sequence[Any], *, asked: Asked, setting: str, seconds: float
    ) -> Iterator[tuple[Any, Any | Lost]]:
        with self._made(make, asked=asked, setting=setting, most=len(tasks)) as workers:
            yield from ((task, result) for _, task, result in workers.attempts(tasks, seconds=seconds))

    def _made(self, make: Callable[[], Work], *, asked: Asked, setting: str, most: int | None = None) -> RayWorkers:
        return ray_workers(
            make,
            num=None if asked == "auto" else _number(asked, setting),
            address=self.address,
            resources={"num_cpus": self.num_cpus, "num_gpus": self.num_gpus},
            retries=self.retries,
            patience=self.patience,
            most=most,
        )


def _number(asked: Any, setting: str) -> int:
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
        raise ValueError(f"{setting}={asked}: auto, or a number of workers from 1 on, is wanted")
    return asked
