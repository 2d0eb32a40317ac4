"""The rows of a JSONL file by their id, parsed when they are asked for, so that memory does not hold what they say."""

from array import array
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from audiotok import files
from audiotok.store.index import Index

AT_ONCE = 2**12  # lines


class Rows(Mapping[str, dict]):
    """As `{row["id"]: row for row in files.read_jsonl(path)}`, in twenty bytes a row. The file must not change.

    Raises ValueError for a file that is damaged, and for a row without an id.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._starts = array("q", [0])
        self._index = Index(self._ids())

    def __len__(self) -> int:
        return len(self._index) - len(self._index.again())

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(row["id"] for row in files.read_jsonl(self.path)))

    def __getitem__(self, id: str) -> dict:
        """The last row of that id. Raises KeyError where there is none."""
        for place in reversed(self._index.candidates(id)):
            row = self._at(place)
            if row["id"] == id:
                return row
        raise KeyError(id)

    def _ids(self) -> Iterator[list[str]]:
        files.refuse_damaged(self.path)
        with open(self.path, "rb") as file:
            while lines := list(islice(file, AT_ONCE)):
                first = len(self._starts)
                for line in lines:
                    self._starts.append(self._starts[-1] + len(line))
                yield [self._id(line, number) for number, line in enumerate(lines, start=first)]

    def _id(self, line: bytes, number: int) -> str:
        row = files.parsed(line, f"{self.path}, line {number}")
        if not (isinstance(row, dict) and isinstance(row.get("id"), str)):
            raise ValueError(f'{self.path}, line {number}: got {str(row)[:40]!r}, wanted an object {{"id": ...}} on each line')
        return row["id"]

    def _at(self, place: int) -> dict:
        with open(self.path, "rb") as file:
            file.seek(self._starts[place])
            return files.parsed(file.readline(), f"{self.path}, line {place + 1}")
