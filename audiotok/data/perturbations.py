"""What happens to speech before a tokenizer hears it: noise, rooms, telephones, another speed. How far do its codes stand it?

A perturbation is called with samples and their rate and gives other samples; the same seed gives the same ones, and what went in is not
changed. `kind` and `level` place it on a curve, `name` tells it apart from all others. `timing` says how codes may be compared:

    same        frame n of both lies on the same speech: frame by frame, or by edit distance
    shifted     the speech comes later by `Shift.samples` or `Padding.front`: frame by frame only where that is a whole number of frames,
                by as many frames
    stretched   there are more or fewer frames of the same speech: by edit distance alone

Nothing is clipped: where a sum or a gain leaves [-1, 1], clipping it would be a second perturbation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import log2
from pathlib import Path
from typing import Literal, Protocol

import librosa
import numpy as np
import torch
from scipy import signal
from torch import Tensor
from torch.nn import functional as F

from audiotok import audio
from audiotok.data.acoustics import SLOPES, Color, colored_noise, direct_to_reverberant, mixed, recording, repeated, reverberated
from audiotok.tokenizers.base import WaveformCodec

Timing = Literal["same", "shifted", "stretched"]
FILTER_ORDER = 8
VOCODER_WINDOW = 0.032  # seconds


class Perturbation(Protocol):
    """What is done to speech. The level's unit is in `name`."""

    @property
    def kind(self) -> str: ...

    @property
    def level(self) -> float: ...

    @property
    def name(self) -> str: ...

    @property
    def timing(self) -> Timing: ...

    def __call__(self, wav_T: Tensor, sample_rate: int, *, seed: int) -> Tensor:
        """wav_T at the same rate. `seed` is of the utterance, and of no account where nothing is random."""
        ...


@dataclass(frozen=True)
class Noise:
    """Noise with a power spectrum that falls by 0 (white), 3 (pink) or 6 (brown) dB an octave from 20 Hz on.

    `snr` in dB, of the speech where it speaks (`active_power`) to the noise over all.
    """

    color: Color
    snr: float
    timing: Timing = "same"

    def __post_init__(self) -> None:
        if self.color not in SLOPES:
            raise ValueError(f"noise is {', '.join(SLOPES)}; got {self.color!r}")

    @property
    def kind(self) -> str:
        return f"noise_{self.color}"

    @property
    def level(self) -> float:
        return self.snr

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.snr:g}dB"

    def __call__(self, wav_T: Tensor, sample_rate: int, *, seed: int) -> Tensor:
        noise_T = colored_noise(self.color, len(wav_T), sample_rate, generator=torch.Generator().manual_seed(seed))
        return mixed(wav_T, noise_T, sample_rate, snr=self.snr)


@dataclass(frozen=True)
class RecordedNoise:
    """A recording of noise at an `snr` in dB as for `Noise`, from a random moment on, and from its beginning again where it ends."""

    path: str
    snr: float
    timing: Timing = "same"

    @property
    def kind(self) -> str:
        return f"noise_{Path(self.path).stem}"

    @property
    def level(self) -> float:
        return self.snr

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.snr:g}dB"

    def __call__(self, wav_T: Tensor, sample_rate: int, *, seed: int) -> Tensor:
        noise_T = repeated(recording(self.path, sample_rate), len(wav_T), generator=torch.Generator().manual_seed(seed))
        return mixed(wav_T, noise_T, sample_rate, snr=self.snr)


@dataclass(frozen=True)
class Pitch:
    """The pitch moved by semitones at the same length; formants move along, as on a tape that runs faster.

    By librosa's phase vocoder over 32 ms rather than its 2048 samples, which smear the melody of speech: at 16 kHz 21 % of the voiced
    frames are then off by more than a semitone, with these 7 %.
    """

    semitones: float
    kind: str = "pitch"
    timing: Timing = "same"

    @property
    def level(self) -> float:
        return self.semitones

    @property
    def name(self) -> str:
        return f"pitch_{self.semitones:+g}st"

    def __call__(self, wav_T: Tensor, sample_rate: int, *, seed: int) -> Tensor:
        shift = partial(librosa.effects.pitch_shift, sr=sample_rate, n_steps=self.semitones, res_type="soxr_hq")
        return _of_numpy(wav_T, partial(shift, n_fft=2 ** round(log2(VOCODER_WINDOW * sample_rate))))


