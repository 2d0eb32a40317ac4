"""Transforms one after another."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from audiotok.transforms.base import Fittable, Transform
from audiotok.types import TokenSpec


class Chain:
    """The steps in their order; `invert` undoes them from the last to the first. Lossless where all of them are."""

    def __init__(self, steps: Mapping[str, Transform]) -> None:
        if not steps:
            raise ValueError("a chain of transforms has at least one step; got none; transform=[merge2,bpe1024] makes one of two")
        self.steps = dict(steps)

    @property
    def lossless(self) -> bool:
        return all(step.lossless for step in self.steps.values())

    @property
    def fitted(self) -> Path | None:
        """The folder of the steps that learn, or None."""
        folders = [step.fitted for step in self.steps.values() if isinstance(step, Fittable)]
        return folders[0].parent if folders and folders[0] else None

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        for step in self.steps.values():
            spec = step.out_spec(spec)
        return spec

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        for step, given in self._given(spec):
            codes_KN = step.apply(codes_KN, given)
        return codes_KN

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        for step, given in reversed(list(self._given(spec))):
            codes_KN = step.invert(codes_KN, given)
        return codes_KN

    def fit(self, corpus: Iterable[Tensor], spec: TokenSpec) -> None:
        """Each step that learns, from what those before it make; `corpus` is gone through once for each."""
        before: list[tuple[Transform, TokenSpec]] = []
        for step, given in self._given(spec):
            if isinstance(step, Fittable):
                step.fit(_Through(corpus, list(before)), given)
            before.append((step, given))

    def save(self, folder: Path) -> None:
        """A folder for each step that learns, under its name."""
        for name, step in self.steps.items():
            if isinstance(step, Fittable):
                step.save(folder / name)

    def _given(self, spec: TokenSpec) -> Iterator[tuple[Transform, TokenSpec]]:
        """Each step with the spec of the codes that it is given; lazily, as the spec behind a step may have to be learnt first."""
        for step in self.steps.values():
            yield step, spec
            spec = step.out_spec(spec)

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.steps.values()))})"


class _Through:
    """A corpus as the steps before leave it, as often as it is asked for."""

    def __init__(self, corpus: Iterable[Tensor], steps: list[tuple[Transform, TokenSpec]]) -> None:
        self.corpus, self.steps = corpus, steps

    def __iter__(self) -> Iterator[Tensor]:
        for codes_KN in self.corpus:
            for step, given in self.steps:
                codes_KN = step.apply(codes_KN, given)
            yield codes_KN
