"""What the engine is told of the lines that it is to speak, by the kind of the model.

A model that foretells durations (`Timed`) knows the length of each line beforehand, and what each position speaks. One that says its own
end (`SelfEnding`) is given the layout's limits at every length, and a bound.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from audiotok.data.aligned import Line, laid_out
from audiotok.decoding.autoregressive import Listen
from audiotok.decoding.ending import Limited, limits, with_moves
from audiotok.decoding.guidance import Guided
from audiotok.decoding.rows import Job
from audiotok.decoding.step import NONE, Begin, Step
from audiotok.decoding.tempered import Tempered
from audiotok.models.text import Path, Text, withheld
from audiotok.synthesis.openings import (
    Lead,
    durations_along,
    ends_of,
    forced_beginning,
    forced_codes,
    forced_with_moves,
    joined,
)
from audiotok.transforms.base import Layout
from audiotok.types import TokenSpec


@runtime_checkable
class Timed(Protocol):
    """A model that is told what each position speaks, and foretells how long each phoneme is."""

    spec: TokenSpec

    @property
    def unconditional(self) -> float: ...  # share of the utterances that it learnt to speak without their text

    def predict_durations(self, text: Text) -> list[Tensor]: ...

    def begin(self, text: Text, path: Path, *, positions: int) -> Step: ...


@runtime_checkable
class SelfEnding(Protocol):
    """A model that says where it ends: codebook 0 has one id more, the end."""

    spec: TokenSpec

    @property
    def unconditional(self) -> float: ...  # as above

    @property
    def codebook_sizes(self) -> tuple[int, ...]: ...

    @property
    def end(self) -> int: ...

    def begin(self, text: Text, *, positions: int, conditional: bool) -> Step: ...


@runtime_checkable
class Refining(SelfEnding, Protocol):
    """A model that says the first codebook so, and then adds the others."""

    def refine(self, text: Text, codes_BKN: Tensor) -> Tensor: ...


Speaking = Timed | SelfEnding


@dataclass(frozen=True)
class Manner:
    """How lines are spoken, whatever the model."""

    max_seconds: float  # of a line
    temperature: float  # at which codes are sampled; a pointer's moves, which say how long sounds are, are drawn as they were learnt
    guidance: float | None  # scale (arXiv 2306.05284); only a model that was trained without its text at times can be guided
    batch_size: int
    device: torch.device


@dataclass(frozen=True)
class Script:
    """What the engine is given: the jobs of the lines that can be spoken, `lines` their indices; `refused` gives the others' reasons.

    `begin(model, ahead)` makes steps of a model of the same codes, with room for drafts of `ahead` positions. `codes` are the tokenizer's
    own, of what was generated of a job, without what stood before the line; it raises ValueError where that is no utterance. `durations`
    are the frames of each phoneme of the line in them, None where the model does not know. `listen(job, codes_KN)` hears what is chosen.
    """

    jobs: Sequence[Job]
    lines: Sequence[int]
    refused: dict[int, str]
    codebook_sizes: tuple[int, ...]
    end: int | None
    begin: Callable[[Any, int], Begin]
    codes: Callable[[int, Tensor], Tensor]
    durations: Callable[[int, Tensor], list[float] | None]
    leads: Sequence[Lead]  # of each job
    listen: Listen | None = None

    def prompt(self, job: int) -> Tensor:
        """codes_KN that a job begins with, before the first position at which one is free: `listen` does not hear them."""
        forced_KN = self.jobs[job].forced_KN
        if forced_KN is None:
            return torch.empty(len(self.codebook_sizes), 0, dtype=torch.int64)
        free_N = (forced_KN == NONE).any(0)
        return forced_KN[:, : int(free_N.int().argmax()) if free_N.any() else forced_KN.shape[1]]


def script(
    model: Speaking,
    lines: Sequence[Line],
    *,
    seeds: Sequence[int],
    layout: Layout,
    spec: TokenSpec,
    manner: Manner,
    leads: Sequence[Lead] | None = None,
) -> Script:
    """The script of some lines, each with its seed and what is known of it; `spec` is the tokenizer's.

    Raises ValueError where the model cannot be spoken so.
    """
    if manner.guidance is not None and not model.unconditional:
        raise ValueError(
            f"{type(model).__name__} was never trained without its text: it cannot be guided; set synthesize.guidance=null, "
            "or train it with model.unconditional=0.1"
        )
    leads = [Lead()] * len(lines) if leads is None else leads
    if isinstance(model, Timed):
        return _timed(model, lines, seeds, leads, layout=layout, spec=spec, manner=manner)
    return _self_ending(model, lines, seeds, leads, layout=layout, spec=spec, manner=manner)


def _timed(
    model: Timed, lines: Sequence[Line], seeds: Sequence[int], leads: Sequence[Lead], *, layout: Layout, spec: TokenSpec, manner: Manner
) -> Script:
    said = [joined(lead, line) for lead, line in zip(leads, lines, strict=True)]
    ends, refused = [], {}
    for i, foretold in enumerate(_durations(model, said, manner)):
        ends.append(ends_of(leads[i], leads[i].durations_P or foretold[leads[i].phonemes :]))
        if (seconds := (ends[-1][-1] - leads[i].frames) / float(spec.frame_rate)) > manner.max_seconds:
            refused[i] = f"would last {seconds:.0f} s, the longest allowed is {manner.max_seconds:.0f} s; split the text"
    chosen = [i for i in range(len(lines)) if i not in refused]
    jobs = [_timed_job(seeds[i], leads[i], ends[i][-1], layout, spec) for i in chosen]
    text, longest = _text(said, chosen), max((job.max_positions for job in jobs), default=0)

    def begin(model: Timed, ahead: int) -> Begin:
        def of(indices: Sequence[int]) -> Step:
            rows, path = text.rows(indices), Path.of([laid_out(ends[chosen[i]], layout, spec) for i in indices])

            def told(text: Text, path: Path) -> Step:
                return model.begin(text.to(manner.device), path.to(manner.device), positions=longest + ahead)

            if manner.guidance is None:
                return told(rows, path)
            nothing = withheld(rows, path, torch.ones(len(indices), dtype=torch.bool))
            return Guided(told(rows, path), told(*nothing), scale=manner.guidance)

        return of

    def codes(job: int, codes_KN: Tensor) -> Tensor:
        return layout.invert(codes_KN, spec)[:, leads[chosen[job]].frames :]

    def durations(job: int, codes_KN: Tensor) -> list[float]:
        i = chosen[job]
        return torch.tensor([leads[i].frames, *ends[i][leads[i].phonemes :]]).diff().float().tolist()

    sizes = model.spec.codebook_sizes
    return Script(jobs, chosen, refused, sizes, None, begin, codes, durations, [leads[i] for i in chosen])


def _timed_job(seed: int, lead: Lead, frames: int, layout: Layout, spec: TokenSpec) -> Job:
    return Job(
        seed,
        len(layout.frame_index(frames, spec)),
        forced_KN=forced_codes(lead.opening.codes_KN, layout, spec, num_frames=frames) if lead.opening else None,
        legal=layout.legal_ids(frames, spec),
        holes_KN=~layout.legal(frames, spec),
    )


def _durations(model: Timed, lines: Sequence[Line], manner: Manner) -> Iterator[list[float]]:
    for start in range(0, len(lines), manner.batch_size):
        text = Text.of(lines[start : start + manner.batch_size]).to(manner.device)
        yield from (row.tolist() for row in model.predict_durations(text))


def _self_ending(
    model: SelfEnding,
    lines: Sequence[Line],
    seeds: Sequence[int],
    leads: Sequence[Lead],
    *,
    layout: Layout,
    spec: TokenSpec,
    manner: Manner,
) -> Script:
    said = replace(spec, codebook_sizes=spec.codebook_sizes[:1]) if isinstance(model, Refining) else spec
    pointed = len(model.codebook_sizes) > model.spec.num_codebooks
    jobs, refused = _bounded_jobs(model, seeds, leads, layout, said, manner=manner, pointed=pointed)
    chosen = sorted(jobs)
    frames = max((leads[i].frames for i in chosen), default=0) + int(manner.max_seconds * spec.frame_rate)
    known, temperatures = limits(layout, said, max_frames=frames), [1.0] * len(model.codebook_sizes)
    if pointed:
        known = with_moves(known)
        temperatures[-1] = 1 / (manner.temperature or 1.0)  # a cold pointer stays too long everywhere: staying is the likelier as a rule
    known, text = known.to(manner.device), _text([joined(lead, line) for lead, line in zip(leads, lines, strict=True)], chosen)
    longest = known.first_KN.shape[1]  # the end's position included

    def begin(model: SelfEnding, ahead: int) -> Begin:
        def of(indices: Sequence[int]) -> Step:
            rows = text.rows(indices).to(manner.device)
            step: Any = model.begin(rows, positions=longest + ahead, conditional=True)
            if manner.guidance is not None:
                untold = model.begin(rows, positions=longest + ahead, conditional=False)
                step = Guided(step, untold, scale=manner.guidance)
            return Limited(Tempered(step, temperatures), known, rows=len(indices))

        return of

    def codes(job: int, codes_KN: Tensor) -> Tensor:
        if codes_KN.shape[1] == jobs[chosen[job]].max_positions:
            raise ValueError(f"did not end within {manner.max_seconds:.0f} s; raise synthesize.max_seconds, or split the text")
        lead = leads[chosen[job]]
        if isinstance(model, Refining):
            known_KN = torch.full((spec.num_codebooks, codes_KN.shape[1]), NONE)
            known_KN[:, : lead.frames] = lead.opening.codes_KN if lead.opening else NONE
            known_KN[0] = codes_KN[0]
            codes_KN = model.refine(text.rows([job]).to(manner.device), known_KN[None].to(manner.device))[0].cpu()
        said_KN = layout.invert(codes_KN[: model.spec.num_codebooks], spec)[:, lead.frames :]
        if not said_KN.shape[1]:
            raise ValueError("ended where what stands before it did; set another seed, or choose another prompt")
        return said_KN

    def durations(job: int, codes_KN: Tensor) -> list[float] | None:
        return _pointed(codes_KN, leads[chosen[job]], text, job, layout, spec) if pointed else None

    some = [jobs[i] for i in chosen]
    return Script(some, chosen, refused, model.codebook_sizes, model.end, begin, codes, durations, [leads[i] for i in chosen])


def _bounded_jobs(
    model: SelfEnding, seeds: Sequence[int], leads: Sequence[Lead], layout: Layout, said: TokenSpec, *, manner: Manner, pointed: bool
) -> tuple[dict[int, Job], dict[int, str]]:
    """The job of each line with its own bound, so that it does not matter what is spoken beside it; and why some have none."""
    jobs, refused = {}, {}
    for i, (seed, lead) in enumerate(zip(seeds, leads, strict=True)):
        try:
            forced_KN = _forced(model, lead, layout, said, pointed=pointed)
        except ValueError as error:
            refused[i] = str(error)
            continue
        frames = lead.frames + int(manner.max_seconds * said.frame_rate)
        jobs[i] = Job(seed, len(layout.frame_index(frames, said)) + 1, forced_KN=forced_KN)
    return jobs, refused


def _forced(model: SelfEnding, lead: Lead, layout: Layout, said: TokenSpec, *, pointed: bool) -> Tensor | None:
    if pointed:
        return forced_with_moves(lead, layout, said, codebook_sizes=model.codebook_sizes)
    if lead.durations_P is not None:
        raise ValueError(f"{type(model).__name__} is not told how long sounds are; synthesize.prosody needs a model that is")
    return forced_beginning(lead.opening.codes_KN[: said.num_codebooks], layout, said) if lead.opening else None


def _pointed(codes_KN: Tensor, lead: Lead, text: Text, job: int, layout: Layout, spec: TokenSpec) -> list[float]:
    """The frames of each of the line's phonemes, by the moves of what was generated."""
    phonemes = int(text.lengths_B[job])
    phoneme_N = torch.cat([codes_KN.new_zeros(1), codes_KN[-1, :-1].clamp_min(0).cumsum(0)])
    phoneme_N = phoneme_N[phoneme_N < phonemes]
    frames = layout.invert(codes_KN[:-1], spec).shape[1]
    return durations_along(phoneme_N, phonemes, layout, spec, num_frames=frames)[lead.phonemes :]


def _text(lines: Sequence[Line], chosen: Sequence[int]) -> Text:
    """Of one width, so that any line has room in any other's place."""
    return Text.of([lines[i] for i in chosen]) if chosen else Text.of([Line([0], [0], 0, 0)]).rows([])
