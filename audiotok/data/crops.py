"""Random pieces of a corpus's recordings, for models that learn from sound: every batch a pure function of (seed, step, rank)."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from lhotse import MonoCut
from torch import Tensor

from audiotok import audio
from audiotok.data.batching import ALONE, Share
from audiotok.data.manifests import speaker_of
from audiotok.data.tokenization import read_cut

B = TypeVar("B")


@dataclass(frozen=True)
class Piece:
    """How much faster a recording is played, where in it a crop lies (0 the first place, 1 past the last), and the crop's peak."""

    speed: float
    place: float
    peak: float

    def levelled(self, crop_T: Tensor) -> Tensor:
        return crop_T * self.gain(crop_T)

    def gain(self, crop_T: Tensor) -> float:
        """By which a crop is as loud as it is to be; what is all but silent is not made loud."""
        return self.peak / max(float(crop_T.abs().max()), 1e-3)


@dataclass
class RandomCrops:
    """Batches of `batch_size` crops of `seconds`, each of a random speaker, utterance, place, speed and level.

    A speaker is drawn by the `balance`-th power of how long he speaks in all: 1 draws every second of sound alike, 0 every speaker.
    `speeds` are factors by which a crop is played faster, pitch and all; `gain_db` bounds its peak in dB below full scale. Utterances
    shorter than a crop have silence around them. What was read is kept in memory, up to `cache_hours`.
    """

    cuts: Sequence[MonoCut]
    sample_rate: int  # Hz of the crops
    seconds: float
    batch_size: int
    balance: float
    speeds: Sequence[float]
    gain_db: tuple[float, float]
    cache_hours: float
    seed: int
    _cache: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.cuts):
            raise ValueError("there is nothing to crop; is the training split empty?")
        if self.seconds <= 0 or self.batch_size < 1 or not self.speeds or min(self.speeds) <= 0 or not 0 <= self.balance <= 1:
            raise ValueError(f"crops need seconds > 0, batch_size >= 1, positive speeds and 0 <= balance <= 1; got {self.seconds=}, "
                             f"{self.batch_size=}, {self.speeds=}, {self.balance=}")  # fmt: skip
        if not self.gain_db[0] <= self.gain_db[1] <= 0:
            raise ValueError(f"crops.gain_db is the lowest and the highest peak in dB of full scale, such as [-20, -3]; got {self.gain_db}")
        spoken: defaultdict[str, float] = defaultdict(float)
        for cut in self.cuts:
            spoken[speaker_of(cut)] += cut.duration
        weights = np.array([cut.duration * spoken[speaker_of(cut)] ** (self.balance - 1) for cut in self.cuts])
        self._chances = weights / weights.sum()
        self._cache_samples = self.cache_hours * 3600 * self.sample_rate

    def from_step(self, step: int, *, share: Share = ALONE) -> Iterator[Tensor]:
        """wav_BT of a rank's batches from step `step` on (counted from 0), the next being read while the caller works on one."""
        return one_ahead(lambda place: self.batch(place[0], rank=place[1]), share.places(step))

    def batch(self, step: int, *, rank: int = 0) -> Tensor:
        """wav_BT of one step, and of one of its batches."""
        return torch.stack([piece.levelled(self.cut_out(cut, piece)) for cut, piece in self.pieces(step, rank=rank)])

    def pieces(self, step: int, *, rank: int) -> list[tuple[MonoCut, "Piece"]]:
        """What a batch is made of."""
        random = np.random.default_rng([self.seed, step, rank])
        chosen = random.choice(len(self.cuts), size=self.batch_size, p=self._chances)
        return [(self.cuts[index], self._piece(random)) for index in chosen]

    def another(self, heard: Set[str], random: np.random.Generator) -> tuple[MonoCut, "Piece"]:
        """A piece of somebody else than these people, drawn as those of a batch are. Raises ValueError where there is nobody else."""
        chances = np.where([speaker_of(cut) in heard for cut in self.cuts], 0.0, self._chances)
        if not chances.any():
            told = f"nobody else speaks in this split than {', '.join(sorted(heard))}"
            raise ValueError(f"{told}; it needs as many people as are to be heard at once (crops.dev_batches=0 does without the dev split)")
        return self.cuts[int(random.choice(len(self.cuts), p=chances / chances.sum()))], self._piece(random)

    def _piece(self, random: np.random.Generator) -> "Piece":
        speed, place = float(random.choice(np.asarray(self.speeds))), random.random()
        return Piece(speed, place, 10 ** (random.uniform(*self.gain_db) / 20))

    def cut_out(self, cut: MonoCut, piece: "Piece") -> Tensor:
        """wav_T of a piece of a recording, as loud as it is there."""
        length, faster = round(self.seconds * self.sample_rate), round(self.sample_rate * piece.speed)
        wanted = -(-length * faster // self.sample_rate)
        wav_T = self._read(cut)
        crop_T = torch.zeros(wanted)
        spare = len(wav_T) - wanted
        start = int(piece.place * (abs(spare) + 1))
        if spare >= 0:
            crop_T.copy_(wav_T[start : start + wanted])
        else:
            crop_T[start : start + len(wav_T)] = wav_T
        return audio.resample(crop_T, faster, self.sample_rate)[:length]

    def _read(self, cut: MonoCut) -> Tensor:
        """wav_T, as int16 in memory."""
        if (pcm_T := self._cache.get(cut.id)) is None:
            pcm_T = (read_cut(cut, self.sample_rate) * 32768).round().clamp(-32768, 32767).to(torch.int16)
            if self._cache_samples >= len(pcm_T):
                self._cache[cut.id] = pcm_T
                self._cache_samples -= len(pcm_T)
        return pcm_T.float() / 32768


def one_ahead(batch: Callable[[tuple[int, int]], B], places: Iterator[tuple[int, int]]) -> Iterator[B]:
    """The batches of endless places, the next being made while the caller works on one."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(batch, next(places))
        while True:
            current, coming = coming.result(), pool.submit(batch, next(places))
            yield current
