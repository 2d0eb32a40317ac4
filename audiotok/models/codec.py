"""Training a codec: reconstruction at several resolutions, commitment and, if wanted, adversaries."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from audiotok.models.quantisers import TrainableResidual, TrainableScalar
from audiotok.models.reconstruction import SpectralDistance
from audiotok.tokenizers.codec import CodecNetwork, MelEncoder, WaveDecoder, save_network


@dataclass(frozen=True)
class Crops:
    """Pieces of recordings, all of one length."""

    wav_BT: Tensor

    def to(self, device) -> "Crops":
        return Crops(self.wav_BT.to(device, non_blocking=True))


class CodecModel(nn.Module):
    """Encoder, quantiser and decoder as they learn."""

    def __init__(
        self, *, encoder: MelEncoder, quantiser: TrainableResidual | TrainableScalar, decoder: WaveDecoder, distance: SpectralDistance
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.quantiser = quantiser
        self.decoder = decoder
        self.distance = distance

    def loss(self, batch: Crops) -> tuple[Tensor, dict[str, Tensor]]:
        """(the loss, its parts)."""
        quantised_BND, commitment = self.quantiser(self.encoder(batch.wav_BT))
        wav_BT = self.decoder(quantised_BND)[:, : batch.wav_BT.shape[1]]
        parts = self.distance(wav_BT, batch.wav_BT) | {"commitment": commitment}
        return sum(parts.values()), parts  # type: ignore[return-value]

    def export(self, folder: Path) -> None:
        """Write the codec that has been learnt, as `Codec.from_pretrained` reads it."""
        save_network(CodecNetwork(encoder=self.encoder, quantiser=self.quantiser.plain(), decoder=self.decoder), folder)
