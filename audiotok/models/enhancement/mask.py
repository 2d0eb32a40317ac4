"""Enhancement without tokens: a complex mask on the spectrogram of the noisy speech, and back."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.data.noisy import NoisyBatch
from audiotok.models.enhancement.hearing import silenced
from audiotok.models.enhancement.rows import each_row
from audiotok.nn.transformer import Transformer
from audiotok.tokenizers.codec import Codec

COMPRESSION = 0.3  # of magnitudes in the loss, as usual for speech: loud bins do not drown quiet ones
FAINTEST = 1e-8  # power below which a bin's phase and gradient are of no use


class ComplexMask(nn.Module):
    """Compressed magnitudes through a causal transformer; the mask of a bin is a complex number of magnitude `loudest` at most."""

    window: Tensor

    def __init__(
        self,
        codec: Codec,
        *,
        n_fft: int,
        hop: int,
        loudest: float,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
        dropout: float,
        phase: float,
    ) -> None:
        """`phase` is the share of the loss that hears phases. Of the codec only the sample rate is used.

        Raises ValueError where windows do not overlap by half at least.
        """
        super().__init__()
        if n_fft % 2 or not 0 < hop <= n_fft // 2:
            raise ValueError(f"mask: n_fft is even and hop at most half of it; got n_fft={n_fft}, hop={hop}")
        self.codec, self.n_fft, self.hop, self.loudest, self.phase = codec, n_fft, hop, loudest, phase
        bins = n_fft // 2 + 1
        self.enter = nn.Linear(bins, width)
        self.dropout = nn.Dropout(dropout)
        self.transformer = Transformer(width, layers=layers, heads=heads, feed_forward=feed_forward, dropout=dropout)
        self.leave = nn.Linear(width, 2 * bins)
        with torch.no_grad():  # before anything is learnt every bin is let through as it is, or as loud as the bound allows
            self.leave.weight.zero_()
            self.leave.bias.zero_()[:bins] = math.atanh(min(1 / loudest, 0.95))
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, wav_BT: Tensor) -> Tensor:
        """spectrum_BFN of the clean speech."""
        spectrum_BFN = self.spectrum(wav_BT)
        return self.masked(spectrum_BFN, self.leave(self.hear(spectrum_BFN)))

    def hear(self, spectrum_BFN: Tensor) -> Tensor:
        """hidden_BND of each window, of which the mask is made."""
        return self.transformer(self.dropout(self.enter(compressed(spectrum_BFN).abs().transpose(1, 2))))

    def masked(self, spectrum_BFN: Tensor, parts_BNM: Tensor) -> Tensor:
        """The spectrum through a mask that is given by its real and imaginary parts, before their size is bounded."""
        parts = parts_BNM.float().transpose(1, 2).unflatten(1, (2, -1))
        size = parts.square().sum(dim=1, keepdim=True).clamp_min(FAINTEST).sqrt()
        real, imaginary = (self.loudest * torch.tanh(size) * parts / size).unbind(dim=1)
        return spectrum_BFN * torch.complex(real, imaginary)

    def spectrum(self, wav_BT: Tensor) -> Tensor:
        """spectrum_BFN; zeros around the recording, not its reflection, so that one shorter than a window has one too."""
        padded_BT = F.pad(wav_BT.float(), (self.n_fft // 2, self.n_fft // 2))
        return torch.stft(padded_BT, self.n_fft, self.hop, window=self.window, center=False, return_complex=True)

    def loss(self, batch: NoisyBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of compressed spectra, with phase and without."""
        noisy_BT, clean_BT = (silenced(wav_BT, batch.lengths_B) for wav_BT in (batch.noisy_BT, batch.clean_BT))
        with torch.autocast(noisy_BT.device.type, enabled=False):
            wanted_BFN = compressed(self.spectrum(clean_BT))
        found_BFN = compressed(self(noisy_BT))
        power = wanted_BFN.abs().square().mean().clamp_min(FAINTEST)
        phase = (found_BFN - wanted_BFN).abs().square().mean() / power
        magnitude = (found_BFN.abs() - wanted_BFN.abs()).square().mean() / power
        return 2 * (self.phase * phase + (1 - self.phase) * magnitude), {"phase": phase.detach(), "magnitude": magnitude.detach()}

    @torch.inference_mode()
    def enhance(self, noisy_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """wav_BT; zeros past each length."""
        return each_row(self._enhance, noisy_BT, lengths_B)

    def _enhance(self, noisy_T: Tensor) -> Tensor:
        return self.sound(self(self.filled(noisy_T)[None])[0], len(noisy_T))

    def filled(self, wav_T: Tensor) -> Tensor:
        """With zeros up to a whole number of hops, without which the last samples would be in no window."""
        return F.pad(wav_T, (0, -len(wav_T) % self.hop))

    def sound(self, spectrum_FN: Tensor, samples: int) -> Tensor:
        """wav_T of a spectrum of what was `filled`."""
        wav_1T = torch.istft(spectrum_FN[None], self.n_fft, self.hop, window=self.window, center=True, length=samples)
        return wav_1T[0].clamp(-1, 1)


def compressed(spectrum: Tensor) -> Tensor:
    """The spectrum with its magnitudes to the power of 0.3; its gradient is bounded at 0."""
    power = spectrum.real.square() + spectrum.imag.square() + FAINTEST
    return spectrum * power ** ((COMPRESSION - 1) / 2)
