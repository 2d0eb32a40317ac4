"""One cell of the grid: a task, a tokenizer, a seed; one row, whatever happens."""

import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import numpy as np
import torch

from audiotok.bench.checks import Broken
from audiotok.bench.rows import NOT_APPLICABLE, Row
from audiotok.bench.subject import Subject
from audiotok.bench.task import Outcome, Task
from audiotok.evaluation.metric import NotApplicable


def run_cell(task: Task, subject: Subject, *, suite: str, name: str, seed: int, provenance: Mapping[str, Any]) -> Row:
    """The row of one cell."""
    began, started = datetime.now(UTC), perf_counter()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # packages draw from it
    outcome = attempted(lambda: task.run(subject, seed=seed))
    return Row(
        suite=suite,
        tokenizer=subject.label,
        task=name,
        axis=task.axis,
        seed=seed,
        verdict=outcome.verdict,
        reason=outcome.reason,
        started=began.isoformat(timespec="seconds"),
        seconds=perf_counter() - started,
        scores=outcome.scores,
        detail=outcome.detail,
        provenance={**provenance, "judges": dict(outcome.judges)},
    )


def attempted(work: Callable[[], Outcome]) -> Outcome:
    """What `work` found out, or a verdict in its place.

    A tokenizer of somebody else's may raise anything: here, and only here, every error becomes a verdict with its reason, so that the other
    cells finish.
    """
    try:
        return work()
    except NotApplicable as reason:
        return Outcome((), verdict=NOT_APPLICABLE, reason=str(reason))
    except Broken as broken:
        return Outcome((), verdict=broken.verdict, reason=broken.reason)
    except Exception as error:  # noqa: BLE001
        return Outcome((), verdict="crashed", reason=failure(error))


def failure(error: BaseException) -> str:
    """What was raised, and the innermost line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename.rsplit('/', 1)[-1]}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
