"""Noise and rooms, in samples: what perturbations and preference pairs are made of."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from scipy.signal import fftconvolve
from torch import Tensor
from torch.nn import functional as F

from audiotok import audio

Color = Literal["white", "pink", "brown"]

SLOPES = {"white": 0.0, "pink": -0.5, "brown": -1.0}  # of the amplitude over frequency: 0, -3 and -6 dB an octave
BENDS = 10  # places on the axis of frequencies, an even ratio apart, at which a bent spectrum is drawn
HARMONICS = 8  # of a hum, each weaker than the one before by its number
LOWEST = 20.0  # Hz: below it nothing is heard, and the power of brown noise has no bound
FRAME = 0.02  # seconds over which the level of speech is taken
SPEAKING = 1e-4  # of the loudest frame's power: 40 dB
DIRECT = 0.0025  # seconds


def active_power(wav_T: Tensor, sample_rate: int) -> float:
    """Mean power over the frames of 20 ms within 40 dB of the loudest: pauses and padding do not change it. 0 for silence."""
    frame = round(FRAME * sample_rate)
    frames_NT = F.pad(wav_T.double(), (0, -len(wav_T) % frame)).unflatten(0, (-1, frame))
    power_N = frames_NT.square().mean(dim=1)
    return float(power_N[power_N >= SPEAKING * power_N.max()].mean())


def mixed(wav_T: Tensor, noise_T: Tensor, sample_rate: int, *, snr: float) -> Tensor:
    """Speech and noise [T] at `snr` dB of the speech where it speaks to the noise over all. Raises ValueError for silence."""
    speech, noise = active_power(wav_T, sample_rate), float(noise_T.double().square().mean())
    if not (speech and noise):
        raise ValueError(f"noise: a ratio to silence is not defined, the {'noise' if speech else 'speech'} is silent; leave it out")
    return wav_T + noise_T.to(wav_T) * (speech / noise / 10 ** (snr / 10)) ** 0.5


def colored_noise(color: Color, samples: int, sample_rate: int, *, generator: torch.Generator) -> Tensor:
    """wav_T of power 1 on average: white noise whose spectrum is bent, without anything below 20 Hz where it is not white."""
    white_T = torch.randn(samples, generator=generator, dtype=torch.float64)
    if color == "white":
        return white_T.float()
    hertz = torch.fft.rfftfreq(samples, 1 / sample_rate, dtype=torch.float64)
    shape = torch.where(hertz >= LOWEST, hertz.clamp(min=LOWEST) ** SLOPES[color], 0)
    noise_T = torch.fft.irfft(torch.fft.rfft(white_T) * shape, samples)
    return (noise_T / noise_T.square().mean().sqrt()).float()


@dataclass(frozen=True)
class Shaped:
    """Noise of no name, where too few were recorded to learn what noise may be like: white noise through a smooth random filter, at times
    with a hum, its level wandering fast or slowly. Two numbers are bounds, between which one is drawn.
    """

    filter_db: float  # deviation of the filter's gains
    hum: float  # how often there is one
    hum_hertz: tuple[float, float]
    hum_db: tuple[float, float]  # of it to the rest
    level_db: tuple[float, float]  # deviation of the level
    level_seconds: tuple[float, float]  # from one level to the next

    def __call__(self, samples: int, sample_rate: int, *, generator: torch.Generator) -> Tensor:
        """wav_T of power 1."""
        noise_T = bent(torch.randn(samples, generator=generator), sample_rate, decibels=self.filter_db, generator=generator)
        noise_T = noise_T / noise_T.square().mean().sqrt()
        if _drawn(0, 1, generator) < self.hum:
            hum_T = _hum(samples, sample_rate, hertz=_drawn_evenly(*self.hum_hertz, generator), generator=generator)
            noise_T = noise_T + hum_T * 10 ** (_drawn(*self.hum_db, generator) / 20)
        knots = 2 + math.ceil(samples / sample_rate / _drawn_evenly(*self.level_seconds, generator))
        levels = _drawn(*self.level_db, generator) * torch.randn(1, 1, knots, generator=generator)
        noise_T = noise_T * 10 ** (F.interpolate(levels, samples, mode="linear", align_corners=True)[0, 0] / 20)
        return noise_T / noise_T.square().mean().sqrt()


def _drawn(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _drawn_evenly(low: float, high: float, generator: torch.Generator) -> float:
    """Each ratio as likely as another."""
    return math.exp(_drawn(math.log(low), math.log(high), generator))


def _hum(samples: int, sample_rate: int, *, hertz: float, generator: torch.Generator) -> Tensor:
    """wav_T of power 1: harmonics of random strength and phase."""
    number_H = torch.arange(1, HARMONICS + 1)
    turns_HT = number_H[:, None] * hertz * torch.arange(samples) / sample_rate + torch.rand(HARMONICS, 1, generator=generator)
    strength_H = torch.randn(HARMONICS, generator=generator) / number_H * (number_H * hertz < sample_rate / 2)
    hum_T = strength_H @ (2 * math.pi * turns_HT).sin()
    return hum_T / hum_T.square().mean().sqrt().clamp_min(1e-6)


def bent(noise_T: Tensor, sample_rate: int, *, decibels: float, generator: torch.Generator) -> Tensor:
    """The noise through a random filter: smooth over the logarithm of frequency, its gains of a deviation of so many dB."""
    hertz = torch.fft.rfftfreq(len(noise_T), 1 / sample_rate).clamp(min=LOWEST)
    place = (BENDS - 1) * (hertz / LOWEST).log() / math.log(sample_rate / 2 / LOWEST)
    gains = decibels * torch.randn(BENDS, generator=generator)
    lower = place.long().clamp(max=BENDS - 2)
    curve = torch.lerp(gains[lower], gains[lower + 1], place - lower)
    return torch.fft.irfft(torch.fft.rfft(noise_T) * 10 ** (curve / 20), len(noise_T))


def repeated(noise_T: Tensor, samples: int, *, generator: torch.Generator) -> Tensor:
    """So many samples of a recording, from a random one on and over again."""
    start = int(torch.randint(len(noise_T), (1,), generator=generator))
    return noise_T[(start + torch.arange(samples)) % len(noise_T)]


def levelled(wav_T: Tensor) -> Tensor:
    """At power 1, so that no voice of a babble drowns the others; what is all but silent is not made loud."""
    return wav_T / wav_T.square().mean().sqrt().clamp(min=1e-4)


def reverberated(wav_T: Tensor, impulse_T: Tensor) -> Tensor:
    """wav_T as long, convolved with an impulse response of energy 1 whose highest peak is taken to lie at 0 and to be positive."""
    peak = int(impulse_T.abs().argmax())
    impulse_T = impulse_T / impulse_T.norm() * impulse_T[peak].sign()
    convolved = fftconvolve(wav_T.cpu().double().numpy(), impulse_T.double().numpy())[peak : peak + len(wav_T)]
    return torch.from_numpy(convolved).to(wav_T)


def direct_to_reverberant(impulse_T: Tensor, sample_rate: int) -> float:
    """The energy of the direct path, 2.5 ms around the highest peak, over that of all else, in dB; inf where there is nothing else."""
    around, peak = round(DIRECT * sample_rate), int(impulse_T.abs().argmax())
    energy_T = impulse_T.double().square()
    direct = float(energy_T[max(peak - around, 0) : peak + around + 1].sum())
    rest = float(energy_T.sum()) - direct
    return 10 * math.log10(direct / rest) if rest > 0 else math.inf


@lru_cache(maxsize=32)
def recording(path: str, sample_rate: int) -> Tensor:
    """wav_T of a file at a rate, read once. Nothing may write into it."""
    wav_T, recorded_at = audio.read(path)
    return audio.resample(wav_T, recorded_at, sample_rate)
