"""What a sample of utterances says about the corpus it was drawn from."""

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
    generator = np.random.default_rng(seed)
    rows = max(1, BLOCK // count)
    means = []
    for start in range(0, resamplings, rows):
        drawn = generator.integers(count, size=(min(rows, resamplings - start), count))
        means.append(numerators[drawn].sum(axis=1) / denominators[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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
    generator = np.random.default_rng(seed)
    rows = max(1, BLOCK // count)
    found = []
    for start in range(0, resamplings, rows):
        drawn = generator.integers(count, size=(min(rows, resamplings - start), count))
        left_R2, right_R2 = (sums_G2[drawn].sum(axis=1) for sums_G2 in (left_G2, right_G2))
        found.append(left_R2[:, 0] / left_R2[:, 1] - right_R2[:, 0] / right_R2[:, 1])
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
