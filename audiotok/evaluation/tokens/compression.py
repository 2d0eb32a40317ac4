"""How few bits the codes of a corpus could take, by each method and codebook; per token, and per second, which compares token rates."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens.adaptive import adaptive_bits
from audiotok.evaluation.tokens.entropy import conditional_entropy
from audiotok.evaluation.tokens.huffman import huffman
from audiotok.evaluation.tokens.lempel_ziv import dictionary_bits, lz78_bits
from audiotok.evaluation.tokens.units import counted, of_sizes


def bits_per_token(utterances: Sequence[np.ndarray], *, sizes: Sequence[int], order: int) -> dict[str, np.ndarray]:
    """Bits per token of a corpus of codes_KN by method, [K] each. Raises NotApplicable for a corpus without frames.

    fixed                      log2 of the codebook's size
    entropy_0, _1, _2          plug-in entropies given none, one and two codes before; too low on a short corpus, see `entropy`
    huffman                    of a code fitted to this corpus, its table not counted
    zlib, lzma, lz78           as they are, from nothing; ids in the least whole number of bits
    adaptive, adaptive_below   arithmetic code from nothing, up to `order` frames of the past; a codebook by itself, or given the one below
    """
    utterances = [of_sizes(codes_KN, sizes) for codes_KN in utterances]
    frames = sum(codes_KN.shape[1] for codes_KN in utterances)
    if not frames:
        raise NotApplicable("no frames: an empty corpus takes no bits")
    rows = [_alone([codes_KN[codebook] for codes_KN in utterances], size=size) for codebook, size in enumerate(sizes)]
    bits = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    for name, given_below in (("adaptive", False), ("adaptive_below", True)):
        bits[name] = adaptive_bits(utterances, sizes=sizes, order=order, given_below=given_below) / frames
    return bits


def _alone(streams: Sequence[np.ndarray], *, size: int) -> dict[str, float]:
    counts_V = counted(streams, size=size)
    tokens = int(counts_V.sum())
    return {
        "fixed": float(np.log2(size)),
        **{f"entropy_{order}": conditional_entropy(streams, size=size, order=order) for order in (0, 1, 2)},
        "huffman": huffman(counts_V).mean_length,
        "zlib": dictionary_bits(streams, size=size, coder="zlib", packing="bits") / tokens,
        "lzma": dictionary_bits(streams, size=size, coder="lzma", packing="bits") / tokens,
        "lz78": lz78_bits(streams, size=size) / tokens,
    }


def bits_per_second(bits_K: np.ndarray, *, frame_rate: Fraction | float) -> float:
    """The rate of all codebooks together, from bits per token and frames per second."""
    return float(np.sum(bits_K)) * float(frame_rate)
