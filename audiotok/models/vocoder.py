"""Training a vocoder: a tokenizer's codes back to sound."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiotok.models.codec import Crops
from audiotok.models.reconstruction import SpectralDistance
from audiotok.tokenizers.codec import WaveDecoder
from audiotok.tokenizers.vocoder import VocoderNetwork, VoiceEncoder, refuse_other_codes, save_vocoder, side_by_side


class VocoderModel(nn.Module):
    """A decoder as it learns; the tokenizer does not.

    Where there is a voice encoder it hears the same crop that is to be decoded, and what it can tell is as wide as `decoder.speaker_dim`.
    """

    def __init__(self, *, tokenizer: Any, decoder: WaveDecoder, voice: VoiceEncoder | None, distance: SpectralDistance) -> None:
        super().__init__()
        refuse_other_codes(tokenizer, decoder)
        if voice is not None and voice.encoder.sample_rate != tokenizer.spec.sample_rate:
            raise ValueError(f"vocoder: codes at {tokenizer.spec.sample_rate} Hz, a voice encoder at {voice.encoder.sample_rate} Hz")
        self._tokenizer = lambda: tokenizer  # a function is shared by copies of the model, where the tokenizer itself would be copied
        self.network = VocoderNetwork(decoder=decoder, voice=voice)
        self.distance = distance

    @property
    def tokenizer(self) -> Any:
        """What makes the codes."""
        return self._tokenizer()

    @property
    def sample_rate(self) -> int:
        """Hz of the audio it learns from."""
        return self.tokenizer.spec.sample_rate

    def forward(self, wav_BT: Tensor) -> Tensor:
        """wav_BT, encoded and decoded again."""
        lengths_B = torch.full((len(wav_BT),), wav_BT.shape[1], device=wav_BT.device)
        with torch.no_grad(), torch.autocast(wav_BT.device.type, enabled=False):
            codes_BKN, _ = self.tokenizer.encode(wav_BT, lengths_B)
            latent_BND = side_by_side(self.tokenizer.embed(codes_BKN))
        speaker_BD = None if self.network.voice is None else self.network.voice(wav_BT)
        return self.network.decoder(latent_BND, speaker_BD=speaker_BD)[:, : wav_BT.shape[1]]

    def reconstruct(self, wav_BT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(wav_BT, encoded and decoded again; no other losses)."""
        return self(wav_BT), {}

    def loss(self, batch: Crops) -> tuple[Tensor, dict[str, Tensor]]:
        """(the loss, its parts)."""
        parts = self.distance(self(batch.wav_BT), batch.wav_BT)
        return torch.stack(list(parts.values())).sum(), parts

    def export(self, folder: Path) -> None:
        """Write the vocoder that has been learnt, as `Vocoded.from_pretrained` reads it."""
        save_vocoder(self.network, folder, made_for=self.tokenizer.spec.fingerprint, rounded=False)
