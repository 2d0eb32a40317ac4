"""A hash table from pairs of ids to a number, for compiled loops: open addressing, at most half full, a few nanoseconds a look-up."""

from typing import NamedTuple

import numba
import numpy as np

Whole = int | np.integer  # compiled code does not tell them apart, type checkers do

FREE = -1
MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: the top bits of a product with it spread (Knuth, volume 3, 6.4)


class PairTable(NamedTuple):
    keys: np.ndarray  # int64, `left << 32 | right`, or FREE; as many as a power of two
    values: np.ndarray  # int64
    shift: int  # 64 less the bits of a place


@numba.njit(cache=True)
def room_for(pairs: Whole) -> PairTable:
    """An empty table that will hold up to that many pairs of ids below 2^31."""
    bits = 4
    while 1 << bits < 2 * pairs:
        bits += 1
    return PairTable(np.full(1 << bits, FREE, dtype=np.int64), np.zeros(1 << bits, dtype=np.int64), 64 - bits)


def table_of(pairs_M2: np.ndarray) -> PairTable:
    """From each pair to its number. Of a pair that is there more than once, the first number."""
    table = room_for(2 * len(pairs_M2))  # twice what is needed: encoding asks mostly for pairs that are not there
    _fill(table, pairs_M2)
    return table


@numba.njit(cache=True)
def find(table: PairTable, left: Whole, right: Whole) -> Whole:
    """The pair's value, or -1."""
    place = _place(table, left << 32 | right)
    return table.values[place] if table.keys[place] != FREE else np.int64(-1)


@numba.njit(cache=True)
def apart(ids_N: np.ndarray, table: PairTable) -> np.ndarray:
    """bool_N: whether an id and the one before it are no pair of the table."""
    apart_N = np.zeros(len(ids_N), dtype=np.bool_)
    for place in range(1, len(ids_N)):
        apart_N[place] = find(table, ids_N[place - 1], ids_N[place]) < 0
    return apart_N


@numba.njit(cache=True)
def put(table: PairTable, left: Whole, right: Whole, value: Whole) -> None:
    """Add a pair that is not in the table; there must be room for it."""
    key = left << 32 | right
    place = _place(table, key)
    table.keys[place] = key
    table.values[place] = value


@numba.njit(cache=True)
def remove(table: PairTable, left: Whole, right: Whole) -> None:
    """Take out a pair that is in the table. Those behind it that its place kept from theirs move up, so that none is lost to `find`."""
    mask, hole = len(table.keys) - 1, _place(table, left << 32 | right)
    place = (hole + 1) & mask
    while table.keys[place] != FREE:
        if (place - _home(table, table.keys[place])) & mask >= (place - hole) & mask:
            table.keys[hole], table.values[hole], hole = table.keys[place], table.values[place], place
        place = (place + 1) & mask
    table.keys[hole] = FREE


@numba.njit(cache=True)
def _fill(table: PairTable, pairs_M2: np.ndarray) -> None:
    for number in range(len(pairs_M2)):
        if find(table, pairs_M2[number, 0], pairs_M2[number, 1]) < 0:
            put(table, pairs_M2[number, 0], pairs_M2[number, 1], number)


@numba.njit(cache=True)
def _place(table: PairTable, key: Whole) -> Whole:
    """Where the key is, or where it would go."""
    place = _home(table, key)
    while table.keys[place] != FREE and table.keys[place] != key:
        place = (place + 1) & (len(table.keys) - 1)
    return place


@numba.njit(cache=True)
def _home(table: PairTable, key: Whole) -> Whole:
    return np.int64((np.uint64(key) * MIX) >> np.uint64(table.shift))
