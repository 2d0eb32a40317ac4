"""Words from an utterance's codes: characters by CTC, greedy or with a beam, without a language model.

A CTC output stands for at most one character, and English comes at about 15 characters a second: a tokenizer of 12.5 frames a second could
spell hardly any sentence. So a frame gives as many outputs as `min_output_rate` asks for; utterances whose characters still do not fit are
counted, not dropped.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.evaluation.metric import Ratio
from audiotok.evaluation.probes import inputs
from audiotok.evaluation.probes.ctc import BLANK, frames_needed, greedy, prefix_beam
from audiotok.evaluation.probes.embedding import EmbeddingSettings, embedding
from audiotok.evaluation.probes.fitting import Batch, FitSettings, History, fit, predictions
from audiotok.evaluation.probes.heads import HeadMaker
from audiotok.evaluation.probes.inputs import Inputs, Labelled, common_kind, reduction
from audiotok.evaluation.probes.scores import Convergence, near_chance
from audiotok.evaluation.text import character_errors, word_errors


@dataclass(frozen=True)
class TranscriberSettings:
    """A head of frames, and how it is read. DASB: beam of 143 without a language model, an output for each frame (`min_output_rate` 0)."""

    embedding: EmbeddingSettings
    head: HeadMaker
    fit: FitSettings
    min_output_rate: float  # Hz
    beam_width: int | None  # None: greedy


@dataclass(frozen=True)
class Transcribed:
    """What a transcription probe found out: errors over words and characters meant, and what it heard, by id.

    Chance, for its convergence, is what a text as long of its commonest character alone would get right.
    """

    words: Mapping[str, Ratio]
    characters: Mapping[str, Ratio]
    heard: Mapping[str, str]
    too_long: int = 0  # utterances, of both parts, with more characters than outputs
    convergence: Convergence | None = None  # None: nothing was fitted
    history: History | None = None

    @property
    def wer(self) -> float:
        """Errors of all utterances over the words of all."""
        return _total(self.words)

    @property
    def cer(self) -> float:
        return _total(self.characters)


class Transcriber(nn.Module):
    """embedding -> head of frames -> log probabilities of the blank and of each character, `outputs` times for each frame."""

    def __init__(self, way_in: nn.Module, head: HeadMaker, *, characters: Sequence[str], outputs: int) -> None:
        super().__init__()
        self.characters = tuple(characters)
        self.numbers = {character: number for number, character in enumerate(characters, start=1)}
        self.outputs = outputs
        self.embedding = way_in
        self.head = head(way_in.width)  # type: ignore[arg-type]
        self.output = nn.Linear(self.head.width, outputs * (1 + len(characters)))  # type: ignore[operator, arg-type]
        self.masks_padding: bool = self.head.masks_padding  # type: ignore[assignment]

    def collate(self, examples: Sequence[Labelled]) -> Batch:
        """Targets: character numbers of all rows in one, their counts. A character that training lacks cannot be spelt and is left out."""
        numbers = [self.spelling(text_of(example)) for example in examples]
        joined = torch.tensor([number for row in numbers for number in row], dtype=torch.int64)
        return Batch(inputs.collate([example.input for example in examples]), (joined, torch.tensor([len(row) for row in numbers])))

    def spelling(self, text: str) -> list[int]:
        return [self.numbers[character] for character in text if character in self.numbers]

    def forward(self, batch: Inputs) -> Tensor:
        hidden_BND, lengths_B = self.embedding(batch)
        scores_BNV = self.output(self.head(hidden_BND, lengths_B)).unflatten(-1, (self.outputs, -1)).flatten(1, 2)
        return scores_BNV.float().log_softmax(dim=-1)

    def lengths(self, batch: Inputs) -> Tensor:
        """The number of outputs of each row, lengths_B."""
        return self.outputs * -(-batch.lengths_B // self.embedding.factor)  # type: ignore[operator]

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The mean over utterances of the loss for a character; 0 of what does not fit."""
        characters, counts_B = batch.targets
        return F.ctc_loss(outputs.transpose(0, 1), characters, self.lengths(batch.inputs), counts_B, blank=BLANK, zero_infinity=True)

    def errors(self, outputs: Tensor, batch: Batch) -> tuple[float, float]:
        """Characters wrong, of those meant, read greedily."""
        meant = [self.text(row.tolist()) for row in batch.targets[0].split(batch.targets[1].tolist())]
        ratios = [character_errors(true, heard) for true, heard in zip(meant, self.read(outputs, batch.inputs, beam_width=None)) if true]
        return sum(ratio.numerator for ratio in ratios), sum(ratio.denominator for ratio in ratios)

    def read(self, outputs: Tensor, batch: Inputs, *, beam_width: int | None) -> list[str]:
        """What each row spells, spaces tidied."""
        rows = [row[:length].cpu().numpy() for row, length in zip(outputs.detach(), self.lengths(batch).tolist())]
        found = [greedy(row) if beam_width is None else prefix_beam(row, width=beam_width) for row in rows]
        return [" ".join(self.text(labels).split()) for labels in found]

    def text(self, labels: Sequence[int]) -> str:
        return "".join(self.characters[label - 1] for label in labels)


