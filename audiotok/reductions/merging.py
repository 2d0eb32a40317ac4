"""Codec-merging (VALL-E R, arXiv 2406.07855): some codebooks at a lower rate than the others, without training anything."""

from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from audiotok.reductions.plan import means
from audiotok.reductions.requantise import CodeVectors
from audiotok.transforms.codes import checked, column, each_alone, marked, shaped
from audiotok.transforms.stack import Stack
from audiotok.types import TokenSpec


@dataclass(frozen=True, repr=False)
class CodecMerging:
    """The first `codebooks` codebooks say one code for every `frames` frames; the others one for each, side by side as in `Stack`.

    Codebook by codebook, the mean over `frames` frames of what is left of the latents is quantised, and taken from each of them; then the
    other codebooks quantise what is left of every frame. Two of three codebooks' codes are new, a capital for those of two frames:

        1 2 3        A B          A A B
        4 5 6   ->   c e     ->   c d e
        7 8 9        f h          f g h
                     d _
                     g _

    The paper takes the latents from the encoder; these are those of the codes. As in `Stack` the holes of the last position say where the
    utterance ends; without other codebooks nothing does, and `invert` gives a multiple of `frames`. Lossy.
    """

    tokenizer: Any  # with `embed`
    _: KW_ONLY
    frames: int
    codebooks: int | None  # None for all
    beam: int  # of the search for the others' codes

    lossless = False

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise ValueError(f"got {self.frames} frames to merge, want 2 or more")
        if self.codebooks is not None and not 1 <= self.codebooks <= self.tokenizer.spec.num_codebooks:
            raise ValueError(f"got {self.codebooks} codebooks to merge, want 1 to the tokenizer's {self.tokenizer.spec.num_codebooks}")

    @cached_property
    def vectors(self) -> CodeVectors:
        vectors = CodeVectors.of(self.tokenizer, beam=self.beam)
        if not vectors.summed:
            raise ValueError(f"{type(self.tokenizer).__name__}: merging needs residual codebooks, whose vectors are summed; use average2")
        return vectors

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        self._check_spec(spec)
        others = self._others(spec)
        behind = self._stack.out_spec(others).codebook_sizes if others else ()
        return replace(
            spec,
            frame_rate=spec.frame_rate / self.frames,
            codebook_sizes=spec.codebook_sizes[: self._merged] + behind,
            fingerprint=marked(spec.fingerprint, self),
        )

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        self._check_spec(spec)
        merged_KP, others_KN = self.merged(checked(codes_KN, spec.codebook_sizes))
        others = self._others(spec)
        return torch.cat([merged_KP, self._stack.apply(others_KN, others)]) if others else merged_KP

    def merged(self, codes_KN: Tensor) -> tuple[Tensor, Tensor]:
        """(codes of the first codebooks, one for `frames` frames; codes of the others, one for each frame)."""
        starts_P = torch.arange(0, codes_KN.shape[1], self.frames, device=codes_KN.device)
        plan = means((codes_KN.shape[1] - starts_P).clamp(max=self.frames))
        residual_ND, rows = self.vectors.latent(codes_KN).double(), []
        for codebook in range(self._merged):
            one = self.vectors.part(codebook, codebook + 1)
            rows.append(one.nearest(plan.tokens(residual_ND)))
            residual_ND = residual_ND - plan.frames(one.latent(rows[-1]).double())
        return torch.cat(rows), self.vectors.part(self._merged, None).nearest(residual_ND)

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        shaped(codes_KN, len(self.out_spec(spec).codebook_sizes))
        merged_KN = checked(codes_KN[: self._merged], spec.codebook_sizes[: self._merged]).repeat_interleave(self.frames, dim=1)
        others = self._others(spec)
        if not others:
            return merged_KN
        others_KN = self._stack.invert(codes_KN[self._merged :], others)
        return torch.cat([merged_KN[:, : others_KN.shape[1]], others_KN])

    def settled(self, codes_KN: Tensor, spec: TokenSpec) -> tuple[int, int]:
        whole = codes_KN.shape[1] // self.frames
        return whole, whole * self.frames

    def frame_index(self, num_frames: int, spec: TokenSpec) -> Tensor:
        return torch.arange(0, num_frames, self.frames)

    def legal(self, num_frames: int, spec: TokenSpec) -> Tensor:
        others = self._others(spec)
        merged_KP = torch.ones(self._merged, len(self.frame_index(num_frames, spec)), dtype=torch.bool)
        return torch.cat([merged_KP, self._stack.legal(num_frames, others)]) if others else merged_KP

    def legal_ids(self, num_frames: int, spec: TokenSpec) -> tuple[Tensor, Tensor]:
        others = self._others(spec)
        first_KP = torch.zeros(self._merged, len(self.frame_index(num_frames, spec)), dtype=torch.int64)
        end_KP = first_KP + column(spec.codebook_sizes[: self._merged])
        if not others:
            return first_KP, end_KP
        behind_first_KP, behind_end_KP = self._stack.legal_ids(num_frames, others)
        return torch.cat([first_KP, behind_first_KP]), torch.cat([end_KP, behind_end_KP])

    def sources(self, spec: TokenSpec) -> tuple[tuple[int, ...], ...]:
        codebooks = each_alone(spec.num_codebooks)
        return codebooks[: self._merged] + codebooks[self._merged :] * self.frames

    @property
    def _merged(self) -> int:
        return self.codebooks or self.tokenizer.spec.num_codebooks

    @property
    def _stack(self) -> Stack:
        return Stack(self.frames)

    def _others(self, spec: TokenSpec) -> TokenSpec | None:
        """The spec of the codebooks that are not merged, if any."""
        sizes = spec.codebook_sizes[self._merged :]
        return replace(spec, codebook_sizes=sizes) if sizes else None

    def _check_spec(self, spec: TokenSpec) -> None:
        if spec.codebook_sizes != self.tokenizer.spec.codebook_sizes:
            raise ValueError(
                f"got codes of codebooks {spec.codebook_sizes}, want the tokenizer's {self.tokenizer.spec.codebook_sizes}: merging needs "
                "the vectors of the codes; put it before what makes other ids of them"
            )

    def __repr__(self) -> str:
        return f"CodecMerging({self.tokenizer.spec.fingerprint[:12]}, frames={self.frames}, codebooks={self._merged}, beam={self.beam})"
