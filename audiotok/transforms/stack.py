"""Space to channel over frames: fewer, wider frames. Lossless."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from audiotok.transforms.codes import checked, column, each_alone, marked, shaped
from audiotok.types import TokenSpec


@dataclass(frozen=True)
class Stack:
    """`frames` neighbouring frames become one frame of `frames * K` codebooks, the earliest frame's K codebooks first.

    Two frames of two codebooks; the last frame is filled up with holes, `_` (transforms/base.py):

        1 2 3        1 3
        5 6 7   ->   5 7
                     2 _
                     6 _

    The holes say where the utterance ends: in the last frame it ends before the first pad id of codebook 0, and what the other codebooks
    hold from there on is ignored. The codebooks of the earliest frame have no holes and keep their sizes.
    """

    frames: int

    lossless = True

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"got a stack of {self.frames} frames, want 1 or more")

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        with_hole = tuple(size + 1 for size in spec.codebook_sizes)
        return replace(
            spec,
            frame_rate=spec.frame_rate / self.frames,
            codebook_sizes=spec.codebook_sizes + with_hole * (self.frames - 1),
            fingerprint=marked(spec.fingerprint, self),
        )

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        checked(codes_KN, spec.codebook_sizes)
        pads_KN = column(spec.codebook_sizes, like=codes_KN).expand(-1, -codes_KN.shape[1] % self.frames)
        return self._stacked(torch.cat([codes_KN, pads_KN], dim=1))

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        num_codebooks, length = spec.num_codebooks, shaped(codes_KN, spec.num_codebooks * self.frames).shape[1]
        frames_KN = codes_KN.reshape(self.frames, num_codebooks, length).permute(1, 2, 0).reshape(num_codebooks, length * self.frames)
        earliest_end = max(frames_KN.shape[1] - self.frames + 1, 0)
        ended = (frames_KN[0, earliest_end:] == spec.codebook_sizes[0]).nonzero()
        num_frames = earliest_end + int(ended[0]) if len(ended) else frames_KN.shape[1]
        return checked(frames_KN[:, :num_frames], spec.codebook_sizes)

    def frame_index(self, num_frames: int, spec: TokenSpec) -> Tensor:
        return torch.arange(0, num_frames, self.frames)

    def legal(self, num_frames: int, spec: TokenSpec) -> Tensor:
        length = -(-num_frames // self.frames) * self.frames
        return self._stacked((torch.arange(length) < num_frames).expand(spec.num_codebooks, -1))

    def legal_ids(self, num_frames: int, spec: TokenSpec) -> tuple[Tensor, Tensor]:
        legal_KN, pads_K1 = self.legal(num_frames, spec), column(spec.codebook_sizes * self.frames)
        return torch.where(legal_KN, 0, pads_K1), torch.where(legal_KN, pads_K1, pads_K1 + 1)

    def sources(self, spec: TokenSpec) -> tuple[tuple[int, ...], ...]:
        return each_alone(spec.num_codebooks) * self.frames

    def settled(self, codes_KN: Tensor, spec: TokenSpec) -> tuple[int, int]:
        whole = codes_KN.shape[1] // self.frames
        return whole, whole * self.frames

    def _stacked(self, values_KN: Tensor) -> Tensor:
        """[K, N] with whole stacks to [frames * K, N / frames]."""
        num_codebooks, positions = values_KN.shape[0], values_KN.shape[1] // self.frames
        return values_KN.reshape(num_codebooks, positions, self.frames).permute(2, 0, 1).reshape(self.frames * num_codebooks, positions)
