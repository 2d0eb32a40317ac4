"""Axis 2: what the codes tell about phones and speakers without anything being trained."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from audiotok import files
from audiotok.bench.scores import percent
from audiotok.bench.subject import Heard, Selection, Subject
from audiotok.bench.task import Axis, Outcome
from audiotok.data.phonemes import SILENCE
from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens.abx import Mode, Segment, abx
from audiotok.evaluation.tokens.content import cluster_purity, codebook_information, joint_counts, phone_purity


@dataclass(frozen=True)
class Phone:
    """A phone from `start` to `stop`, in seconds."""

    name: str
    start: float
    stop: float


def phones(row: Mapping[str, Any]) -> list[Phone]:
    """Of a row that `audiotok align` wrote."""
    ends = list(accumulate(row["durations"]))
    return [Phone(name, start, stop) for name, start, stop in zip(row["phonemes"], [0.0, *ends], ends)]


class Phones:
    """Information about phones in each codebook (PNMI, HuBERT arXiv 2106.07447), purity, and ABX of phones in context.

    Frames take the phone at their middle, pauses left out; phones are those of the suite's own aligner. PNMI is above what shuffled phones
    tell; with a large codebook and little speech, chance tells much. `abx` holds phones with the same neighbours against each other, by
    the share of codes that differ along the best alignment.
    """

    axis: Axis = "tokens"
    seeded = True

    def __init__(self, *, selection: Selection, shuffles: int, max_frames: int, max_cells: int, max_triples: int) -> None:
        self.selections = (selection,)
        self.shuffles = shuffles
        self.max_frames = max_frames
        self.abx = {"max_cells": max_cells, "max_triples": max_triples}

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        spec = subject.spec
        aligned = {row["id"]: phones(row) for row in files.read_jsonl(subject.alignment(self.selections[0].corpus))}
        heard = [one for one in subject.heard(self.selections[0]) if one.id in aligned]
        labels, codes, groups, frames = [], [], [], 0
        for one in heard:
            codes_KN = one.codes_KN.numpy()  # type: ignore[union-attr]
            found = _labelled(aligned[one.id], codes_KN.shape[1], float(spec.frame_rate))
            kept = np.array([phone >= 0 for phone in found])
            labels += [aligned[one.id][phone].name for phone in found[kept]]
            groups += [f"{one.id}/{phone}" for phone in found[kept]]
            codes.append(codes_KN[:, kept])
            frames += int(kept.sum())
            if frames > self.max_frames:
                break
        if not frames:
            raise NotApplicable("no frame of the selection has a phone")
        codes_KN, labels_N = np.concatenate(codes, axis=1), np.array(labels)
        found_K = codebook_information(labels_N, codes_KN, groups_N=_numbers(groups), shuffles=self.shuffles, seed=seed)
        counts = [joint_counts(labels_N, codes_N) for codes_N in codes_KN]
        corrected = [_corrected(one) for one in found_K]
        best = int(np.argmax([value if value is not None else -1.0 for value in corrected]))
        error, triples = self._abx(heard, aligned, spec.frame_rate, seed)
        return Outcome(
            (
                percent("pnmi", "Phone information of the best codebook", corrected[best], "higher", primary=True, chance=0.0),
                percent("pnmi_first", "of the first codebook", corrected[0], "higher", chance=0.0),
                percent("pnmi_plain", "PNMI of the best, chance not taken out", found_K[best].normalised, "higher"),
                percent("phone_purity", "Phone purity of that codebook", phone_purity(counts[best]), "higher"),
                percent("cluster_purity", "Cluster purity of that codebook", cluster_purity(counts[best]), "higher"),
                percent("abx_within", "ABX error of phones", error, "lower", chance=0.5),
            ),
            {"pnmi": corrected, "best": best, "frames": frames, "triples": triples},
        )

    def _abx(self, heard: Sequence[Heard], aligned: Mapping[str, list[Phone]], frame_rate: Any, seed: int) -> tuple[float | None, int]:
        segments = [segment for one in heard for segment in _segments(one, aligned[one.id], float(frame_rate))]
        try:
            found = abx(segments, mode="within", distance="mismatch", seed=seed, **self.abx)
        except ValueError:
            return None, 0  # no phone stands twice in one context
        return found.error, found.triples


def _corrected(one: Any) -> float | None:
    try:
        return one.corrected
    except NotApplicable:
        return None


def _labelled(spoken: Sequence[Phone], frames: int, frame_rate: float) -> np.ndarray:
    """The number of the phone at the middle of each frame; -1 in a pause."""
    middles = (np.arange(frames) + 0.5) / frame_rate
    places = np.searchsorted([phone.stop for phone in spoken], middles, side="right")
    inside = places < len(spoken)
    places = np.minimum(places, len(spoken) - 1)
    silent = np.array([phone.name == SILENCE for phone in spoken])[places]
    return np.where(inside & ~silent, places, -1)


def _segments(one: Heard, spoken: Sequence[Phone], frame_rate: float) -> Iterator[Segment]:
    """Every phone with a neighbour on both sides and two frames of its own."""
    assert one.codes_KN is not None
    codes_NK = one.codes_KN.numpy().T
    for before, phone, after in zip(spoken, spoken[1:], spoken[2:]):
        first, last = round(phone.start * frame_rate), round(phone.stop * frame_rate)
        if phone.name != SILENCE and last - first >= 2 and last <= len(codes_NK):
            yield Segment(phone.name, "", f"{before.name} {after.name}", codes_NK[first:last])


def _numbers(groups: Sequence[str]) -> np.ndarray:
    return np.unique(np.array(groups), return_inverse=True)[1]


class Words:
    """ABX of spoken words (digits) across speakers: A and B of one speaker, X of another, which of the two it is."""

    axis: Axis = "tokens"
    seeded = True

    def __init__(self, *, selection: Selection, category: str, mode: Mode, max_cells: int, max_triples: int) -> None:
        self.selections = (selection,)
        self.category = category
        self.mode: Mode = mode
        self.limits = {"max_cells": max_cells, "max_triples": max_triples}

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        subject.tokenizer  # noqa: B018, raises for what has no codes
        segments = [
            Segment(one.value(self.category), one.value("speaker"), "", one.codes_KN.numpy().T)  # type: ignore[union-attr]
            for one in subject.heard(self.selections[0])
        ]
        found = abx(segments, mode=self.mode, distance="mismatch", seed=seed, **self.limits)
        pairs = {f"{a}|{b}": error for (a, b), error in found.pairs.items()}
        name, label = f"abx_words_{self.mode}", f"ABX error of words, {self.mode} speakers"
        return Outcome((percent(name, label, pairs, "lower", primary=True, chance=0.5),), {"triples": found.triples})


class Speakers:
    """What each codebook tells about who speaks, above what shuffled speakers tell: little where tokens are to be of words alone."""

    axis: Axis = "tokens"
    seeded = True

    def __init__(self, *, selection: Selection, shuffles: int) -> None:
        self.selections = (selection,)
        self.shuffles = shuffles

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        subject.tokenizer  # noqa: B018, raises for what has no codes
        heard = subject.heard(self.selections[0])
        lengths = [one.codes_KN.shape[1] for one in heard]  # type: ignore[union-attr]
        labels_N = np.repeat([one.value("speaker") for one in heard], lengths)
        codes_KN = np.concatenate([one.codes_KN.numpy() for one in heard], axis=1)  # type: ignore[union-attr]
        groups_N = np.repeat(np.arange(len(heard)), lengths)
        found_K = codebook_information(labels_N, codes_KN, groups_N=groups_N, shuffles=self.shuffles, seed=seed)
        corrected = [_corrected(one) for one in found_K]
        known = [value for value in corrected if value is not None]
        return Outcome(
            (
                percent("speaker_first", "Speaker information of the first codebook", corrected[0], "neither", chance=0.0),
                percent("speaker_most", "of the codebook that tells most", max(known, default=None), "neither", chance=0.0),
            ),
            {"speaker_information": corrected},
        )
