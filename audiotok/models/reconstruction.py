"""How far one waveform is from another, as gradients can follow it: spectra at several resolutions."""

from collections.abc import Sequence
from functools import lru_cache

import librosa
import torch
from torch import Tensor

from audiotok.models.spectra import magnitude, stft

FLOOR = 1e-4  # of a magnitude, before the logarithm
QUIETEST = 1e-2  # of a magnitude before it is compressed: about 90 dB below a full-scale sine


class SpectralDistance:
    """Distances between log-mel spectra and between short-time Fourier transforms, at several windows (arXiv 1910.11480, 2210.13438).

    `mel_windows` and `mel_bands` go in pairs; a transform's hop is a quarter of its window. The transforms give two distances of
    magnitudes and of complex values, each relative to the reference's norm: the spectral convergence, and what phase adds to it. Before,
    magnitudes are raised to the power `compression`: at 0.3, which is nearer to loudness, quiet bands count as well.
    """

    def __init__(
        self, *, sample_rate: int, mel_windows: Sequence[int], mel_bands: Sequence[int], stft_windows: Sequence[int] = (),
        magnitude_weight: float = 1.0, complex_weight: float = 0.0, compression: float = 1.0,
    ) -> None:  # fmt: skip
        if len(mel_windows) != len(mel_bands):
            raise ValueError(f"spectral distance: {len(mel_windows)} mel windows but {len(mel_bands)} numbers of bands; they go in pairs")
        self.sample_rate = sample_rate
        self.mels = list(zip(mel_windows, mel_bands))
        self.stft_windows = list(stft_windows)
        self.magnitude_weight = magnitude_weight
        self.complex_weight = complex_weight
        self.compression = compression

    def __call__(self, wav_BT: Tensor, reference_BT: Tensor) -> dict[str, Tensor]:
        """`mel` and, where there are windows for it, `stft`: scalars, smaller is nearer; in float32 whatever the autocast."""
        with torch.autocast(wav_BT.device.type, enabled=False):
            windows = {window for window, _ in self.mels} | set(self.stft_windows)
            spectra = {window: (stft(wav_BT.float(), window), stft(reference_BT.float(), window)) for window in windows}
            sizes = {window: (magnitude(ours), magnitude(theirs)) for window, (ours, theirs) in spectra.items()}
            return {"mel": self._mel(sizes)} | ({"stft": self._stft(spectra, sizes)} if self.stft_windows else {})

    def _mel(self, sizes: dict[int, tuple[Tensor, Tensor]]) -> Tensor:
        distances = []
        for window, bands in self.mels:
            filters_MF = _filters(self.sample_rate, window, bands).to(sizes[window][0].device)
            ours, theirs = ((size_BNF @ filters_MF.T).clamp(min=FLOOR).log() for size_BNF in sizes[window])
            distances.append((ours - theirs).abs().mean())
        return torch.stack(distances).sum()

    def _stft(self, spectra: dict[int, tuple[Tensor, Tensor]], sizes: dict[int, tuple[Tensor, Tensor]]) -> Tensor:
        distances = []
        for window in self.stft_windows:
            (ours, theirs), (our_gain, their_gain) = spectra[window], (self._gain(size_BNF) for size_BNF in sizes[window])
            our_size, their_size = sizes[window][0] * our_gain, sizes[window][1] * their_gain
            norm = their_size.norm() + 1e-3
            distances.append(self.magnitude_weight * (our_size - their_size).norm() / norm)
            if self.complex_weight:
                difference = torch.view_as_real(ours) * our_gain[..., None] - torch.view_as_real(theirs) * their_gain[..., None]
                distances.append(self.complex_weight * difference.norm() / norm)
        return torch.stack(distances).sum()

    def _gain(self, size_BNF: Tensor) -> Tensor:
        """What compresses a magnitude, as a factor."""
        return torch.ones_like(size_BNF) if self.compression == 1 else size_BNF.clamp(min=QUIETEST) ** (self.compression - 1)


@lru_cache
def _filters(sample_rate: int, window: int, bands: int) -> Tensor:
    # HTK's scale without area normalisation, so that every band weighs by its level, not its width.
    return torch.from_numpy(librosa.filters.mel(sr=sample_rate, n_fft=window, n_mels=bands, htk=True, norm=None))
