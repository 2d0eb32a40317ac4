"""Codes to latents and latents to codes, by what a tokenizer's `embed` says its codes stand for.

Nothing of the encoder is needed, so that whatever was done to the latents of stored codes can be stored as codes again.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from audiotok.reductions.plan import mixed

CHUNK = 1 << 22  # distances at a time: 32 MB


@dataclass(frozen=True, eq=False)
class CodeVectors:
    """vectors_VD of each codebook of a tokenizer, float64.

    Where they are `summed` (residual codebooks), the latent of a frame is the sum of its codes' vectors; else each codebook speaks of
    something of its own (dMel's bands), and they stand side by side.

    The codes of a latent are sought codebook by codebook, each the nearest to what the ones before it left over. With a `beam` of more
    than one, so many of the best beginnings are kept on the way, which finds nearer sums: a greedy search does not even find the codes
    again that a latent was made of.
    """

    vectors: tuple[Tensor, ...]
    summed: bool
    beam: int = 1

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise ValueError(f"got a beam of {self.beam}, want 1 (greedy) or more")

    @classmethod
    def of(cls, tokenizer: Any, *, summed: bool | None = None, beam: int = 1) -> "CodeVectors":
        """Of a tokenizer with `embed`. Raises ValueError for one without.

        `summed` is None for what the width tells: of several codebooks whose vectors are one number wide, none could be told apart in a
        sum. Set it to False where a sum means nothing for another reason (SNAC's columns are of different moments).
        """
        if not callable(getattr(tokenizer, "embed", None)):
            raise ValueError(f"{type(tokenizer).__name__} has no `embed`: a lossy reduction needs the vectors of its codes; choose another")
        sizes = tokenizer.spec.codebook_sizes
        codes_VK1 = torch.arange(max(sizes))[:, None].minimum(torch.tensor(sizes) - 1)[..., None]
        hidden_VKD = tokenizer.embed(codes_VK1)[:, :, 0].double()
        if summed is None:
            summed = len(sizes) == 1 or hidden_VKD.shape[-1] > 1
        return cls(tuple(hidden_VKD[:size, k].contiguous() for k, size in enumerate(sizes)), summed, beam)

    @cached_property
    def centre_D(self) -> Tensor:
        """float32: the latent of a frame whose codes are unknown, each equally likely."""
        return _joined([vectors_VD.mean(dim=0) for vectors_VD in self.vectors], self.summed).float()

    def part(self, first: int, end: int | None) -> "CodeVectors":
        """Those of some codebooks, one after another."""
        return CodeVectors(self.vectors[first:end], self.summed, self.beam)

    def latent(self, codes_KN: Tensor) -> Tensor:
        """hidden_ND, float32: the codes' vectors, summed or side by side."""
        rows = [vectors_VD.to(codes_KN.device)[codes_N] for vectors_VD, codes_N in zip(self.vectors, codes_KN, strict=True)]
        return _joined(rows, self.summed).float()

    def nearest(self, hidden_ND: Tensor) -> Tensor:
        """codes_KN; distances are exact to float64. Memory does not grow with N. Of equally near codes the lowest is taken."""
        widest = max(map(len, self.vectors), default=1) * (self.beam if self.summed else 1)
        chunks = hidden_ND.double().split(max(CHUNK // widest, 1)) if len(hidden_ND) else ()
        rows = [self._summed(chunk_ND) if self.summed else self._side_by_side(chunk_ND) for chunk_ND in chunks]
        empty_K0 = torch.zeros(len(self.vectors), 0, dtype=torch.int64, device=hidden_ND.device)
        return torch.cat([empty_K0, *rows], dim=1)

    def mixed(self, matrix_MN: Tensor, codes_KN: Tensor) -> Tensor:
        """codes_KM of the weighted means of frames that the rows of a sparse matrix describe.

        A mean over frames of the same codes has their codes, exactly: neither a frame that is kept nor a still passage is quantised again.
        """
        row_E, frame_E = matrix_MN.indices()
        first_M = torch.searchsorted(row_E, torch.arange(matrix_MN.shape[0], device=row_E.device))
        alike_KM = codes_KN[:, frame_E[first_M]]
        differ_E = (codes_KN[:, frame_E] != alike_KM[:, row_E]).any(dim=0)
        new_M = torch.zeros_like(first_M, dtype=torch.bool)
        new_M[row_E[differ_E]] = True
        alike_KM[:, new_M] = self.nearest(mixed(matrix_MN, self.latent(codes_KN))[new_M])
        return alike_KM

    def _side_by_side(self, hidden_ND: Tensor) -> Tensor:
        parts = hidden_ND.split([vectors_VD.shape[1] for vectors_VD in self.vectors], dim=1)
        return torch.stack([_distances(part, vectors_VD.to(part.device)).argmin(dim=1) for part, vectors_VD in zip(parts, self.vectors)])

    def _summed(self, hidden_ND: Tensor) -> Tensor:
        residual_NBD = hidden_ND[:, None]
        codes_NBK = torch.zeros(len(hidden_ND), 1, 0, dtype=torch.int64, device=hidden_ND.device)
        for vectors in self.vectors:
            vectors_VD = vectors.to(hidden_ND.device)
            distances_NBV = _distances(residual_NBD, vectors_VD) + residual_NBD.square().sum(dim=-1, keepdim=True)
            best_NB = _smallest(distances_NBV.flatten(1), self.beam)
            kept_NB, code_NB = best_NB // len(vectors_VD), best_NB % len(vectors_VD)
            codes_NBK = torch.cat([_taken(codes_NBK, kept_NB), code_NB[..., None]], dim=-1)
            residual_NBD = _taken(residual_NBD, kept_NB) - vectors_VD[code_NB]
        return codes_NBK[:, 0].T


def _joined(parts: list[Tensor], summed: bool) -> Tensor:
    return torch.stack(parts).sum(dim=0) if summed else torch.cat(parts, dim=-1)


def _taken(values_NBX: Tensor, kept_NB: Tensor) -> Tensor:
    return values_NBX.gather(1, kept_NB[..., None].expand(-1, -1, values_NBX.shape[-1]))


def _smallest(values_NC: Tensor, number: int) -> Tensor:
    """Places of the smallest, smallest first."""
    if number == 1:  # the first of equals, of which topk takes any
        return values_NC.argmin(dim=1, keepdim=True)
    return values_NC.topk(min(number, values_NC.shape[1]), largest=False).indices


def _distances(hidden_ND: Tensor, vectors_VD: Tensor) -> Tensor:
    """Squared, but for the square of hidden_ND itself."""
    return vectors_VD.square().sum(dim=1) - 2 * hidden_ND @ vectors_VD.T
