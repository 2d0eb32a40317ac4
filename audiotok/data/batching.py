"""Which items make up which batch: similar lengths together, so that little is padding, and every batch a pure function of (seed, step)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from audiotok import distributed

NOISE = 0.1  # a length is off by up to this share when items are sorted, so that batches differ from epoch to epoch


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


@dataclass(frozen=True)
class BucketedBatches:
    """Batches of item indices, epoch after epoch, each item once an epoch.

    `lengths` are the items' frames; a batch's longest length times its size is at most `batch_frames`. An epoch's plan is drawn from
    (seed, epoch): items are sorted by length with some noise, cut into batches, and the batches shuffled. Raises ValueError where there
    is no item, or one that does not fit in a batch alone.
    """

    lengths: Sequence[int]
    batch_frames: int
    seed: int

    def __post_init__(self) -> None:
        if not len(self.lengths):
            raise ValueError("there is nothing to make batches of; is the training split empty?")
        longest = max(self.lengths)
        if longest > self.batch_frames:
            item = list(self.lengths).index(longest)
            raise ValueError(f"item {item} has {longest} frames, a batch at most {self.batch_frames}; raise train.batch_frames")

    def from_step(self, step: int, *, share: Share = ALONE) -> Iterator[list[int]]:
        """A rank's batches from step `step` (counted from 0) on, without end.

        Epochs differ in their number of batches, so a late start plans the epochs before it: a tenth of a second each for 100,000 items.
        """
        world_size = share.world_size
        wanted, epoch = step * share.accumulate + share.rank, 0
        while True:
            plan = self.epoch(epoch)
            yield from plan[wanted::world_size]
            wanted = wanted - len(plan) if wanted >= len(plan) else (wanted - len(plan)) % world_size
            epoch += 1

    def epoch(self, epoch: int) -> list[list[int]]:
        """The plan of one epoch: every item once."""
        random = np.random.default_rng((self.seed, epoch))
        noisy = np.asarray(self.lengths) * random.uniform(1 - NOISE, 1 + NOISE, len(self.lengths))
        batches = self._cut(np.argsort(noisy, kind="stable").tolist())
        return [batches[index] for index in random.permutation(len(batches))]

    def _cut(self, order: list[int]) -> list[list[int]]:
        batches: list[list[int]] = []
        longest = self.batch_frames + 1  # so that the first item opens a batch
        for index in order:
            longest = max(longest, self.lengths[index])
            if not batches or longest * (len(batches[-1]) + 1) > self.batch_frames:
                batches.append([])
                longest = self.lengths[index]
            batches[-1].append(index)
        return batches
