"""Pairs of utterances that begin alike, of which one goes on as it should: what a language model of sound ought to find likelier.

After SALMon (arXiv 2409.07437), made from the corpora at hand. One of each pair is real or consistent, in the other something changes
half-way that in the world does not:

    voice        A--------A        A-----|B--    another speaker, gender or sentiment (`voice_pairs`)
    background   A+n------n        A+n---|+m-    another noise (`background_pairs`)
    room         A*h------h        A*h---|*g-    another room (`room_pairs`)

The change is a crossfade of a few milliseconds. Which other voice, noise or room it is, and which one begins, is drawn by the seed and the
id alone: pairs do not depend on the order of the recordings nor on what else is asked for. Length differs only where another voice goes
on; likelihoods are to be compared per second.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from audiotok.data.acoustics import active_power, mixed, repeated, reverberated

FRAME = 0.02  # seconds over which the quietest moment is looked for


@dataclass(frozen=True, eq=False)
class Recording:
    """An utterance with what is known of it: "speaker", "text", "gender", "sentiment" or whatever else a contrast is about."""

    id: str
    wav_T: Tensor
    labels: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Preference:
    """The positive is to be found likelier than the negative."""

    kind: str
    id: str
    positive_T: Tensor
    negative_T: Tensor


@dataclass(frozen=True)
class Contrast:
    """Whose voice may go on in the negative: one whose label `differs` is another one, and whose labels `same` are the same.

    `positive`: "real" is the recording as it is, as in SALMon; there a model may hear the cut instead of the voice, as only the negative
    has one. "spliced" goes on with another recording whose label `differs` is the same, so that both have a cut.
    """

    kind: str
    differs: str
    same: tuple[str, ...]
    positive: Literal["real", "spliced"]

    def goes_wrong(self, begun: Recording, other: Recording) -> bool:
        return self._known(begun, other) and begun.labels[self.differs] != other.labels[self.differs]

    def goes_on(self, begun: Recording, other: Recording) -> bool:
        return other.id != begun.id and self._known(begun, other) and begun.labels[self.differs] == other.labels[self.differs]

    def _known(self, begun: Recording, other: Recording) -> bool:
        return all(name in begun.labels and name in other.labels for name in (self.differs, *self.same)) and all(
            begun.labels[name] == other.labels[name] for name in self.same
        )


def voice_pairs(
    recordings: Sequence[Recording], contrast: Contrast, *, sample_rate: int, crossfade: float, seed: int
) -> Iterator[Preference]:
    """A pair of each recording that has a counterpart; its second half is said by that one, at the level of the recording's own.

    Each is cut at the quietest moment of its middle third. `crossfade` in seconds. For speakers `differs="speaker"`, `same=()` or
    `("text",)`; for sentiment `differs="sentiment"`, `same=("speaker", "text")`.
    """
    fade = round(crossfade * sample_rate)
    ordered = sorted(recordings, key=lambda recording: recording.id)
    for begun in ordered:
        generator = _generator(seed, contrast.kind, begun.id)
        wrong = [other for other in ordered if contrast.goes_wrong(begun, other)]
        right = [other for other in ordered if contrast.goes_on(begun, other)] if contrast.positive == "spliced" else [begun]
        if wrong and right:
            endings = [pool[int(generator.integers(len(pool)))] for pool in (right, wrong)]
            positive_T, negative_T = (_continued(begun.wav_T, end.wav_T, sample_rate=sample_rate, fade=fade) for end in endings)
            yield Preference(contrast.kind, begun.id, begun.wav_T if contrast.positive == "real" else positive_T, negative_T)


def background_pairs(
    recordings: Sequence[Recording], noises: Mapping[str, Tensor], *, snr: float, sample_rate: int, crossfade: float, seed: int
) -> Iterator[Preference]:
    """A pair of each recording: one of the `noises` by name at `snr` dB all through, or up to the middle and then another one.

    Which noise begins is drawn, so that over many pairs no noise is more often on one side.
    """
    fade = round(crossfade * sample_rate)
    for recording in recordings:
        generator = _generator(seed, "background", recording.id)
        first, second = _two(noises, generator, what="noises")
        draws = torch.Generator().manual_seed(int(generator.integers(2**62)))
        noisy = [
            mixed(recording.wav_T, repeated(noise_T, len(recording.wav_T), generator=draws), sample_rate, snr=snr)
            for noise_T in (first, second)
        ]
        yield _changed("background", recording, *noisy, fade=fade)


def room_pairs(
    recordings: Sequence[Recording], rooms: Mapping[str, Tensor | None], *, sample_rate: int, crossfade: float, seed: int
) -> Iterator[Preference]:
    """A pair of each recording: in one room all through, or from the middle on in another; None is no room, the recording as it is.

    `rooms` are impulse responses by name. The level is the same in both.
    """
    fade = round(crossfade * sample_rate)
    for recording in recordings:
        wavs = [
            _at_level(recording.wav_T if room is None else reverberated(recording.wav_T, room), recording.wav_T, sample_rate)
            for room in _two(rooms, _generator(seed, "room", recording.id), what="rooms")
        ]
        yield _changed("room", recording, *wavs, fade=fade)


def _changed(kind: str, recording: Recording, first_T: Tensor, second_T: Tensor, *, fade: int) -> Preference:
    middle = len(first_T) // 2
    return Preference(kind, recording.id, first_T, spliced(first_T[: middle + fade], second_T[middle:], fade=fade))


def _two(choices: Mapping, generator: np.random.Generator, *, what: str) -> list:
    if len(choices) < 2:
        raise ValueError(f"preference pairs: got {len(choices)} {what}, two at least are needed so that one can change into another")
    names = sorted(choices)
    return [choices[names[index]] for index in generator.choice(len(names), size=2, replace=False)]


def _generator(seed: int, kind: str, id: str) -> np.random.Generator:
    return np.random.default_rng([seed, crc32(f"{kind}|{id}".encode())])


def _continued(begun_T: Tensor, other_T: Tensor, *, sample_rate: int, fade: int) -> Tensor:
    """The first half of one and the second half of the other, brought to the level of the first one's own second half."""
    cut, other_cut = (quietest_middle(wav_T, sample_rate) for wav_T in (begun_T, other_T))
    ending_T = _at_level(other_T[other_cut:], begun_T[cut:], sample_rate)
    return spliced(begun_T[: cut + fade], ending_T, fade=fade)


