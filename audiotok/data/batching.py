"""Which items make up which batch: similar lengths together, so that little is padding, and every batch a pure function of (seed, step)."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count

import numpy as np

from audiotok import distributed

NOISE = 0.1  # a length is off by up to this share when items are sorted, so that batches differ from epoch to epoch
AT_ONCE = 2**14


@dataclass(frozen=True)
class Share:
    """Which of the `accumulate` batches of a step are one rank's: every `world_size`-th, from its rank on.

    So a step is made of the same batches on any number of ranks. Raises ValueError where they cannot be shared out evenly.
    """

    rank: int
    world_size: int
    accumulate: int

    def __post_init__(self) -> None:
        if self.accumulate < 1 or self.accumulate % self.world_size:
            raise ValueError(
                f"train.accumulate={self.accumulate} batches of a step cannot be dealt to {self.world_size} processes; set a multiple of "
                f"{self.world_size}"
            )

    @classmethod
    def here(cls, accumulate: int) -> "Share":
        """Of this process."""
        return cls(distributed.rank(), distributed.world_size(), accumulate)

    @property
    def num(self) -> int:
        """Batches of a step."""
        return self.accumulate // self.world_size

    @property
    def numbers(self) -> range:
        """Of the batches of a step, from 0."""
        return range(self.rank, self.accumulate, self.world_size)

    def places(self, step: int) -> Iterator[tuple[int, int]]:
        """(step, number) of each batch from step `step` (counted from 0) on, without end."""
        return ((later, number) for later in count(step) for number in self.numbers)


ALONE = Share(0, 1, 1)


@dataclass(frozen=True, eq=False)
class Plan(Sequence[list[int]]):
    """The batches of one epoch, each a list made when asked for: items in an order, where each batch begins and ends in it, and the order
    of the batches. Memory: four bytes an item and eight or twelve a batch."""

    items_N: np.ndarray
    bounds_B: np.ndarray  # one more than batches
    shuffled_B: np.ndarray

    @classmethod
    def joined(cls, plans: Sequence[tuple[np.ndarray, "Plan"]]) -> "Plan":
        """Plans of parts of the items, (the part, its plan), one after the other."""
        starts = np.cumsum([0, *(len(items_N) for items_N, _ in plans)])
        firsts = np.cumsum([0, *(len(plan) for _, plan in plans)])
        return cls(
            np.concatenate([items_N[plan.items_N] for items_N, plan in plans]).astype(np.uint32),
            np.concatenate([*(start + plan.bounds_B[:-1] for start, (_, plan) in zip(starts, plans)), starts[-1:]]),
            np.concatenate([first + plan.shuffled_B for first, (_, plan) in zip(firsts, plans)]),
        )

    def __len__(self) -> int:
        return len(self.shuffled_B)

    def __getitem__(self, index: int) -> list[int]:  # type: ignore[override]
        batch = self.shuffled_B[index]
        return self.items_N[self.bounds_B[batch] : self.bounds_B[batch + 1]].tolist()


@dataclass(frozen=True, eq=False)
class BucketedBatches:
    """Batches of item indices, epoch after epoch, each item once an epoch.

    `lengths` are the items' frames; a batch's longest length times its size is at most `batch_frames`. An epoch's plan is drawn from
    (seed, epoch): items are sorted by length with some noise, cut into batches, and the batches shuffled. With a `window` an epoch goes
    through the `shards` (each item's) in an order drawn anew, so many of them at a time, and batches are made within those: what they are
    read from need never be there as a whole. Raises ValueError where there is no item, or one that does not fit in a batch alone.
    """

    lengths: Sequence[int] | np.ndarray
    batch_frames: int
    seed: int
    shards: Sequence[int] | np.ndarray = ()
    window: int | None = None

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"train.window is a number of shards, at least 1, or null for all of them; got {self.window}")
        if not len(self.lengths):
            raise ValueError("there is nothing to make batches of; is the training split empty?")
        item = int(np.argmax(self.lengths))
        if self.lengths[item] > self.batch_frames:
            raise ValueError(f"item {item} has {self.lengths[item]} frames, a batch at most {self.batch_frames}; raise train.batch_frames")

    def from_step(self, step: int, *, share: Share = ALONE) -> Iterator[list[int]]:
        """A rank's batches from step `step` (counted from 0) on, without end.

        Epochs differ in their number of batches, so a late start plans the epochs before it: a tenth of a second each for 100,000 items.
        """
        world_size = share.world_size
        wanted, epoch = step * share.accumulate + share.rank, 0
        while True:
            plan = self.epoch(epoch)
            yield from (plan[index] for index in range(wanted, len(plan), world_size))
            wanted = wanted - len(plan) if wanted >= len(plan) else (wanted - len(plan)) % world_size
            epoch += 1

    def epoch(self, epoch: int) -> Plan:
        """The plan of one epoch: every item once."""
        random = np.random.default_rng((self.seed, epoch))
        if self.window is None:
            return self._plan(np.asarray(self.lengths), random)
        lengths_N = np.asarray(self.lengths)
        windows = _windows(np.asarray(self.shards), self.window, random)
        return Plan.joined([(items_N, self._plan(lengths_N[items_N], random)) for items_N in windows])

    def _plan(self, lengths_N: np.ndarray, random: np.random.Generator) -> Plan:
        noisy_N = random.uniform(1 - NOISE, 1 + NOISE, len(lengths_N))
        noisy_N *= lengths_N
        items_N = np.argsort(noisy_N, kind="stable").astype(np.uint32)
        bounds_B = np.array(self._bounds(lengths_N, items_N))
        return Plan(items_N, bounds_B, random.permutation(len(bounds_B) - 1))

    def _bounds(self, lengths_N: np.ndarray, items_N: np.ndarray) -> array:
        """Where each batch begins, and where the last one ends: a batch takes items as long as it may."""
        bounds = array("q", [0])
        longest, size = 0, 0
        for length in _in_order(lengths_N, items_N):
            longest, size = max(longest, length), size + 1
            if longest * size > self.batch_frames:
                bounds.append(bounds[-1] + size - 1)
                longest, size = length, 1
        bounds.append(len(items_N))
        return bounds


def _windows(shards_N: np.ndarray, window: int, random: np.random.Generator) -> list[np.ndarray]:
    """The items, in ascending order, of so many shards at a time, the shards in an order that is drawn. Two sorts, however many windows."""
    shards_S, shard_N = np.unique(shards_N, return_inverse=True)
    window_S = np.empty(len(shards_S), np.int64)
    window_S[np.searchsorted(shards_S, random.permutation(shards_S))] = np.arange(len(shards_S)) // window
    window_N = window_S[shard_N]
    items_N = np.argsort(window_N, kind="stable")
    return np.split(items_N, np.searchsorted(window_N[items_N], np.arange(1, window_S.max() + 1)))


def _in_order(lengths_N: np.ndarray, items_N: np.ndarray) -> Iterator[int]:
    """The lengths of the items, as Python's integers some thousand at a time."""
    return chain.from_iterable(lengths_N[items_N[start : start + AT_ONCE]].tolist() for start in range(0, len(items_N), AT_ONCE))
