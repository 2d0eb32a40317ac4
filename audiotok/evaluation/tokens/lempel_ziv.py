"""What dictionary coders make of units: zlib, LZMA and LZ78, in bits.

They learn as they go, so their numbers are honest on a short corpus, but they learn slowly: a dictionary of exact repeats finds few in
noisy units. They are here because everyone has them.
"""

import lzma
import zlib
from collections.abc import Sequence
from math import log2
from typing import Literal

import numpy as np

from audiotok.evaluation.tokens.units import joined

Coder = Literal["zlib", "lzma"]
Packing = Literal["bits", "bytes"]


def packed(units_N: np.ndarray, *, size: int, packing: Packing) -> bytes:
    """The units one after the other, most significant bit first: in the least number of bits that hold `size` ids, or of whole bytes.

    Whole bytes are longer, and often compress to less: coders that look for repeats of bytes do not see a repeat at another bit of one.
    """
    units_N = joined([units_N], size=size)
    width = max((size - 1).bit_length(), 1)
    if packing == "bytes":
        width = -(-width // 8) * 8
    elif packing != "bits":
        raise ValueError(f"got packing={packing!r}, want bits or bytes")
    bits = units_N[:, None] >> np.arange(width - 1, -1, -1) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def dictionary_bits(streams: Sequence[np.ndarray], *, size: int, coder: Coder, packing: Packing) -> int:
    """Bits of the whole corpus, packed and compressed at the coder's best setting; zlib with its frame of 6 bytes, LZMA2 with none."""
    content = packed(joined(streams, size=size), size=size, packing=packing)
    if coder == "zlib":
        return 8 * len(zlib.compress(content, level=9))
    if coder == "lzma":
        dictionary = min(max(len(content), 4096), 1 << 26)  # the preset's 64 MiB would be set aside for any content
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}]
        return 8 * len(lzma.compress(content, format=lzma.FORMAT_RAW, filters=filters))
    raise ValueError(f"got coder={coder!r}, want zlib or lzma")


def lz78_phrases(streams: Sequence[np.ndarray]) -> int:
    """Into how many phrases LZ78 cuts a corpus, each one that it has met before and one more unit (Ziv and Lempel 1978).

    A stream ends its last phrase, which may be one that was met before; the dictionary goes on from stream to stream.
    """
    phrases: dict[tuple[int, int], int] = {}
    cuts = 0
    for units_N in streams:
        prefix = 0  # the empty phrase
        for unit in units_N.tolist():
            longer = phrases.get((prefix, unit))
            if longer is None:
                cuts += 1
                phrases[prefix, unit] = cuts
            prefix = longer or 0
        cuts += prefix > 0
    return cuts


def lz78_bits(streams: Sequence[np.ndarray], *, size: int) -> float:
    """Bits of the corpus in LZ78: for the i-th phrase log2 i to name an earlier one or the empty one, and log2 K for its new unit."""
    joined(streams, size=size)
    phrases = lz78_phrases(streams)
    return float(np.log2(np.arange(1, phrases + 1)).sum()) + phrases * log2(size)
