"""Where ids are, without the ids: sorted hashes of eight bytes and places of four, so that ten million of them are 120 MB and no objects.

A hash only names candidates. Whoever asks reads the id at each, so that two ids of one hash are told apart and answers are exact.
"""

from collections.abc import Iterable, Sequence

import numpy as np


def hashes_of(ids: Sequence[str]) -> np.ndarray:
    """int64 [N]: Python's own, salted anew in each process, so that nobody can choose ids that meet."""
    return np.fromiter(map(hash, ids), np.int64, len(ids))


class Index:
    """The places at which an id may stand, from 0 in the order of the ids that it was made of."""

    def __init__(self, parts: Iterable[Sequence[str]]) -> None:
        hashes_N = np.concatenate([np.zeros(0, np.int64), *map(hashes_of, parts)])
        self._places_N = np.argsort(hashes_N, kind="stable").astype(np.uint32)
        self._hashes_N = hashes_N[self._places_N]

    def __len__(self) -> int:
        return len(self._places_N)

    def candidates(self, id: str) -> list[int]:
        """In ascending order; few, and mostly none where the id is not among them."""
        wanted = np.int64(hash(id))
        start, end = (np.searchsorted(self._hashes_N, wanted, side) for side in ("left", "right"))
        return self._places_N[start:end].tolist()

    def again(self) -> list[int]:
        """In ascending order the places whose hash an earlier place has: where an id that comes twice is to be looked for."""
        return np.sort(self._places_N[1:][self._hashes_N[1:] == self._hashes_N[:-1]]).tolist()


class Seen:
    """Hashes that have been met. They lie in sorted runs, each longer than the next, so that adding n takes n log n steps in all."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def add(self, hashes_N: np.ndarray) -> None:
        run = np.sort(hashes_N)
        while self._runs and len(self._runs[-1]) <= len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")  # merges two runs in one pass
        self._runs.append(run)

    def met(self, hashes_N: np.ndarray) -> np.ndarray:
        """bool [N]: which of the hashes were added before."""
        found_N = np.zeros(len(hashes_N), bool)
        for run in filter(len, self._runs):
            places_N = np.searchsorted(run, hashes_N).clip(max=len(run) - 1)
            found_N |= run[places_N] == hashes_N
        return found_N
