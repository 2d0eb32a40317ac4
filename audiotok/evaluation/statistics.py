"""What a sample of utterances says about the corpus it was drawn from."""

from collections.abc import Iterator

import numpy as np

BLOCK = 10_000_000  # draws held at a time


def bootstrap_interval(
    numerators: np.ndarray, denominators: np.ndarray, *, resamplings: int, seed: int, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile interval of sum(numerators) / sum(denominators) over utterances drawn with replacement.

    With denominators of 1 it is the interval of the mean. None for fewer than two utterances, which say nothing about their spread.
    """
    count = len(numerators)
    if count < 2:
        return None
    blocks = _drawn(count, resamplings=resamplings, seed=seed)
    return _percentiles([numerators[drawn].sum(axis=1) / denominators[drawn].sum(axis=1) for drawn in blocks], level=level)


def paired_interval(
    left_G2: np.ndarray, right_G2: np.ndarray, *, resamplings: int, seed: int, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile interval of the left ratio less the right one over groups drawn with replacement, the same for both.

    A row holds the numerators and the denominators of a group, summed: of utterances that say the same about the corpus, such as one
    recording at several noise levels. None for fewer than two groups.
    """
    count = len(left_G2)
    if count < 2:
        return None
    found = []
    for drawn in _drawn(count, resamplings=resamplings, seed=seed):
        left_R2, right_R2 = (sums_G2[drawn].sum(axis=1) for sums_G2 in (left_G2, right_G2))
        found.append(left_R2[:, 0] / left_R2[:, 1] - right_R2[:, 0] / right_R2[:, 1])
    return _percentiles(found, level=level)


def _drawn(count: int, *, resamplings: int, seed: int) -> Iterator[np.ndarray]:
    """Indices [R, count] of things drawn with replacement, a block of resamplings at a time."""
    generator, rows = np.random.default_rng(seed), max(1, BLOCK // count)
    for start in range(0, resamplings, rows):
        yield generator.integers(count, size=(min(rows, resamplings - start), count))


def _percentiles(found: list[np.ndarray], *, level: float) -> tuple[float, float]:
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
