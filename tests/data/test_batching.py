"""Batches hold similar lengths, each item once an epoch, and depend on (seed, step) alone."""

from itertools import islice

import numpy as np
import pytest

from audiotok.data import batching
from audiotok.data.batching import NOISE, BucketedBatches, Share

LENGTHS = np.random.default_rng(0).integers(20, 400, 500).tolist()


def plan(seed: int = 1) -> BucketedBatches:
    return BucketedBatches(LENGTHS, batch_frames=2400, seed=seed)


def test_every_item_comes_once_an_epoch_and_every_batch_fits() -> None:
    for epoch in range(3):
        batches = plan().epoch(epoch)
        assert sorted(index for batch in batches for index in batch) == list(range(500))
        assert all(max(LENGTHS[index] for index in batch) * len(batch) <= 2400 for batch in batches)


def test_little_of_a_batch_is_padding() -> None:
    padded = sum(max(LENGTHS[index] for index in batch) * len(batch) for batch in plan().epoch(0))
    assert sum(LENGTHS) / padded > 0.85
    assert len(plan().epoch(0)) < 1.35 * sum(LENGTHS) / 2400


def test_the_batches_from_a_late_step_are_those_of_the_whole_stream() -> None:
    stream = list(islice(plan().from_step(0), 300))
    assert len(stream) > 3 * len(plan().epoch(0))
    for step in (1, 70, 199, 299):
        assert next(plan().from_step(step)) == stream[step]
        assert list(islice(plan().from_step(step), 300 - step)) == stream[step:]


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_share_the_stream_out_between_them(world_size: int) -> None:
    stream = list(islice(plan().from_step(0), 50 * world_size))
    shares = [Share(rank, world_size, world_size) for rank in range(world_size)]
    ranks = [list(islice(plan().from_step(0, share=share), 50)) for share in shares]
    assert [batch for step in zip(*ranks) for batch in step] == stream
    assert list(islice(plan().from_step(31, share=shares[1]), 19)) == ranks[1][31:]


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_a_step_is_made_of_the_same_batches_on_any_number_of_ranks(world_size: int) -> None:
    stream = list(islice(plan().from_step(0), 60))
    for step in (0, 7):
        dealt: dict[int, list[int]] = {}
        for rank in range(world_size):
            share = Share(rank, world_size, 6)
            places = list(islice(share.places(step), share.num))
            assert [later for later, _ in places] == [step] * share.num and [number for _, number in places] == list(share.numbers)
            dealt |= dict(zip(share.numbers, plan().from_step(step, share=share)))
        assert [dealt[number] for number in range(6)] == stream[6 * step : 6 * step + 6]


def planned_one_by_one(lengths: list[int], batch_frames: int, *, seed: int, epoch: int) -> list[list[int]]:
    """What an epoch is by its definition, in lists."""
    random = np.random.default_rng((seed, epoch))
    noisy = np.asarray(lengths) * random.uniform(1 - NOISE, 1 + NOISE, len(lengths))
    batches: list[list[int]] = []
    for item in sorted(range(len(lengths)), key=lambda item: noisy[item]):
        if not batches or max(lengths[other] for other in [*batches[-1], item]) * (len(batches[-1]) + 1) > batch_frames:
            batches.append([])
        batches[-1].append(item)
    return [batches[index] for index in random.permutation(len(batches))]


@pytest.mark.parametrize("dtype", [list, np.int32, np.int64])
@pytest.mark.parametrize("batch_frames", [400, 2400, 10**6])
def test_an_epoch_from_arrays_is_the_one_from_lists(dtype, batch_frames: int) -> None:
    lengths = LENGTHS if dtype is list else np.array(LENGTHS, dtype)
    for epoch in range(3):
        found = list(BucketedBatches(lengths, batch_frames, seed=5).epoch(epoch))
        assert found == planned_one_by_one(LENGTHS, batch_frames, seed=5, epoch=epoch)
    assert all(type(item) is int for batch in found for item in batch)


def test_lengths_beyond_the_piece_that_is_looked_at_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(plan().epoch(1))
    monkeypatch.setattr(batching, "AT_ONCE", 7)
    assert list(plan().epoch(1)) == whole


def test_epochs_and_seeds_differ_in_order_and_in_company() -> None:
    first, second, other = (set(map(frozenset, batches)) for batches in (plan().epoch(0), plan().epoch(1), plan(seed=2).epoch(0)))
    assert len(first & second) < len(first) / 2 and len(first & other) < len(first) / 2
    means = [np.mean([LENGTHS[index] for index in batch]) for batch in plan().epoch(0)]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.5, "short batches should not all come first"


def test_an_item_that_fits_no_batch_and_an_empty_split_are_refused() -> None:
    with pytest.raises(ValueError, match=r"item 1 has 31 frames, a batch at most 30; raise train\.batch_frames"):
        BucketedBatches([30, 31], batch_frames=30, seed=0)
    with pytest.raises(ValueError, match="training split empty"):
        BucketedBatches([], batch_frames=30, seed=0)
    assert list(BucketedBatches([30], batch_frames=30, seed=0).epoch(0)) == [[0]]


@pytest.mark.parametrize("window", [1, 3, 100])
def test_windows_are_the_drawn_shards_one_by_one(window: int) -> None:
    shards = np.random.default_rng(2).integers(0, 40, len(LENGTHS))
    random = np.random.default_rng((9, 1))
    order = random.permutation(np.unique(shards))
    epoch = iter(BucketedBatches(LENGTHS, 2400, 9, shards=shards, window=window).epoch(1))
    for start in range(0, len(order), window):
        wanted, met = {item for item in range(len(LENGTHS)) if shards[item] in order[start : start + window]}, set[int]()
        while met != wanted:
            met |= set(next(epoch))
            assert met <= wanted
    assert next(epoch, None) is None
