"""The continuous enhancer: the codec's own latents of the clean speech are regressed, and decoded without having been quantised.

A squared error alone is least for the mean of all that the speech may have been, which sounds dull, and counts a pause like a vowel; so
what the codec's decoder makes of the latents is held against the clean speech as well, in spectra.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from audiotok.data.code_vectors import unit
from audiotok.data.noisy import NoisyBatch
from audiotok.models.enhancement.hearing import CausalEncoder, begin_from_latents, silenced
from audiotok.models.enhancement.rows import each_row
from audiotok.models.reconstruction import SpectralDistance
from audiotok.tokenizers.codec import Codec
from audiotok.tokenizers.quantisers import ResidualCodebooks


class LatentRegressor(nn.Module):
    """The causal encoder of the transducer and one linear layer. `sound` is the weight of the log-mel spectra's `distance` in the loss."""

    unit: Tensor

    def __init__(self, codec: Codec, *, encoder: Callable[..., CausalEncoder], sound: float, distance: SpectralDistance) -> None:
        """Raises ValueError for a codec whose latents are not what its decoder takes, or a distance of another sample rate."""
        super().__init__()
        quantiser = codec.network.quantiser
        if not isinstance(quantiser, ResidualCodebooks):
            raise ValueError(
                f"enhancer: a codec with {type(quantiser).__name__} does not decode its latents; choose one with residual codebooks"
            )
        if distance.sample_rate != codec.spec.sample_rate:
            rates = f"{distance.sample_rate} Hz, and the codec speaks at {codec.spec.sample_rate} Hz"
            raise ValueError(f"enhancer.distance is of {rates}; set enhancer.distance.sample_rate")
        self.codec, self.sound, self.distance = codec, sound, distance
        self.encoder = encoder(hop=int(codec.spec.hop), sample_rate=codec.spec.sample_rate)
        self.leave = nn.Linear(self.encoder.width, quantiser.codebooks_KVD.shape[2])
        begin_from_latents(self.leave, self.encoder.frames, dim=self.leave.out_features)
        self.register_buffer("unit", unit(codec))

    def forward(self, wav_BT: Tensor, frames_B: Tensor) -> Tensor:
        """latent_BND of the clean speech in so many frames of each row."""
        return self.leave(self.encoder(wav_BT, frames_B * self.encoder.frames.hop, int(frames_B.max()))) * self.unit

    def loss(self, batch: NoisyBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean squared error over the mean square of what is wanted (0 is perfect, 1 as good as nothing), and how the sound differs."""
        spec = self.codec.spec
        clean_BT = silenced(batch.clean_BT, batch.lengths_B)
        with torch.no_grad(), torch.autocast(clean_BT.device.type, enabled=False):
            wanted_BND = self.codec.network.to(clean_BT.device).encoder(clean_BT.float())
        frames_B = torch.tensor([spec.num_frames(length) for length in batch.lengths_B.tolist()], device=clean_BT.device)
        real_BN1 = (torch.arange(wanted_BND.shape[1], device=clean_BT.device) < frames_B[:, None])[..., None]
        found_BND = self(silenced(batch.noisy_BT, batch.lengths_B), frames_B).float()
        error, power = (((values * real_BN1).square()).sum() for values in (found_BND - wanted_BND, wanted_BND))
        missed, values = error / power.clamp_min(1e-8), {"rms": (error / (real_BN1.sum() * wanted_BND.shape[2])).sqrt().detach()}
        if not self.sound:
            return missed, values
        mel = self.distance(*(silenced(wav_BT, batch.lengths_B) for wav_BT in (self._decoded(found_BND, clean_BT.shape[1]), clean_BT)))[
            "mel"
        ]
        return missed + self.sound * mel, values | {"missed": missed.detach(), "mel": mel.detach()}

    @torch.inference_mode()
    def enhance(self, noisy_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """wav_BT; zeros past each length."""
        return each_row(self._enhance, noisy_BT, lengths_B)

    def _enhance(self, noisy_T: Tensor) -> Tensor:
        latent_BND = self(noisy_T[None], torch.tensor([self.codec.spec.num_frames(len(noisy_T))], device=noisy_T.device))
        return self._decoded(latent_BND, len(noisy_T))[0].clamp(-1, 1)

    def _decoded(self, latent_BND: Tensor, samples: int) -> Tensor:
        """wav_BT of so many samples."""
        with torch.autocast(latent_BND.device.type, enabled=False):
            wav_BT: Tensor = self.codec.network.to(latent_BND.device).decoder(latent_BND.float())
        return wav_BT[:, :samples]
