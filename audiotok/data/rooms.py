"""Rooms in which speech is heard: recorded responses, and shoeboxes computed by the image-source method (JASA 65, 943, 1979).

The direct sound is the measure of every response: it comes at once, as loud as what is said and as a whole number of samples. So the dry
speech is, to the sample, the direct sound in the reverberant speech. A shoebox, S who speaks, M who hears, and an image of S:

    +---------------------+
    |   S ----------> M   |      direct: delay 0, gain 1
    +------\\---------/----+      image: delay (path - direct) / c, gain direct / path, times what each wall gives back
             S'
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from lhotse import MonoCut
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from torch import Tensor

from audiotok.data.acoustics import DIRECT
from audiotok.data.tokenization import read_cut

SOUND = 343.0  # metres a second, at 20 degrees
SABINE = 24 * math.log(10) / SOUND  # seconds a metre: Eyring's formula, of the reverberation time
STEPS = 8  # an image's delay lies between two of so many places in a sample
TAPS = 40  # samples to each side of an image that its band-limited pulse is long
MARGIN = 0.3  # metres that nobody comes nearer to a wall

NONE, RECORDED, SIMULATED = "none", "recorded", "simulated"
KINDS = (NONE, RECORDED, SIMULATED)

Floats = NDArray[np.float64]
Place = Floats  # [3], metres from a corner


@dataclass(frozen=True)
class Response:
    """An impulse response whose direct sound is at sample `direct` and as loud as what is said."""

    impulse_T: Tensor
    direct: int

    def __call__(self, wav_T: Tensor) -> Tensor:
        """wav_T as it is heard, as long and not delayed."""
        heard = fftconvolve(wav_T.double().numpy(), self.impulse_T.double().numpy())
        return torch.from_numpy(heard[self.direct : self.direct + len(wav_T)]).to(wav_T)


@dataclass(frozen=True)
class Room:
    """How speech is heard in it, and noise; None where noise brings a room of its own."""

    name: str
    speech: Response
    noise: Response | None


@dataclass(frozen=True)
class Shoebox:
    """Walls at 0 and `size` metres along each axis, all of which give back the share `reflection` of a wave's amplitude."""

    size: tuple[float, float, float]
    reflection: float

    def response(self, source: Place, ear: Place, *, seconds: float, sample_rate: int) -> Response:
        """Every image whose sound comes within `seconds` of the direct one, its pulse band-limited to half the sample rate."""
        direct = float(np.linalg.norm(source - ear))
        fine = np.zeros((round(seconds * sample_rate) + 2) * STEPS)
        for path, gain in self._images(source, ear, within=direct + seconds * SOUND):
            place = (path - direct) / SOUND * sample_rate * STEPS
            whole = place.astype(np.int64)
            share, weight = place - whole, gain * direct / path
            fine += np.bincount(whole, weight * (1 - share), len(fine)) + np.bincount(whole + 1, weight * share, len(fine))
        impulse = fftconvolve(fine, _pulse())[::STEPS]
        return Response(torch.from_numpy(impulse).float(), TAPS)

    def _images(self, source: Place, ear: Place, *, within: float) -> Iterator[tuple[Floats, Floats]]:
        """(paths, gains) of the images nearer than so many metres, a slab of them at a time."""
        axes = [_mirrored(*each, within=within) for each in zip(self.size, source, ear)]
        (far_X, bounces_X), (far_Y, bounces_Y), (far_Z, bounces_Z) = axes
        across_YZ = far_Y[:, None] ** 2 + far_Z[None] ** 2
        bounces_YZ = bounces_Y[:, None] + bounces_Z[None]
        for far, bounces in zip(far_X, bounces_X):
            near_YZ = across_YZ + far**2 < within**2
            yield np.sqrt(across_YZ[near_YZ] + far**2), self.reflection ** (bounces + bounces_YZ[near_YZ])


def _mirrored(size: float, source: float, ear: float, *, within: float) -> tuple[Floats, NDArray[np.int64]]:
    """(distances from the ear along an axis, walls met) of the images in two mirrors `size` apart, those nearer than so many metres."""
    turn = np.arange(-math.ceil(within / size / 2) - 1, math.ceil(within / size / 2) + 2)
    far = np.concatenate([2 * turn * size + source - ear, 2 * turn * size - source - ear])
    bounces = np.concatenate([np.abs(2 * turn), np.abs(2 * turn - 1)])
    return far[np.abs(far) < within], bounces[np.abs(far) < within]


@cache
def _pulse() -> Floats:
    """A windowed sinc, 1 at its middle and 0 at every other whole sample: the direct sound stays a single sample."""
    place = np.arange(-TAPS * STEPS, TAPS * STEPS + 1) / STEPS
    return np.sinc(place) * np.cos(np.pi * place / (2 * TAPS)) ** 2


