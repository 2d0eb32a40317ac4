"""What scores say of tokenizers against each other: over seeds, item by item, in ranks.

Numbers are as stored (`Column.scale` is for readers). Letters of shapes here: R resamplings, S seeds, I items.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from math import comb, isfinite, sqrt
from typing import Literal
from zlib import crc32

import numpy as np
from scipy import stats

from audiotok.bench.rows import Row
from audiotok.bench.task import Score
from audiotok.evaluation.metric import Column, Ratio

Key = tuple[str, str]  # task, name of the score


@dataclass(frozen=True, eq=False)
class Measured:
    """One score of one tokenizer at one task, over its seeds. Equal to itself alone, so that what was drawn from it can be kept."""

    tokenizer: str
    task: str
    axis: str
    column: Column
    primary: bool
    chance: float | None
    values: Mapping[int, float]  # by seed; a seed without a finite value is not here
    items: Mapping[int, Mapping[str, Ratio]]  # by seed, then by id
    failures: Mapping[str, int]  # over all seeds

    @property
    def key(self) -> Key:
        return self.task, self.column.name

    @property
    def mean(self) -> float | None:
        return float(np.mean(list(self.values.values()))) if self.values else None

    @property
    def sd(self) -> float | None:
        """Of the sample (n - 1); None under two seeds, which say nothing about their spread."""
        return float(np.std(list(self.values.values()), ddof=1)) if len(self.values) > 1 else None

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is, 0 where neither."""
        return {"higher": 1, "lower": -1, "neither": 0}[self.column.better]

    def ids(self) -> set[str]:
        return set().union(*self.items.values())

    def text(self, value: float | None = None) -> str:
        """A value (the mean, where none is given) as people read it."""
        shown = self.mean if value is None else value
        unit = f" {self.column.unit}" if self.column.unit else ""
        return "–" if shown is None else f"{shown * self.column.scale:.{self.column.digits}f}{unit}"


def measured(rows: Iterable[Row]) -> list[Measured]:
    """What the rows of one suite say, a value for each tokenizer, task and score, in the order of the rows."""
    groups: dict[tuple[str, str, str], list[tuple[Row, Score]]] = {}
    for row in rows:
        for score in row.scores:
            groups.setdefault((row.tokenizer, row.task, score.column.name), []).append((row, score))
    return [_measured(group) for group in groups.values()]


def _measured(group: Sequence[tuple[Row, Score]]) -> Measured:
    (row, first), failures = group[0], Counter[str]()
    for _, score in group:
        failures.update(score.failures)
    chances = [score.chance for _, score in group if score.chance is not None]
    return Measured(
        tokenizer=row.tokenizer,
        task=row.task,
        axis=row.axis,
        column=first.column,
        primary=first.primary,
        chance=sum(chances) / len(chances) if chances else None,
        values={row.seed: score.value for row, score in group if score.value is not None and isfinite(score.value)},
        items={row.seed: {id: _ratio(value) for id, value in score.items.items()} for row, score in group if score.items},
        failures=failures,
    )


def _ratio(value: float | Ratio) -> Ratio:
    return value if isinstance(value, Ratio) else Ratio(float(value), 1.0)


def by_key(scores: Iterable[Measured]) -> dict[Key, list[Measured]]:
    """The scores of all tokenizers under the task and the name of the score."""
    columns: dict[Key, list[Measured]] = {}
    for one in scores:
        columns.setdefault(one.key, []).append(one)
    return columns


@dataclass(frozen=True)
class Difference:
    """Left minus right, with its 95 % interval and two-sided p. `n` items, or seeds of the one that has fewer."""

    estimate: float
    low: float
    high: float
    p: float
    n: int
    over: Literal["items", "seeds"]

    @property
    def tie(self) -> bool:
        return self.low <= 0 <= self.high


Compare = Callable[[Measured, Measured], Difference | None]


def difference(left: Measured, right: Measured, *, resamplings: int, seed: int) -> Difference | None:
    """The paired bootstrap over the items that both have; over the seeds (Welch) where they have no items in common; else None.

    Each resampling draws the items with replacement, the same for both (which is what pairs them), and the seeds of each one by
    itself, since one's training knows nothing of the other's. With one seed each it is the plain paired bootstrap. Percentile
    interval; p is twice the smaller share of resamplings on one side of 0, each share with one added to count and total. Swapping left
    and right swaps the signs and nothing else.
    """
    ids = tuple(sorted(left.ids() & right.ids()))
    if len(ids) < 2:
        return seed_difference(left, right)
    settings = {"resamplings": resamplings, "seed": seed}
    draws_R = resampled(left, ids, **settings) - resampled(right, ids, **settings)
    draws_R = draws_R[np.isfinite(draws_R)]  # without those that drew only items with nothing to divide by
    if not len(draws_R):
        return None
    low, high = np.quantile(draws_R, [0.025, 0.975])
    one_side = min(np.count_nonzero(draws_R <= 0), np.count_nonzero(draws_R >= 0))
    p = min(1.0, 2 * (1 + one_side) / (1 + len(draws_R)))
    return Difference(_whole(left, ids) - _whole(right, ids), float(low), float(high), float(p), len(ids), "items")


