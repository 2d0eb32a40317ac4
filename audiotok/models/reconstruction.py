"""How far one waveform is from another, as gradients can follow it: spectra at several resolutions."""

from collections.abc import Sequence
from functools import lru_cache

import librosa
import torch
from torch import Tensor

FLOOR = 1e-4  # of a magnitude, before the logarithm


class SpectralDistance:
    """Distances between log-mel spectra and between short-time Fourier transforms, at several window lengths (arXiv 1910.11480, 2210.13438).

    `mel_windows` and `mel_bands` go in pairs; a transform's hop is a quarter of its window. The transforms give two distances of
    magnitudes and of complex values, each relative to the reference's norm: the spectral convergence, and what phase adds to it.
    """

    def __init__(
        self, *, sample_rate: int, mel_windows: Sequence[int], mel_bands: Sequence[int], stft_windows: Sequence[int],
        magnitude_weight: float, complex_weight: float,
    ) -> None:  # fmt: skip
        if len(mel_windows) != len(mel_bands):
            raise ValueError(f"spectral distance: {len(mel_windows)} mel windows but {len(mel_bands)} numbers of bands; they go in pairs")
        self.sample_rate = sample_rate
        self.mels = list(zip(mel_windows, mel_bands))
        self.stft_windows = list(stft_windows)
        self.magnitude_weight = magnitude_weight
        self.complex_weight = complex_weight

    def __call__(self, wav_BT: Tensor, reference_BT: Tensor) -> dict[str, Tensor]:
        """`mel` and `stft`, scalars, smaller is nearer; in float32 whatever the autocast."""
        with torch.autocast(wav_BT.device.type, enabled=False):
            windows = {window for window, _ in self.mels} | set(self.stft_windows)
            spectra = {window: (stft(wav_BT.float(), window), stft(reference_BT.float(), window)) for window in windows}
            return {"mel": self._mel(spectra), "stft": self._stft(spectra)}

    def _mel(self, spectra: dict[int, tuple[Tensor, Tensor]]) -> Tensor:
        distances = []
        for window, bands in self.mels:
            filters_MF = _filters(self.sample_rate, window, bands).to(spectra[window][0].device)
            ours, theirs = ((filters_MF @ spectrum.abs()).clamp(min=FLOOR).log() for spectrum in spectra[window])
            distances.append((ours - theirs).abs().mean())
        return torch.stack(distances).sum()

    def _stft(self, spectra: dict[int, tuple[Tensor, Tensor]]) -> Tensor:
        distances = []
        for window in self.stft_windows:
            ours, theirs = spectra[window]
            norm = theirs.norm() + 1e-3
            distances.append(self.magnitude_weight * (ours.abs() - theirs.abs()).norm() / norm)
            distances.append(self.complex_weight * (ours - theirs).norm() / norm)
        return torch.stack(distances).sum()


def stft(wav_BT: Tensor, window: int) -> Tensor:
    """Complex spectra [B, window / 2 + 1, frames], Hann, a quarter of a window apart."""
    return torch.stft(wav_BT, window, window // 4, window=torch.hann_window(window, device=wav_BT.device), return_complex=True)


@lru_cache
def _filters(sample_rate: int, window: int, bands: int) -> Tensor:
    # HTK's scale without area normalisation, so that every band weighs by its level, not its width.
    return torch.from_numpy(librosa.filters.mel(sr=sample_rate, n_fft=window, n_mels=bands, htk=True, norm=None))
