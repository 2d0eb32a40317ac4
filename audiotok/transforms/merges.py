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
    """Rule m makes token `tokens_M[m]` of the neighbours `pairs_M2[m]`.

    Ids below `num_base` are base ids; merged ones follow in the order in which rules first make them. Two rules may make one token, where
    they join the same codes: (1 2) 3 and 1 (2 3). Raises ValueError for arrays that cannot be that.
    """

    pairs_M2: np.ndarray
    tokens_M: np.ndarray
    num_base: int

    def __post_init__(self) -> None:
        wanted = {"pairs_M2": (len(self.tokens_M), 2), "tokens_M": (len(self.tokens_M),)}
        for name, shape in wanted.items():
            array = getattr(self, name)
            if array.dtype != np.int64 or array.shape != shape:
                raise ValueError(f"merges: got {name} of {array.dtype} {list(array.shape)}, want int64 {list(shape)}")
        known_M = self.num_base + np.concatenate([[0], np.maximum.accumulate(np.maximum(self.tokens_M - self.num_base + 1, 0))])
        wrong_M = (self.tokens_M < self.num_base) | (self.tokens_M > known_M[:-1])
        wrong_M |= ((self.pairs_M2 < 0) | (self.pairs_M2 >= known_M[:-1, None])).any(axis=1)
        if wrong_M.any():
            rule = int(wrong_M.argmax())
            joined = f"{self.pairs_M2[rule].tolist()} to {self.tokens_M[rule]}"
            raise ValueError(f"merges: rule {rule} joins {joined}; only the {known_M[rule]} ids below it are known there, and the next one")

    @cached_property
    def expansions(self) -> Expansions:
        """What each token stands for. Raises ValueError where two rules make one token of different codes."""
        merged: list[np.ndarray] = []
        for (left, right), token in zip(self.pairs_M2.tolist(), self.tokens_M.tolist()):
            codes = np.concatenate([self._codes(merged, left), self._codes(merged, right)])
            if token == self.num_base + len(merged):
                merged.append(codes)
            elif not np.array_equal(merged[token - self.num_base], codes):
                raise ValueError(f"merges: the rule {left} {right} makes token {token} of other codes than an earlier one")
        starts = np.cumsum([self.num_base, *map(len, merged)])
        base = np.arange(self.num_base)
        return Expansions(np.concatenate([base, starts]), np.concatenate([base, *merged]))

    def encode(self, codes_N: np.ndarray) -> np.ndarray:
        """The tokens of base ids: while any rule applies, the earliest rule is applied where it applies first."""
        return _merge(np.array(codes_N, dtype=np.int64), self._table, self.pairs_M2, self.tokens_M)

    @property
    def tables(self) -> tuple[np.ndarray, ...]:
        return self.pairs_M2, self.tokens_M

    def save(self, folder: Path) -> None:
        """Write FOLDER/merges.safetensors."""
        with files.whole_file(folder / MERGES) as partial:
            tables = {"pairs": self.pairs_M2, "tokens": self.tokens_M, "num_base": np.array([self.num_base])}
            save_file({name: np.ascontiguousarray(table) for name, table in tables.items()}, partial)

    @classmethod
    def load(cls, folder: Path) -> "Merges":
        """What `save` wrote. Raises ValueError where the file is missing, damaged or holds no merges."""
        tables = read_tables(folder / MERGES, "pairs", "tokens", "num_base")
        try:
            merges = cls(tables["pairs"], tables["tokens"], one_number(tables["num_base"]))
        except ValueError as error:
            raise ValueError(f"{folder / MERGES}: damaged ({error}); learn again") from error
        return merges

    @cached_property
    def _table(self) -> PairTable:
        return table_of(self.pairs_M2)

    def _codes(self, merged: list[np.ndarray], token: int) -> np.ndarray:
        return np.array([token]) if token < self.num_base else merged[token - self.num_base]


class _Queue(NamedTuple):
    """For each rule the places where it may apply, in order: a linked list of entries. A place may have moved on since it was entered."""

    heads: np.ndarray  # the first entry of each rule, or NONE
    tails: np.ndarray  # the last
    places: np.ndarray  # of each entry
    following: np.ndarray
    used: np.ndarray  # [1], entries


@numba.njit(cache=True)
def _merge(codes_N: np.ndarray, table: PairTable, pairs_M2: np.ndarray, made_M: np.ndarray) -> np.ndarray:
    """Goes from rule to rule, and back where a merge lets an earlier one apply: one whose token a later rule makes too."""
    number, queue = len(codes_N), _queue(len(codes_N), len(made_M))
    tokens_N = codes_N.astype(np.int32)
    after_N, before_N = np.arange(1, number + 1).astype(np.int32), np.arange(-1, number - 1).astype(np.int32)
    for place in range(number - 1):
        found = find(table, codes_N[place], codes_N[place + 1])
        if found != NONE:
            _enter(found, place, queue)
    rule: Whole = 0
    while rule < len(made_M):
        if queue.heads[rule] == NONE:
            rule += 1
            continue
        left = queue.places[queue.heads[rule]]
        right, queue.heads[rule] = after_N[left], queue.following[queue.heads[rule]]
        if right == number or tokens_N[left] != pairs_M2[rule, 0] or tokens_N[right] != pairs_M2[rule, 1]:
            continue  # one of the two was merged with another neighbour in the meantime
        before, following, merged = before_N[left], after_N[right], made_M[rule]
        tokens_N[left], tokens_N[right], after_N[left] = merged, GONE, following
        if before != NONE:
            found = find(table, np.int64(tokens_N[before]), merged)
            if found != NONE:
                _enter(found, before, queue)
                rule = min(rule, found)
        if following < number:
            before_N[following] = left
            found = find(table, merged, np.int64(tokens_N[following]))
            if found != NONE:
                _enter(found, left, queue)
                rule = min(rule, found)
    return tokens_N[tokens_N != GONE].astype(np.int64)


@numba.njit(cache=True)
def _queue(number: int, rules: int) -> _Queue:
    """Each place is entered once as it is, and two more at most for each merge, of which there are fewer than places."""
    heads, entries = np.full(rules, NONE, dtype=np.int32), np.empty(3 * number, dtype=np.int32)
    return _Queue(heads, heads.copy(), entries, entries.copy(), np.zeros(1, dtype=np.int64))


@numba.njit(cache=True)
def _enter(rule: Whole, place: Whole, queue: _Queue) -> None:
    entry = queue.used[0]
    queue.used[0], queue.places[entry], queue.following[entry] = entry + 1, place, NONE
    if queue.heads[rule] == NONE:
        queue.heads[rule] = queue.tails[rule] = entry
    elif queue.places[queue.tails[rule]] < place:
        queue.following[queue.tails[rule]] = queue.tails[rule] = entry
    else:  # only where rules make the same token do places come out of order
        _enter_between(rule, entry, queue)


@numba.njit(cache=True)
def _enter_between(rule: Whole, entry: Whole, queue: _Queue) -> None:
    previous, following = NONE, queue.heads[rule]
    while queue.places[following] < queue.places[entry]:
        previous, following = following, queue.following[following]
    queue.following[entry] = following
    if previous == NONE:
        queue.heads[rule] = entry
    else:
        queue.following[previous] = entry
