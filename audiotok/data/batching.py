"""Which items make up which batch: similar lengths together, so that little is padding, and every batch a pure function of (seed, step)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

NOISE = 0.1  # a length is off by up to this share when items are sorted, so that batches differ from epoch to epoch


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

    def from_step(self, step: int, *, rank: int = 0, world_size: int = 1) -> Iterator[list[int]]:
        """The batches from step `step` (counted from 0) on, without end. Each step's `world_size` batches go to one rank each.

        Epochs differ in their number of batches, so a late start plans the epochs before it: a tenth of a second each for 100,000 items.
        """
        wanted, epoch = step * world_size + rank, 0
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
