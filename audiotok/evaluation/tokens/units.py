"""Streams of units as the metrics of this package take them.

A stream is a one-dimensional array of integers: one utterance of one codebook. A corpus is a sequence of streams, or of codes_KN with the
same K; no context reaches from one utterance into the next.
"""

from collections.abc import Sequence

import numpy as np

BEGINNING = -1  # stands in a context for what lies before the first unit
NOTHING = np.empty(0, dtype=np.int64)  # for np.concatenate, which takes no empty list


def stream(units_N: np.ndarray) -> np.ndarray:
    """The same units as int64 [N]. Raises ValueError for anything but one axis of integers."""
    units = np.asarray(units_N)
    if units.ndim != 1 or units.dtype.kind not in "iu":
        raise ValueError(f"got units of {units.dtype} {list(units.shape)}, want integers [N]; pass one codebook of one utterance")
    return units.astype(np.int64, copy=False)


def codebooks(codes_KN: np.ndarray) -> np.ndarray:
    """The same codes as int64 [K, N]. Raises ValueError for anything but two axes of integers."""
    codes = np.asarray(codes_KN)
    if codes.ndim != 2 or codes.dtype.kind not in "iu":
        raise ValueError(f"got codes of {codes.dtype} {list(codes.shape)}, want integers [K, N]; pass one utterance, units as units[None]")
    return codes.astype(np.int64, copy=False)


def of_sizes(codes_KN: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """The same codes as int64 [K, N]. Raises ValueError unless there are as many sizes as codebooks."""
    codes_KN = codebooks(codes_KN)
    if len(codes_KN) != len(sizes):
        raise ValueError(f"got {len(codes_KN)} codebooks and {len(sizes)} sizes, want a size for each codebook")
    return codes_KN


def joined(streams: Sequence[np.ndarray], *, size: int) -> np.ndarray:
    """All units of a corpus, one stream after the other. Raises ValueError for a unit outside 0 ... size - 1."""
    units_N = np.concatenate([NOTHING, *map(stream, streams)])
    if len(units_N) and not 0 <= units_N.min() <= units_N.max() < size:
        raise ValueError(f"got units from {units_N.min()} to {units_N.max()}, want 0 to {size - 1}; pass the size of their codebook")
    return units_N


def counted(streams: Sequence[np.ndarray], *, size: int) -> np.ndarray:
    """How often each unit occurs in a corpus, counts_V with V = size."""
    return np.bincount(joined(streams, size=size), minlength=size)


def past(streams: Sequence[np.ndarray], *, order: int) -> np.ndarray:
    """The `order` units before each unit of a corpus, nearest first, [N, order].

    Order 2 of the streams 5 6 7 and 8 9, _ for `BEGINNING`:

        unit     5  6  7  8  9
        context  _  5  6  _  8
                 _  _  5  _  _
    """
    if order < 0:
        raise ValueError(f"got order {order}, want the number of units that a context holds, 0 or more")
    streams = [stream(units_N) for units_N in streams]
    contexts = [np.concatenate([NOTHING, *(_delayed(units_N, back) for units_N in streams)]) for back in range(1, order + 1)]
    return np.array(contexts, dtype=np.int64).reshape(order, sum(map(len, streams))).T


def _delayed(units_N: np.ndarray, back: int) -> np.ndarray:
    return np.concatenate([np.full(back, BEGINNING), units_N])[: len(units_N)]


def nested_ids(columns_NO: np.ndarray) -> list[np.ndarray]:
    """For o = 0 ... O, numbers [N] that are equal where the first o columns are; dense, from 0."""
    ids = [np.zeros(len(columns_NO), dtype=np.int64)]
    for column in columns_NO.T:
        _, ranks = np.unique(column, return_inverse=True)
        ids.append(np.unique(ids[-1] * (ranks.max(initial=0) + 1) + ranks, return_inverse=True)[1])
    return ids
