"""Writes a split's shards, each whole or absent, so that an interrupted run goes on behind its last whole shard."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from audiotok.store.index import Seen, hashes_of
from audiotok.store.schema import Utterance, shard_path, shard_paths
from audiotok.store.shards import Shard, read_footer, read_ids, write_shard
from audiotok.types import TokenSpec


class TokenWriter:
    """A split's folder, open for writing.

    `present` are the shards that are already there. Memory: eight bytes for each id of the split, and one shard. Raises ValueError where
    the folder holds another spec's codes, naming both: two tokenizers never share a store.
    """

    def __init__(self, folder: Path, spec: TokenSpec) -> None:
        self.folder, self.spec = Path(folder), spec
        self.folder.mkdir(parents=True, exist_ok=True)
        for left_behind in self.folder.glob(".shard-*.partial*"):
            left_behind.unlink()
        self.present: dict[int, Shard] = {index: self._checked(path) for index, path in shard_paths(self.folder).items()}
        self._seen = Seen()
        for index, shard in self.present.items():
            ids = self.ids(index)
            self._refuse_repeated(ids, shard.path)
            self._seen.add(hashes_of(ids))

    def write(self, index: int, utterances: Sequence[Utterance], *, failed: Mapping[str, str] | None = None) -> None:
        """Shard `index`, whole. `failed` names utterances that belong here and could not be tokenised, with reasons: they have no row.

        Raises ValueError for an id that the split has already, and for codes that do not fit the spec.
        """
        path = shard_path(self.folder, index)
        if index in self.present:
            raise ValueError(f"{path} is already there; a shard is written once")
        ids = [utterance.id for utterance in utterances]
        self._refuse_repeated(ids, path)
        self.present[index] = write_shard(path, utterances, spec=self.spec, failed=failed or {})
        self._seen.add(hashes_of(ids))

    def ids(self, index: int) -> list[str]:
        """The ids of a shard that is present, in its order."""
        return read_ids(self.present[index].path)

    def _checked(self, path: Path) -> Shard:
        shard = read_footer(path)
        if shard.spec != self.spec:
            raise ValueError(
                f"{path} holds codes of another tokenizer: {shard.spec} there, {self.spec} now; write to another folder, or delete this one"
            )
        return shard

    def _refuse_repeated(self, ids: Sequence[str], path: Path) -> None:
        suspects = {id for id, met in zip(ids, self._seen.met(hashes_of(ids))) if met}
        taken = self._among_others(suspects, path) if suspects else set()
        for id in ids:
            if id in taken:
                raise ValueError(f"{path}: the id {id!r} is in this split already; ids are unique within a split")
            taken.add(id)

    def _among_others(self, suspects: set[str], path: Path) -> set[str]:
        """Those that stand in another shard. Reads the ids of all: only where a hash was met before, which hardly ever is by chance."""
        return {id for shard in self.present.values() if shard.path != path for id in suspects.intersection(read_ids(shard.path))}
