"""Whether the same words give the same tokens from another speaker or in another language.

After STAB (arXiv 2409.02384), which gives no formula: pairs with the same text are held against a floor of pairs that differ in the text as
well, and are alike in all other respects.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from audiotok.evaluation.metric import NotApplicable

Similarity = Callable[[np.ndarray, np.ndarray], float]
Across = Literal["speaker", "language"]


@dataclass(frozen=True)
class Spoken:
    """The tokens of one utterance and what was said, by whom, in which language. Translations share their `text`, which is a key."""

    id: str
    text: str
    speaker: str
    language: str
    tokens: np.ndarray


@dataclass(frozen=True)
class Pair:
    """The similarity of two utterances, for a bootstrap. The pairs of an utterance are not independent: resample utterances, not pairs."""

    id: str  # of both: "a|b"
    similarity: float


@dataclass(frozen=True)
class Invariance:
    """`same` and `floor` are mean similarities of pairs with the same text and with different texts."""

    same: float
    floor: float
    same_pairs: tuple[Pair, ...]
    floor_pairs: tuple[Pair, ...]

    @property
    def normalised(self) -> float:
        """1 where the same words give the same tokens, 0 where they are no closer than other words; NotApplicable at a floor of 1."""
        if self.floor >= 1:
            raise NotApplicable(f"the floor is {self.floor:g}: all utterances look the same to this similarity")
        return (self.same - self.floor) / (1 - self.floor)


def invariance(utterances: Sequence[Spoken], similarity: Similarity, *, across: Across, max_pairs: int, seed: int) -> Invariance:
    """How similar utterances of the same text are across speakers of one language, or across languages whoever speaks.

    At most `max_pairs` pairs are drawn for each of the two means. The similarity is 1 for equal sequences; one that is not symmetric (chrF)
    is averaged over both directions. Raises ValueError where the utterances make no pair.
    """
    generator = np.random.default_rng(seed)
    same, floor = (
        _pairs(utterances, similarity, across=across, same_text=text, limit=max_pairs, generator=generator) for text in (True, False)
    )
    return Invariance(_mean(same), _mean(floor), same, floor)


def _mean(pairs: tuple[Pair, ...]) -> float:
    return float(np.mean([pair.similarity for pair in pairs]))


def _pairs(
    utterances: Sequence[Spoken], similarity: Similarity, *, across: Across, same_text: bool, limit: int, generator: np.random.Generator
) -> tuple[Pair, ...]:
    drawn = _drawn(utterances, across=across, same_text=same_text, limit=limit, generator=generator)
    if not drawn:
        kind = "the same text" if same_text else "different texts"
        raise ValueError(f"no two of {len(utterances)} utterances have {kind} and another {across}; pass a parallel corpus")
    return tuple(_pair(utterances[left], utterances[right], similarity) for left, right in drawn)


def _pair(left: Spoken, right: Spoken, similarity: Similarity) -> Pair:
    both = similarity(left.tokens, right.tokens) + similarity(right.tokens, left.tokens)
    return Pair(f"{left.id}|{right.id}", both / 2)


def _drawn(
    utterances: Sequence[Spoken], *, across: Across, same_text: bool, limit: int, generator: np.random.Generator
) -> list[tuple[int, int]]:
    """Indices of `limit` pairs, or of all where there are fewer; each pair as likely as any other, in the order of the utterances.

    Pairs are counted row by row first, so that memory grows with the utterances and not with their square.
    """
    if across not in ("speaker", "language"):
        raise ValueError(f"got across={across!r}, want speaker or language")
    labels = [(said.text, said.speaker, said.language) for said in utterances]
    text, speaker, language = (np.unique(column, return_inverse=True)[1] for column in np.array(labels, dtype=str).reshape(-1, 3).T)

    def partners(row: int) -> np.ndarray:
        rest = slice(row + 1, None)
        same_language = language[rest] == language[row]
        comparable = same_language & (speaker[rest] != speaker[row]) if across == "speaker" else ~same_language
        return row + 1 + np.flatnonzero(comparable & ((text[rest] == text[row]) == same_text))

    ends = np.cumsum([len(partners(row)) for row in range(len(utterances))], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    ranks = np.arange(total) if total <= limit else np.sort(generator.choice(total, size=limit, replace=False))
    pairs: list[tuple[int, int]] = []
    for row in np.unique(np.searchsorted(ends, ranks, side="right")).tolist():
        start = int(ends[row - 1]) if row else 0
        found = partners(row)
        chosen = ranks[np.searchsorted(ranks, start) : np.searchsorted(ranks, ends[row])] - start
        pairs.extend((row, int(column)) for column in found[chosen])
    return pairs
