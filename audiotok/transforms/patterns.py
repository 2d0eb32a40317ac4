"""Codebook patterns: in which order a model meets the codes of a frame. All are lossless.

The pictures draw two codebooks of four frames; `_` is a hole, which holds the pad id (transforms/base.py).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from audiotok.transforms.codes import checked, column, each_alone, marked, shaped
from audiotok.types import TokenSpec


@dataclass(frozen=True)
class Parallel:
    """Every codebook of a frame at once: the codes as they are.

    1 2 3 4        1 2 3 4
    5 6 7 8   ->   5 6 7 8
    """

    lossless = True

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        return spec

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        return checked(codes_KN, spec.codebook_sizes).clone()

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        return checked(codes_KN, spec.codebook_sizes).clone()

    def frame_index(self, num_frames: int, spec: TokenSpec) -> Tensor:
        return torch.arange(num_frames)

    def legal(self, num_frames: int, spec: TokenSpec) -> Tensor:
        return torch.ones(spec.num_codebooks, num_frames, dtype=torch.bool)

    def legal_ids(self, num_frames: int, spec: TokenSpec) -> tuple[Tensor, Tensor]:
        first_KN = torch.zeros(spec.num_codebooks, num_frames, dtype=torch.int64)
        return first_KN, first_KN + column(spec.codebook_sizes)

    def sources(self, spec: TokenSpec) -> tuple[tuple[int, ...], ...]:
        return each_alone(spec.num_codebooks)

    def settled(self, codes_KN: Tensor, spec: TokenSpec) -> tuple[int, int]:
        return codes_KN.shape[1], codes_KN.shape[1]


@dataclass(frozen=True)
class Delay:
    """Codebook k lags `step * k` positions behind codebook 0 (arXiv 2306.05284).

    1 2 3 4        1 2 3 4 _
    5 6 7 8   ->   _ 5 6 7 8

    No frames give no positions. A position without any code (there are some where `step` exceeds the number of frames) counts
    as the last frame's in `frame_index`.
    """

    step: int

    lossless = True

    def __post_init__(self) -> None:
        if self.step < 0:
            raise ValueError(f"got a delay of {self.step} frames, want 0 or more")

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        sizes = tuple(size + (self._lag(spec) > 0) for size in spec.codebook_sizes)
        return replace(spec, codebook_sizes=sizes, fingerprint=marked(spec.fingerprint, self))

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        checked(codes_KN, spec.codebook_sizes)
        positions_KN = self._positions(codes_KN.shape[1], spec, like=codes_KN)
        pads_KN = column(spec.codebook_sizes, like=codes_KN).repeat(1, self._length(codes_KN.shape[1], spec))
        return pads_KN.scatter(1, positions_KN, codes_KN)

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        length = shaped(codes_KN, spec.num_codebooks).shape[1]
        if 0 < length <= self._lag(spec):
            raise ValueError(f"got {length} positions, want none or more than the {self._lag(spec)} that {self} puts behind the last frame")
        num_frames = max(length - self._lag(spec), 0)
        return checked(codes_KN.gather(1, self._positions(num_frames, spec, like=codes_KN)), spec.codebook_sizes)

    def frame_index(self, num_frames: int, spec: TokenSpec) -> Tensor:
        frames_KN = torch.arange(num_frames).repeat(spec.num_codebooks, 1)
        last_N = torch.full((self._length(num_frames, spec),), num_frames - 1)
        return last_N.scatter_reduce(0, self._positions(num_frames, spec).flatten(), frames_KN.flatten(), "amax", include_self=False)

    def legal(self, num_frames: int, spec: TokenSpec) -> Tensor:
        holes_KN = torch.zeros(spec.num_codebooks, self._length(num_frames, spec), dtype=torch.bool)
        return holes_KN.scatter(1, self._positions(num_frames, spec), True)

    def legal_ids(self, num_frames: int, spec: TokenSpec) -> tuple[Tensor, Tensor]:
        legal_KN, pads_K1 = self.legal(num_frames, spec), column(spec.codebook_sizes)
        return torch.where(legal_KN, 0, pads_K1), torch.where(legal_KN, pads_K1, pads_K1 + 1)

    def sources(self, spec: TokenSpec) -> tuple[tuple[int, ...], ...]:
        return each_alone(spec.num_codebooks)

    def settled(self, codes_KN: Tensor, spec: TokenSpec) -> tuple[int, int]:
        return codes_KN.shape[1], 0

    def _lag(self, spec: TokenSpec) -> int:
        return self.step * (spec.num_codebooks - 1)

    def _length(self, num_frames: int, spec: TokenSpec) -> int:
        return num_frames + self._lag(spec) if num_frames else 0

    def _positions(self, num_frames: int, spec: TokenSpec, *, like: Tensor | None = None) -> Tensor:
        """Where each code goes: int64 [K, N]."""
        lags_K1 = column(tuple(self.step * codebook for codebook in range(spec.num_codebooks)), like=like)
        return lags_K1 + torch.arange(num_frames, device=lags_K1.device)


@dataclass(frozen=True)
class Flatten:
    """One flat stream, a frame after another, codebook k's ids shifted by its offset in the joint vocabulary.

    1 2 3 4
    5 6 7 8   ->   1 5 2 6 3 7 4 8
    """

    lossless = True

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        return _flat_spec(spec, self)

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        return _shifted(codes_KN, spec).T.reshape(1, -1)

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        return _unshifted(_whole_frames(codes_KN, spec).reshape(-1, spec.num_codebooks).T, spec)

    def frame_index(self, num_frames: int, spec: TokenSpec) -> Tensor:
        return torch.arange(num_frames).repeat_interleave(spec.num_codebooks)

    def legal(self, num_frames: int, spec: TokenSpec) -> Tensor:
        return torch.ones(1, num_frames * spec.num_codebooks, dtype=torch.bool)

    def legal_ids(self, num_frames: int, spec: TokenSpec) -> tuple[Tensor, Tensor]:
        first_1N = torch.tensor(spec.vocabulary_offsets).repeat(num_frames)[None]
        return first_1N, first_1N + torch.tensor(spec.codebook_sizes).repeat(num_frames)

    def sources(self, spec: TokenSpec) -> tuple[tuple[int, ...], ...]:
        return (tuple(range(spec.num_codebooks)),)

    def settled(self, codes_KN: Tensor, spec: TokenSpec) -> tuple[int, int]:
        return codes_KN.numel(), codes_KN.shape[1]


@dataclass(frozen=True)
class CoarseFirst:
    """One flat stream, a codebook after another over the whole utterance, ids shifted as in `Flatten` (arXiv 2209.03143).

    1 2 3 4
    5 6 7 8   ->   1 2 3 4 5 6 7 8
    """

    lossless = True

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        return _flat_spec(spec, self)

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        return _shifted(codes_KN, spec).reshape(1, -1)

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        codes_1N = _whole_frames(codes_KN, spec)
        return _unshifted(codes_1N.reshape(spec.num_codebooks, codes_1N.shape[1] // spec.num_codebooks), spec)

    def frame_index(self, num_frames: int, spec: TokenSpec) -> Tensor:
        return torch.arange(num_frames).repeat(spec.num_codebooks)

    def legal(self, num_frames: int, spec: TokenSpec) -> Tensor:
        return torch.ones(1, num_frames * spec.num_codebooks, dtype=torch.bool)

    def legal_ids(self, num_frames: int, spec: TokenSpec) -> tuple[Tensor, Tensor]:
        first_1N = torch.tensor(spec.vocabulary_offsets).repeat_interleave(num_frames)[None]
        return first_1N, first_1N + torch.tensor(spec.codebook_sizes).repeat_interleave(num_frames)

    def sources(self, spec: TokenSpec) -> tuple[tuple[int, ...], ...]:
        return (tuple(range(spec.num_codebooks)),)


def _flat_spec(spec: TokenSpec, transform: object) -> TokenSpec:
    return replace(
        spec,
        frame_rate=spec.frame_rate * spec.num_codebooks,
        codebook_sizes=(sum(spec.codebook_sizes),),
        fingerprint=marked(spec.fingerprint, transform),
    )


def _shifted(codes_KN: Tensor, spec: TokenSpec) -> Tensor:
    return checked(codes_KN, spec.codebook_sizes) + column(spec.vocabulary_offsets, like=codes_KN)


def _unshifted(codes_KN: Tensor, spec: TokenSpec) -> Tensor:
    return checked(codes_KN - column(spec.vocabulary_offsets, like=codes_KN), spec.codebook_sizes)


def _whole_frames(codes_1N: Tensor, spec: TokenSpec) -> Tensor:
    checked(codes_1N, (sum(spec.codebook_sizes),))
    if codes_1N.shape[1] % spec.num_codebooks:
        raise ValueError(f"got {codes_1N.shape[1]} positions, want a multiple of the {spec.num_codebooks} codebooks")
    return codes_1N
