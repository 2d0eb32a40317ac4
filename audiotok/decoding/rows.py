"""Utterances that are spoken side by side: what each row has said so far, and what may stand at its next places.

Rows are at places of their own. A row that has ended is taken by the next utterance that waits; nothing of a row depends on the others.

All of it stays on the device, as asking one for a value waits for all that it has been given to do; which rows are active is known here
too. To draw and let stand one position asks once, in `commit`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from audiotok.decoding.samplers import Sampler, Uniforms, within
from audiotok.decoding.step import NONE


@dataclass(frozen=True)
class Job:
    """An utterance to be spoken: its seed, how many positions it may have, and what is known of them beforehand.

    `forced_KN` holds the codes that must stand (a prompt), NONE where they are free to be chosen. `legal` is (first_KN, end_KN): at each
    place only codes first <= code < end are chosen, and all where end <= first. At `holes_KN` the model hears NONE, whatever stands there.
    All of these may be shorter than the utterance.
    """

    seed: int
    max_positions: int
    forced_KN: Tensor | None = None
    legal: tuple[Tensor, Tensor] | None = None
    holes_KN: Tensor | None = None


class Rows:
    """`jobs_B[b]` is the index of the job that row b speaks, or None; `positions_B` how many positions of it stand; all on `device`.

    A row ends before the position at which codebook 0 is `end`, and after its job's `max_positions` at the latest. Raises ValueError where
    a job does not fit the codebooks.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        rows: int,
        codebook_sizes: Sequence[int],
        sampler: Sampler,
        end: int | None,
        device: torch.device | str,
    ) -> None:
        self.codebook_sizes, self.sampler, self.end, self.device = tuple(codebook_sizes), sampler, end, device
        for job in jobs:
            _check(job, self.codebook_sizes)
        self._jobs, self._admitted = jobs, 0
        self.jobs_B: list[int | None] = [None] * min(rows, len(jobs))
        count, longest = len(self.jobs_B), max((job.max_positions for job in jobs), default=0)
        # The window before position 0 is part of the memory, so that the history has one shape from the first step on.
        self._window = sampler.repetition_window or 0
        self._codes_BKM = torch.full((count, len(self.codebook_sizes), self._window + longest), NONE, device=device)
        self.positions_B = torch.zeros(count, dtype=torch.int64, device=device)
        self._max_positions_B = torch.zeros_like(self.positions_B)
        self.active_B = torch.zeros(count, dtype=torch.bool, device=device)
        self.active = [False] * count  # the same, without a wait for the device
        self._finite = torch.ones((), dtype=torch.bool, device=device)  # all logits that were chosen from
        self.uniforms = Uniforms([0] * count)
        self._forced = self._places(any(job.forced_KN is not None for job in jobs), NONE)
        self._first, self._last = (self._places(any(_narrowed(job, self.codebook_sizes) for job in jobs), 0) for _ in range(2))
        self._holes = self._places(any(job.holes_KN is not None for job in jobs), 0)
        self._groups = _groups(self.codebook_sizes, device=device)

    def _places(self, wanted: bool, value: int) -> Tensor | None:
        longest = self._codes_BKM.shape[2] - self._window
        return torch.full((*self._codes_BKM.shape[:2], longest), value, device=self.device) if wanted else None

    @property
    def finished(self) -> bool:
        """Whether every job has been given to a row and has left it."""
        return self._admitted == len(self._jobs) and all(job is None for job in self.jobs_B)

    @property
    def codes_BKN(self) -> Tensor:
        """What stands in each row, up to the longest that a job may be; NONE past a row's last position."""
        return self._codes_BKM[..., self._window :]

    def admit(self) -> list[int]:
        """Give each free row the next utterance that waits, its prompt said already; which rows have a new one."""
        free = [row for row, job in enumerate(self.jobs_B) if job is None][: len(self._jobs) - self._admitted]
        for row in free:
            self.jobs_B[row] = self._admitted
            self._begin(row, self._jobs[self._admitted])
            self._admitted += 1
        return free

    def _begin(self, row: int, job: Job) -> None:
        prompt_KN = _prompt(job, end=self.end)
        length = prompt_KN.shape[1]
        self._codes_BKM[row] = NONE
        self._codes_BKM[row, :, self._window : self._window + length] = prompt_KN
        self.positions_B[row], self._max_positions_B[row] = length, job.max_positions
        self.active_B[row] = self.active[row] = length < job.max_positions
        first_KN, last_KN = job.legal or (None, None)
        for places_BKN, known_KN, otherwise in (
            (self._forced, job.forced_KN, NONE),
            (self._first, first_KN, 0),
            (self._last, last_KN, 0),
            (self._holes, job.holes_KN, 0),
        ):
            if places_BKN is not None:
                places_BKN[row] = otherwise
                if known_KN is not None:
                    width = min(known_KN.shape[1], places_BKN.shape[2])
                    places_BKN[row, :, :width] = known_KN[:, :width]
        self.uniforms.restart(row, job.seed)
        for _ in range(length):  # a position has the same random numbers whether its codes were chosen or given
            self.uniforms.draw_one(row, len(self.codebook_sizes))

    def inputs(self, first_B: Tensor, count: int) -> Tensor:
        """Inputs first, first + 1, ... of each row, [B, K, count]: the codes one position before, NONE where none stands."""
        place_BN = first_B[:, None] - 1 + torch.arange(count, device=self.device)
        stands_B1N = ((place_BN >= 0) & (place_BN < self.positions_B[:, None]))[:, None]
        return self._heard(_gather(self._codes_BKM, place_BN + self._window), place_BN).masked_fill(~stands_B1N, NONE)

    def ahead(self, codes_BKN: Tensor) -> Tensor:
        """Codes that are supposed to stand at the next N positions, as the model would hear them."""
        return self._heard(codes_BKN, self._next(codes_BKN.shape[2]))

    def _heard(self, codes_BKN: Tensor, place_BN: Tensor) -> Tensor:
        return codes_BKN if self._holes is None else codes_BKN.masked_fill(_gather(self._holes, place_BN).bool(), NONE)

    def choose(self, logits: Sequence[Tensor]) -> Tensor:
        """codes_BK of the next position, drawn from logits_BV of each codebook; whether those are finite, `commit` says."""
        self._finite = self._finite & _finite(logits)
        uniforms_2BK = _sent(self.uniforms.draw(len(self.codebook_sizes)), self.device)
        chosen_BK = torch.empty(uniforms_2BK.shape[1:], dtype=torch.int64, device=self.device)
        history_BKW = self._history(chosen_BK[..., None][..., :0])
        for group, logits_BGNV in self._possible([logits_BV[:, None] for logits_BV in logits], offset=0):
            numbers_2BG, history_BGW = uniforms_2BK[..., group.index_G], history_BKW[:, group.index_G]
            chosen_BK[:, group.index_G] = self.sampler.draw(logits_BGNV[:, :, 0], numbers_2BG, history_BW=history_BGW)
        return chosen_BK

    def laws(self, logits: Sequence[Tensor], ahead_BKA: Tensor) -> list[Tensor]:
        """Of each codebook float64 [B, N, V_k]: with which probability `choose` would draw each code, for logits_BNV.

        They are those of the last N of the next A + 1 positions, and `ahead_BKA` the codes that are supposed to stand at the next A.
        """
        _refuse_unless(bool(_finite(logits)))
        offset = ahead_BKA.shape[2] + 1 - logits[0].shape[1]
        history_BKNW = torch.stack([self._history(ahead_BKA[..., : offset + n]) for n in range(logits[0].shape[1])], dim=2)
        laws: list[Tensor] = [torch.empty(0)] * len(self.codebook_sizes)
        for group, logits_BGNV in self._possible(logits, offset=offset):
            law_BGNV = self.sampler.distribution(logits_BGNV, history_BW=history_BKNW[:, group.index_G])
            for k, law_BNV in zip(group.codebooks, law_BGNV.unbind(dim=1)):
                laws[k] = law_BNV
        return laws

    def commit(self, codes_BKN: Tensor, counts_B: Tensor) -> Tensor:
        """Let each active row's first `counts_B` of the codes stand at its next positions; how many do, as its end may cut them short.

        Raises FloatingPointError where they were chosen from logits that are not finite.
        """
        ends_BN = codes_BKN[:, 0] == self.end if self.end is not None else torch.zeros_like(codes_BKN[:, 0], dtype=torch.bool)
        before_end_B = torch.where(ends_BN.any(1), ends_BN.int().argmax(1), codes_BKN.shape[2])
        room_B = self._max_positions_B - self.positions_B
        taken_B = torch.minimum(torch.minimum(counts_B, before_end_B), room_B).where(self.active_B, 0)
        rows_B = torch.arange(len(taken_B), device=self.device)
        for n in range(codes_BKN.shape[2]):
            index_B = (self.positions_B + n + self._window).clamp_max(self._codes_BKM.shape[2] - 1)
            stands_BK = self._codes_BKM[rows_B, :, index_B]
            self._codes_BKM[rows_B, :, index_B] = torch.where((n < taken_B)[:, None], codes_BKN[..., n], stands_BK)
        self.positions_B = self.positions_B + taken_B
        self.active_B = self.active_B & (before_end_B >= counts_B) & (self.positions_B < self._max_positions_B)
        *self.active, finite = torch.cat([self.active_B, self._finite[None]]).tolist()  # the one wait of a step
        _refuse_unless(finite)
        return taken_B

    def ended(self) -> Iterator[tuple[int, int, Tensor]]:
        """(row, job, codes_KN) of each row that has ended, which is free then."""
        for row, active in enumerate(self.active):
            job = self.jobs_B[row]
            if job is not None and not active:
                self.jobs_B[row] = None
                yield row, job, self._codes_BKM[row, :, self._window : self._window + int(self.positions_B[row])].clone()

    def _possible(self, logits: Sequence[Tensor], *, offset: int) -> Iterator[tuple["_Group", Tensor]]:
        """(codebooks of one size, their logits [B, G, N, V]) from positions + offset on; what may not stand there is at -inf."""
        _check_sizes(logits, self.codebook_sizes)
        place_BN = self._next(logits[0].shape[1]) + offset
        for group in self._groups:
            logits_BGNV = torch.stack([logits[k] for k in group.codebooks], dim=1)
            if self._first is not None and self._last is not None:
                logits_BGNV = self._legal(logits_BGNV, group, _gather(self._first, place_BN), _gather(self._last, place_BN))
            if self._forced is not None:
                logits_BGNV = _only(logits_BGNV, _gather(self._forced, place_BN)[:, group.index_G])
            yield group, logits_BGNV

    def _legal(self, logits_BGNV: Tensor, group: "_Group", first_BKN: Tensor, last_BKN: Tensor) -> Tensor:
        kept_BGNV = within(logits_BGNV, first_BKN[:, group.index_G], last_BKN[:, group.index_G])
        if self.end is not None and group.codebooks[0] == 0:
            kept_BGNV[:, 0, :, self.end] = logits_BGNV[:, 0, :, self.end]
        return kept_BGNV

    def _history(self, ahead_BKA: Tensor) -> Tensor:
        """The window before the next position but A, [B, K, W], given the codes of the A between."""
        before_BW = self.positions_B[:, None] + torch.arange(self._window, device=self.device)
        return torch.cat([_gather(self._codes_BKM, before_BW), ahead_BKA], dim=2)[..., ahead_BKA.shape[2] :]

    def _next(self, count: int) -> Tensor:
        return self.positions_B[:, None] + torch.arange(count, device=self.device)


