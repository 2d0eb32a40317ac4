"""Who speaks ahead of the model, if anyone does: the choices behind `drafting=` on the command line."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from audiotok import files
from audiotok.decoding.acceptance import Rule
from audiotok.decoding.autoregressive import Generated, generate
from audiotok.decoding.drafts import ByModel, ByRepetition, Lengths
from audiotok.decoding.samplers import Sampler
from audiotok.decoding.speculative import Drafter, speculate
from audiotok.models.lesson import sayer
from audiotok.nn.matrix import Weights
from audiotok.nn.ranked import most_frequent
from audiotok.synthesis.scripts import Script, Speaking

RANKS = "ranks.json"  # beside a distilled drafter's weights: of each codebook its codes, the most frequent first


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
            listen=script.listen,
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
    """A model of the same codes and texts, trained by itself. `model` makes it; `checkpoint` is a step_* folder of its training.

    With `kept` it says only so many codes of each codebook, the most frequent ones, which only a checkpoint of `audiotok distil` knows.
    """

    def __init__(self, *, model: Callable[..., Any], checkpoint: str, lengths: Lengths, kept: int | None = None) -> None:
        self.model, self.checkpoint, self.lengths, self.kept = model, Path(checkpoint), lengths, kept
        self._drafter: Speaking | None = None

    def prepare(self, make: Callable[[Callable[..., Any], Path], Speaking]) -> "SmallModel":
        self._drafter = keeping(make(self.model, self.checkpoint), kept_rows(self.checkpoint, self.kept))
        return self

    def speak(
        self, script: Script, model: Speaking, *, rule: Rule, rows: int, sampler: Sampler, device: torch.device
    ) -> Iterator[Generated]:
        assert self._drafter is not None, "prepare comes first"
        yield from _by_model(self._drafter, script, model, self.lengths, rule, rows=rows, sampler=sampler, device=device)


class FirstLayers:
    """The model's own first layers, and out (`EarlyExit`); `checkpoint` is a step_* folder of `audiotok distil drafter=early_exit`."""

    def __init__(self, *, model: Callable[..., Any], checkpoint: str, lengths: Lengths, kept: int | None) -> None:
        self.model, self.checkpoint, self.lengths, self.kept = model, Path(checkpoint), lengths, kept
        self._exit: Any = None

    def prepare(self, make: Callable[[Callable[..., Any], Path], Speaking]) -> "FirstLayers":
        self._exit, self._kept_R = make(self.model, self.checkpoint), kept_rows(self.checkpoint, self.kept)
        return self

    def speak(
        self, script: Script, model: Speaking, *, rule: Rule, rows: int, sampler: Sampler, device: torch.device
    ) -> Iterator[Generated]:
        assert self._exit is not None, "prepare comes first"
        drafter = keeping(self._exit.of(model), self._kept_R)
        yield from _by_model(drafter, script, model, self.lengths, rule, rows=rows, sampler=sampler, device=device)


class Foretold:
    """Heads on the model's last hidden state (`Heads`), as many as a draft has positions at most; `checkpoint` as of `drafter=heads`.

    `weights` are those of the heads, and of the model's own as they read it. A draft is the worse for small ones, what stands is not.
    """

    def __init__(self, *, model: Callable[..., Any], checkpoint: str, lengths: Lengths, kept: int | None, weights: Weights) -> None:
        self.model, self.checkpoint, self.lengths, self.kept, self.weights = model, Path(checkpoint), lengths, kept, weights
        self._heads: Any = None

    def prepare(self, make: Callable[[Callable[..., Any], Path], Speaking]) -> "Foretold":
        made: Any = make(self.model, self.checkpoint)
        self._heads, self._kept_R = made.as_read(self.weights), kept_rows(self.checkpoint, self.kept)
        if self.lengths.longest > (count := len(self._heads.heads)):
            raise ValueError(
                f"{count} heads draft {count} positions at most; got drafts of up to {self.lengths.longest}, shorten drafting.lengths"
            )
        return self

    def speak(
        self, script: Script, model: Speaking, *, rule: Rule, rows: int, sampler: Sampler, device: torch.device
    ) -> Iterator[Generated]:
        assert self._heads is not None, "prepare comes first"
        overheard, drafter = self._heads.of(model, kept_R=None if self._kept_R is None else self._kept_R.to(device), weights=self.weights)
        yield from _by_model(drafter, script, overheard, self.lengths, rule, rows=rows, sampler=sampler, device=device)


def kept_rows(checkpoint: Path, kept: int | None) -> Tensor | None:
    """kept_R: the rows of a drafter's head that are multiplied, of each codebook the `kept` most frequent; None for all."""
    if kept is None:
        return None
    if not (path := checkpoint / RANKS).exists():
        raise ValueError(
            f"{path} is not there, which says how frequent codes are; make the drafter by `audiotok distil`, or set drafting.kept=null"
        )
    return most_frequent(files.read_json(path), kept)


def keeping(model: Any, kept_R: Tensor | None) -> Any:
    """The model with a head of these rows alone; all else is shared."""
    if kept_R is None:
        return model
    twin = copy.copy(sayer(model))
    twin.kept_R = kept_R.to(twin.bias.device)
    return twin


def _by_model(
    drafter: Any, script: Script, model: Any, lengths: Lengths, rule: Rule, *, rows: int, sampler: Sampler, device: torch.device
) -> Iterator[Generated]:
    ahead = lengths.longest + 1  # it hears two positions at once when it catches up
    by_model = partial(ByModel, begin=script.begin(drafter, ahead), lengths=lengths)
    yield from _speculated(script, model, by_model, rule, ahead=lengths.longest, rows=rows, sampler=sampler, device=device)


def _speculated(
    script: Script, model: Any, drafter: Drafter, rule: Rule, *, ahead: int, rows: int, sampler: Sampler, device: torch.device
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
        listen=script.listen,
    )
