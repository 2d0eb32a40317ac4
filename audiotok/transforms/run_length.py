"""Runs of equal frames written once: with their durations, lossless, or without, as semantic units are.

Frames are equal where all their codebooks are. A run of more than `longest` frames is split, every piece but the last of `longest` frames,
so that there is one way to write an utterance. The grammars know that way alone; `invert` reads any other too, such as a run in two halves.
"""

from dataclasses import dataclass, replace

import numba
import numpy as np
import torch
from torch import Tensor

from audiotok.transforms.codes import checked, marked
from audiotok.types import TokenSpec


@dataclass(frozen=True)
class RunLength:
    """One position a run: its codes, and as one codebook more its frames minus one.

    Two codebooks of seven frames, runs of at most three:

        1 1 1 1 1 2 2        1 1 2
        5 5 5 5 5 5 5   ->   5 5 5
                             2 1 1
    """

    longest: int  # frames of a position

    lossless = True

    def __post_init__(self) -> None:
        _check_longest(self.longest)

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        return replace(spec, codebook_sizes=self._sizes(spec), fingerprint=marked(spec.fingerprint, self))

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        codes_KM, frames_M = runs(checked(codes_KN, spec.codebook_sizes), longest=self.longest)
        return torch.cat([codes_KM, frames_M[None] - 1])

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        checked(codes_KN, self._sizes(spec))
        return codes_KN[:-1].repeat_interleave(codes_KN[-1] + 1, dim=1)

    def settled(self, codes_KN: Tensor, spec: TokenSpec) -> tuple[int, int]:
        """All but a last run that is not full, whose frames are remembered (transforms/streaming.py)."""
        return _settled(codes_KN, longest=self.longest)

    def grammar(self, spec: TokenSpec) -> "RunGrammar":
        return RunGrammar(spec.codebook_sizes, self.longest)

    def _sizes(self, spec: TokenSpec) -> tuple[int, ...]:
        return (*spec.codebook_sizes, self.longest)


