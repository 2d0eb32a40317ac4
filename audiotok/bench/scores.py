"""Scores as tasks write them."""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from audiotok.bench.task import Score
from audiotok.evaluation.metric import Column, Ratio

Better = Literal["higher", "lower", "neither"]


def mean(items: Mapping[str, float | Ratio]) -> float | None:
    """Sum over sum; None of nothing."""
    ratios = [item if isinstance(item, Ratio) else Ratio(item, 1.0) for item in items.values()]
    whole = sum(ratio.denominator for ratio in ratios)
    return sum(ratio.numerator for ratio in ratios) / whole if whole else None


def score(
    name: str,
    label: str,
    found: float | Mapping[str, float | Ratio] | None,
    better: Better,
    *,
    unit: str = "",
    scale: float = 1.0,
    digits: int = 2,
    primary: bool = False,
    chance: float | None = None,
    failures: Mapping[str, int] | None = None,
) -> Score:
    """A number, or the mean of items."""
    items = found if isinstance(found, Mapping) else {}
    ratio = any(isinstance(item, Ratio) for item in items.values())
    column = Column(name, label, "ratio" if ratio else "mean", better, unit, scale, digits)
    value = mean(items) if isinstance(found, Mapping) else None if found is None else float(found)
    return Score(column, value, items, failures or {}, chance, primary)


def percent(name: str, label: str, found: float | Mapping[str, float | Ratio] | None, better: Better, **more: object) -> Score:
    """A share that people read in percent."""
    return score(name, label, found, better, unit="%", scale=100, digits=1, **more)  # type: ignore[arg-type]


def average(parts: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """By id, the mean over several numbers of the same items; ids that one of them lacks are left out."""
    ids = set.intersection(*(set(items) for items in parts.values())) if parts else set()
    return {id: float(np.mean([items[id] for items in parts.values()])) for id in sorted(ids)}
