"""Reads a split's shards: by id, or in the order they were written, all codebooks or some."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import pyarrow as pa

from audiotok.store.schema import ABOUT, Description, Utterance, code_columns, selected, shard_paths, to_utterances
from audiotok.store.shards import Shard, opened, read_columns, read_footer, read_ids

CACHED_GROUPS = 16


class TokenStore:
    """A split's codes. `spec` is that of the codebooks it reads; `len` counts utterances; iteration is in stored order.

    Raises ValueError where a shard is damaged, missing, of another tokenizer than the first, or repeats an id. Memory: the descriptive
    columns of the ids asked for and a few row groups, never a shard. Safe to pickle and to use from several processes.
    """

    def __init__(self, folder: Path, *, codebooks: Sequence[int] | None = None) -> None:
        self.folder = Path(folder)
        self.shards = _consistent(self.folder)
        stored = self.shards[0].spec
        self.codebooks = tuple(range(stored.num_codebooks) if codebooks is None else codebooks)
        self.spec = selected(stored, self.codebooks)
        self._starts = [0, *accumulate(shard.num_rows for shard in self.shards)]
        self._groups: dict[tuple[int, int], pa.Table] = {}

    def __reduce__(self) -> tuple:
        return _open, (self.folder, self.codebooks)

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[Utterance]:
        """Every utterance in stored order, one row group in memory at a time."""
        for shard in range(len(self.shards)):
            yield from self.of_shard(shard)

    def of_shard(self, index: int) -> Iterator[Utterance]:
        """The utterances of one shard in stored order, one row group in memory at a time."""
        with opened(self.shards[index].path) as file:
            for group in range(file.num_row_groups):
                yield from to_utterances(file.read_row_group(group, columns=self._columns))

    def __contains__(self, id: object) -> bool:
        return id in self._row_of

    def __getitem__(self, id: str) -> Utterance:
        """The utterance of that id. Raises KeyError where there is none."""
        row = self._row_of[id]
        shard = bisect_right(self._starts, row) - 1
        group, place = divmod(row - self._starts[shard], self.shards[shard].group_rows)
        return next(to_utterances(self._group(shard, group).slice(place, 1)))

    @property
    def ids(self) -> list[str]:
        """Every id in stored order."""
        return list(self._row_of)

    @property
    def failed(self) -> dict[str, str]:
        """The utterances that have no row because they could not be tokenised, each with the reason."""
        return {id: reason for shard in self.shards for id, reason in shard.failed.items()}

    def about(self) -> pa.Table:
        """Every column but the codes, in stored order: id, num_frames, num_samples, text, speaker, language, duration."""
        return pa.concat_tables([read_columns(shard.path, list(ABOUT)) for shard in self.shards]).replace_schema_metadata(None)

    def descriptions(self) -> list[Description]:
        """The rows of `about`."""
        return [Description(**row) for row in self.about().to_pylist()]

    @property
    def _columns(self) -> list[str]:
        return [*ABOUT, *code_columns(self.codebooks)]

    @cached_property
    def _row_of(self) -> dict[str, int]:
        rows: dict[str, int] = {}
        for shard in self.shards:
            for id in read_ids(shard.path):
                if id in rows:
                    raise ValueError(f"{shard.path}: the id {id!r} is in an earlier shard too; delete the folder and tokenize again")
                rows[id] = len(rows)
        return rows

    def _group(self, shard: int, group: int) -> pa.Table:
        if (shard, group) not in self._groups:
            if len(self._groups) >= CACHED_GROUPS:
                del self._groups[next(iter(self._groups))]
            with opened(self.shards[shard].path) as file:
                self._groups[shard, group] = file.read_row_group(group, columns=self._columns)
        return self._groups[shard, group]


def _open(folder: Path, codebooks: tuple[int, ...]) -> TokenStore:
    return TokenStore(folder, codebooks=codebooks)


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