@dataclass(frozen=True)
class ImplicitRunLength:
    """One position a run, its frames told by the id of codebook 0, which is `(frames - 1) * V + code` (VARSTok, arXiv 2509.04685).

    Two codebooks of seven frames, ten codes each, runs of at most three:

        1 1 1 1 1 2 2        21 11 12
        5 5 5 5 5 5 5   ->    5  5  5
    """

    longest: int  # frames of a position

    lossless = True

    def __post_init__(self) -> None:
        _check_longest(self.longest)

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        return replace(spec, codebook_sizes=self._sizes(spec), fingerprint=marked(spec.fingerprint, self))

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        codes_KM, frames_M = runs(checked(codes_KN, spec.codebook_sizes), longest=self.longest)
        codes_KM[0] += (frames_M - 1) * spec.codebook_sizes[0]
        return codes_KM

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        checked(codes_KN, self._sizes(spec))
        codes_1N, size = codes_KN[:1], spec.codebook_sizes[0]
        return torch.cat([codes_1N % size, codes_KN[1:]]).repeat_interleave(codes_1N[0] // size + 1, dim=1)

    def settled(self, codes_KN: Tensor, spec: TokenSpec) -> tuple[int, int]:
        """All but a last run that is not full, whose frames are remembered (transforms/streaming.py)."""
        return _settled(codes_KN, longest=self.longest)

    def grammar(self, spec: TokenSpec) -> "ImplicitRunGrammar":
        return ImplicitRunGrammar(spec.codebook_sizes, self.longest)

    def _sizes(self, spec: TokenSpec) -> tuple[int, ...]:
        return (spec.codebook_sizes[0] * self.longest, *spec.codebook_sizes[1:])


@dataclass(frozen=True)
class Deduplicate:
    """One position a run, its frames not told: semantic units. Lossy; `invert` gives a unit one frame.

    1 1 1 1 1 2 2        1 2
    5 5 5 5 5 5 5   ->   5 5
    """

    lossless = False

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        return replace(spec, fingerprint=marked(spec.fingerprint, self))

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        return runs(checked(codes_KN, spec.codebook_sizes), longest=codes_KN.shape[1])[0]

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        return checked(codes_KN, spec.codebook_sizes).clone()

    def settled(self, codes_KN: Tensor, spec: TokenSpec) -> tuple[int, int]:
        """All but the last unit, one frame of which is remembered (transforms/streaming.py)."""
        return max(self.apply(codes_KN, spec).shape[1] - 1, 0), max(codes_KN.shape[1] - 1, 0)


def runs(codes_KN: Tensor, *, longest: int) -> tuple[Tensor, Tensor]:
    """Each run's codes_KM and frames_M, a run of more than `longest` frames split into pieces of that many and a last one."""
    begins_M, frames_M = _begins(np.ascontiguousarray(codes_KN.cpu().numpy()), longest)
    codes_KM = codes_KN.index_select(1, torch.from_numpy(begins_M).to(codes_KN.device))
    return codes_KM, torch.from_numpy(frames_M).to(codes_KN.device)


def _settled(codes_KN: Tensor, *, longest: int) -> tuple[int, int]:
    _, frames_M = runs(codes_KN, longest=longest)
    last = int(frames_M[-1]) if len(frames_M) else 0
    if last in (0, longest):
        return len(frames_M), codes_KN.shape[1]
    return len(frames_M) - 1, codes_KN.shape[1] - last


@numba.njit(cache=True)
def _begins(codes_KN: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """The frame at which each run begins, and how many it has."""
    begins_M, frames_M, written = np.empty(codes_KN.shape[1], np.int64), np.empty(codes_KN.shape[1], np.int64), 0
    for frame in range(codes_KN.shape[1]):
        if not written or frames_M[written - 1] == longest or _differ(codes_KN, frame - 1, frame):
            begins_M[written], frames_M[written], written = frame, 0, written + 1
        frames_M[written - 1] += 1
    return begins_M[:written].copy(), frames_M[:written].copy()


@numba.njit(cache=True)
def _differ(codes_KN: np.ndarray, one: int, other: int) -> bool:
    codebook = 0  # frames mostly differ in the first, where a comparison of arrays would read them all
    while codebook < len(codes_KN) and codes_KN[codebook, one] == codes_KN[codebook, other]:
        codebook += 1
    return codebook < len(codes_KN)


def _check_longest(longest: int) -> None:
    if longest < 1:
        raise ValueError(f"got runs of at most {longest} frames, want 1 or more")


@dataclass(frozen=True)
class Run:
    """Where a stream of runs stands."""

    barred: tuple[
        int, ...
    ]  # the codes that the run being written may not have, as the one before could have taken it in; () where there are none
    codes: tuple[int, ...] = ()  # chosen of the run being written
    frames: int = 0  # of the run being written, where they are chosen with codebook 0


@dataclass(frozen=True)
class RunGrammar:
    """The streams that `RunLength` makes, no more and no fewer."""

    sizes: tuple[int, ...]  # of the codebooks of a frame
    longest: int

    def start(self) -> Run:
        return Run(barred=())

    def legal(self, state: Run) -> Tensor:
        if len(state.codes) == len(self.sizes):
            return torch.ones(self.longest, dtype=torch.bool)
        return _legal_codes(state, self.sizes)

    def advance(self, state: Run, code: int) -> Run:
        _refuse_illegal(self.legal(state), state, code)
        if len(state.codes) < len(self.sizes):
            return replace(state, codes=(*state.codes, code))
        return _after(replace(state, frames=code + 1), self.longest)

    def complete(self, state: Run) -> bool:
        return not state.codes


@dataclass(frozen=True)
class ImplicitRunGrammar:
    """The streams that `ImplicitRunLength` makes, no more and no fewer."""

    sizes: tuple[int, ...]  # of the codebooks of a frame
    longest: int

    def start(self) -> Run:
        return Run(barred=())

    def legal(self, state: Run) -> Tensor:
        legal_V = _legal_codes(state, self.sizes)
        return legal_V if state.codes else legal_V.repeat(self.longest)

    def advance(self, state: Run, code: int) -> Run:
        _refuse_illegal(self.legal(state), state, code)
        if state.codes:
            state = replace(state, codes=(*state.codes, code))
        else:
            state = replace(state, codes=(code % self.sizes[0],), frames=code // self.sizes[0] + 1)
        return _after(state, self.longest) if len(state.codes) == len(self.sizes) else state

    def complete(self, state: Run) -> bool:
        return not state.codes


def _legal_codes(state: Run, sizes: tuple[int, ...]) -> Tensor:
    """bool_V over the codes of the codebook that is next.

    A run differs from the one before at the last codebook that leaves a choice. Where none does, nothing can follow a run that is not full.
    """
    codebook = len(state.codes)
    decisive = max((k for k, size in enumerate(sizes) if size > 1), default=0)
    legal_V = torch.ones(sizes[codebook], dtype=torch.bool)
    if state.barred and codebook == decisive and state.barred[:codebook] == state.codes:
        legal_V[state.barred[codebook]] = False
    return legal_V


def _after(written: Run, longest: int) -> Run:
    """After a run: behind a full one anything may stand, its own codes too."""
    return Run(barred=written.codes if written.frames < longest else ())


def _refuse_illegal(legal_V: Tensor, state: Run, code: int) -> None:
    if not 0 <= code < len(legal_V) or not legal_V[code]:
        raise ValueError(f"code {code} cannot come next, in codebook {len(state.codes)} behind {list(state.codes)}; choose among `legal`")
