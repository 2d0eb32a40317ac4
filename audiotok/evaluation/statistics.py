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
    left_TG2: np.ndarray, right_UG2: np.ndarray, *, resamplings: int, seed: int, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile interval of the left ratio less the right one over groups drawn with replacement, the same for both, and over trainings.

    A row holds the numerators and the denominators of a group, summed: of utterances that say the same about the corpus, such as one
    recording at several noise levels. T trainings of the one system and U of the other were scored on the same groups; a side's ratio is of
    all of its trainings. Of T of them T - 1 are drawn, each side's by itself, so that the variance is not too small by (T - 1) / T, a half
    of two (Rao and Wu 1988, Resampling Inference With Complex Survey Data); what one training alone may have been otherwise is not known,
    and no part of the interval. None for fewer than two groups.
    """
    count = left_TG2.shape[1]
    if count < 2:
        return None
    generators = [np.random.default_rng([seed, side]) for side in range(2)]
    found = []
    for drawn_RG in _drawn(count, resamplings=resamplings, seed=seed):
        left_R, right_R = (_ratios(sums, drawn_RG, generator) for sums, generator in zip((left_TG2, right_UG2), generators))
        found.append(left_R - right_R)
    return _percentiles(found, level=level)


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
