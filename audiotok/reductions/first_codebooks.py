"""Fewer codebooks at the full frame rate: what a codec of residual codebooks offers itself."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from audiotok.reductions.requantise import CodeVectors
from audiotok.reductions.tail_drop import filler
from audiotok.transforms.codes import checked, column, each_alone, marked
from audiotok.types import TokenSpec


@dataclass(frozen=True, repr=False)
class Codebooks:
    """The first `kept` codebooks.

    1 2 3 4        1 2 3 4
    5 6 7 8   ->   5 6 7 8
    9 0 1 2

    What decodes needs all of them: `invert` puts those codes in the place of the others whose vectors sum nearest to zero, as `TailDrop`
    does.
    """

    tokenizer: Any  # with `embed`
    kept: int

    lossless = False

    def __post_init__(self) -> None:
        if not 1 <= self.kept <= (most := self.tokenizer.spec.num_codebooks):
            raise ValueError(f"got kept={self.kept} codebooks, want 1 to {most}, as many as {type(self.tokenizer).__name__} has")

    @cached_property
    def fillers(self) -> Tensor:
        """int64 of the codebooks that are left out."""
        vectors = CodeVectors.of(self.tokenizer)
        if not vectors.summed:
            raise ValueError(f"{type(self.tokenizer).__name__}: its codebooks do not refine one another, so no first part stands for all")
        return filler(vectors, self.kept) if self.kept < len(vectors.vectors) else torch.zeros(0, dtype=torch.int64)

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        return replace(spec, codebook_sizes=spec.codebook_sizes[: self.kept], fingerprint=marked(spec.fingerprint, self))

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        return checked(codes_KN, spec.codebook_sizes)[: self.kept].clone()

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        checked(codes_KN, spec.codebook_sizes[: self.kept])
        return torch.cat([codes_KN, self.fillers.to(codes_KN.device)[:, None].expand(-1, codes_KN.shape[1])])

    def frame_index(self, num_frames: int, spec: TokenSpec) -> Tensor:
        return torch.arange(num_frames)

    def legal(self, num_frames: int, spec: TokenSpec) -> Tensor:
        return torch.ones(self.kept, num_frames, dtype=torch.bool)

    def legal_ids(self, num_frames: int, spec: TokenSpec) -> tuple[Tensor, Tensor]:
        first_KN = torch.zeros(self.kept, num_frames, dtype=torch.int64)
        return first_KN, first_KN + column(spec.codebook_sizes[: self.kept])

    def sources(self, spec: TokenSpec) -> tuple[tuple[int, ...], ...]:
        return each_alone(self.kept)

    def settled(self, codes_KN: Tensor, spec: TokenSpec) -> tuple[int, int]:
        return codes_KN.shape[1], codes_KN.shape[1]

    def __repr__(self) -> str:
        return f"Codebooks({self.tokenizer.spec.fingerprint[:12]}, kept={self.kept!r})"
