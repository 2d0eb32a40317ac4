"""Log-mel spectra of one utterance, the same whatever follows it in a batch."""

from dataclasses import asdict, dataclass
from functools import cached_property

import librosa
import torch
from torch import Tensor
from torch.nn import functional as F

from audiotok.tokenizers.base import Reach
from audiotok.tokenizers.exact import product


@dataclass(frozen=True)
class LogMel:
    """log10 of a mel magnitude spectrogram, Slaney's bands as librosa makes them.

    Frame n is centred on sample (n + 1/2) x hop of an utterance with zeros on both sides, so T samples give ceil(T / hop) frames.
    """

    sample_rate: int  # Hz
    n_fft: int
    window: int  # samples, Hann
    hop: int  # samples
    num_mels: int
    low_hz: float
    high_hz: float
    floor: float  # of the magnitude, before the logarithm

    def __post_init__(self) -> None:
        if not (0 < self.hop <= self.window <= self.n_fft and 0 <= self.low_hz < self.high_hz <= self.sample_rate / 2 and self.floor > 0):
            raise ValueError(f"log-mel needs hop <= window <= n_fft, low_hz < high_hz <= sample_rate / 2 and a positive floor; got {self}")

    @property
    def settings(self) -> dict:
        return asdict(self)

    @property
    def reach(self) -> Reach:
        """What the window exceeds a hop by, half of it on each side."""
        before = (self.n_fft - self.hop) // 2 - (self.n_fft - self.window) // 2
        return Reach(before, self.window - self.hop - before, period=self.hop)

    @cached_property
    def filters_MF(self) -> Tensor:
        """The filterbank, [mel bands, FFT bins]."""
        bands = librosa.filters.mel(sr=self.sample_rate, n_fft=self.n_fft, n_mels=self.num_mels, fmin=self.low_hz, fmax=self.high_hz)
        return torch.from_numpy(bands)

    def __call__(self, wav: Tensor) -> Tensor:
        """log_mel [..., N, M] of wav [..., T]."""
        num_samples = wav.shape[-1]
        num_frames = -(-num_samples // self.hop)
        left = (self.n_fft - self.hop) // 2
        padded = F.pad(wav, (left, (num_frames - 1) * self.hop + self.n_fft - left - num_samples))
        window = torch.hann_window(self.window, device=wav.device)
        spectrum = torch.stft(padded, self.n_fft, self.hop, self.window, window, center=False, return_complex=True)
        return product(spectrum.abs().transpose(-1, -2), self.filters_MF.to(wav.device).T).clamp(min=self.floor).log10()

    def to_linear(self, log_mel_NM: Tensor) -> Tensor:
        """Magnitudes [N, FFT bins] the bands may have come from: each bin is the mean of the bands over it, weighted by their height."""
        filters_MF = self.filters_MF.to(log_mel_NM.device)
        level_NM = 10**log_mel_NM / filters_MF.sum(dim=1)
        return level_NM @ (filters_MF / filters_MF.sum(dim=0).clamp(min=1e-8))
