"""Entropy of units, in bits per unit, as their counts have it.

Plug-in estimates take the counted frequencies for the probabilities, and so come out too low: for m kinds of unit seen n times in all by
(m - 1) / (2 n ln 2) bits to first order (Miller 1955). A conditional entropy is too low in every one of its contexts, and where most
contexts are seen once it is near 0 whatever the units: 1,024 equally likely codes have 10 bits at any order, and 10,000 of them show a
plug-in value of 3.4 at order 1. That is no compression. What a coder can in truth save on a short corpus is `adaptive.adaptive_bits`,
which pays for learning each context.
"""

from collections.abc import Sequence
from math import log

import numpy as np

from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens.units import joined, nested_ids, past


def entropy(counts: np.ndarray) -> float:
    """Plug-in entropy in bits of what was counted, in an array of any shape. Raises NotApplicable where nothing was."""
    counts = counts[counts > 0].astype(np.float64)
    if not len(counts):
        raise NotApplicable("nothing was counted: an empty corpus has no entropy")
    shares = counts / counts.sum()
    return max(float(-shares @ np.log2(shares)), 0.0)


def miller_madow(counts: np.ndarray) -> float:
    """Entropy in bits with the first-order bias put back; good where the counts are large, too low where many cells were never seen."""
    return entropy(counts) + (np.count_nonzero(counts) - 1) / (2 * counts.sum() * log(2))


def conditional_entropy(streams: Sequence[np.ndarray], *, size: int, order: int) -> float:
    """Plug-in H(unit | the `order` units before it), in bits; never above that of a lower order.

    The beginning of a stream is a context like any other, so every order is measured on the same units.
    """
    units_N = joined(streams, size=size)
    ids = nested_ids(np.concatenate([past(streams, order=order), units_N[:, None]], axis=1))
    return max(entropy(np.bincount(ids[-1])) - entropy(np.bincount(ids[-2])), 0.0)
