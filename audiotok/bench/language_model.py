"""Axis 4: how well a small language model of fixed size foretells the codes, and what it finds likelier."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from audiotok.bench.scores import percent, score
from audiotok.bench.subject import Selection, Subject, value_of
from audiotok.bench.task import Axis, Outcome
from audiotok.data.preferences import Contrast, Preference, Recording, background_pairs, room_pairs, voice_pairs
from audiotok.data.tokenization import read_cut
from audiotok.evaluation.language_model import Budget, Size, Unigram, bits_per_second, fit, prefers


class CodeLanguageModel:
    """Bits per second of held-out speech, and SALMon-style preferences (arXiv 2409.07437) of the same model.

    `preferences` are pairs of utterances that begin alike; chance is one half. Bits are beside those of a fixed-length code and of the
    training speech's code frequencies, which the model must beat.
    """

    axis: Axis = "language_model"
    seeded = True

    def __init__(self, *, train: Selection, test: Selection, size: Size, budget: Budget, preferences: Sequence["Preferences"]) -> None:
        self.selections = (train, test)
        self.size = size
        self.budget = budget
        self.preferences = preferences

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        spec = subject.spec
        train, test = ({one.id: one.codes_KN.long() for one in subject.heard(part)} for part in self.selections)  # type: ignore[union-attr]
        model = fit(list(train.values()), spec, size=self.size, budget=self.budget, seed=seed, device=subject.device)
        unigram = Unigram(list(train.values()), spec.codebook_sizes)
        scores = [
            score("lm_bits", "Language model", bits_per_second(model, test, spec), "lower", unit="bit/s", digits=0, primary=True),
            score("unigram_bits", "Code frequencies alone", bits_per_second(unigram, test, spec), "neither", unit="bit/s", digits=0),
            score("fixed_bits", "Fixed-length codes", spec.bits_per_second, "neither", unit="bit/s", digits=0),
        ]
        for one in self.preferences:
            right = {
                f"{pair.kind}/{pair.id}": prefers(model, subject.encode(pair.positive_T), subject.encode(pair.negative_T))
                for pair in one(subject, seed)
            }
            if right:
                scores.append(percent(f"prefers_{one.name}", f"Prefers a consistent {one.name}", right, "higher", chance=0.5))
        return Outcome(tuple(scores), {"heard": dict(model.heard)})


class Preferences(Protocol):
    """Pairs of one kind, of the utterances of a selection."""

    name: str

    def __call__(self, subject: Subject, seed: int) -> Iterator[Preference]: ...


class VoicePreferences:
    """Another voice, or the same in another mood, goes on half-way. `labels` are the fields that a contrast is about."""

    def __init__(self, *, name: str, selection: Selection, contrast: Contrast, labels: Mapping[str, str], crossfade: float) -> None:
        """`labels`: what the contrast calls a field, and which one it is."""
        self.name = name
        self.selection = selection
        self.contrast = contrast
        self.labels = labels
        self.crossfade = crossfade

    def __call__(self, subject: Subject, seed: int) -> Iterator[Preference]:
        recordings = _recordings(subject, self.selection, self.labels)
        return voice_pairs(recordings, self.contrast, sample_rate=subject.spec.sample_rate, crossfade=self.crossfade, seed=seed)


class BackgroundPreferences:
    """Another noise half-way."""

    name = "background"

    def __init__(self, *, selection: Selection, noise: Selection, snr: float, crossfade: float) -> None:
        self.selection = selection
        self.noise = noise
        self.snr = snr
        self.crossfade = crossfade

    def __call__(self, subject: Subject, seed: int) -> Iterator[Preference]:
        rate = subject.spec.sample_rate
        noises = {cut.id: read_cut(cut, rate) for cut in subject.cuts(self.noise)}
        recordings = _recordings(subject, self.selection, {})
        return background_pairs(recordings, noises, snr=self.snr, sample_rate=rate, crossfade=self.crossfade, seed=seed)


class RoomPreferences:
    """Another room half-way, or none any more."""

    name = "room"

    def __init__(self, *, selection: Selection, rooms: Selection, crossfade: float) -> None:
        self.selection = selection
        self.rooms = rooms
        self.crossfade = crossfade

    def __call__(self, subject: Subject, seed: int) -> Iterator[Preference]:
        rate = subject.spec.sample_rate
        rooms = {cut.id: read_cut(cut, rate) for cut in subject.cuts(self.rooms)}
        recordings = _recordings(subject, self.selection, {})
        return room_pairs(recordings, {**rooms, "none": None}, sample_rate=rate, crossfade=self.crossfade, seed=seed)


def _recordings(subject: Subject, selection: Selection, labels: Mapping[str, str]) -> list[Recording]:
    return [
        Recording(
            cut.id,
            read_cut(cut, subject.spec.sample_rate),
            {name: value for name, field in labels.items() if (value := value_of(cut, field)) is not None},
        )
        for cut in subject.cuts(selection)
    ]
