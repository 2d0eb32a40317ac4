"""Axis 2: what noise, rooms, telephones and shifts do to the codes; and what encoding again and again does."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any
from zlib import crc32

import numpy as np
import torch
from lhotse import MonoCut

from audiotok.bench.scores import average, percent
from audiotok.bench.subject import Selection, Subject
from audiotok.bench.task import Axis, Outcome
from audiotok.data.perturbations import Coded, FrameShift, Perturbation, RecordedNoise, Reverb
from audiotok.data.tokenization import read_cut
from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens.distance import codebook_edit_distances, frame_agreement
from audiotok.evaluation.tokens.drift import drift

PROBE = 16_000  # samples of silence that a perturbation is tried on


class Robustness:
    """Unit edit distance (repeats taken out, over the clean sequence's length) and frame agreement between clean and perturbed speech.

    A score for each kind is the mean over its levels; `curves` in the detail has every level. `shifts` are shares of a frame by which
    speech comes later: what a codec whose frames hear little beyond themselves stands worst.
    """

    axis: Axis = "tokens"
    seeded = False

    def __init__(
        self, *, selection: Selection, perturbations: Sequence[Perturbation], noise: Selection | None, snrs: Sequence[float],
        rooms: Selection | None, shifts: Sequence[float],
    ) -> None:  # fmt: skip
        """`noise` and `rooms` are recordings of noise, mixed in at `snrs` dB, and impulse responses."""
        self.selections = (selection,)
        self.perturbations = list(perturbations)
        self.noise = noise
        self.snrs = list(snrs)
        self.rooms = rooms
        self.shifts = list(shifts)

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        asked, skipped = _possible(self._asked(subject))
        edits, same = self._compared(subject, asked, seed)
        kinds = {kind: list(group) for kind, group in groupby(asked, key=lambda one: one.kind)}
        by_kind = {kind: average({one.name: edits[one.name] for one in members}) for kind, members in kinds.items()}
        scores = [percent("ued", "Unit edit distance", average(by_kind), "lower", primary=True)]
        scores += [percent(f"ued_{kind}", f"UED {kind.replace('_', ' ')}", items, "lower") for kind, items in by_kind.items()]
        for kind, members in kinds.items():
            held = {one.name: same[one.name] for one in members if one.name in same}
            if held:
                scores.append(percent(f"agreement_{kind}", f"Agreement {kind.replace('_', ' ')}", average(held), "higher"))
        return Outcome(tuple(scores), {"curves": [*_curves(kinds, edits, "UED"), *_curves(kinds, same, "agreement")], "skipped": skipped})

    def _asked(self, subject: Subject) -> list[Perturbation]:
        hop = round(subject.spec.hop)
        asked: list[Perturbation] = list(self.perturbations)
        asked += [FrameShift(share, hop) for share in self.shifts if hop > 1]
        if self.noise is not None:
            asked += [RecordedNoise(_path(cut), snr) for cut in subject.cuts(self.noise) for snr in self.snrs]
        if self.rooms is not None:
            asked += [Reverb(_path(cut)) for cut in subject.cuts(self.rooms)]
        return sorted(asked, key=lambda one: (one.kind, one.level))

    def _compared(
        self, subject: Subject, asked: Sequence[Perturbation], seed: int
    ) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
        """By perturbation and utterance: edit distance, and agreement where frames stay where they are."""
        edits: dict[str, dict[str, float]] = {one.name: {} for one in asked}
        same: dict[str, dict[str, float]] = {one.name: {} for one in asked if one.timing == "same"}
        for heard in subject.heard(self.selections[0]):
            wav_T = read_cut(heard.cut, subject.spec.sample_rate)
            clean_KN = heard.codes_KN.numpy()  # type: ignore[union-attr]
            for one in asked:
                noisy_T = one(wav_T, subject.spec.sample_rate, seed=crc32(f"{seed}/{heard.id}/{one.name}".encode()))
                codes_KN = subject.encode(noisy_T).numpy()
                edits[one.name][heard.id] = float(
                    codebook_edit_distances(clean_KN, codes_KN, deduplicate=True, normalise="reference").mean()
                )
                if one.name in same:
                    same[one.name][heard.id] = float(frame_agreement(clean_KN, codes_KN).mean())
        return edits, same


def _path(cut: MonoCut) -> str:
    return str(cut.recording.sources[0].source)


def _possible(asked: Sequence[Perturbation]) -> tuple[list[Perturbation], dict[str, str]]:
    """(those that this machine can do, why not of the others): a codec's program may not be installed."""
    possible, skipped = [], {}
    for one in asked:
        try:
            if isinstance(one, Coded):
                one(torch.zeros(PROBE), PROBE, seed=0)
            possible.append(one)
        except ValueError as error:
            skipped[one.name] = str(error)
    return possible, skipped


def _curves(kinds: Mapping[str, Sequence[Perturbation]], found: Mapping[str, Mapping[str, float]], what: str) -> list[dict[str, Any]]:
    """A line for each kind: [level, mean in percent]."""
    return [
        {
            "name": f"{kind.replace('_', ' ')}: {what} (%)",
            "kind": f"{kind}_{what}",
            "points": [[one.level, 100 * float(np.mean(list(found[one.name].values())))] for one in members if one.name in found],
        }
        for kind, members in kinds.items()
        if any(one.name in found for one in members)
    ]


class ReEncoding:
    """Codes after `cycles` rounds of decoding and encoding again: agreement with the first, and with the round before.

    A codec whose decoder makes speech that encodes to the same codes is idempotent (100 %); one that drifts loses more each round.
    """

    axis: Axis = "tokens"
    seeded = False

    def __init__(self, *, selection: Selection, cycles: int) -> None:
        self.selections = (selection,)
        self.cycles = cycles

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        subject.decoder  # noqa: B018, raises where there is none
        once, last, neighbours = {}, {}, {}
        table = []
        for heard in subject.heard(self.selections[0]):
            assert heard.codes_KN is not None
            cycles = [heard.codes_KN]
            for _ in range(self.cycles):
                wav_T = subject.decode(cycles[-1], round(heard.seconds * subject.spec.sample_rate))
                cycles.append(subject.encode(wav_T))
            found = drift([codes_KN.numpy() for codes_KN in cycles])
            once[heard.id], last[heard.id] = float(found.from_first_CK[0].mean()), float(found.from_first_CK[-1].mean())
            neighbours[heard.id] = float(found.neighbours_CK[-1].mean())
            table.append(found.from_first_CK.mean(axis=1))
        if not table:
            raise NotApplicable("none of the utterances could be encoded")
        points = [[cycle + 1, 100 * float(value)] for cycle, value in enumerate(np.mean(table, axis=0))]
        return Outcome(
            (
                percent("idempotence", "Same codes after one re-encoding", once, "higher", primary=True),
                percent("drift", f"Same codes after {self.cycles}", last, "higher"),
                percent("settling", f"Same codes from {self.cycles - 1} to {self.cycles}", neighbours, "higher"),
            ),
            {"curves": [{"name": "re-encodings: codes as at first (%)", "kind": "re_encoding", "points": points}]},
        )
