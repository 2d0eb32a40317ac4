"""One cell of the grid: a task, a tokenizer, a seed; one row, whatever happens."""

import traceback
from collections.abc import Mapping
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
    """The row of one cell.

    A tokenizer of somebody else's may raise anything: here, and only here, every error becomes a verdict, so that the other cells finish.
    """
    began, started = datetime.now(UTC), perf_counter()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # packages draw from it
    try:
        outcome, verdict, reason = _asked(task, subject, seed=seed)
    except Broken as broken:
        outcome, verdict, reason = Outcome(()), broken.verdict, broken.reason
    except Exception as error:  # noqa: BLE001
        outcome, verdict, reason = Outcome(()), "crashed", failure(error)
    return Row(
        suite=suite,
        tokenizer=subject.label,
        task=name,
        axis=task.axis,
        seed=seed,
        verdict=verdict,
        reason=reason,
        started=began.isoformat(timespec="seconds"),
        seconds=perf_counter() - started,
        scores=outcome.scores,
        detail=outcome.detail,
        provenance={**provenance, "judges": dict(outcome.judges)},
    )


def _asked(task: Task, subject: Subject, *, seed: int) -> tuple[Outcome, str, str | None]:
    try:
        outcome = task.run(subject, seed=seed)
    except NotApplicable as reason:
        return Outcome(()), NOT_APPLICABLE, str(reason)
    return outcome, outcome.verdict, outcome.reason


def failure(error: BaseException) -> str:
    """What was raised, and the innermost line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename.rsplit('/', 1)[-1]}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