@dataclass(frozen=True)
class Speed:
    """Played `factor` times as fast: ceil(T / factor) samples, pitch and formants move along. Codes compare by edit distance alone."""

    factor: float
    kind: str = "speed"
    timing: Timing = "stretched"

    def __post_init__(self) -> None:
        if not 0.1 <= self.factor <= 10:
            raise ValueError(f"speed: got a factor of {self.factor}; 0.1 to 10 are speech, 1.1 is a tenth faster")

    @property
    def level(self) -> float:
        return self.factor

    @property
    def name(self) -> str:
        return f"speed_{self.factor:g}x"

    def __call__(self, wav_T: Tensor, sample_rate: int, *, seed: int) -> Tensor:
        ratio = Fraction(str(self.factor)).limit_denominator(100)
        return audio.resample(wav_T, ratio.numerator, ratio.denominator) if ratio != 1 else wav_T.clone()


@dataclass(frozen=True)
class Gain:
    """Louder or softer by `decibels`."""

    decibels: float
    kind: str = "gain"
    timing: Timing = "same"

    @property
    def level(self) -> float:
        return self.decibels

    @property
    def name(self) -> str:
        return f"gain_{self.decibels:+g}dB"

    def __call__(self, wav_T: Tensor, sample_rate: int, *, seed: int) -> Tensor:
        return wav_T * 10 ** (self.decibels / 20)


@dataclass(frozen=True)
class Polarity:
    """Upside down, as behind a microphone wired the other way round: nobody hears it."""

    kind: str = "polarity"
    level: float = -1.0
    name: str = "polarity"
    timing: Timing = "same"

    def __call__(self, wav_T: Tensor, sample_rate: int, *, seed: int) -> Tensor:
        return -wav_T


@dataclass(frozen=True)
class Reverb:
    """The room of an impulse response, its direct path at once and its energy 1: neither delay nor gain is added.

    The level is its direct-to-reverberant ratio in dB: a reverberation time cannot be read off a response that was recorded with noise.
    """

    path: str
    kind: str = "reverb"
    timing: Timing = "same"

    @property
    def level(self) -> float:
        return direct_to_reverberant(*audio.read(self.path))

    @property
    def name(self) -> str:
        return f"reverb_{Path(self.path).stem}"

    def __call__(self, wav_T: Tensor, sample_rate: int, *, seed: int) -> Tensor:
        return reverberated(wav_T, recording(self.path, sample_rate))


