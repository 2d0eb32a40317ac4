"""Whether cheap scores of tokens foretell dear ones: correlations over tokenizers.

A handful of tokenizers is a small sample, and the many pairs are looked at at once: the p-values are of each pair alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations as orders

import numpy as np
from scipy.stats import rankdata

from audiotok.bench.comparison import Key, Measured, by_key

LEAST = 4  # tokenizers: with three, one order in three is perfect by chance
EXACT = 8  # tokenizers up to which all orders are tried: 40,320
SAME = 1e-12  # what rounding may take from a coefficient that is as large as the observed one


@dataclass(frozen=True)
class Correlation:
    """Of two scores over `n` tokenizers, with two-sided permutation p-values. Signs are those of the numbers, not of what is better."""

    left: Key
    right: Key
    n: int
    spearman: float
    spearman_p: float
    pearson: float
    pearson_p: float


def correlations(scores: Iterable[Measured], *, permutations: int, seed: int) -> list[Correlation]:
    """Every score of the axis "tokens" with every primary one of "downstream" and "reconstruction".

    Only where four tokenizers or more have both, and neither is the same for all of them. Values are means over seeds.
    """
    columns = by_key(scores)
    means = {key: {one.tokenizer: one.mean for one in column if one.mean is not None} for key, column in columns.items()}
    tokens = [key for key, column in columns.items() if column[0].axis == "tokens"]
    judged = [key for key, column in columns.items() if column[0].primary and column[0].axis in ("downstream", "reconstruction")]
    settings = {"permutations": permutations, "seed": seed}
    found = [_correlation(left, right, means, **settings) for left in tokens for right in judged]
    return [correlation for correlation in found if correlation]


def _correlation(left: Key, right: Key, means: Mapping[Key, Mapping[str, float]], *, permutations: int, seed: int) -> Correlation | None:
    names = sorted(means[left].keys() & means[right].keys())
    left_N, right_N = (np.array([means[key][name] for name in names]) for key in (left, right))
    if len(names) < LEAST or np.ptp(left_N) == 0 or np.ptp(right_N) == 0:
        return None
    numbers = []
    for pair in ((rankdata(left_N), rankdata(right_N)), (left_N, right_N)):
        numbers += [pearson(*pair), permutation_p(*pair, permutations=permutations, seed=seed)]
    return Correlation(left, right, len(names), *numbers)


def spearman(left_N: np.ndarray, right_N: np.ndarray) -> float:
    """Pearson's coefficient of the ranks; equal values share the mean of theirs."""
    return pearson(rankdata(left_N), rankdata(right_N))


def pearson(left_N: np.ndarray, right_N: np.ndarray) -> float:
    return float(_unit(left_N) @ _unit(right_N))


def _unit(values_N: np.ndarray) -> np.ndarray:
    centred_N = values_N - values_N.mean()
    return centred_N / np.linalg.norm(centred_N)


def permutation_p(left_N: np.ndarray, right_N: np.ndarray, *, permutations: int, seed: int) -> float:
    """Share of the orders of one side whose Pearson coefficient is as far from 0 as the observed one.

    All orders up to eight tokenizers; beyond, `permutations` of them drawn by the seed, with the observed one counted among them. Of ranks
    it is the p-value of Spearman's coefficient.
    """
    left_N, right_N = _unit(left_N), _unit(right_N)
    coefficients_P = left_N[_orders(len(left_N), permutations, seed)] @ right_N
    extreme = int(np.count_nonzero(np.abs(coefficients_P) >= abs(left_N @ right_N) - SAME))
    drawn = len(left_N) > EXACT
    return (extreme + drawn) / (len(coefficients_P) + drawn)


@lru_cache(maxsize=4)
def _orders(count: int, permutations: int, seed: int) -> np.ndarray:
    """Permutations of `count` places, one a row."""
    if count <= EXACT:
        return np.array(list(orders(range(count))))
    return np.random.default_rng(seed).permuted(np.tile(np.arange(count), (permutations, 1)), axis=1)
