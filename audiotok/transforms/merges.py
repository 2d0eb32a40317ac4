"""Rules that merge neighbours, in the order in which they apply, and the compiled loop that applies them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
from safetensors.numpy import save_file

from audiotok import files
from audiotok.transforms.expansions import Expansions, one_number, read_tables
from audiotok.transforms.pair_table import PairTable, Whole, find, table_of

MERGES = "merges.safetensors"
NONE = -1
GONE = -1  # what stands where a token was merged into the one before it


@dataclass(frozen=True, eq=False)
class Merges:
    """Rule m makes token `num_base + m` of the neighbours `pairs_M2[m]`, which are base ids or made by earlier rules.

    Raises ValueError for pairs that are not.
    """

    pairs_M2: np.ndarray
    num_base: int

    def __post_init__(self) -> None:
        if self.pairs_M2.dtype != np.int64 or self.pairs_M2.ndim != 2 or self.pairs_M2.shape[1] != 2:
            raise ValueError(f"merges: got pairs of {self.pairs_M2.dtype} {list(self.pairs_M2.shape)}, want int64 [rules, 2]")
        known_M1 = self.num_base + np.arange(len(self.pairs_M2))[:, None]
        wrong_M = ((self.pairs_M2 < 0) | (self.pairs_M2 >= known_M1)).any(axis=1)
        if wrong_M.any():
            rule = int(wrong_M.argmax())
            raise ValueError(
                f"merges: rule {rule} joins {self.pairs_M2[rule].tolist()}; only the {self.num_base + rule} ids below are known"
            )

    @cached_property
    def expansions(self) -> Expansions:
        merged: list[np.ndarray] = []
        for pair in self.pairs_M2.tolist():
            merged.append(np.concatenate([merged[i - self.num_base] if i >= self.num_base else np.array([i]) for i in pair]))
        starts, base = np.cumsum([self.num_base, *map(len, merged)]), np.arange(self.num_base)
        return Expansions(np.concatenate([base, starts]), np.concatenate([base, *merged]))

    @property
    def tables(self) -> tuple[np.ndarray, ...]:
        return (self.pairs_M2,)

    def encode(self, codes_N: np.ndarray) -> np.ndarray:
        """The tokens of base ids: each rule in its turn, wherever its pair stands, from left to right, in linear time."""
        return _merge(np.asarray(codes_N, dtype=np.int64), self._table, self.pairs_M2, self.num_base)

    def save(self, folder: Path) -> None:
        """Write FOLDER/merges.safetensors."""
        with files.whole_file(folder / MERGES) as partial:
            save_file({"pairs": self.pairs_M2, "num_base": np.array([self.num_base])}, partial)

    @classmethod
    def load(cls, folder: Path) -> "Merges":
        """What `save` wrote. Raises ValueError where the file is missing, damaged or holds no merges."""
        tables = read_tables(folder / MERGES, "pairs", "num_base")
        try:
            return cls(tables["pairs"], one_number(tables["num_base"]))
        except ValueError as error:
            raise ValueError(f"{folder / MERGES}: damaged ({error}); learn again") from error

    @cached_property
    def _table(self) -> PairTable:
        return table_of(self.pairs_M2)


class _Queue(NamedTuple):
    """For each rule the places where its pair came to stand, in order: a linked list of entries.

    They come in order by themselves: all pairs of a token come about while the one rule that makes it goes from left to right.
    """

    heads: np.ndarray  # the first entry of each rule, or NONE
    tails: np.ndarray  # the last
    places: np.ndarray  # of each entry
    following: np.ndarray
    used: np.ndarray  # [1], entries


@numba.njit(cache=True)
def _merge(codes_N: np.ndarray, table: PairTable, pairs_M2: np.ndarray, num_base: int) -> np.ndarray:
    number, queue = len(codes_N), _queue(len(codes_N), len(pairs_M2))
    tokens_N = codes_N.astype(np.int32)
    after_N, before_N = np.arange(1, number + 1).astype(np.int32), np.arange(-1, number - 1).astype(np.int32)
    for place in range(number - 1):
        found = find(table, codes_N[place], codes_N[place + 1])
        if found != NONE:
            _enter(found, place, queue)
    for rule in range(len(pairs_M2)):
        entry = queue.heads[rule]
        while entry != NONE:
            left, entry = queue.places[entry], queue.following[entry]
            right = after_N[left]
            if right == number or tokens_N[left] != pairs_M2[rule, 0] or tokens_N[right] != pairs_M2[rule, 1]:
                continue  # one of the two was merged with another neighbour in the meantime
            merged, before, following = num_base + rule, before_N[left], after_N[right]
            tokens_N[left], tokens_N[right], after_N[left] = merged, GONE, following
            if before != NONE:
                found = find(table, np.int64(tokens_N[before]), merged)
                if found != NONE:
                    _enter(found, before, queue)
            if following < number:
                before_N[following] = left
                found = find(table, merged, np.int64(tokens_N[following]))
                if found != NONE:
                    _enter(found, left, queue)
    return tokens_N[tokens_N != GONE].astype(np.int64)


@numba.njit(cache=True)
def _queue(number: int, rules: int) -> _Queue:
    """A place is entered once as it is, and two at most for each merge, of which there are fewer than places."""
    heads, entries = np.full(rules, NONE, dtype=np.int32), np.empty(3 * number, dtype=np.int32)
    return _Queue(heads, heads.copy(), entries, entries.copy(), np.zeros(1, dtype=np.int64))


@numba.njit(cache=True)
def _enter(rule: Whole, place: Whole, queue: _Queue) -> None:
    entry = queue.used[0]
    queue.used[0], queue.places[entry], queue.following[entry] = entry + 1, place, NONE
    if queue.heads[rule] == NONE:
        queue.heads[rule] = entry
    else:
        queue.following[queue.tails[rule]] = entry
    queue.tails[rule] = entry
