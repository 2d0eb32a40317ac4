"""Segmentation into the fewest tokens that a vocabulary allows (PathPiece, arXiv 2402.18376). Lossless."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numba
import numpy as np
from torch import Tensor

from audiotok.transforms.expansions import Expansions, Turns
from audiotok.transforms.learnt import EXPANSIONS, Learnt, described, load, required
from audiotok.transforms.pair_table import PairTable, find, put, room_for
from audiotok.types import TokenSpec

NONE = -1


class Vocabulary(Protocol):
    """Something that learns a vocabulary: `Bpe` or `RePair`."""

    settings: dict[str, Any]

    def fit(self, corpus: Iterable[Tensor], spec: TokenSpec) -> None: ...

    def learnt(self, spec: TokenSpec) -> Learnt: ...


class PathPiece:
    """Codes as one stream, frame by frame, in the fewest tokens, of those of `vocabulary` that have at most `longest` codes.

    Byte-pair encoding of 1 2 3 with the merges 1 2 -> 8 and 2 3 -> 9 and 9 4 -> 10:

        1 2 3 4        8 3 4      by its merges
                  ->   1 10       by the fewest tokens

    Of several segmentations that are equally short it takes the one whose last token is the longest, then the one before it, and so on.
    The vocabulary is learnt here and kept with what was learnt; `longest` bounds the time, which is at most `longest` look-ups a code.
    """

    lossless = True

    def __init__(self, vocabulary: Vocabulary, longest: int, *, fitted: str | Path | None) -> None:
        if longest < 1:
            raise ValueError(f"got tokens of at most {longest} codes, want 1 or more")
        self.vocabulary = vocabulary
        self.settings: dict[str, Any] = {"vocabulary": {"kind": type(vocabulary).__name__} | vocabulary.settings, "longest": longest}
        self.fitted = None if fitted is None else Path(fitted)
        self._learnt = load(self.fitted, self._kind, Fewest.load)

    def fit(self, corpus: Iterable[Tensor], spec: TokenSpec) -> None:
        """Fits the vocabulary; memory as there."""
        self.vocabulary.fit(corpus, spec)
        self._learnt = Learnt(spec, Fewest(self.vocabulary.learnt(spec).expansions.up_to(self.settings["longest"])))

    def save(self, folder: Path) -> None:
        required(self._learnt, self).save(folder, self._kind)

    def learnt(self, spec: TokenSpec) -> Learnt:
        """What the tokens stand for. Raises ValueError where they are of other codes, or there are none yet."""
        return required(self._learnt, self, spec)

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        return self.learnt(spec).out_spec(self)

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        return self.learnt(spec).apply(codes_KN)

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        return self.learnt(spec).invert(codes_KN)

    def grammar(self, spec: TokenSpec) -> Turns:
        return self.learnt(spec).grammar()

    def settled(self, codes_KN: Tensor, spec: TokenSpec) -> tuple[int, int]:
        return self.learnt(spec).settled(codes_KN)

    def __repr__(self) -> str:
        return described("PathPiece", self.settings, self._learnt)

    @property
    def _kind(self) -> dict[str, Any]:
        return {"kind": "pathpiece"} | self.settings


class _Trie(NamedTuple):
    """The merged tokens by their codes. A node below `num_base` is the base id that a token begins with; others are numbered from there."""

    children: PairTable  # of (node, code)
    tokens: np.ndarray  # that end at each other node, or NONE
    num_base: int


@dataclass(frozen=True, eq=False)
class Fewest:
    """Encodes with the fewest tokens of a vocabulary."""

    expansions: Expansions

    @property
    def tables(self) -> tuple[np.ndarray, ...]:
        return ()

    def encode(self, codes_N: np.ndarray) -> np.ndarray:
        return _fewest(np.asarray(codes_N, dtype=np.int64), self._trie, self.expansions.lengths)

    def save(self, folder: Path) -> None:
        """Writes nothing: the expansions are all there is."""

    @classmethod
    def load(cls, folder: Path) -> "Fewest":
        return cls(Expansions.load(folder / EXPANSIONS))

    @cached_property
    def _trie(self) -> _Trie:
        merged = len(self.expansions.codes) - self.expansions.num_base
        trie = _Trie(room_for(merged), np.full(merged, NONE), self.expansions.num_base)
        _plant(trie, self.expansions.starts, self.expansions.codes)
        return trie


@numba.njit(cache=True)
def _plant(trie: _Trie, starts: np.ndarray, codes: np.ndarray) -> None:
    nodes = trie.num_base
    for token in range(trie.num_base, len(starts) - 1):
        node = codes[starts[token]]
        for place in range(starts[token] + 1, starts[token + 1]):
            child = find(trie.children, node, codes[place])
            if child == NONE:
                child, nodes = nodes, nodes + 1
                put(trie.children, node, codes[place], child)
            node = child
        trie.tokens[node - trie.num_base] = token


@numba.njit(cache=True)
def _fewest(codes_N: np.ndarray, trie: _Trie, lengths_V: np.ndarray) -> np.ndarray:
    """Shortest path from the start to the end. A token that begins earlier comes first, so that of equals the longest one stays."""
    number = len(codes_N)
    fewest, last = np.full(number + 1, number + 1), np.zeros(number + 1, dtype=np.int64)
    fewest[0] = 0
    for start in range(number):
        cost, node, token = fewest[start] + 1, codes_N[start], codes_N[start]
        for end in range(start + 1, number + 1):
            if token != NONE and cost < fewest[end]:
                fewest[end], last[end] = cost, token
            node = find(trie.children, node, codes_N[end]) if end < number else NONE
            if node == NONE:
                break
            token = trie.tokens[node - trie.num_base]
    tokens, end = np.empty(fewest[number], dtype=np.int64), number
    for index in range(len(tokens) - 1, -1, -1):
        tokens[index] = last[end]
        end -= lengths_V[last[end]]
    return tokens
