"""What a transform of codes is.

A transform acts when tokens are read; the store keeps raw codes. A lossless one holds `invert(apply(codes)) == codes` for every input.

Some layouts have holes: positions at which no code stands. A hole holds the pad id, which is the size of the codebook before the transform,
so that `out_spec` counts one id more for a codebook that has holes, and the same number of ids for one that has none. `invert` ignores
whatever stands in a hole, and raises ValueError for a pad id anywhere else.
"""

from typing import Protocol

from torch import Tensor

from audiotok.types import TokenSpec


class Transform(Protocol):
    lossless: bool

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        """The spec of transformed codes."""
        ...

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        """Codes in the transformed layout, ids below `out_spec(spec).codebook_sizes`."""
        ...

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        """Codes in the original layout; `spec` is the original one."""
        ...

    def frame_index(self, num_frames: int, spec: TokenSpec) -> Tensor:
        """For each position of the transformed layout, the frame of the first codebook that has a code there: int64 [N'].

        It leads: a model that is told this frame's phoneme is told what the code to be chosen next speaks.
        """
        ...

    def legal(self, num_frames: int, spec: TokenSpec) -> Tensor:
        """Bool [K', N']: True where a code stands, False at a hole, where a generator must write the pad id."""
        ...

    def legal_ids(self, num_frames: int, spec: TokenSpec) -> tuple[Tensor, Tensor]:
        """(first_KN, end_KN), int64 [K', N']: a generator may choose `first <= id < end`; at a hole that is the pad id alone."""
        ...
