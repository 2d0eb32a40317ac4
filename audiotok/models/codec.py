"""Training a codec: reconstruction at several resolutions, commitment and, if wanted, more (`audiotok.models.terms`, `.adversarial`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from audiotok.models.reconstruction import SpectralDistance
from audiotok.tokenizers.codec import CodecNetwork, WaveDecoder, save_network


@dataclass(frozen=True)
class Crops:
    """Pieces of recordings, all of one length."""

    wav_BT: Tensor

    def to(self, device: torch.device) -> "Crops":
        return Crops(self.wav_BT.to(device, non_blocking=True))


class Coded(NamedTuple):
    """What a codec makes of audio."""

    latent_BND: Tensor
    quantised_BND: Tensor
    wav_BT: Tensor
    commitment: Tensor


class CodecModel(nn.Module):
    """Encoder, quantiser and decoder as they learn.

    A quantiser gives (quantised_BND, commitment loss) of latent_BND, and by `plain()` the one that is left of it after training. `terms`
    are more losses by name, each a module called with (codec, wav_BT, coded).
    """

    def __init__(
        self, *, encoder: Any, quantiser: Any, decoder: WaveDecoder, distance: SpectralDistance, terms: Sequence[nn.Module] = ()
    ) -> None:
        super().__init__()
        if encoder.hop != decoder.hop:
            raise ValueError(
                f"codec: the encoder makes a frame of {encoder.hop} samples, the decoder one of {decoder.hop}; they must agree"
            )
        self.encoder: Any = encoder
        self.quantiser: Any = quantiser
        self.decoder = decoder
        self.distance = distance
        self.terms = nn.ModuleList(terms)

    def forward(self, wav_BT: Tensor) -> Coded:
        """The audio encoded, quantised and decoded again, as long as it was."""
        latent_BND = self.encoder(wav_BT)
        quantised_BND, commitment = self.quantiser(latent_BND)
        return Coded(latent_BND, quantised_BND, self.decoder(quantised_BND)[:, : wav_BT.shape[1]], commitment)

    def latent_losses(self, wav_BT: Tensor, coded: Coded) -> dict[str, Tensor]:
        """The losses of all but the decoded waveform: commitment and `terms`."""
        losses = {"commitment": coded.commitment}
        for term in self.terms:
            losses |= term(self, wav_BT, coded)
        return losses

    @property
    def sample_rate(self) -> int:
        """Hz of the audio it learns from."""
        return self.encoder.sample_rate

    def reconstruct(self, wav_BT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(wav_BT decoded, the losses of all else)."""
        coded = self(wav_BT)
        return coded.wav_BT, self.latent_losses(wav_BT, coded)

    def loss(self, batch: Crops) -> tuple[Tensor, dict[str, Tensor]]:
        """(the loss, its parts)."""
        wav_BT, hidden = self.reconstruct(batch.wav_BT)
        parts = self.distance(wav_BT, batch.wav_BT) | hidden
        return torch.stack(list(parts.values())).sum(), parts

    def export(self, folder: Path) -> None:
        """Write the codec that has been learnt, as `Codec.from_pretrained` reads it."""
        save_network(CodecNetwork(encoder=self.encoder, quantiser=self.quantiser.plain(), decoder=self.decoder), folder)
