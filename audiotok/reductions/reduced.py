"""Reductions as transforms of codes: to latents, to fewer of them, and to the nearest codes.

What is reduced are the codes that a store holds, so that no encoder is needed, and whatever decodes the tokenizer's codes decodes what
`invert` gives. A token whose frames all have the same codes keeps them; a latent is only ever quantised once, however many reductions are
composed (`plan.Composed`).
"""

from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from audiotok.reductions.plan import Plan, Reduction, interpolation
from audiotok.reductions.requantise import CodeVectors
from audiotok.transforms.codes import checked, column, each_alone, marked
from audiotok.types import TokenSpec

Upsampling = Literal["repeat", "linear"]  # of `invert`: codes as they are, or straight lines between the tokens' latents, quantised again


@dataclass(frozen=True, repr=False)
class Downsampled:
    """Uniform reductions: every token stands for as many frames as another, so its place says when it is.

    The means of two frames; the last token may stand for fewer, but does not say so, and `invert` gives whole tokens:

        1 2 3 4 5        a b c        a a b b c c
        5 6 7 8 9   ->   d e f   ->   d d e e f f
    """

    tokenizer: Any  # with `embed`
    reduction: Reduction
    _: KW_ONLY
    upsampling: Upsampling
    summed: bool | None  # None for what `CodeVectors.of` makes of it
    beam: int  # of the search for codes

    lossless = False

    def __post_init__(self) -> None:
        if self.reduction.uniform is None:
            raise ValueError(f"{self.reduction!r}: its tokens stand for different numbers of frames; use Reduced, which says how many")
        _check_settings(self.upsampling, self.beam)

    @property
    def frames(self) -> int:
        """That a token stands for."""
        return self.reduction.uniform or 1

    @cached_property
    def vectors(self) -> CodeVectors:
        return CodeVectors.of(self.tokenizer, summed=self.summed, beam=self.beam)

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        _check_spec(spec, self.tokenizer)
        return replace(spec, frame_rate=spec.frame_rate / self.frames, fingerprint=marked(spec.fingerprint, self))

    def plan(self, codes_KN: Tensor) -> Plan:
        """How these frames become tokens."""
        return self.reduction.plan(_heard(self.vectors, codes_KN))

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        _check_spec(spec, self.tokenizer)
        return self.vectors.mixed(self.plan(checked(codes_KN, spec.codebook_sizes)).down_MN, codes_KN)

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        checked(codes_KN, spec.codebook_sizes)
        durations_M = torch.full(codes_KN.shape[1:], self.frames, dtype=torch.int64, device=codes_KN.device)
        return _upsampled(codes_KN, durations_M, self.upsampling, self)

    def settled(self, codes_KN: Tensor, spec: TokenSpec) -> tuple[int, int]:
        _check_causal(self)
        whole = codes_KN.shape[1] // self.frames
        return whole, whole * self.frames

    def frame_index(self, num_frames: int, spec: TokenSpec) -> Tensor:
        return torch.arange(0, num_frames, self.frames)

    def legal(self, num_frames: int, spec: TokenSpec) -> Tensor:
        return torch.ones(spec.num_codebooks, len(self.frame_index(num_frames, spec)), dtype=torch.bool)

    def legal_ids(self, num_frames: int, spec: TokenSpec) -> tuple[Tensor, Tensor]:
        first_KN = torch.zeros_like(self.legal(num_frames, spec), dtype=torch.int64)
        return first_KN, first_KN + column(spec.codebook_sizes)

    def sources(self, spec: TokenSpec) -> tuple[tuple[int, ...], ...]:
        return each_alone(spec.num_codebooks)

    def __repr__(self) -> str:
        return _description(self)