@dataclass(frozen=True)
class Shoeboxes:
    """`number` rooms drawn once: their `size` in metres and `seconds` of reverberation (to -60 dB) between two bounds each.

    Who speaks is between two `distance`s in metres from who hears, the noise anywhere in the room. A box dies away more slowly than
    Eyring's formula says, by about half: waves along its longest side meet few walls. A response is cut where the formula ends it.
    """

    number: int
    size: Sequence[tuple[float, float]]
    seconds: tuple[float, float]
    distance: tuple[float, float]

    def __post_init__(self) -> None:
        bounds = (*self.size, self.seconds, self.distance)
        if self.number < 1 or len(self.size) != 3 or any(not 0 < low <= high for low, high in bounds):
            raise ValueError(f"shoebox: number >= 1, three sizes, seconds and distance from low to high above 0 are wanted; got {self}")
        if min(low for low, _ in self.size) <= 2 * MARGIN:
            raise ValueError(
                f"shoebox.size: nobody is nearer to a wall than {MARGIN:g} m, so all are {2 * MARGIN:g} m and more; got {self.size}"
            )

    def room(self, random: np.random.Generator, sample_rate: int) -> Room:
        """One of them. Raises ValueError where nobody can be so far from another in it."""
        size = tuple(float(random.uniform(*bounds)) for bounds in self.size)
        seconds = float(random.uniform(*self.seconds))
        box = Shoebox(size, reflection_of(size, seconds))  # type: ignore[arg-type]
        ear, mouth = self._two(np.array(size), random)
        noise = random.uniform(MARGIN, np.array(size) - MARGIN)
        speech, other = (box.response(place, ear, seconds=seconds, sample_rate=sample_rate) for place in (mouth, noise))
        return Room(f"{SIMULATED}: {size[0]:.1f} x {size[1]:.1f} x {size[2]:.1f} m, {seconds:.2f} s", speech, other)

    def _two(self, size: Place, random: np.random.Generator) -> tuple[Place, Place]:
        """(ear, mouth)."""
        for _ in range(1000):
            ear, way = random.uniform(MARGIN, size - MARGIN), random.normal(size=3)
            mouth = ear + way / np.linalg.norm(way) * random.uniform(*self.distance)
            if (mouth >= MARGIN).all() and (mouth <= size - MARGIN).all():
                return ear, mouth
        raise ValueError(f"shoebox.distance={self.distance} finds no place in a room of {size.round(1).tolist()} m; give a smaller one")


def reflection_of(size: Sequence[float], seconds: float) -> float:
    """The share of a wave's amplitude that the walls give back so that it dies away by 60 dB in so many seconds (Eyring)."""
    length, width, height = size
    surface = 2 * (length * width + width * height + height * length)
    return math.exp(-SABINE * length * width * height / surface / seconds / 2)


class Rooms:
    """Rooms by shares of the `KINDS`: no room, one of `recorded` responses, a shoebox; those drawn are a function of `seed` alone.

    Recorded noise has its room in it and a response is of one place, so noise is put into a shoebox only, at a place of its own. Raises
    ValueError for an unknown kind, and where a recorded response is wanted and there is none.
    """

    def __init__(
        self, shares: Mapping[str, float], recorded: Sequence[MonoCut], shoeboxes: Shoeboxes, *, sample_rate: int, seed: int, setting: str
    ) -> None:
        if set(shares) - set(KINDS) or min(shares.values(), default=0) < 0 or not sum(shares.values()):
            raise ValueError(f"{setting}: shares of {', '.join(KINDS)} are wanted, from 0 on and one above; got {dict(shares)}")
        if shares.get(RECORDED) and not recorded:
            raise ValueError(f"{setting} wants recorded responses, and there is none in this split; set {setting}.{RECORDED}=0")
        self.shoeboxes, self.sample_rate, self.seed = shoeboxes, sample_rate, seed
        self._kinds = [kind for kind, share in shares.items() if share]
        self._shares = np.array([shares[kind] for kind in self._kinds]) / sum(shares.values())
        self._recorded = [
            (cut.id, recorded_response(read_cut(cut, sample_rate), sample_rate)) for cut in recorded if RECORDED in self._kinds
        ]
        self._simulated = cache(self._shoebox)

    def draw(self, random: np.random.Generator) -> Room | None:
        """A room, or none."""
        kind = str(random.choice(self._kinds, p=self._shares))
        if kind == NONE:
            return None
        if kind == SIMULATED:
            return self._simulated(int(random.integers(self.shoeboxes.number)))
        name, response = self._recorded[int(random.integers(len(self._recorded)))]
        return Room(f"{RECORDED}: {name}", response, None)

    def _shoebox(self, number: int) -> Room:
        return self.shoeboxes.room(np.random.default_rng([self.seed, number]), self.sample_rate)


def recorded_response(impulse_T: Tensor, sample_rate: int) -> Response:
    """A recording of a response, measured by its direct sound: the highest peak, made positive, and 2.5 ms around it, of energy 1.

    Raises ValueError for silence.
    """
    peak, around = int(impulse_T.abs().argmax()), round(DIRECT * sample_rate)
    if not impulse_T[peak]:
        raise ValueError("a recorded response of a room is silent; leave it out of the corpus")
    direct = impulse_T[max(peak - around, 0) : peak + around + 1].norm() * impulse_T[peak].sign()
    return Response(impulse_T / direct, peak)
