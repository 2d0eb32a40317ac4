"""What a transform of codes is.

A transform acts when tokens are read; the store keeps raw codes. A lossless one holds `invert(apply(codes)) == codes` for every input.
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
        """For each position of the transformed layout, the earliest frame whose code it holds: int64 [N']."""
        ...
