"""Cells by whatever engine runs them: one that dies or never ends has a verdict and takes no other with it.

A cell's row is written by the process that asked for it, as soon as it is done, so that a killed grid goes on with the cells that are
missing.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from audiotok.bench.checks import Broken
from audiotok.data.attempts import Lost, Work
from audiotok.data.engines import Asked, Engine


def outcomes(
    engine: Engine, make: Callable[[], Work], cells: Sequence[Any], *, asked: Asked, seconds: float
) -> Iterator[tuple[Any, Any | Broken]]:
    """(cell, its result) as they are done; `Broken` of a cell whose process died, or that took more than `seconds`.

    `asked` is bench.workers. Raises ValueError where no process could make anything.
    """
    for cell, result in engine.attempts(make, cells, asked=asked, setting="bench.workers", seconds=seconds):
        yield cell, Broken(result.verdict, result.reason) if isinstance(result, Lost) else result