def remembered(compare: Compare) -> Compare:
    """The same, each pair compared once, whichever of the two is on the left."""
    known: dict[tuple[Measured, Measured], Difference | None] = {}

    def looked_up(left: Measured, right: Measured) -> Difference | None:
        if (left, right) not in known:
            found = known[left, right] = compare(left, right)
            known[right, left] = found and replace(found, estimate=-found.estimate, low=-found.high, high=-found.low)
        return known[left, right]

    return looked_up


def interval(one: Measured, *, resamplings: int, seed: int) -> tuple[float, float] | None:
    """95 % percentile interval of the mean over items and seeds drawn with replacement; None under two items."""
    ids = tuple(sorted(one.ids()))
    if len(ids) < 2:
        return None
    draws_R = resampled(one, ids, resamplings=resamplings, seed=seed)
    draws_R = draws_R[np.isfinite(draws_R)]
    low, high = np.quantile(draws_R, [0.025, 0.975]) if len(draws_R) else (np.nan, np.nan)
    return (float(low), float(high)) if isfinite(low) else None


@lru_cache(maxsize=64)
def resampled(one: Measured, ids: tuple[str, ...], *, resamplings: int, seed: int) -> np.ndarray:
    """Sum of numerators over sum of denominators of what was drawn, [R]. Items are drawn alike for every tokenizer."""
    numerators_SI, denominators_SI = _arrays(one, ids)
    items_RI = _item_counts(len(ids), resamplings, seed)
    count = len(numerators_SI)
    own = np.random.default_rng([seed, crc32(one.tokenizer.encode())])
    seeds_RS = own.multinomial(count, np.full(count, 1 / count), size=resamplings)
    with np.errstate(invalid="ignore", divide="ignore"):
        numerator_R, denominator_R = ((seeds_RS * (items_RI @ parts_SI.T)).sum(axis=1) for parts_SI in (numerators_SI, denominators_SI))
        return numerator_R / denominator_R


@lru_cache(maxsize=2)
def _item_counts(count: int, resamplings: int, seed: int) -> np.ndarray:
    """How often each item was drawn, [R, I]."""
    drawn_RI = np.random.default_rng(seed).integers(count, size=(resamplings, count))
    places_RI = drawn_RI + count * np.arange(resamplings)[:, None]
    return np.bincount(places_RI.ravel(), minlength=resamplings * count).reshape(resamplings, count).astype(np.float64)


