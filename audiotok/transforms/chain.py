"""Transforms one after another."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from audiotok.transforms.base import Fittable, Layout, Transform, as_layout
from audiotok.types import TokenSpec


def chain(steps: Mapping[str, Transform]) -> "Chain":
    """The steps as one transform, which is a layout where all of them are."""
    layouts = all(isinstance(step, Layout) for step in steps.values())
    return LayoutChain(steps) if steps and layouts else Chain(steps)


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


class LayoutChain(Chain):
    """A chain of layouts: where each code stands is known from the number of frames.

    A hole of an earlier step is a place for one id alone, the pad id, to the steps behind it; to `legal` it is a hole as well.
    """

    def frame_index(self, num_frames: int, spec: TokenSpec) -> Tensor:
        frame_N = torch.arange(num_frames)
        for step, given in self._layouts(spec):
            frame_N = frame_N[step.frame_index(len(frame_N), given)]
        return frame_N

    def legal(self, num_frames: int, spec: TokenSpec) -> Tensor:
        (first, _), *others = self._layouts(spec)
        legal_KN = first.legal(num_frames, spec)
        for step, given in others:
            stands_KN, source_KN, _ = _placed(step, legal_KN.shape[1], given)
            legal_KN = stands_KN & legal_KN.flatten()[source_KN]
        return legal_KN

    def legal_ids(self, num_frames: int, spec: TokenSpec) -> tuple[Tensor, Tensor]:
        (first, _), *others = self._layouts(spec)
        first_KN, end_KN = first.legal_ids(num_frames, spec)
        for step, given in others:
            frames = first_KN.shape[1]
            stands_KN, source_KN, offset_KN = _placed(step, frames, given)
            hole_first_KN, hole_end_KN = step.legal_ids(frames, given)
            first_KN = torch.where(stands_KN, first_KN.flatten()[source_KN] + offset_KN, hole_first_KN)
            end_KN = torch.where(stands_KN, end_KN.flatten()[source_KN] + offset_KN, hole_end_KN)
        return first_KN, end_KN

    def sources(self, spec: TokenSpec) -> tuple[tuple[int, ...], ...]:
        held: tuple[tuple[int, ...], ...] = tuple((codebook,) for codebook in range(spec.num_codebooks))
        for step, given in self._layouts(spec):
            held = tuple(sum((held[source] for source in sources), ()) for sources in step.sources(given))
        return held

    def _layouts(self, spec: TokenSpec) -> Iterator[tuple[Layout, TokenSpec]]:
        return ((as_layout(step), given) for step, given in self._given(spec))


def _placed(step: Layout, num_frames: int, spec: TokenSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Where a step puts the codes of N frames: (whether one stands there, which one of the flattened codes, what is added to its id)."""
    count = spec.num_codebooks * num_frames
    numbered = replace(spec, codebook_sizes=(max(count, 1),) * spec.num_codebooks)
    number_KN = step.apply(torch.arange(count).reshape(spec.num_codebooks, num_frames), numbered)
    stands_KN = step.legal(num_frames, spec)
    added_KN, offset_KN = (torch.where(stands_KN, step.legal_ids(num_frames, given)[0], 0) for given in (numbered, spec))
    return stands_KN, torch.where(stands_KN, number_KN - added_KN, 0), offset_KN


class _Through:
    """A corpus as the steps before leave it, as often as it is asked for."""

    def __init__(self, corpus: Iterable[Tensor], steps: list[tuple[Transform, TokenSpec]]) -> None:
        self.corpus, self.steps = corpus, steps

    def __iter__(self) -> Iterator[Tensor]:
        for codes_KN in self.corpus:
            for step, given in self.steps:
                codes_KN = step.apply(codes_KN, given)
            yield codes_KN
