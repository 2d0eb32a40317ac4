"""How far apart two token sequences are: edits, frames, n-grams and bags.

Every function takes the reference first. What cannot be measured, because there is no reference, raises NotApplicable.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens.units import codebooks, nested_ids, stream

Normaliser = Literal["reference", "longest"]


def deduplicated(units_N: np.ndarray) -> np.ndarray:
    """The units without immediate repeats: 7 7 7 2 2 7 -> 7 2 7."""
    units_N = stream(units_N)
    return units_N[np.flatnonzero(np.diff(units_N, prepend=units_N[:1] - 1))]


def edit_distance(reference_N: np.ndarray, estimate_N: np.ndarray) -> int:
    """The least number of insertions, deletions and substitutions (Levenshtein) that turn one sequence into the other.

    Myers' bit-parallel algorithm as Hyyro states it (2003, "A bit-vector algorithm for computing Levenshtein and Damerau edit distances"):
    a column of the table is two integers, of the rows where it rises and of those where it falls by one from the row above. Two
    sequences of 3,000 take some milliseconds.
    """
    reference, estimate = stream(reference_N).tolist(), stream(estimate_N).tolist()
    if not reference or not estimate:
        return max(len(reference), len(estimate))
    places: dict[int, int] = {}
    for row, unit in enumerate(reference):
        places[unit] = places.get(unit, 0) | 1 << row
    everywhere, last = (1 << len(reference)) - 1, 1 << (len(reference) - 1)
    rises, falls, distance = everywhere, 0, len(reference)
    for unit in estimate:
        matches = places.get(unit, 0)
        diagonal = ((matches & rises) + rises ^ rises | matches | falls) & everywhere  # rows that cost nothing from the upper left
        right_rises = falls | everywhere & ~(diagonal | rises)
        right_falls = diagonal & rises
        distance += bool(right_rises & last) - bool(right_falls & last)
        right_rises = right_rises << 1 | 1
        right_falls = right_falls << 1
        rises = (right_falls | ~(diagonal | right_rises)) & everywhere
        falls = right_rises & diagonal
    return distance


def unit_edit_distance(reference_N: np.ndarray, estimate_N: np.ndarray, *, deduplicate: bool, normalise: Normaliser) -> float:
    """UED: edits over the reference's length (arXiv 2209.15483, deduplicated), which may exceed 1, or over the longer length (at most 1).

    Raises NotApplicable for an empty reference.
    """
    if deduplicate:
        reference_N, estimate_N = deduplicated(reference_N), deduplicated(estimate_N)
    if len(reference_N) == 0:
        raise NotApplicable("an empty reference: its edits have no length to be measured by")
    lengths: dict[Normaliser, int] = {"reference": len(reference_N), "longest": max(len(reference_N), len(estimate_N))}
    if normalise not in lengths:
        raise ValueError(f"got normalise={normalise!r}, want one of {', '.join(lengths)}")
    return edit_distance(reference_N, estimate_N) / lengths[normalise]


def codebook_edit_distances(reference_KN: np.ndarray, estimate_KN: np.ndarray, *, deduplicate: bool, normalise: Normaliser) -> np.ndarray:
    """The unit edit distance of each codebook by itself, [K]."""
    pairs = zip(*_alike(reference_KN, estimate_KN))
    return np.array([unit_edit_distance(*pair, deduplicate=deduplicate, normalise=normalise) for pair in pairs])


def frame_agreement(reference_KN: np.ndarray, estimate_KN: np.ndarray) -> np.ndarray:
    """The share of frames with the same code, for each codebook, [K]; a frame that only one of the two has is a disagreement.

    Raises NotApplicable where neither has a frame.
    """
    reference_KN, estimate_KN = _alike(reference_KN, estimate_KN)
    common, longest = sorted((reference_KN.shape[1], estimate_KN.shape[1]))
    if not longest:
        raise NotApplicable("no frames: neither of the two has any")
    return (reference_KN[:, :common] == estimate_KN[:, :common]).sum(axis=1) / longest


def _alike(reference_KN: np.ndarray, estimate_KN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reference_KN, estimate_KN = codebooks(reference_KN), codebooks(estimate_KN)
    if len(reference_KN) != len(estimate_KN):
        raise ValueError(f"got {len(reference_KN)} and {len(estimate_KN)} codebooks, want as many in both; take codes of one tokenizer")
    return reference_KN, estimate_KN


def ngram_f(reference_N: np.ndarray, estimate_N: np.ndarray, *, order: int = 6, beta: float = 2.0) -> float:
    """chrF (Popovic 2015) over units instead of characters, from 0 to 1: the defaults are chrF2's.

    Precision and recall of n-grams are each averaged over n = 1 ... order, then combined with recall beta times as important as precision.
    An n for which either sequence is too short is left out of the averages, as sacreBLEU does. Raises NotApplicable for an empty reference.
    """
    reference_N, estimate_N = stream(reference_N), stream(estimate_N)
    if order < 1:
        raise ValueError(f"got order {order}, want n-grams of one unit at least")
    if not len(reference_N):
        raise NotApplicable("an empty reference: no n-gram of it can be found")
    scores = [(shared / estimates, shared / references) for shared, references, estimates in _overlaps(reference_N, estimate_N, order)]
    if not scores:
        return 0.0  # an empty estimate finds nothing of the reference
    precision, recall = np.mean(scores, axis=0).tolist()
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall) if precision + recall else 0.0


def bag_f(reference_N: np.ndarray, estimate_N: np.ndarray, *, beta: float = 1.0) -> float:
    """F of the units as bags, whatever their order: for sentences of two languages, which say the same things in another order."""
    return ngram_f(reference_N, estimate_N, order=1, beta=beta)


def _overlaps(reference_N: np.ndarray, estimate_N: np.ndarray, order: int) -> Iterator[tuple[int, int, int]]:
    """(shared n-grams, those of the reference, those of the estimate) for each n that both are long enough for."""
    split = len(reference_N)
    ids = nested_ids(np.concatenate([_following(reference_N, order), _following(estimate_N, order)]))
    for n in range(1, min(order, split, len(estimate_N)) + 1):
        references, estimates = ids[n][: split - n + 1], ids[n][split : len(ids[n]) - n + 1]
        kinds = ids[n].max() + 1
        shared = np.minimum(np.bincount(references, minlength=kinds), np.bincount(estimates, minlength=kinds))
        yield int(shared.sum()), len(references), len(estimates)


def _following(units_N: np.ndarray, order: int) -> np.ndarray:
    """Each unit and the order - 1 after it, [N, order]; the end is filled up with a number that is no id."""
    padded = np.concatenate([units_N, np.full(order - 1, min(units_N.min(initial=0), 0) - 1)])
    return np.lib.stride_tricks.sliding_window_view(padded, order) if len(units_N) else np.empty((0, order), dtype=np.int64)
