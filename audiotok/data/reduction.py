"""A split's codes under a transform, shard by shard: the rows and their order stay, the codes become the transform's."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from audiotok.data.tokenization import same_rounding
from audiotok.data.workers import Pool
from audiotok.store.reader import TokenStore
from audiotok.store.schema import Utterance
from audiotok.store.writer import TokenWriter
from audiotok.transforms.base import Transform


class Corpus:
    """The codes of a store, codes_KN int64, in stored order, as often as they are gone through; one row group in memory."""

    def __init__(self, store: TokenStore) -> None:
        self.store = store

    def __iter__(self) -> Iterator[Tensor]:
        for utterance in self.store:
            yield utterance.codes_KN.long()


def reduce_split(
    store: TokenStore,
    transform: Transform,
    folder: Path,
    *,
    workers: Pool | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Fill `folder` with a shard for each of the store's. Shards that are there already are kept.

    `workers` (of `reducer`) take over as soon as they are ready; the bytes are the same. Memory holds one shard's codes, with workers one
    for each. Raises ValueError where a worker ends.
    """
    writer = TokenWriter(folder, transform.out_spec(store.spec))
    missing = [index for index in range(len(store.shards)) if index not in writer.present]
    progress(sum(shard.num_rows for index, shard in enumerate(store.shards) if index in writer.present))
    with same_rounding(torch.device("cpu")):
        for index, rows in zip(missing, _reduced(store, transform, missing, workers=workers)):
            writer.write(index, rows, failed=store.shards[index].failed)
            progress(store.shards[index].num_rows)


Task = tuple[Path, int]  # the folder of a split, a shard's index


def reducer(make: Callable[[], Transform]) -> Callable[[Task], list[Utterance]]:
    """What a worker does: read a shard and transform it with what it made."""
    transform, store = make(), cache(TokenStore)
    return lambda task: _transformed(store(task[0]), transform, task[1])


def _reduced(store: TokenStore, transform: Transform, shards: Iterable[int], *, workers: Pool | None) -> Iterator[list[Utterance]]:
    """In order: by this process until the workers are ready, then by them."""
    coming = iter(shards)
    while workers is None or not workers.ready():
        if (index := next(coming, None)) is None:
            return
        yield _transformed(store, transform, index)
    yield from workers.map((store.folder, index) for index in coming)


def _transformed(store: TokenStore, transform: Transform, shard: int) -> list[Utterance]:
    def codes(utterance: Utterance) -> Tensor:
        return transform.apply(utterance.codes_KN.long(), store.spec).to(torch.int32)  # half the memory until the shard is written

    return [replace(utterance, codes_KN=codes(utterance)) for utterance in store.of_shard(shard)]
