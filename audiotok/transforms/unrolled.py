"""A codebook pattern of one code a position in which every codebook keeps its ids, for models that say a frame's codes in turn."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from audiotok.transforms.codes import checked, column, each_alone, marked, shaped
from audiotok.types import TokenSpec


@dataclass(frozen=True)
class Unroll:
    """A frame after another, its codebooks in turn (the flattening pattern of arXiv 2306.05284). `_` is a hole (transforms/base.py):

    1 2 3        1 _ 2 _ 3 _
    5 6 7   ->   _ 5 _ 6 _ 7

    `Flatten` has the same order in one codebook of all ids; here a model still sees how many codebooks there are, and how large.
    """

    lossless = True

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        return replace(
            spec,
            frame_rate=spec.frame_rate * spec.num_codebooks,
            codebook_sizes=tuple(size + (spec.num_codebooks > 1) for size in spec.codebook_sizes),
            fingerprint=marked(spec.fingerprint, self),
        )

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        checked(codes_KN, spec.codebook_sizes)
        pads_KN = column(spec.codebook_sizes, like=codes_KN).repeat(1, codes_KN.numel())
        return pads_KN.scatter(1, _positions(codes_KN.shape[1], spec, like=codes_KN), codes_KN)

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        num_frames, left = divmod(shaped(codes_KN, spec.num_codebooks).shape[1], spec.num_codebooks)
        if left:
            raise ValueError(f"got {codes_KN.shape[1]} positions, want a multiple of the {spec.num_codebooks} codebooks")
        return checked(codes_KN.gather(1, _positions(num_frames, spec, like=codes_KN)), spec.codebook_sizes)

    def frame_index(self, num_frames: int, spec: TokenSpec) -> Tensor:
        return torch.arange(num_frames).repeat_interleave(spec.num_codebooks)

    def legal(self, num_frames: int, spec: TokenSpec) -> Tensor:
        return torch.eye(spec.num_codebooks, dtype=torch.bool).repeat(1, num_frames)

    def legal_ids(self, num_frames: int, spec: TokenSpec) -> tuple[Tensor, Tensor]:
        legal_KN, pads_K1 = self.legal(num_frames, spec), column(spec.codebook_sizes)
        return torch.where(legal_KN, 0, pads_K1), torch.where(legal_KN, pads_K1, pads_K1 + 1)

    def sources(self, spec: TokenSpec) -> tuple[tuple[int, ...], ...]:
        return each_alone(spec.num_codebooks)

    def settled(self, codes_KN: Tensor, spec: TokenSpec) -> tuple[int, int]:
        return codes_KN.numel(), codes_KN.shape[1]


def _positions(num_frames: int, spec: TokenSpec, *, like: Tensor) -> Tensor:
    """Where each code goes: int64 [K, N]."""
    codebook_K1 = torch.arange(spec.num_codebooks, device=like.device)[:, None]
    return codebook_K1 + spec.num_codebooks * torch.arange(num_frames, device=like.device)


def rolled(codes_BKP: Tensor) -> Tensor:
    """codes_BKN, a frame a position, of a batch of unrolled codes with -1 in the holes and past each row's end.

    Raises ValueError where a code stands out of its turn.
    """
    _, num_codebooks, num_positions = codes_BKP.shape
    if num_positions % num_codebooks == 0:
        codes_BKN = codes_BKP.unflatten(2, (-1, num_codebooks)).diagonal(dim1=1, dim2=3).transpose(1, 2)
        if (codes_BKN >= 0).sum() == (codes_BKP >= 0).sum():
            return codes_BKN
    raise ValueError(
        f"got codes of {list(codes_BKP.shape)} whose {num_codebooks} codebooks do not take turns, one a position; choose transform=unroll"
    )
