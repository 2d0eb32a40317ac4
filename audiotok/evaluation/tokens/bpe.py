"""Byte-pair encoding of unit streams: how far merging frequent neighbours shortens them.

A unit is one character to the `tokenizers` package, a stream one word, so that merges never reach from one utterance into the next.
"""

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log2
from types import ModuleType
from typing import Any

import numpy as np

from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens.units import joined, of_sizes

FIRST = 0x100  # the character of unit 0, past those that tools are apt to treat as blanks or controls
SURROGATES = range(0xD800, 0xE000)  # no characters: UTF-8 cannot write them
LARGEST = 0x110000 - FIRST - len(SURROGATES)


def text(units_N: np.ndarray, *, size: int) -> str:
    """One character for each unit. Raises ValueError for a unit outside 0 ... size - 1, and for more units than there are characters."""
    if size > LARGEST:
        raise ValueError(f"got a vocabulary of {size} units, want at most {LARGEST}, as many as there are characters for them")
    points = joined([units_N], size=size) + FIRST
    points[points >= SURROGATES.start] += len(SURROGATES)
    return points.astype("<u4").tobytes().decode("utf-32-le")


def units(characters: str) -> np.ndarray:
    """units_N that `text` made the characters of."""
    points = np.frombuffer(characters.encode("utf-32-le"), dtype="<u4").astype(np.int64)
    points[points >= SURROGATES.stop] -= len(SURROGATES)
    return points - FIRST


def flattened(codes_KN: np.ndarray, *, sizes: Sequence[int]) -> np.ndarray:
    """All codebooks as one stream over sum(sizes) units, frame by frame; codebook k starts at sizes[0] + ... + sizes[k - 1].

    0 1          sizes 4, 4
    2 3    ->    0 6 1 7
    """
    codes_KN, offsets = of_sizes(codes_KN, sizes), np.cumsum([0, *sizes[:-1]])
    return np.stack([joined([codes_N], size=size) + offset for codes_N, size, offset in zip(codes_KN, sizes, offsets)], axis=1).ravel()


@dataclass(frozen=True)
class UnitBpe:
    """A trained encoding. Ids below `size` are the units themselves, those above are merges in the order in which they were learnt."""

    tokenizer: Any  # of the package tokenizers
    size: int

    @property
    def vocabulary(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def encode(self, units_N: np.ndarray) -> np.ndarray:
        """Ids of the merged stream."""
        return np.array(self.tokenizer.encode(text(units_N, size=self.size)).ids, dtype=np.int64)

    def decode(self, ids_N: np.ndarray) -> np.ndarray:
        """The units again, exactly."""
        return units("".join(self.tokenizer.id_to_token(token) for token in ids_N.tolist()))


def train_bpe(streams: Iterable[np.ndarray], *, size: int, vocabulary: int) -> UnitBpe:
    """Merge the most frequent pair of neighbours until there are `vocabulary` ids in all, or until no pair occurs twice.

    All `size` units are in the vocabulary whether the streams hold them or not. Raises ValueError for a vocabulary below that, and without
    the package tokenizers.
    """
    if vocabulary < size:
        raise ValueError(f"got a vocabulary of {vocabulary} ids for {size} units, want at least as many: merges come on top of the units")
    package = _package()
    alphabet = list(text(np.arange(size), size=size))
    trainer = package.trainers.BpeTrainer(vocab_size=vocabulary, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
    tokenizer = package.Tokenizer(package.models.BPE())
    tokenizer.train_from_iterator((text(units_N, size=size) for units_N in streams), trainer)
    return UnitBpe(tokenizer, size)


def _package() -> ModuleType:
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise ValueError(f"byte-pair encoding needs the package tokenizers ({error}); pip install 'audiotok[transformers]'") from error


@dataclass(frozen=True)
class BpeEfficiency:
    """What an encoding makes of streams that it was not trained on."""

    units: int
    tokens: int
    seconds: float
    vocabulary: int

    @property
    def length_ratio(self) -> float:
        """Tokens for each unit: 1 where nothing was merged, the lower the better."""
        return self.tokens / self.units

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def bits_per_second(self) -> float:
        """Of ids of a fixed length: fewer tokens, but of a larger vocabulary."""
        return self.tokens_per_second * log2(self.vocabulary)


def efficiency(bpe: UnitBpe, held_out: Sequence[np.ndarray], *, seconds: float) -> BpeEfficiency:
    """How many tokens the held-out streams become, which last `seconds` in all. Raises NotApplicable where they hold no unit."""
    number = sum(len(units_N) for units_N in held_out)
    if not number or seconds <= 0:
        raise NotApplicable(f"{number} units in {seconds:g} s: there is nothing to measure a length by")
    return BpeEfficiency(number, sum(len(bpe.encode(units_N)) for units_N in held_out), seconds, bpe.vocabulary)
