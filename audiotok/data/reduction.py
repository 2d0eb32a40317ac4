"""A split's codes under a transform, shard by shard: the rows and their order stay, the codes become the transform's."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

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


def reduce_split(store: TokenStore, transform: Transform, folder: Path, *, progress: Callable[[int], None] = lambda done: None) -> None:
    """Fill `folder` with a shard for each of the store's. Shards that are there already are kept; memory holds one shard's codes."""
    writer = TokenWriter(folder, transform.out_spec(store.spec))
    for index, shard in enumerate(store.shards):
        if index not in writer.present:
            rows = [_transformed(utterance, transform, store) for utterance in store.of_shard(index)]
            writer.write(index, rows, failed=shard.failed)
        progress(shard.num_rows)


def _transformed(utterance: Utterance, transform: Transform, store: TokenStore) -> Utterance:
    return replace(utterance, codes_KN=transform.apply(utterance.codes_KN.long(), store.spec))