def _gather(values_BKM: Tensor, place_BN: Tensor) -> Tensor:
    """[B, K, N]; what lies outside is what lies at the edge: nothing that is kept comes from there."""
    index_B1N = place_BN.clamp(0, max(0, values_BKM.shape[2] - 1))[:, None]
    return values_BKM.gather(2, index_B1N.expand(-1, values_BKM.shape[1], -1))


def _only(logits_BGNV: Tensor, forced_BGN: Tensor) -> Tensor:
    """The logits where no code is forced; where one is, it alone is possible."""
    code_V = torch.arange(logits_BGNV.shape[-1], device=logits_BGNV.device)
    other_BGNV = (forced_BGN[..., None] != NONE) & (forced_BGN[..., None] != code_V)
    certain_BGNV = (forced_BGN[..., None] == code_V).to(logits_BGNV.dtype)
    return torch.where(forced_BGN[..., None] == NONE, logits_BGNV, certain_BGNV).masked_fill(other_BGNV, float("-inf"))


def _sent(numbers: Tensor, device: torch.device | str) -> Tensor:
    """The numbers on the device. From pinned memory they are copied in their turn, with no wait for what it still has to do."""
    return numbers.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" else numbers.to(device)


class _Group(NamedTuple):
    """The codebooks of one size, on the host and as an index on the device."""

    codebooks: tuple[int, ...]
    index_G: Tensor


