"""What the engine is told of the lines that it is to speak, by the kind of the model.

A model that foretells durations (`Timed`) knows the length of each line beforehand, and what each position speaks. One that says its own
end (`SelfEnding`) is given the layout's limits at every length, and a bound.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from audiotok.data.aligned import Line, boundaries, laid_out
from audiotok.decoding.ending import Limited, limits, with_moves
from audiotok.decoding.guidance import Guided
from audiotok.decoding.rows import Job
from audiotok.decoding.step import NONE, Begin, Step
from audiotok.decoding.tempered import Tempered
from audiotok.models.text import Path, Text
from audiotok.transforms.base import Layout
from audiotok.types import TokenSpec


@runtime_checkable
class Timed(Protocol):
    """A model that is told what each position speaks, and foretells how long each phoneme is."""

    spec: TokenSpec

    def predict_durations(self, text: Text) -> list[Tensor]: ...

    def begin(self, text: Text, path: Path, *, positions: int) -> Step: ...


@runtime_checkable
class SelfEnding(Protocol):
    """A model that says where it ends: codebook 0 has one id more, the end."""

    spec: TokenSpec

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
    own, of what was generated of a job; it raises ValueError where that is no utterance.
    """

    jobs: Sequence[Job]
    lines: Sequence[int]
    refused: dict[int, str]
    codebook_sizes: tuple[int, ...]
    end: int | None
    begin: Callable[[Any, int], Begin]
    codes: Callable[[int, Tensor], Tensor]


def script(model: Speaking, lines: Sequence[Line], *, seeds: Sequence[int], layout: Layout, spec: TokenSpec, manner: Manner) -> Script:
    """The script of some lines, each with its seed; `spec` is the tokenizer's. Raises ValueError where the model cannot be spoken so."""
    if isinstance(model, Timed):
        return _timed(model, lines, seeds, layout=layout, spec=spec, manner=manner)
    return _self_ending(model, lines, seeds, layout=layout, spec=spec, manner=manner)


def _timed(model: Timed, lines: Sequence[Line], seeds: Sequence[int], *, layout: Layout, spec: TokenSpec, manner: Manner) -> Script:
    if manner.guidance is not None:
        raise ValueError(f"{type(model).__name__} was never trained without its text: it cannot be guided; set synthesize.guidance=null")
    frames, ends, refused = [], [], {}
    for i, durations in enumerate(_durations(model, lines, manner)):
        frames.append(max(1, round(sum(durations))))
        ends.append(boundaries(durations, frames[-1]))
        if (seconds := frames[-1] / float(spec.frame_rate)) > manner.max_seconds:
            refused[i] = f"would last {seconds:.0f} s, the longest allowed is {manner.max_seconds:.0f} s; split the text"
    chosen = [i for i in range(len(lines)) if i not in refused]
    jobs = [
        Job(
            seeds[i],
            len(layout.frame_index(frames[i], spec)),
            legal=layout.legal_ids(frames[i], spec),
            holes_KN=~layout.legal(frames[i], spec),
        )
        for i in chosen
    ]
    text, longest = _text(lines, chosen), max((job.max_positions for job in jobs), default=0)

    def begin(model: Timed, ahead: int) -> Begin:
        def of(indices: Sequence[int]) -> Step:
            path = Path.of([laid_out(ends[chosen[i]], layout, spec) for i in indices])
            return model.begin(text.rows(indices).to(manner.device), path.to(manner.device), positions=longest + ahead)

        return of

    return Script(jobs, chosen, refused, model.spec.codebook_sizes, None, begin, lambda job, codes_KN: layout.invert(codes_KN, spec))


def _durations(model: Timed, lines: Sequence[Line], manner: Manner) -> Iterator[list[float]]:
    for start in range(0, len(lines), manner.batch_size):
        text = Text.of(lines[start : start + manner.batch_size]).to(manner.device)
        yield from (row.tolist() for row in model.predict_durations(text))


def _self_ending(
    model: SelfEnding, lines: Sequence[Line], seeds: Sequence[int], *, layout: Layout, spec: TokenSpec, manner: Manner
) -> Script:
    said = replace(spec, codebook_sizes=spec.codebook_sizes[:1]) if isinstance(model, Refining) else spec
    known = limits(layout, said, max_frames=int(manner.max_seconds * spec.frame_rate))
    temperatures = [1.0] * len(model.codebook_sizes)
    if len(model.codebook_sizes) > model.spec.num_codebooks:
        known = with_moves(known)
        temperatures[-1] = 1 / (manner.temperature or 1.0)  # a cold pointer stays too long everywhere: staying is the likelier as a rule
    known, text = known.to(manner.device), _text(lines, range(len(lines)))
    longest = known.first_KN.shape[1]  # the end's position included

    def begin(model: SelfEnding, ahead: int) -> Begin:
        def of(indices: Sequence[int]) -> Step:
            rows = text.rows(indices).to(manner.device)
            step: Any = model.begin(rows, positions=longest + ahead, conditional=True)
            if manner.guidance is not None:
                step = Guided(step, model.begin(rows, positions=longest + ahead, conditional=False), scale=manner.guidance)
            return Limited(Tempered(step, temperatures), known, rows=len(indices))

        return of

    def codes(job: int, codes_KN: Tensor) -> Tensor:
        if codes_KN.shape[1] == longest:
            raise ValueError(f"did not end within {manner.max_seconds:.0f} s; raise synthesize.max_seconds, or split the text")
        if isinstance(model, Refining):
            others_KN = torch.full((spec.num_codebooks - 1, codes_KN.shape[1]), NONE)
            codes_KN = model.refine(text.rows([job]).to(manner.device), torch.cat([codes_KN, others_KN])[None].to(manner.device))[0].cpu()
        return layout.invert(codes_KN[: model.spec.num_codebooks], spec)

    jobs = [Job(seed, longest) for seed in seeds]
    return Script(jobs, range(len(lines)), {}, model.codebook_sizes, model.end, begin, codes)


def _text(lines: Sequence[Line], chosen: Sequence[int]) -> Text:
    """Of one width, so that any line has room in any other's place."""
    return Text.of([lines[i] for i in chosen]) if chosen else Text.of([Line([0], [0], 0, 0)]).rows([])
