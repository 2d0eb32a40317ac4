"""Noisy speech beside the clean speech in it: what enhancement learns from, mixed as it is read or recorded both ways."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from lhotse import MonoCut
from torch import Tensor
from torch.nn import functional as F

from audiotok.data.acoustics import SLOPES, Shaped, bent, colored_noise, levelled, mixed, repeated
from audiotok.data.batching import ALONE, Share
from audiotok.data.crops import RandomCrops, one_ahead
from audiotok.data.manifests import speaker_of
from audiotok.data.rooms import Room, Rooms
from audiotok.data.tokenization import read_cut

RECORDED, BABBLE, SHAPED = "recorded", "babble", "shaped"
KINDS = (RECORDED, BABBLE, SHAPED, *SLOPES)


@dataclass(frozen=True)
class NoisyBatch:
    """Pieces of speech, noisy and clean, aligned to the sample; zeros past a row's length."""

    noisy_BT: Tensor
    clean_BT: Tensor
    lengths_B: Tensor

    def to(self, device: torch.device) -> "NoisyBatch":
        return NoisyBatch(*(part.to(device, non_blocking=True) for part in (self.noisy_BT, self.clean_BT, self.lengths_B)))


class NoisyCrops:
    """The crops of `speech`, each in a room, in noise of a kind and at a signal-to-noise ratio of its own; a pure function of (seed, step,
    rank).

    `kinds` are shares: recorded (one of the `noises`, from a random place on, played by a factor between the two of `faster` and through a
    random filter of so many dB, `bend_db`), babble (`voices` crops of other people at once, of the same power each), `shaped`, white, pink,
    brown. The ratio in dB, of the speech as it is heard in the room, is drawn between the two `snrs`. The clean crop is the direct sound in
    the noisy one. A crop that is silent stays as it is. What would leave full scale is turned down, noisy and clean together. Raises
    ValueError for an unknown kind, and where recorded noise is wanted and there is none.
    """

    def __init__(
        self,
        speech: RandomCrops,
        noises: Sequence[MonoCut],
        *,
        kinds: Mapping[str, float],
        snrs: tuple[float, float],
        voices: int,
        faster: tuple[float, float],
        bend_db: float,
        shaped: Shaped,
        rooms: Rooms,
    ) -> None:
        if unknown := set(kinds) - set(KINDS):
            raise ValueError(f"noise.kinds: {', '.join(sorted(unknown))} is unknown; known are {', '.join(KINDS)}")
        if kinds.get(RECORDED) and not noises:
            raise ValueError("noise.kinds wants recorded noise, and the training split has none; set noise.kinds.recorded=0")
        if snrs[0] > snrs[1] or voices < 1:
            raise ValueError(f"noise.snrs is the lowest and the highest ratio, noise.voices at least 1; got {snrs} and {voices}")
        if not (len(faster) == 2 and 0 < faster[0] <= faster[1] and bend_db >= 0):
            raise ValueError(f"noise.faster is two factors above 0, noise.bend_db 0 or more; got {faster}, {bend_db}")
        self.speech, self.snrs, self.voices, self.rooms = speech, snrs, voices, rooms
        self.faster, self.bend_db, self.shaped = faster, bend_db, shaped
        self._kinds, weights = list(kinds), np.array(list(kinds.values()), dtype=np.float64)
        self._shares = weights / weights.sum()
        self._several = len({speaker_of(cut) for cut in speech.cuts}) > 1
        self._noises = [read_cut(cut, speech.sample_rate) for cut in noises]

    def from_step(self, step: int, *, share: Share = ALONE) -> Iterator[NoisyBatch]:
        """A rank's batches from step `step` on (counted from 0), the next being made while the caller works on one."""
        return one_ahead(lambda place: self.batch(place[0], rank=place[1]), share.places(step))

    def batch(self, step: int, *, rank: int = 0) -> NoisyBatch:
        pieces = self.speech.pieces(step, rank=rank)
        clean_BT = torch.stack([piece.levelled(self.speech.cut_out(cut, piece)) for cut, piece in pieces])
        random, rooms = (np.random.default_rng([self.speech.seed, step, rank, number]) for number in (1, 2))
        pairs = [self._in_noise(clean_T, speaker_of(cut), self.rooms.draw(rooms), random) for clean_T, (cut, _) in zip(clean_BT, pieces)]
        noisy, clean = (torch.stack(part) for part in zip(*pairs))
        return NoisyBatch(noisy, clean, torch.full((len(clean),), clean.shape[1]))

    def _in_noise(self, clean_T: Tensor, speaker: str, room: Room | None, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        snr = random.uniform(*self.snrs)
        noise_T = self._noise(str(random.choice(self._kinds, p=self._shares)), speaker, len(clean_T), random)
        return heard(clean_T, noise_T, room, self.speech.sample_rate, snr=snr)

    def _noise(self, kind: str, speaker: str, samples: int, random: np.random.Generator) -> Tensor:
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        if kind == RECORDED:
            noise_T = self._noises[int(random.integers(len(self._noises)))]
            wanted = math.ceil(samples * random.uniform(*self.faster))
            noise_T = _in_as_many(repeated(noise_T, wanted, generator=generator), samples)
            return bent(noise_T, self.speech.sample_rate, decibels=self.bend_db, generator=generator) if self.bend_db else noise_T
        if kind == BABBLE:
            return sum((self._voice(speaker, random) for _ in range(self.voices)), torch.zeros(samples))
        if kind == SHAPED:
            return self.shaped(samples, self.speech.sample_rate, generator=generator)
        return colored_noise(kind, samples, self.speech.sample_rate, generator=generator)  # type: ignore[arg-type]

    def _voice(self, speaker: str, random: np.random.Generator) -> Tensor:
        """A crop of somebody else, of power 1; where nobody else speaks, of the same person."""
        cut, piece = self.speech.another({speaker} if self._several else set(), random)
        return levelled(self.speech.cut_out(cut, piece))


def _in_as_many(noise_T: Tensor, samples: int) -> Tensor:
    """A recording in more or fewer samples, pitch and all, straight between its own: of a noise it does not matter what is folded down."""
    return F.interpolate(noise_T[None, None], samples, mode="linear", align_corners=True)[0, 0]


def heard(clean_T: Tensor, noise_T: Tensor, room: Room | None, sample_rate: int, *, snr: float) -> tuple[Tensor, Tensor]:
    """(noisy_T, clean_T): both turned down alike where the noisy one would leave full scale; silence is in no noise, and heard in none."""
    noisy_T = room.speech(clean_T) if room else clean_T
    if room and room.noise:
        noise_T = room.noise(noise_T)
    if clean_T.any() and noise_T.any():
        noisy_T = mixed(noisy_T, noise_T, sample_rate, snr=snr)
    loudest = max(1.0, float(noisy_T.abs().max()))
    return noisy_T / loudest, clean_T / loudest
