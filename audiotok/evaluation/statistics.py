"""What a sample of utterances says about the corpus it was drawn from."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import stats

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
    left_TG2: np.ndarray, right_UG2: np.ndarray, *, resamplings: int, seed: int, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile interval of the left ratio less the right one over groups drawn with replacement, the same for both, and over trainings.

    A row holds the numerators and the denominators of a group, summed: of utterances that say the same about the corpus, such as one
    recording at several noise levels. T trainings of the one system and U of the other were scored on the same groups; a side's ratio is of
    all of its trainings. Of T of them T - 1 are drawn, each side's by itself, so that the variance is not too small by (T - 1) / T, a half
    of two (Rao and Wu 1988, Resampling Inference With Complex Survey Data), and both ends are moved away by how much wider Student's t is
    than a normal, of as many degrees of freedom as so few trainings leave (Satterthwaite 1946). What one training alone may have been
    otherwise is not known, and no part of the interval. None for fewer than two groups.
    """
    count = left_TG2.shape[1]
    if count < 2:
        return None
    generators, found = [np.random.default_rng([seed, side]) for side in range(2)], []
    for drawn_RG in _drawn(count, resamplings=resamplings, seed=seed):
        left_R, right_R = (_ratios(sums, drawn_RG, generator) for sums, generator in zip((left_TG2, right_UG2), generators))
        found.append(left_R - right_R)
    low, high = _percentiles(found, level=level)
    wider = _wider([left_TG2, right_UG2], variance=float(np.concatenate(found).var()), level=level)
    if wider == 1:
        return low, high
    left, right = (sums[..., 0].sum() / sums[..., 1].sum() for sums in (left_TG2, right_UG2))
    return float(left - right + wider * (low - left + right)), float(left - right + wider * (high - left + right))


def _wider(sides: Sequence[np.ndarray], *, variance: float, level: float) -> float:
    """Student's quantile over the normal's, of the degrees of freedom of a `variance` that is in part that of each side's trainings."""
    lost = 0.0
    for sums_TG2 in sides:
        if (trainings := len(sums_TG2)) > 1:
            of_each_T2 = sums_TG2.sum(axis=1)
            share = float((of_each_T2[:, 0] / of_each_T2[:, 1]).var(ddof=1)) / trainings
            lost += share**2 / (trainings - 1)
    if lost == 0:
        return 1.0
    tail = (1 + level) / 2
    return float(stats.t.ppf(tail, max(1.0, variance**2 / lost)) / stats.norm.ppf(tail))


def _ratios(sums_TG2: np.ndarray, drawn_RG: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """[R] of the groups drawn and of all trainings but one, drawn too; of one training of that."""
    trainings, resamplings = len(sums_TG2), len(drawn_RG)
    drawn_RT = generator.integers(trainings, size=(resamplings, max(1, trainings - 1)))
    of_each_TR2 = np.stack([sums_G2[drawn_RG].sum(axis=1) for sums_G2 in sums_TG2])
    sums_R2 = of_each_TR2[drawn_RT, np.arange(resamplings)[:, None]].sum(axis=1)
    return sums_R2[:, 0] / sums_R2[:, 1]


def _drawn(count: int, *, resamplings: int, seed: int) -> Iterator[np.ndarray]:
    """Indices [R, count] of things drawn with replacement, a block of resamplings at a time."""
    generator, rows = np.random.default_rng(seed), max(1, BLOCK // count)
    for start in range(0, resamplings, rows):
        yield generator.integers(count, size=(min(rows, resamplings - start), count))


def _percentiles(found: list[np.ndarray], *, level: float) -> tuple[float, float]:
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
