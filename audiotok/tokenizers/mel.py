"""Log-mel spectra of one utterance, the same whatever follows it in a batch."""

from dataclasses import asdict, dataclass
from functools import cached_property

import librosa
import torch
from torch import Tensor
from torch.nn import functional as F


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

    @cached_property
    def filters_MF(self) -> Tensor:
        """The filterbank, [mel bands, FFT bins]."""
        bands = librosa.filters.mel(sr=self.sample_rate, n_fft=self.n_fft, n_mels=self.num_mels, fmin=self.low_hz, fmax=self.high_hz)
        return torch.from_numpy(bands)

    def __call__(self, wav_T: Tensor) -> Tensor:
        """log_mel_NM."""
        num_frames = -(-len(wav_T) // self.hop)
        left = (self.n_fft - self.hop) // 2
        padded_T = F.pad(wav_T, (left, (num_frames - 1) * self.hop + self.n_fft - left - len(wav_T)))
        window_T = torch.hann_window(self.window, device=wav_T.device)
        spectrum_FN = torch.stft(padded_T, self.n_fft, self.hop, self.window, window_T, center=False, return_complex=True)
        return (self.filters_MF.to(wav_T.device) @ spectrum_FN.abs()).clamp(min=self.floor).log10().T

    def to_linear(self, log_mel_NM: Tensor) -> Tensor:
        """Magnitudes [N, FFT bins] the bands may have come from: each bin is the mean of the bands over it, weighted by their height."""
        filters_MF = self.filters_MF.to(log_mel_NM.device)
        level_NM = 10**log_mel_NM / filters_MF.sum(dim=1)
        return level_NM @ (filters_MF / filters_MF.sum(dim=0).clamp(min=1e-8))
