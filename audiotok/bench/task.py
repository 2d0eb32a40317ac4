"""What a task of the benchmark is, and what it finds out: scores, and drawings' data.

A task is told a tokenizer (`Subject`) and a seed. It is a class whose constructor arguments are its YAML, and it never looks at the
tokenizer's name: what a task of a known kind costs is a YAML.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from audiotok.bench.subject import Subject
from audiotok.evaluation.metric import Column, Ratio

Axis = Literal["reconstruction", "tokens", "downstream", "language_model", "cost"]
AXES: tuple[Axis, ...] = ("reconstruction", "tokens", "downstream", "language_model", "cost")


@dataclass(frozen=True)
class Score:
    """One number of a task. `items` are what it is the mean (or ratio of sums) of, by id: the same ids for every tokenizer.

    `chance` is what knows nothing scores, where that is defined. `primary` scores rank and correlate; the others explain.
    """

    column: Column
    value: float | None  # as stored: people read it times column.scale; None where it could not be measured
    items: Mapping[str, float | Ratio] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)  # reason: how many items have no score for it
    chance: float | None = None
    primary: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a task found out. `detail` is JSON-like data of curves and tables; `judges` say who gave the scores."""

    scores: tuple[Score, ...]
    detail: Mapping[str, Any] = field(default_factory=dict)
    judges: Mapping[str, str] = field(default_factory=dict)
    verdict: str = "ok"  # else one of `audiotok.bench.checks.VERDICTS`, beside what could be measured all the same
    reason: str | None = None


class Task(Protocol):
    """One task. Without `seeded` it is run once, whatever the number of seeds."""

    axis: Axis
    seeded: bool

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        """Raises NotApplicable where the tokenizer cannot be asked this (no way back to sound, no codes), with the reason."""
        ...
