"""Who speaks ahead of the model, if anyone does: the choices behind `drafting=` on the command line."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from audiotok.decoding.acceptance import Rule
from audiotok.decoding.autoregressive import Generated, generate
from audiotok.decoding.drafts import ByModel, ByRepetition, Lengths
from audiotok.decoding.samplers import Sampler
from audiotok.decoding.speculative import Drafter, speculate
from audiotok.synthesis.scripts import Script, Speaking


class Drafting(Protocol):
    """A way to speak a script."""

    def prepare(self, make: Callable[[Callable[..., Any], Path], Speaking]) -> "Drafting":
        """The same with a model of its own, if it has one: `make(model, folder)` gives it, for the voice's codes, from a checkpoint."""
        ...

    def speak(
        self, script: Script, model: Speaking, *, rule: Rule, rows: int, sampler: Sampler, device: torch.device
    ) -> Iterator[Generated]:
        """Each job of the script as it ends."""
        ...


class Nobody:
    """The model speaks by itself."""

    def prepare(self, make: Callable[[Callable[..., Any], Path], Speaking]) -> "Nobody":
        return self

    def speak(
        self, script: Script, model: Speaking, *, rule: Rule, rows: int, sampler: Sampler, device: torch.device
    ) -> Iterator[Generated]:
        yield from generate(
            script.begin(model, 0),
            script.jobs,
            rows=rows,
            codebook_sizes=script.codebook_sizes,
            sampler=sampler,
            device=device,
            end=script.end,
        )


class Repetition:
    """What followed the last time that the same stood there."""

    def __init__(self, *, order: int, lengths: Lengths) -> None:
        self.order, self.lengths = order, lengths

    def prepare(self, make: Callable[[Callable[..., Any], Path], Speaking]) -> "Repetition":
        return self

    def speak(
        self, script: Script, model: Speaking, *, rule: Rule, rows: int, sampler: Sampler, device: torch.device
    ) -> Iterator[Generated]:
        drafter = partial(ByRepetition, order=self.order, lengths=self.lengths)
        yield from _speculated(script, model, drafter, rule, ahead=self.lengths.longest, rows=rows, sampler=sampler, device=device)


class SmallModel:
    """A model of the same codes and texts, trained by itself. `model` makes it; `checkpoint` is a step_* folder of its training."""

    def __init__(self, *, model: Callable[..., Any], checkpoint: str, lengths: Lengths) -> None:
        self.model, self.checkpoint, self.lengths = model, Path(checkpoint), lengths
        self._drafter: Speaking | None = None

    def prepare(self, make: Callable[[Callable[..., Any], Path], Speaking]) -> "SmallModel":
        self._drafter = make(self.model, self.checkpoint)
        return self

    def speak(
        self, script: Script, model: Speaking, *, rule: Rule, rows: int, sampler: Sampler, device: torch.device
    ) -> Iterator[Generated]:
        assert self._drafter is not None, "prepare comes first"
        ahead = self.lengths.longest + 1  # it hears two positions at once when it catches up
        drafter = partial(ByModel, begin=script.begin(self._drafter, ahead), lengths=self.lengths)
        yield from _speculated(script, model, drafter, rule, ahead=self.lengths.longest, rows=rows, sampler=sampler, device=device)


def _speculated(
    script: Script, model: Speaking, drafter: Drafter, rule: Rule, *, ahead: int, rows: int, sampler: Sampler, device: torch.device
) -> Iterator[Generated]:
    yield from speculate(
        script.begin(model, ahead),
        script.jobs,
        drafter,
        rule,
        rows=rows,
        codebook_sizes=script.codebook_sizes,
        sampler=sampler,
        device=device,
        end=script.end,
    )
