"""Huffman codes of units: what a prefix code without context can save."""

import heapq
from dataclasses import dataclass
from math import log2

import numpy as np

from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens.entropy import entropy


@dataclass(frozen=True)
class Huffman:
    """What the Huffman code of a codebook's units comes to. The code book itself, which a decoder needs too, is not counted."""

    size: int
    entropy: float  # bits per unit, the bound
    mean_length: float  # bits per unit

    @property
    def efficiency(self) -> float:
        """Entropy over mean length: 1 where every probability is a power of 1/2."""
        return self.entropy / self.mean_length

    @property
    def saving(self) -> float:
        """Share of log2 K bits that the code saves; below 0 where K is no power of 2 and the units are nearly uniform."""
        if self.size < 2:
            raise NotApplicable("a codebook of one code takes no bits, of which none can be saved")
        return 1 - self.mean_length / log2(self.size)


def huffman(counts_V: np.ndarray) -> Huffman:
    """The code made for these counts, measured on them. Raises NotApplicable where nothing was counted."""
    return Huffman(len(counts_V), entropy(counts_V), mean_length(code_lengths(counts_V), counts_V))


def code_lengths(counts_V: np.ndarray) -> np.ndarray:
    """Bits of each unit's code word, lengths_V; 0 for a unit that was never counted, and 1 where only one was."""
    lengths_V = np.zeros(len(counts_V), dtype=np.int64)
    active = np.flatnonzero(counts_V).tolist()
    if len(active) == 1:
        lengths_V[active] = 1  # a code word of no bits could not be counted by its reader
        return lengths_V
    heap = [(int(counts_V[unit]), leaf) for leaf, unit in enumerate(active)]
    heapq.heapify(heap)
    parents = [0] * (2 * len(active) - 1)
    for node in range(len(active), 2 * len(active) - 1):
        (first, left), (second, right) = heapq.heappop(heap), heapq.heappop(heap)
        parents[left] = parents[right] = node
        heapq.heappush(heap, (first + second, node))
    depths = [0] * len(parents)
    for node in range(len(parents) - 2, -1, -1):  # the root is the last node, and every parent comes after its children
        depths[node] = depths[parents[node]] + 1
    lengths_V[active] = depths[: len(active)]
    return lengths_V


def mean_length(lengths_V: np.ndarray, counts_V: np.ndarray) -> float:
    """Bits per unit that a code takes for these counts, which may be of other data than it was made for.

    Raises ValueError where a unit has no code word: make the code for counts + 1, or for all the units that may come.
    """
    without = np.flatnonzero((counts_V > 0) & (lengths_V == 0))
    if len(without):
        raise ValueError(f"{len(without)} units (the first is {without[0]}) have no code word; make the code for counts + 1")
    if not counts_V.sum():
        raise NotApplicable("nothing was counted: an empty corpus has no mean length")
    return float(lengths_V @ counts_V / counts_V.sum())