def transcribe(
    train: Sequence[Labelled],
    test: Sequence[Labelled],
    *,
    dev: Sequence[Labelled],
    settings: TranscriberSettings,
    seed: int,
    device: torch.device,
    vectors: Sequence[Tensor] | None = None,
) -> Transcribed:
    """Fit a transcriber to `train` and score it on `test`. Targets are the texts, spelt as they are to be compared."""
    kind, characters = common_kind([example.input for example in train]), sorted({char for each in train for char in text_of(each)})
    frame_rate = kind.frame_rate / reduction(kind.frame_rate, settings.embedding.max_frame_rate)
    outputs = max(1, ceil(Fraction(settings.min_output_rate) / frame_rate))

    def build() -> Transcriber:
        return Transcriber(embedding(kind, settings.embedding, vectors=vectors), settings.head, characters=characters, outputs=outputs)

    transcriber, history = fit(build, train, dev=dev, settings=settings.fit, seed=seed, device=device)
    heard: dict[str, str] = {}
    for chosen, batch, said in predictions(transcriber, test, batch_size=settings.fit.batch_size):
        heard |= zip([each.id for each in chosen], transcriber.read(said, batch.inputs, beam_width=settings.beam_width))
    return _scored(train, test, heard, transcriber=transcriber, history=history)


def silence(test: Sequence[Labelled]) -> Transcribed:
    """What knows nothing of its input scores: it hears nothing, and every word is an error."""
    return _rated(test, {example.id: "" for example in test})


def _scored(
    train: Sequence[Labelled], test: Sequence[Labelled], heard: Mapping[str, str], *, transcriber: Transcriber, history: History
) -> Transcribed:
    rated = _rated(test, heard)
    spelt = Counter("".join(text_of(example) for example in test))
    near = near_chance(1 - rated.cer, chance=max(spelt.values()) / spelt.total(), count=spelt.total())
    convergence = Convergence(history.train_loss, uniform_loss(transcriber, train), near)
    too_long = sum(not fits(transcriber, example) for example in (*train, *test))
    return replace(rated, too_long=too_long, convergence=convergence, history=history)


def _rated(test: Sequence[Labelled], heard: Mapping[str, str]) -> Transcribed:
    if len(heard) < len(test) or not test:
        raise ValueError(f"{len(test)} test utterances have {len(heard)} ids; every one needs its own")
    words = {example.id: word_errors(text_of(example), heard[example.id]) for example in test}
    characters = {example.id: character_errors(text_of(example), heard[example.id]) for example in test}
    return Transcribed(words, characters, heard)


def fits(transcriber: Transcriber, example: Labelled) -> bool:
    """Whether an utterance has an output for each of its characters."""
    outputs = transcriber.lengths(inputs.collate([example.input]).to(torch.device("cpu")))
    return int(outputs) >= frames_needed(transcriber.spelling(text_of(example)))


def uniform_loss(transcriber: Transcriber, examples: Sequence[Labelled]) -> float:
    """The mean loss where every output gives every character the same probability."""
    total = 0.0
    for example in examples:
        batch = transcriber.collate([example])
        size = 1 + len(transcriber.characters)
        equal_BNV = torch.zeros(1, int(transcriber.lengths(batch.inputs)), size).log_softmax(dim=-1)
        total += transcriber.loss(equal_BNV, batch).item()
    return total / len(examples)


def text_of(example: Labelled) -> str:
    """The text of an example. Raises ValueError for none."""
    if not isinstance(example.target, str) or not example.target.split():
        raise ValueError(f"{example.id}: a transcription probe's target is a text with words; got {example.target!r}")
    return " ".join(example.target.split())


def _total(ratios: Mapping[str, Ratio]) -> float:
    return sum(ratio.numerator for ratio in ratios.values()) / sum(ratio.denominator for ratio in ratios.values())
