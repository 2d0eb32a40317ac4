"""Codes as one stream of base ids and back, for the transforms that read them one by one; `patterns.Flatten` says what the ids are."""

import numba
import numpy as np
import torch
from torch import Tensor

from audiotok.transforms.codes import checked, column, shaped
from audiotok.types import TokenSpec


def flattened(codes_KN: Tensor, spec: TokenSpec) -> np.ndarray:
    """Base ids of codes, a frame after another, int64 [N * K]: what `Flatten` makes of them, in one pass.

    On an utterance the dozen small operations of `Flatten` would take longer than what is done with the ids.
    """
    flat_N, fit = _flattened(np.ascontiguousarray(shaped(codes_KN, spec.num_codebooks).cpu().numpy()), edges(spec))
    if not fit:
        checked(codes_KN, spec.codebook_sizes)  # says which code and where
    return flat_N


@numba.njit(cache=True)
def _flattened(codes_KN: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, bool]:
    flat_N, num_codebooks, fit = np.empty(codes_KN.size, np.int64), codes_KN.shape[0], True
    for codebook in range(num_codebooks):
        size = edges[codebook + 1] - edges[codebook]
        for frame in range(codes_KN.shape[1]):
            code = codes_KN[codebook, frame]
            fit &= 0 <= code < size
            flat_N[frame * num_codebooks + codebook] = edges[codebook] + code
    return flat_N, fit


def unflattened(codes_N: np.ndarray, spec: TokenSpec) -> Tensor:
    """codes_KN of flat codes whose codebooks are known to take turns."""
    return torch.from_numpy(codes_N).reshape(-1, spec.num_codebooks).T - column(spec.vocabulary_offsets)


def edges(spec: TokenSpec) -> np.ndarray:
    """int64 [K + 1]: codebook k's ids in a flat vocabulary are `edges[k] <= id < edges[k + 1]`."""
    return np.array((*spec.vocabulary_offsets, sum(spec.codebook_sizes)), dtype=np.int64)
