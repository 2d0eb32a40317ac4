"""The bits that an arithmetic coder needs for units, with a model of n-grams that it learns from the units already coded.

Nothing is given in advance but the size of the codebook, so a short corpus cannot look more compressible than it is: at this length it
can be written and read back, as a test does. The length is the ideal -log2 p; a coder adds at most two bits for a whole corpus.
"""

from collections.abc import Sequence

import numpy as np

from audiotok.evaluation.tokens.units import joined, nested_ids, of_sizes, past

DISCOUNT = 0.75  # of each count, for the shorter context; 30 s of dMel and of codec codes are shortest at 0.7 and 0.8, by 0.1 percent


def adaptive_bits(
    utterances: Sequence[np.ndarray],
    *,
    sizes: Sequence[int],
    order: int,
    given_below: bool,
    seen: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Bits of a corpus of codes_KN for each codebook, [K], under contexts of up to `order` frames of the past.

    With `given_below`, codebook k is coded after codebook k - 1 of the same frame, and that code is the nearest of its context:

        codebook 1    past past  ?
        codebook 0              below

    What was `seen` before (a training set) has been learnt and is not counted; learning goes on. With nothing seen, no codebook takes more
    than log2 V bits a code, V its size, and log2(order + 3) bits in all on top, however little there is to learn.
    """
    corpus = [of_sizes(codes_KN, sizes) for codes_KN in (*seen, *utterances)]
    before = sum(codes_KN.shape[1] for codes_KN in corpus[: len(seen)])
    bits = []
    for codebook, size in enumerate(sizes):
        streams = [codes_KN[codebook] for codes_KN in corpus]
        contexts_NO = past(streams, order=order)
        if given_below and codebook:
            below_N = joined([codes_KN[codebook - 1] for codes_KN in corpus], size=sizes[codebook - 1])
            contexts_NO = np.concatenate([below_N[:, None], contexts_NO], axis=1)
        bits.append(ideal_lengths(joined(streams, size=size), contexts_NO, size=size)[before:].sum())
    return np.array(bits)


def ideal_lengths(units_N: np.ndarray, contexts_NO: np.ndarray, *, size: int) -> np.ndarray:
    """-log2 of the probability of each unit given its context and all before it, bits_N.

    There is one predictor for each length of context, o = 0 ... O, and one that holds all units equally likely. Predictor o interpolates by
    absolute discounting (Ney, Essen and Kneser 1994), with n and u the units and the kinds of unit seen in the first o of the context:

        p_o(x) = max(n(x) - d, 0) / n + d u / n p_(o-1)(x)

    Their mixture weighs each by the probability it gave to everything so far, and so is within log2(O + 2) bits of the best of them.
    """
    experts = [np.full(len(units_N), 1 / size)]
    for context in nested_ids(contexts_NO):
        pairs = nested_ids(np.stack([context, units_N], axis=1))[-1]
        count_N = _sum_before(context, np.ones(len(units_N)))
        same_N = _sum_before(pairs, np.ones(len(units_N)))
        kinds_N = _sum_before(context, same_N == 0)
        discounted = np.maximum(same_N - DISCOUNT, 0) + DISCOUNT * kinds_N * experts[-1]
        experts.append(np.where(count_N > 0, discounted / np.maximum(count_N, 1), experts[-1]))
    totals_N = np.logaddexp2.reduce(np.cumsum(np.log2(experts), axis=1), axis=0) - np.log2(len(experts))
    return -np.diff(totals_N, prepend=0.0)


def _sum_before(groups_N: np.ndarray, values_N: np.ndarray) -> np.ndarray:
    """For each place, the sum of the values at earlier places of the same group."""
    places = np.argsort(groups_N, kind="stable")
    sums = np.cumsum(values_N[places]) - values_N[places]
    first = np.diff(groups_N[places], prepend=-1) != 0
    result = np.empty(len(sums))
    result[places] = sums - sums[np.flatnonzero(first)][np.cumsum(first) - 1]
    return result