def _at_level(wav_T: Tensor, like_T: Tensor, sample_rate: int) -> Tensor:
    power = active_power(wav_T, sample_rate)
    return wav_T * (active_power(like_T, sample_rate) / power) ** 0.5 if power else wav_T


def quietest_middle(wav_T: Tensor, sample_rate: int) -> int:
    """The sample in the middle of the quietest 20 ms of the middle third: where a cut is least in a word."""
    third, frame = len(wav_T) // 3, round(FRAME * sample_rate)
    if third < frame:
        raise ValueError(f"preference pairs: {len(wav_T) / sample_rate:.3f} s are too short to be cut in two; leave out less than 0.06 s")
    energy_T = wav_T[third : 2 * third].double().square().cumsum(0)
    return (
        third
        + int((energy_T[frame - 1 :] - torch.cat([energy_T.new_zeros(1), energy_T])[: len(energy_T) - frame + 1]).argmin())
        + frame // 2
    )


def spliced(begun_T: Tensor, ending_T: Tensor, *, fade: int) -> Tensor:
    """One after the other, the last `fade` samples of the first over the first of the second, each fading linearly."""
    if not 0 <= fade <= min(len(begun_T), len(ending_T)):
        raise ValueError(
            f"preference pairs: a crossfade of {fade} samples between {len(begun_T)} and {len(ending_T)}; choose a shorter one"
        )
    rise = (torch.arange(fade) + 0.5) / max(fade, 1)
    overlap = begun_T[len(begun_T) - fade :] * (1 - rise) + ending_T[:fade] * rise
    return torch.cat([begun_T[: len(begun_T) - fade], overlap, ending_T[fade:]])
