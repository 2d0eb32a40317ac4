"""Semantic units made clean: they tell what is said and not by whom, so a vocoder speaks them in the voice of the noisy recording."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from audiotok.synthesis.enhancing import Speaking
from audiotok.tokenizers.batches import check_audio
from audiotok.tokenizers.vocoder import Vocoded, side_by_side


@dataclass(frozen=True)
class OwnVoice:
    """`speaking`, each recording in its own voice. Raises ValueError for an enhancer whose codes no vocoder speaks, or tell the voice."""

    speaking: Speaking

    def __post_init__(self) -> None:
        if not isinstance(self.codec, Vocoded) or self.codec.network.voice is None:
            raise ValueError("enhance.voice=heard: what this enhancer says tells the voice itself; set enhance.voice=given")

    @property
    def codec(self) -> Any:
        return self.speaking.codec

    def enhance(self, noisy_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """wav_BT, zeros past each length. Raises ValueError for what is no finite audio."""
        check_audio(noisy_BT, lengths_B)
        wav_BT = torch.zeros_like(noisy_BT)
        for row, (length, codes_KN) in enumerate(zip(lengths_B.tolist(), self.speaking.codes(noisy_BT, lengths_B))):
            wav_BT[row, :length] = self._spoken(codes_KN, noisy_BT[row, :length])[:length]
        return wav_BT

    @torch.inference_mode()
    def _spoken(self, codes_KN: Tensor, noisy_T: Tensor) -> Tensor:
        network = self.codec.network.to(noisy_T.device)
        return network.decoder(side_by_side(self.codec.embed(codes_KN[None])), speaker_BD=network.voice(noisy_T[None]))[0].clamp(-1, 1)
