"""Batches of some shards at a time: each item once an epoch, in an order that seed, step and rank alone decide."""

from itertools import chain, islice

import numpy as np
import pytest

from audiotok.data.batching import BucketedBatches, Share

LENGTHS = np.random.default_rng(0).integers(5, 40, 90)
SHARDS = np.repeat(np.arange(9), 10)


def windowed(window: int | None, *, seed: int = 7) -> BucketedBatches:
    return BucketedBatches(LENGTHS, 100, seed, shards=SHARDS, window=window)


@pytest.mark.parametrize("window", [1, 2, 4, 9, 20])
def test_an_epoch_goes_through_every_item_once_and_never_back_to_a_window_that_it_left(window: int) -> None:
    for epoch in range(3):
        batches = list(windowed(window).epoch(epoch))
        assert sorted(chain(*batches)) == list(range(90))
        assert all(max(LENGTHS[batch]) * len(batch) <= 100 for batch in batches)
        shards = [set(SHARDS[batch]) for batch in batches]
        windows = [set(chain(*shards))] if window >= 9 else _windows(shards, window)
        assert sorted(chain(*windows)) == list(range(9)) and all(len(one) <= window for one in windows)


def _windows(shards: list[set[int]], window: int) -> list[set[int]]:
    """The shards of neighbouring batches, a new window where more than so many would be open: the slow way round."""
    windows: list[set[int]] = [set()]
    for some in shards:
        if len(windows[-1] | some) > window:
            windows.append(set())
        windows[-1] |= some
    return windows


def test_epochs_differ_and_are_the_same_again_by_their_seed() -> None:
    plans = [[list(batch) for batch in windowed(2, seed=seed).epoch(epoch)] for seed, epoch in ((7, 0), (7, 1), (8, 0), (7, 0))]
    assert plans[0] == plans[3] and plans[0] != plans[1] and plans[0] != plans[2]


def test_a_step_is_the_same_batches_on_any_number_of_ranks_and_wherever_it_is_begun() -> None:
    alone = list(islice(windowed(2).from_step(0, share=Share(0, 1, 4)), 400))
    for world_size in (2, 4):
        for step in (0, 13, 50):
            ranks = [windowed(2).from_step(step, share=Share(rank, world_size, 4)) for rank in range(world_size)]
            dealt = [next(batches) for _ in range(4 // world_size) for batches in ranks]
            assert dealt == alone[4 * step : 4 * step + 4]


def test_without_a_window_shards_do_not_matter() -> None:
    plain = BucketedBatches(LENGTHS, 100, 7)
    assert [list(batch) for batch in windowed(None).epoch(0)] == [list(batch) for batch in plain.epoch(0)]


def test_a_window_holds_a_shard_at_least() -> None:
    with pytest.raises(ValueError, match=r"train\.window is a number of shards, at least 1, or null"):
        windowed(0)