@dataclass(frozen=True)
class LowPass:
    """Only what lies below `hertz`: a Butterworth filter forth and back, -6 dB there, -96 dB an octave above, without delay."""

    hertz: float
    kind: str = "lowpass"
    timing: Timing = "same"

    @property
    def level(self) -> float:
        return self.hertz

    @property
    def name(self) -> str:
        return f"lowpass_{self.hertz:g}Hz"

    def __call__(self, wav_T: Tensor, sample_rate: int, *, seed: int) -> Tensor:
        if not 0 < self.hertz < sample_rate / 2:
            raise ValueError(f"{self.name}: audio at {sample_rate} Hz ends at {sample_rate / 2:g} Hz; choose a frequency below")
        sections = signal.butter(FILTER_ORDER, self.hertz, fs=sample_rate, output="sos")
        return _of_numpy(wav_T, lambda wav: signal.sosfiltfilt(sections, wav, padlen=min(len(wav) - 1, sample_rate // 10)))


@dataclass(frozen=True)
class BitCrush:
    """Rounded to the nearest of 2^bits levels in [-1, 1), undithered."""

    bits: int
    kind: str = "bits"
    timing: Timing = "same"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise ValueError(f"bits: got {self.bits}; 2 to 16 a sample are possible")

    @property
    def level(self) -> float:
        return float(self.bits)

    @property
    def name(self) -> str:
        return f"bits_{self.bits}"

    def __call__(self, wav_T: Tensor, sample_rate: int, *, seed: int) -> Tensor:
        steps = 2.0 ** (self.bits - 1)
        return (wav_T * steps).round().clamp(-steps, steps - 1) / steps


@dataclass(frozen=True)
class Coded:
    """Sent through a codec without codes of its own (`audiotok.tokenizers.classical`), at its rate; the level is in kbit/s."""

    codec: WaveformCodec
    timing: Timing = "same"

    @property
    def kind(self) -> str:
        return type(self.codec).__name__.lower()

    @property
    def level(self) -> float:
        return self.codec.bits_per_second / 1000

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.level:g}kbps"

    def __call__(self, wav_T: Tensor, sample_rate: int, *, seed: int) -> Tensor:
        sent_T = audio.resample(wav_T, sample_rate, self.codec.sample_rate)
        received_T = self.codec.transmit(sent_T).wav_T
        return audio.resample(received_T, self.codec.sample_rate, sample_rate)[: len(wav_T)]


@dataclass(frozen=True)
class Shift:
    """`samples` zeros before, nothing lost: where frames fall on the speech moves."""

    samples: int
    kind: str = "shift"
    timing: Timing = "shifted"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"shift: got {self.samples} samples; speech can only come later, by 1 at least")

    @property
    def level(self) -> float:
        return float(self.samples)

    @property
    def name(self) -> str:
        return f"shift_{self.samples}"

    def __call__(self, wav_T: Tensor, sample_rate: int, *, seed: int) -> Tensor:
        return F.pad(wav_T, (self.samples, 0))


@dataclass(frozen=True)
class FrameShift:
    """Later by a part of a frame at the same length, the end cut off: frame n of both still lies on the same speech but for that part.

    `share` of a hop of `hop` samples, rounded to at least 1 and at most hop - 1 samples: the same level for tokenizers of any frame rate.
    """

    share: float
    hop: int
    kind: str = "frame_shift"
    timing: Timing = "same"

    def __post_init__(self) -> None:
        if not (0 < self.share < 1 and self.hop >= 2):
            raise ValueError(f"frame shift: got {self.share} of a hop of {self.hop}; wanted a share between 0 and 1 of 2 samples or more")

    @property
    def samples(self) -> int:
        return min(max(round(self.share * self.hop), 1), self.hop - 1)

    @property
    def level(self) -> float:
        return self.share

    @property
    def name(self) -> str:
        return f"frame_shift_{self.share:g}"

    def __call__(self, wav_T: Tensor, sample_rate: int, *, seed: int) -> Tensor:
        return F.pad(wav_T, (self.samples, 0))[: len(wav_T)]


@dataclass(frozen=True)
class Padding:
    """Silence of `front` and `back` seconds around. With `back` alone, the first frames compare one by one."""

    front: float
    back: float
    kind: str = "padding"

    def __post_init__(self) -> None:
        if min(self.front, self.back) < 0 or self.front + self.back == 0:
            raise ValueError(f"padding: got {self.front} s before and {self.back} s behind; neither is negative, one is positive")

    @property
    def timing(self) -> Timing:
        return "shifted" if self.front else "same"

    @property
    def level(self) -> float:
        return self.front + self.back

    @property
    def name(self) -> str:
        return f"padding_{self.front:g}s_{self.back:g}s"

    def __call__(self, wav_T: Tensor, sample_rate: int, *, seed: int) -> Tensor:
        return F.pad(wav_T, (round(self.front * sample_rate), round(self.back * sample_rate)))


def _of_numpy(wav_T: Tensor, function: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(function(wav_T.cpu().numpy()), dtype=np.float32)).to(wav_T.device)