@lru_cache(maxsize=64)
def _arrays(one: Measured, ids: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators [S, I]; an item that a seed lacks counts nothing there."""
    nothing = Ratio(0.0, 0.0)
    found = [[items.get(id, nothing) for id in ids] for items in one.items.values()]
    numerators_SI, denominators_SI = (
        np.array([[getattr(item, part) for item in row] for row in found]) for part in ("numerator", "denominator")
    )
    return numerators_SI, denominators_SI


def _whole(one: Measured, ids: tuple[str, ...]) -> float:
    numerators_SI, denominators_SI = _arrays(one, ids)
    return float(numerators_SI.sum() / denominators_SI.sum())


def seed_difference(left: Measured, right: Measured) -> Difference | None:
    """Welch's interval and test of the means over seeds; None where one has fewer than two."""
    if left.sd is None or right.sd is None or left.mean is None or right.mean is None:
        return None
    counts = [len(one.values) for one in (left, right)]
    errors = [sd**2 / count for sd, count in zip((left.sd, right.sd), counts)]
    estimate, error = left.mean - right.mean, sqrt(sum(errors))
    if error == 0:
        return Difference(estimate, estimate, estimate, float(estimate == 0), min(counts), "seeds")
    freedom = sum(errors) ** 2 / sum(part**2 / (count - 1) for part, count in zip(errors, counts))
    margin, p = stats.t.ppf(0.975, freedom) * error, 2 * stats.t.sf(abs(estimate) / error, freedom)
    return Difference(estimate, float(estimate - margin), float(estimate + margin), float(p), min(counts), "seeds")


@dataclass(frozen=True)
class SignTest:
    """Items where left is better, where right is, where neither; p is two-sided and leaves the ties out."""

    left: int
    right: int
    ties: int
    p: float


def sign_test(left: Measured, right: Measured) -> SignTest:
    """Item by item, each taken over all seeds of a tokenizer. What is better is the column's; "neither" reads as higher."""
    ids = tuple(sorted(left.ids() & right.ids()))
    if not ids:
        return SignTest(0, 0, 0, 1.0)
    sums = ([part_SI.sum(axis=0) for part_SI in _arrays(one, ids)] for one in (left, right))
    (left_I, over_left_I), (right_I, over_right_I) = sums
    kept_I = (over_left_I > 0) & (over_right_I > 0)
    apart_I = (left_I[kept_I] / over_left_I[kept_I] - right_I[kept_I] / over_right_I[kept_I]) * (left.sign or 1)
    wins, losses = int((apart_I > 0).sum()), int((apart_I < 0).sum())
    return SignTest(wins, losses, len(apart_I) - wins - losses, binomial_p(wins, losses))


def binomial_p(wins: int, losses: int) -> float:
    """Two-sided exact p of a fair coin that fell so."""
    tosses = wins + losses
    tail = sum(comb(tosses, count) for count in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**tosses)


@dataclass(frozen=True)
class Rank:
    """The places that a tokenizer shares, 1 the best."""

    first: int
    last: int

    @property
    def middle(self) -> float:
        return (self.first + self.last) / 2

    @property
    def text(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"


def ranks(column: Sequence[Measured], compare: Compare) -> dict[str, Rank]:
    """Place of each tokenizer at one score; {} where neither direction is better or fewer than two were measured.

    Two tie when the interval of their difference includes 0; where there is no interval, when their means are equal. The tokenizers are put
    in the order of their means, and the order is cut wherever no tie crosses. Those between two cuts share their places. So with a
    tied to b and b to c, all three are 1-3, though a may differ from c:

        a ~ b ~ c | d | e ~ f      1-3  1-3  1-3  4  5-6  5-6
    """
    scored = [one for one in column if one.mean is not None and one.sign]
    if len(scored) < 2:
        return {}
    scored.sort(key=lambda one: -one.sign * (one.mean or 0.0))
    tied = [[_tie(left, right, compare) for right in scored[index + 1 :]] for index, left in enumerate(scored)]
    places: dict[str, Rank] = {}
    start = 0
    for cut in range(1, len(scored) + 1):
        if not any(any(tied[index][cut - index - 1 :]) for index in range(start, cut)):
            places |= {one.tokenizer: Rank(start + 1, cut) for one in scored[start:cut]}
            start = cut
    return places


def _tie(left: Measured, right: Measured, compare: Compare) -> bool:
    found = compare(left, right)
    return left.mean == right.mean if found is None else found.tie


@dataclass(frozen=True)
class MeanRank:
    """Mean of the middles of ranks, over `n` of the `of` that are ranked."""

    mean: float
    n: int
    of: int


IN_ALL = "all"


def mean_ranks(places: Mapping[Key, Mapping[str, Rank]], axes: Mapping[Key, str]) -> dict[str, dict[str, MeanRank]]:
    """By tokenizer and axis, and `IN_ALL`: the mean of a tokenizer's axes, so that an axis of many scores has no more say than another.

    A score that a tokenizer lacks is left out of its mean, never counted as a last place: `n` says how many there are.
    """
    tokenizers = dict.fromkeys(name for column in places.values() for name in column)
    counts = Counter(axes[key] for key, column in places.items() if column)
    means: dict[str, dict[str, MeanRank]] = {}
    for name in tokenizers:
        own = {axis: [column[name].middle for key, column in places.items() if axes[key] == axis and name in column] for axis in counts}
        found = {axis: MeanRank(sum(ranks) / len(ranks), len(ranks), counts[axis]) for axis, ranks in own.items() if ranks}
        in_all = sum(rank.mean for rank in found.values()) / len(found)
        means[name] = found | {IN_ALL: MeanRank(in_all, sum(rank.n for rank in found.values()), counts.total())}
    return means


def overall(means: Mapping[str, Mapping[str, MeanRank]]) -> dict[str, Rank]:
    """Places by the mean rank in all; equal ones share theirs."""
    order = sorted((round(found[IN_ALL].mean, 9), name) for name, found in means.items())
    places: dict[str, Rank] = {}
    for _, group in groupby(order, key=lambda pair: pair[0]):
        names = [name for _, name in group]
        places |= dict.fromkeys(names, Rank(len(places) + 1, len(places) + len(names)))
    return places


def not_converged(one: Measured) -> str | None:
    """Why a downstream score tells of no learning: it is not better than chance by more than two standard deviations; else None.

    The deviation is the larger of that over seeds and the binomial one of a seed's items (of their denominators: words, of a word error
    rate), at chance or at the score, whichever is larger: at a chance of 0 or 1 it would be 0.
    """
    if one.axis != "downstream" or one.chance is None or one.mean is None or not one.sign:
        return None
    sd = max(one.sd or 0.0, *(_binomial_sd(share, _trials(one)) for share in (one.chance, one.mean)))
    if one.sign * (one.mean - one.chance) > 2 * sd:
        return None
    return f"{one.text()} is not better than chance ({one.text(one.chance)}) by more than two standard deviations ({one.text(sd)})"


def _trials(one: Measured) -> float:
    """Mean over the seeds."""
    return sum(item.denominator for items in one.items.values() for item in items.values()) / max(len(one.items), 1)


def _binomial_sd(share: float, trials: float) -> float:
    return sqrt(share * (1 - share) / trials) if 0 <= share <= 1 and trials > 0 else 0.0