@dataclass(frozen=True, repr=False)
class Reduced:
    """Reductions whose tokens stand for different numbers of frames; how many, less one, is a codebook behind the others.

    The means of 2, 1 and 2 frames; a token of more than `longest` frames is said again for those beyond:

        1 2 3 4 5        a 3 b        a a 3 b b
        5 6 7 8 9   ->   c 7 d   ->   c c 7 d d
                         1 0 1
    """

    tokenizer: Any  # with `embed`
    reduction: Reduction
    _: KW_ONLY
    longest: int  # frames
    upsampling: Upsampling
    summed: bool | None  # None for what `CodeVectors.of` makes of it
    beam: int  # of the search for codes

    lossless = False

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise ValueError(f"got tokens of at most {self.longest} frames, want 1 or more")
        _check_settings(self.upsampling, self.beam)

    @cached_property
    def vectors(self) -> CodeVectors:
        return CodeVectors.of(self.tokenizer, summed=self.summed, beam=self.beam)

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        _check_spec(spec, self.tokenizer)
        return replace(spec, codebook_sizes=(*spec.codebook_sizes, self.longest), fingerprint=marked(spec.fingerprint, self))

    def plan(self, codes_KN: Tensor) -> Plan:
        """How these frames become tokens."""
        return self.reduction.plan(_heard(self.vectors, codes_KN)).split(self.longest)

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        _check_spec(spec, self.tokenizer)
        plan = self.plan(checked(codes_KN, spec.codebook_sizes))
        return torch.cat([self.vectors.mixed(plan.down_MN, codes_KN), plan.durations_M[None] - 1])

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        checked(codes_KN, (*spec.codebook_sizes, self.longest))
        return _upsampled(codes_KN[:-1], codes_KN[-1] + 1, self.upsampling, self)

    def settled(self, codes_KN: Tensor, spec: TokenSpec) -> tuple[int, int]:
        _check_causal(self)
        durations_M = self.reduction.plan(_heard(self.vectors, codes_KN)).durations_M[:-1]  # the last token may become longer
        return int(((durations_M + self.longest - 1) // self.longest).sum()), int(durations_M.sum())

    def grammar(self, spec: TokenSpec) -> "AnyCodes":
        return AnyCodes((*spec.codebook_sizes, self.longest))

    def __repr__(self) -> str:
        return _description(self)


@dataclass(frozen=True)
class AnyCodes:
    """The grammar of codes that may follow one another in any way; a state is the codebook whose turn it is."""

    sizes: tuple[int, ...]

    def start(self) -> int:
        return 0

    def legal(self, state: int) -> Tensor:
        return torch.ones(self.sizes[state], dtype=torch.bool)

    def advance(self, state: int, code: int) -> int:
        if not 0 <= code < self.sizes[state]:
            raise ValueError(f"code {code} is outside codebook {state}, which holds {self.sizes[state]} codes; choose among `legal`")
        return (state + 1) % len(self.sizes)

    def complete(self, state: int) -> bool:
        return state == 0


def _heard(vectors: CodeVectors, codes_KN: Tensor) -> Tensor:
    """What a reduction decides by: latents from the centre of all codes, as a part that all frames share would make all cosines alike."""
    return vectors.latent(codes_KN) - vectors.centre_D.to(codes_KN.device)


def _upsampled(codes_KM: Tensor, durations_M: Tensor, upsampling: Upsampling, transform: Downsampled | Reduced) -> Tensor:
    if upsampling == "linear":
        return transform.vectors.mixed(interpolation(durations_M), codes_KM)
    return codes_KM.repeat_interleave(durations_M, dim=1)


def _check_causal(transform: Downsampled | Reduced) -> None:
    if not transform.reduction.causal:
        raise ValueError(
            f"{transform.reduction!r} cannot stream: its tokens depend on frames that come long after them; apply it to whole utterances"
        )


def _check_settings(upsampling: str, beam: int) -> None:
    if upsampling not in ("repeat", "linear"):
        raise ValueError(f"got upsampling={upsampling}, want repeat or linear")
    if beam < 1:
        raise ValueError(f"got a beam of {beam}, want 1 (greedy) or more")


def _check_spec(spec: TokenSpec, tokenizer: Any) -> None:
    if spec.codebook_sizes != tokenizer.spec.codebook_sizes:
        raise ValueError(
            f"got codes of codebooks {spec.codebook_sizes}, want the tokenizer's {tokenizer.spec.codebook_sizes}: a reduction needs the "
            "vectors of the codes; put it before what makes other ids of them"
        )


def _description(transform: Downsampled | Reduced) -> str:
    """Every setting; the tokenizer, whose vectors the codes are sought among, by its fingerprint."""
    settings = [
        f"{name}={getattr(transform, name)!r}"
        for name in ("reduction", "longest", "upsampling", "summed", "beam")
        if hasattr(transform, name)
    ]
    return f"{type(transform).__name__}({transform.tokenizer.spec.fingerprint[:12]}, {', '.join(settings)})"
