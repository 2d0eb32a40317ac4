"""Frames to samples by an inverse short-time Fourier transform (Vocos, arXiv 2306.00814)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOUDEST = 100.0  # bound of a bin's magnitude, so that the exponential cannot run away


class InverseSTFT(nn.Module):
    """Vectors to waveforms: each gives the log-magnitudes and phases of `frames` neighbouring short-time spectra.

    Spectrum n is centred on sample (n + 1/2) x hop, as `LogMel` centres its frames, so N vectors give N x frames x hop samples.
    """

    window: Tensor

    def __init__(self, width: int, *, n_fft: int, hop: int, frames: int) -> None:
        super().__init__()
        if hop < 1 or n_fft % 2 or hop % 2 or n_fft < 2 * hop:
            raise ValueError(f"inverse STFT: n_fft and hop are even, n_fft at least twice the hop; got n_fft={n_fft}, hop={hop}")
        if frames < 1:
            raise ValueError(f"inverse STFT: a vector gives at least one spectrum; got frames={frames}")
        self.n_fft = n_fft
        self.hop = hop
        self.frames = frames
        self.project = nn.Linear(width, frames * (n_fft + 2))
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, hidden_BND: Tensor) -> Tensor:
        """wav_BT in float32, unbounded."""
        batch, num_vectors, _ = hidden_BND.shape
        parts = self.project(hidden_BND).view(batch, num_vectors * self.frames, self.n_fft + 2).float()
        magnitude, phase = parts.chunk(2, dim=-1)
        spectrum_BNF = torch.polar(magnitude.exp().clamp(max=LOUDEST), phase)
        return self.overlap_add(torch.fft.irfft(spectrum_BNF, self.n_fft, dim=-1))

    def overlap_add(self, pieces_BNT: Tensor) -> Tensor:
        """wav_BT of N x hop samples from pieces of n_fft samples, windowed again and divided by the sum of the squared windows."""
        num_frames = pieces_BNT.shape[1]
        total = (num_frames - 1) * self.hop + self.n_fft
        cut = (self.n_fft - self.hop) // 2
        wav_BT = self._add(pieces_BNT * self.window, total)
        envelope_1T = self._add(self.window.square().expand(1, num_frames, -1), total)
        return wav_BT[:, cut : total - cut] / envelope_1T[:, cut : total - cut]

    def _add(self, pieces_BNT: Tensor, total: int) -> Tensor:
        return F.fold(pieces_BNT.transpose(1, 2), (1, total), (1, self.n_fft), stride=(1, self.hop))[:, 0, 0]
