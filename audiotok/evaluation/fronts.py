"""Shorter codes against plain downsampling: what each transform keeps at which rate, and whether that is more than dropping frames keeps.

A transform is held against plain downsampling at the same fixed-length bits per second, which lie between two of its factors: there the
plain score of each utterance is interpolated (linearly in the logarithm of the rate), so that the comparison is paired by utterance. What
plain downsampling solves already says nothing about a reduction (VTC-Bench, arXiv 2510.07143): `hard` are the utterances that it does not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from audiotok import files
from audiotok.evaluation.results import SUMMARY
from audiotok.evaluation.scoring import SCORES
from audiotok.evaluation.statistics import bootstrap_interval

ACCOUNT = "account.json"
RATE = "fixed_bits"
ASIDE = "other"  # family of a transform that the recipe has not named

Items = dict[str, tuple[float, float]]  # of each utterance a numerator and a denominator


@dataclass(frozen=True, eq=False)
class Reduction:
    """A tokenizer's codes under one transform: its numbers, and the scores of what was decoded, where it loses anything."""

    tokenizer: str
    transform: str
    family: str
    folder: Path

    @cached_property
    def numbers(self) -> dict[str, Any]:
        return files.read_json(self.folder / ACCOUNT)

    @cached_property
    def columns(self) -> dict[str, dict[str, Any]]:
        """The first column of each metric that says what is better, by name; empty where nothing was decoded."""
        if not (self.folder / SUMMARY).exists():
            return {}
        firsts: dict[str, dict[str, Any]] = {}
        for column in files.read_json(self.folder / SUMMARY)["columns"]:
            if column["better"] != "neither":
                firsts.setdefault(column["metric"], column)
        return {column["name"]: column for column in firsts.values()}

    def items(self, column: str) -> Items:
        """By utterance; those without a score are left out."""
        rows = pq.read_table(self.folder / SCORES).to_pylist()
        return {row["id"]: _item(row, column) for row in rows if row.get(column) is not None}


def _item(row: Mapping[str, Any], column: str) -> tuple[float, float]:
    if f"{column}_numerator" in row:
        return row[f"{column}_numerator"], row[f"{column}_denominator"]
    return row[column], 1.0


def read(folder: Path, families: Mapping[str, Sequence[str]]) -> list[Reduction]:
    """What `audiotok account` left in a folder, by tokenizer, in the order of the families. Raises ValueError where there is nothing."""
    family_of = {transform: family for family, transforms in families.items() for transform in transforms}
    order = {transform: place for place, transform in enumerate(family_of)}
    found = [
        Reduction(path.parent.parent.name, path.parent.name, family_of.get(path.parent.name, ASIDE), path.parent)
        for path in folder.glob(f"*/*/{ACCOUNT}")
        if not path.parent.name.endswith(".partial")
    ]
    if not found:
        raise ValueError(f"{folder} holds no account; run `audiotok account` with the same recipe first")
    return sorted(found, key=lambda one: (one.tokenizer, order.get(one.transform, len(order)), one.transform))


@dataclass(frozen=True)
class Verdict:
    """A transform's score less that of plain downsampling at its rate, positive where it is better; over the same utterances."""

    difference: float
    low: float
    high: float

    @property
    def word(self) -> Literal["better", "worse", "level"]:
        return "better" if self.low > 0 else "worse" if self.high < 0 else "level"


def verdict(
    one: Reduction, plain: Sequence[Reduction], column: str, *, ids: set[str] | None = None, resamplings: int, seed: int
) -> Verdict | None:
    """None where its rate is outside those of plain downsampling, or fewer than two utterances have all the scores."""
    neighbours = _around(one.numbers[RATE], sorted(plain, key=lambda other: other.numbers[RATE]))
    if neighbours is None:
        return None
    (lower, upper), weight = neighbours
    own, low, high = (other.items(column) for other in (one, lower, upper))
    common = sorted(own.keys() & low.keys() & high.keys() & (own.keys() if ids is None else ids))
    if len(common) < 2:
        return None
    sign = 1.0 if one.columns[column]["better"] == "higher" else -1.0
    scale = one.columns[column]["scale"]
    apart = np.array([sign * scale * (own[id][0] - (1 - weight) * low[id][0] - weight * high[id][0]) for id in common])
    denominators = np.array([own[id][1] for id in common])
    interval = bootstrap_interval(apart, denominators, resamplings=resamplings, seed=seed) or (-np.inf, np.inf)
    return Verdict(float(apart.sum() / denominators.sum()), *interval)


def _around(rate: float, plain: Sequence[Reduction]) -> tuple[tuple[Reduction, Reduction], float] | None:
    """The two of `plain` (by rising rate) between which a rate lies, and how near it is to the upper one, 0 to 1."""
    for lower, upper in pairwise(plain):
        low, high = lower.numbers[RATE], upper.numbers[RATE]
        if low * (1 - 1e-6) <= rate <= high * (1 + 1e-6):
            return (lower, upper), float(np.clip(log(rate / low) / log(high / low), 0, 1))
    return None


def hard(plain: Reduction, column: str) -> set[str]:
    """The utterances at which plain downsampling loses anything by this column (words)."""
    return {id for id, (numerator, _) in plain.items(column).items() if numerator > 0}


def mean(one: Reduction, column: str, *, ids: set[str] | None = None) -> float | None:
    """As people read it; of some of the utterances where `ids` says so."""
    chosen = [item for id, item in one.items(column).items() if ids is None or id in ids]
    total = sum(denominator for _, denominator in chosen)
    return one.columns[column]["scale"] * sum(numerator for numerator, _ in chosen) / total if total else None


def front(points: Iterable[tuple[str, float, float]], *, better: Literal["higher", "lower"]) -> list[str]:
    """Names of the (name, rate, score) that no other beats in both: at no higher rate a score at least as good."""
    sign = 1 if better == "higher" else -1
    best, names = -np.inf, []
    for name, _, score in sorted(points, key=lambda point: (point[1], -sign * point[2])):
        if sign * score > best:
            best = sign * score
            names.append(name)
    return names
