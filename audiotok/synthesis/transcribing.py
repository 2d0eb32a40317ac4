"""Codes to text with a trained model that writes down what it hears, by the engine that speaks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from audiotok.data.aligned import pad_rows
from audiotok.data.letters import Alphabet
from audiotok.decoding.autoregressive import generate
from audiotok.decoding.rows import Job
from audiotok.decoding.samplers import Sampler, seed_of
from audiotok.decoding.step import NONE, Step
from audiotok.store.schema import Utterance
from audiotok.transforms.base import Layout
from audiotok.types import TokenSpec


@runtime_checkable
class Reading(Protocol):
    """A model that writes down what codes say, and says itself where that ends."""

    alphabet: Alphabet

    @property
    def letter_sizes(self) -> tuple[int]: ...

    @property
    def letter_end(self) -> int: ...

    def begin_reading(self, codes_BKN: Tensor, *, positions: int) -> Step: ...


@dataclass(frozen=True)
class Transcript:
    """What was written down of an utterance; `ended` says whether the model came to its end, or was cut at the longest allowed."""

    id: str
    text: str
    ended: bool


def transcribe(
    utterances: Sequence[Utterance],
    model: object,
    *,
    layout: Layout,
    spec: TokenSpec,
    sampler: Sampler,
    seed: int,
    batch_size: int,
    letters_per_second: float,
    device: torch.device | str,
) -> Iterator[Transcript]:
    """Each utterance written down, as it ends; `spec` is that of its codes. A result does not depend on the others of its batch.

    Raises ValueError where the model was never taught to write.
    """
    if not isinstance(model, Reading):
        raise ValueError(f"{type(model).__name__} speaks, but writes nothing down; train a model that does, such as model=speech_text_dmel")
    heard = [laid_out_codes(utterance, layout, spec) for utterance in utterances]
    jobs = [Job(seed_of(seed, each.id), _most_letters(each, spec, letters_per_second)) for each in utterances]
    longest = max((codes_KN.shape[1] + job.max_positions for codes_KN, job in zip(heard, jobs)), default=0)

    def begin(indices: Sequence[int]) -> Step:
        codes_BNK = pad_rows([heard[i].T for i in indices], NONE)
        return model.begin_reading(codes_BNK.transpose(1, 2).to(device), positions=longest)

    sizes, end = model.letter_sizes, model.letter_end
    for made in generate(begin, jobs, rows=batch_size, codebook_sizes=sizes, sampler=sampler, end=end, device=device):
        letters = made.codes_KN[0].tolist()
        yield Transcript(utterances[made.job].id, model.alphabet.decode(letters), len(letters) < jobs[made.job].max_positions)


def laid_out_codes(utterance: Utterance, layout: Layout, spec: TokenSpec) -> Tensor:
    """codes_KN as the model has heard them in training, -1 where the layout has a hole."""
    holes_KN = ~layout.legal(utterance.num_frames, spec)
    return layout.apply(utterance.codes_KN, spec).long().masked_fill(holes_KN, NONE)


def _most_letters(utterance: Utterance, spec: TokenSpec, letters_per_second: float) -> int:
    """With the place of the end, so that one that is there has ended."""
    return int(utterance.num_frames / float(spec.frame_rate) * letters_per_second) + 1
