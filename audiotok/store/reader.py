"""Reads a split's shards: by id, or in the order they were written, all codebooks or some."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from audiotok.store.index import Index
from audiotok.store.schema import ABOUT, Description, Utterance, code_columns, selected, shard_paths, to_utterances
from audiotok.store.shards import Shard, opened, read_columns, read_footer, read_ids

CACHED_GROUPS = 16


class TokenStore:
    """A split's codes. `spec` is that of the codebooks it reads; `len` counts utterances; iteration is in stored order.

    Raises ValueError where a shard is damaged, missing, of another tokenizer than the first, or repeats an id. Memory: twelve bytes for
    each id once the first is asked for, and a few row groups, never a shard. Safe to pickle and to use from several processes.

    A shard that lies in an object store is fetched when its codes are first read. With a `window` no file is: row groups are read where
    they lie, and as many are kept as that number of shards has, for somebody who goes through the store so many shards at a time.
    """

    def __init__(self, folder: Path, *, codebooks: Sequence[int] | None = None, window: int | None = None) -> None:
        self.folder, self.window = Path(folder), window
        self.shards = _consistent(self.folder)
        stored = self.shards[0].spec
        self.codebooks = tuple(range(stored.num_codebooks) if codebooks is None else codebooks)
        self.spec = selected(stored, self.codebooks)
        self._starts = [0, *accumulate(shard.num_rows for shard in self.shards)]
        self._groups: dict[tuple[int, int], pa.Table] = {}

    def __reduce__(self) -> tuple:
        return _open, (self.folder, self.codebooks, self.window)

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[Utterance]:
        """Every utterance in stored order, one row group in memory at a time."""
        for shard in range(len(self.shards)):
            yield from self.of_shard(shard)

    def of_shard(self, index: int) -> Iterator[Utterance]:
        """The utterances of one shard in stored order, one row group in memory at a time."""
        with opened(self.shards[index].path, whole=self.window is None) as file:
            for group in range(file.num_row_groups):
                yield from to_utterances(file.read_row_group(group, columns=self._columns))

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and self._place_of(id) is not None

    def __getitem__(self, id: str) -> Utterance:
        """The utterance of that id. Raises KeyError where there is none."""
        place = self._place_of(id)
        if place is None:
            raise KeyError(id)
        return self.at(place)

    def at(self, place: int) -> Utterance:
        """The utterance at that place in the stored order, from 0."""
        return next(to_utterances(self._row(place)))

    @property
    def ids(self) -> list[str]:
        """Every id in stored order."""
        return [id for part in self._ids() for id in part]

    @property
    def failed(self) -> dict[str, str]:
        """The utterances that have no row because they could not be tokenised, each with the reason."""
        return {id: reason for shard in self.shards for id, reason in shard.failed.items()}

    def about(self) -> pa.Table:
        """Every column but the codes, in stored order: id, num_frames, num_samples, text, speaker, language, duration."""
        return pa.concat_tables([read_columns(shard.path, list(ABOUT)) for shard in self.shards]).replace_schema_metadata(None)

    def described(self) -> Iterator[dict[str, Any]]:
        """The rows of `about`, those of one shard in memory at a time."""
        for shard in self.shards:
            yield from read_columns(shard.path, list(ABOUT)).to_pylist()

    def descriptions(self) -> list[Description]:
        """The rows of `about`."""
        return [Description(**row) for row in self.about().to_pylist()]

    @cached_property
    def _cached(self) -> int:
        """Row groups kept in memory."""
        groups = max(-(-shard.num_rows // max(shard.group_rows, 1)) for shard in self.shards)
        return CACHED_GROUPS if self.window is None else max(CACHED_GROUPS, self.window * groups)

    @property
    def _columns(self) -> list[str]:
        return [*ABOUT, *code_columns(self.codebooks)]

    @cached_property
    def _index(self) -> Index:
        index = Index(self._ids())
        for place in index.again():
            id = self._id(place)
            if any(self._id(earlier) == id for earlier in index.candidates(id) if earlier < place):
                path = self.shards[self.shard_of(place)].path
                raise ValueError(f"{path}: the id {id!r} is in an earlier shard too; delete the folder and tokenize again")
        return index

    def _ids(self) -> Iterator[list[str]]:
        return (read_ids(shard.path) for shard in self.shards)

    def _place_of(self, id: str) -> int | None:
        return next((place for place in self._index.candidates(id) if self._id(place) == id), None)

    def _id(self, place: int) -> str:
        return self._row(place)["id"][0].as_py()

    def _row(self, place: int) -> pa.Table:
        shard = self.shard_of(place)
        group, row = divmod(place - self._starts[shard], self.shards[shard].group_rows)
        return self._group(shard, group).slice(row, 1)

    def shard_of(self, place: int) -> int:
        """The shard that holds that place in the stored order."""
        return bisect_right(self._starts, place) - 1

    def _group(self, shard: int, group: int) -> pa.Table:
        if (shard, group) not in self._groups:
            if len(self._groups) >= self._cached:
                del self._groups[next(iter(self._groups))]
            with opened(self.shards[shard].path, whole=self.window is None) as file:
                self._groups[shard, group] = file.read_row_group(group, columns=self._columns)
        return self._groups[shard, group]


def _open(folder: Path, codebooks: tuple[int, ...], window: int | None) -> TokenStore:
    return TokenStore(folder, codebooks=codebooks, window=window)


def _consistent(folder: Path) -> list[Shard]:
    paths = shard_paths(folder)
    if not paths:
        raise ValueError(f"{folder} holds no shards; run `audiotok tokenize` with the same recipe and settings first")
    if list(paths) != list(range(len(paths))):
        missing = sorted(set(range(max(paths))) - paths.keys())
        raise ValueError(f"{folder} lacks shards {missing}; `audiotok verify FOLDER --repair`, and its stage makes them again")
    shards = [read_footer(path) for path in paths.values()]
    for shard in shards:
        if shard.spec != shards[0].spec:
            raise ValueError(
                f"{shard.path} holds codes of another tokenizer than {shards[0].path}: {shard.spec} there, {shards[0].spec} here"
            )
    return shards