def _groups(codebook_sizes: Sequence[int], *, device: torch.device | str) -> list[_Group]:
    found = [tuple(k for k, other in enumerate(codebook_sizes) if other == size) for size in dict.fromkeys(codebook_sizes)]
    return [_Group(codebooks, torch.tensor(codebooks, device=device)) for codebooks in found]


def _prompt(job: Job, *, end: int | None) -> Tensor:
    """The codes [K, P] that a job begins with: those before the first position at which one is free."""
    if job.forced_KN is None:
        return torch.empty(1, 0, dtype=torch.int64)
    stop_N = (job.forced_KN == NONE).any(0) | (job.forced_KN[0] == (NONE if end is None else end))
    length = int(stop_N.int().argmax()) if stop_N.any() else job.forced_KN.shape[1]
    return job.forced_KN[:, : min(length, job.max_positions)]


def _check(job: Job, codebook_sizes: Sequence[int]) -> None:
    first_KN, last_KN = job.legal or (None, None)
    places = {"forced": job.forced_KN, "legal first": first_KN, "legal end": last_KN, "holes": job.holes_KN}
    for name, known_KN in places.items():
        if known_KN is not None and (known_KN.ndim != 2 or known_KN.shape[0] != len(codebook_sizes)):
            raise ValueError(f"{name} codes are [{len(codebook_sizes)}, N]; got {list(known_KN.shape)}")
    if job.forced_KN is not None:
        sizes_K1 = torch.tensor(list(codebook_sizes), device=job.forced_KN.device)[:, None]
        if ((job.forced_KN < NONE) | (job.forced_KN >= sizes_K1)).any():
            raise ValueError(f"a forced code lies outside its codebook; the codebooks' sizes are {list(codebook_sizes)}")


def _narrowed(job: Job, codebook_sizes: Sequence[int]) -> bool:
    """Whether there is a place at which a code is ruled out."""
    if job.legal is None:
        return False
    (first_KN, end_KN), sizes_K1 = job.legal, torch.tensor(list(codebook_sizes))[:, None]
    return bool(((first_KN < end_KN) & ((first_KN > 0) | (end_KN < sizes_K1.to(end_KN.device)))).any())


def _check_sizes(logits: Sequence[Tensor], codebook_sizes: Sequence[int]) -> None:
    sizes = [logits_BNV.shape[-1] for logits_BNV in logits]
    if sizes != list(codebook_sizes):
        raise ValueError(f"the step gave logits for codebooks of {sizes}, the codebooks' sizes are {list(codebook_sizes)}")


def _finite(logits: Sequence[Tensor]) -> Tensor:
    """Whether any code can be chosen at every place, on the device: a maximum is NaN where any of its terms is."""
    return torch.stack([logits_BNV.amax(-1) for logits_BNV in logits]).isfinite().all()


def _refuse_unless(finite: bool) -> None:
    if not finite:
        raise FloatingPointError("the step's logits are not finite; the weights are damaged or the training diverged")
