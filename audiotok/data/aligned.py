"""Utterances as phonemes, durations and codes, and how they become a batch."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from audiotok.data.phonemes import PhonemeVocabulary, split_stress
from audiotok.store.reader import TokenStore
from audiotok.store.schema import Utterance
from audiotok.transforms.base import Layout
from audiotok.types import TokenSpec

ANYONE = ""
KEPT_CODES = 2**28  # codes held in memory, four bytes each


@dataclass(frozen=True)
class Line:
    """What one utterance says and who says it: phoneme ids and stress [P], speaker and language ids."""

    phonemes: list[int]
    stress: list[int]
    speaker: int
    language: int


@dataclass(frozen=True)
class FrontEnd:
    """All that turns a line of text into ids; saved with a model, because its ids mean nothing without it.

    Speaker 0 is anyone: a model learns it from utterances whose speaker it is not told.
    """

    vocabulary: PhonemeVocabulary
    speakers: tuple[str, ...]
    languages: tuple[str, ...]

    def to_dict(self) -> dict:
        return {"phonemes": self.vocabulary.phonemes, "speakers": self.speakers, "languages": self.languages}

    @classmethod
    def from_dict(cls, value: dict) -> "FrontEnd":
        return cls(PhonemeVocabulary(tuple(value["phonemes"])), tuple(value["speakers"]), tuple(value["languages"]))

    @classmethod
    def of(cls, alignments: Iterable[dict], about: Iterable[dict]) -> "FrontEnd":
        """Of the phonemes in a training split's alignments, and its speakers and languages."""
        heard = {(row["speaker"] or ANYONE, row["language"] or ANYONE) for row in about}
        speakers, languages = ({pair[place] for pair in heard} for place in (0, 1))
        vocabulary = PhonemeVocabulary.of(row["phonemes"] for row in alignments)
        return cls(vocabulary, (ANYONE, *sorted(speakers - {ANYONE})), tuple(sorted(languages)))

    def known_speaker(self, name: str | None) -> str:
        """The speaker, or anyone where the model has never heard them."""
        return name if name in self.speakers else ANYONE

    def can_say(self, phonemes: Iterable[str], language: str | None) -> bool:
        return language in self.languages and all(split_stress(phoneme)[0] in self.vocabulary.phonemes for phoneme in phonemes)

    def line(self, phonemes: Sequence[str], speaker: str, language: str) -> Line:
        """Raises ValueError naming what this model has never seen."""
        ids, stress = self.vocabulary.encode(phonemes)
        return Line(ids, stress, _index(self.speakers, speaker, "speaker"), _index(self.languages, language, "language"))


def _index(known: Sequence[str], name: str, kind: str) -> int:
    if name not in known:
        raise ValueError(f"no {kind} {name!r} in this model; there are: {', '.join(known)}")
    return known.index(name)


@dataclass(frozen=True)
class AlignedUtterance:
    """A line with the codes that speak it, in the layout of a transform."""

    id: str
    line: Line
    durations_P: list[float]  # frames, fractional
    path: tuple[Tensor, Tensor, Tensor]  # for each position its phoneme, frames since its start, frames to its end: [N'] each
    codes_KN: Tensor  # -1 where the layout has a hole
    text: str | None = None  # as it was written


class AlignedCorpus(Sequence[AlignedUtterance]):
    """A split's utterances that have codes, an alignment, and no phoneme unseen in training. `lengths` counts positions,
    `shards` says in which shard of the store each lies.

    Codes and alignments are read when asked for. Memory: sixteen bytes an utterance, and what is kept of the codes.
    """

    def __init__(self, store: TokenStore, alignments: Mapping[str, dict], *, transform: Layout, front_end: FrontEnd) -> None:
        self.store, self.alignments, self.transform, self.front_end = store, alignments, transform, front_end
        positions = cache(lambda num_frames: len(transform.frame_index(num_frames, store.spec)))
        lengths, self._places = array("q"), array("I")  # in the store
        for place, row in enumerate(store.described()):
            found = alignments.get(row["id"]) if row["num_frames"] else None
            if found is not None and front_end.can_say(found["phonemes"], row["language"] or ANYONE):
                self._places.append(place)
                lengths.append(positions(row["num_frames"]))
        self.lengths = np.array(lengths)
        self.shards = np.fromiter(map(store.shard_of, self._places), np.uint32, len(self._places))
        self._kept: dict[int, tuple[Utterance, Tensor]] = {}
        self._kept_codes = 0

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> AlignedUtterance:  # type: ignore[override]
        utterance, codes_KN = self._read(self._places[index])
        row = self.alignments[utterance.id]
        durations_P = durations_in_frames(row["durations"], self.store.spec.frame_rate)
        path = laid_out(boundaries(durations_P, utterance.num_frames), self.transform, self.store.spec)
        line = self.front_end.line(row["phonemes"], self.front_end.known_speaker(utterance.speaker), utterance.language or ANYONE)
        holes_KN = ~self.transform.legal(utterance.num_frames, self.store.spec)
        return AlignedUtterance(row["id"], line, durations_P, path, codes_KN.long().masked_fill(holes_KN, -1), utterance.text)

    def _read(self, place: int) -> tuple[Utterance, Tensor]:
        """With its transformed codes; from memory the second time, as long as there is room.

        A row group is decoded for one row of it, and a transform may search for codes.
        """
        if place in self._kept:
            return self._kept[place]
        utterance = self.store.at(place)
        codes_KN = self.transform.apply(utterance.codes_KN, self.store.spec).to(torch.int32)
        utterance = replace(utterance, codes_KN=utterance.codes_KN.to(torch.int32))
        self._kept_codes += utterance.codes_KN.numel() + codes_KN.numel()
        if self._kept_codes <= KEPT_CODES:
            self._kept[place] = utterance, codes_KN
        return utterance, codes_KN


def laid_out(ends_P: Sequence[int], transform: Layout, spec: TokenSpec) -> tuple[Tensor, Tensor, Tensor]:
    """`expand` at the positions of a transform's layout."""
    frame_N = transform.frame_index(ends_P[-1], spec)
    phoneme, since, until = (part[frame_N] for part in expand(ends_P))
    return phoneme, since, until


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
