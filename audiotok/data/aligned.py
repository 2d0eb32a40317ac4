"""Utterances as phonemes, durations and codes, and how they become a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from audiotok.data.phonemes import PhonemeVocabulary


@dataclass(frozen=True)
class FrontEnd:
    """All that turns a line of text into ids; saved with a model, because its ids mean nothing without it."""

    vocabulary: PhonemeVocabulary
    speakers: tuple[str, ...]
    languages: tuple[str, ...]

    def to_dict(self) -> dict:
        return {"phonemes": self.vocabulary.phonemes, "speakers": self.speakers, "languages": self.languages}

    @classmethod
    def from_dict(cls, value: dict) -> "FrontEnd":
        return cls(PhonemeVocabulary(tuple(value["phonemes"])), tuple(value["speakers"]), tuple(value["languages"]))

    def speaker(self, name: str) -> int:
        return _index(self.speakers, name, "speaker")

    def language(self, name: str) -> int:
        return _index(self.languages, name, "language")


def _index(known: Sequence[str], name: str, kind: str) -> int:
    if name not in known:
        raise ValueError(f"no {kind} {name!r} in this model; there are: {', '.join(known)}")
    return known.index(name)


@dataclass(frozen=True)
class Phonemes:
    """What one utterance says: phoneme ids and stress [P], speaker and language ids."""

    ids: list[int]
    stress: list[int]
    speaker: int
    language: int


def boundaries(durations_P: Sequence[float], num_frames: int) -> list[int]:
    """The frame at which each phoneme ends, from durations in frames; the last one ends with the audio.

    Rounding the running sum keeps phonemes within half a frame of their place, however long the utterance.
    """
    ends = [min(round(end), num_frames) for end in torch.tensor(durations_P, dtype=torch.float64).cumsum(0).tolist()]
    return [*ends[:-1], num_frames]


def expand(ends_P: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """For each frame its phoneme, the frames since that phoneme's start, and to its end (1 at the last): three of [N].

    ends 2 5   ->   phoneme 0 0 1 1 1,  since 0 1 0 1 2,  until 2 1 3 2 1
    """
    counts = torch.tensor([0, *ends_P]).diff()
    phoneme_N = torch.repeat_interleave(torch.arange(len(ends_P)), counts)
    frame_N = torch.arange(len(phoneme_N))
    starts_P = torch.tensor([0, *ends_P[:-1]])
    return phoneme_N, frame_N - starts_P[phoneme_N], torch.tensor(ends_P)[phoneme_N] - frame_N


def durations_in_frames(seconds_P: Sequence[float], frame_rate: Fraction) -> list[float]:
    return [seconds * float(frame_rate) for seconds in seconds_P]


def pad_rows(rows: Sequence[Sequence[int]] | Sequence[Tensor], value: float = 0) -> Tensor:
    """Rows of different lengths as one tensor, padded on the right."""
    return pad_sequence([torch.as_tensor(row) for row in rows], batch_first=True, padding_value=value)
