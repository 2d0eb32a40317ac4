"""How much of its codebook a tokenizer uses, from counts_V of its codes.

What was never seen may yet exist, so a share of active codes says little without the size of its sample; `coverage` and `estimated` say how
much is likely to be missing. Both take codes for independent draws. Neighbouring frames are not, and so both see too little missing.
"""

from dataclasses import dataclass
from math import log2

import numpy as np

from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens.entropy import entropy

ZIPF_COUNT = 2  # codes seen once are a long step at the end of the ranks, whose length is the sample's and not the codebook's


@dataclass(frozen=True)
class Usage:
    """The use of one codebook of `size` codes in a sample of `samples`."""

    size: int
    samples: int
    active: int  # codes that occur
    coverage: float  # share of the tokenizer's output that these codes make up, by estimate
    estimated: float  # codes that exist, by estimate
    entropy: float  # bits
    gini: float
    zipf_slope: float | None  # None where fewer than two codes occur twice
    dead: tuple[int, ...]  # codes that do not occur

    @property
    def active_share(self) -> float:
        return self.active / self.size

    @property
    def perplexity(self) -> float:
        """The number of equally frequent codes with the same entropy."""
        return float(2**self.entropy)

    @property
    def normalised_entropy(self) -> float:
        """Over log2 of all codes, not of the active ones, which would give 1 to a codebook of two live codes and a thousand dead.

        Raises NotApplicable for a codebook of one code.
        """
        if self.size < 2:
            raise NotApplicable("a codebook of one code has no entropy to be measured by")
        return self.entropy / log2(self.size)


def usage(counts_V: np.ndarray) -> Usage:
    """How the codes that were counted use the codebook. Raises NotApplicable where nothing was counted."""
    return Usage(
        size=len(counts_V),
        samples=_samples(counts_V),
        active=int(np.count_nonzero(counts_V)),
        coverage=coverage(counts_V),
        estimated=chao1(counts_V),
        entropy=entropy(counts_V),
        gini=gini(counts_V),
        zipf_slope=zipf_slope(counts_V) if np.count_nonzero(counts_V >= ZIPF_COUNT) > 1 else None,
        dead=tuple(np.flatnonzero(counts_V == 0).tolist()),
    )


def coverage(counts_V: np.ndarray) -> float:
    """1 - f1 / n, with f1 the codes seen once: the probability that the next code is one that was seen (Good 1953, after Turing)."""
    return 1 - float((counts_V == 1).sum() / _samples(counts_V))


def chao1(counts_V: np.ndarray) -> float:
    """An estimate, by its making a low one, of how many codes exist: active + (n - 1) / n f1 (f1 - 1) / (2 (f2 + 1)), and at most V.

    The bias-corrected form of Chao (1984), with f1 and f2 the codes seen once and twice.
    """
    once, twice, number = (int(value) for value in ((counts_V == 1).sum(), (counts_V == 2).sum(), _samples(counts_V)))
    unseen = (number - 1) / number * once * (once - 1) / (2 * (twice + 1))
    return float(min(np.count_nonzero(counts_V) + unseen, len(counts_V)))


def zipf_slope(counts_V: np.ndarray) -> float:
    """Slope of log count over log rank by least squares, of the codes seen at least `ZIPF_COUNT` times: 0 where all are alike, -1 for Zipf.

    Raises NotApplicable where fewer than two codes are.
    """
    counts = np.sort(counts_V[counts_V >= ZIPF_COUNT])[::-1]
    if len(counts) < 2:
        raise NotApplicable(f"{len(counts)} codes occur {ZIPF_COUNT} times or more: a slope needs two")
    return float(np.polyfit(np.log(np.arange(1, len(counts) + 1)), np.log(counts), 1)[0])


def gini(counts_V: np.ndarray) -> float:
    """Mean absolute difference of two codes' counts over twice the mean count, dead codes included: 0 alike, (V - 1) / V a single code."""
    counts = np.sort(counts_V).astype(np.float64)
    ranks = np.arange(1, len(counts) + 1)
    return float((2 * ranks - len(counts) - 1) @ counts / (len(counts) * _samples(counts_V)))


def _samples(counts_V: np.ndarray) -> int:
    samples = int(counts_V.sum())
    if not samples:
        raise NotApplicable("nothing was counted: an empty sample says nothing about a codebook")
    return samples
