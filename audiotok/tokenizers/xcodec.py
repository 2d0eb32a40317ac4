"""X-Codec (arXiv 2408.17175) and X-Codec 2 (arXiv 2502.04128) through transformers: 16 kHz, 50 frames a second.

Both quantise the sound together with the hidden states of a speech encoder: X-Codec (HuBERT or WavLM) with up to 8 residual codebooks,
X-Codec 2 (w2v-BERT 2.0) with one of 65,536 entries. Attention and norms span the utterance, so one is given at a time.
"""

from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from audiotok import files
from audiotok.tokenizers import huggingface, weights
from audiotok.tokenizers.base import Reach
from audiotok.tokenizers.batches import check_audio, check_codes, decode_rows, encode_rows
from audiotok.tokenizers.features import UNUSED_WEIGHTS
from audiotok.types import TokenSpec


class Xcodec:
    """The residual codes of an X-Codec network, coarsest codebook first; any number of them decodes. Zeros pad to whole frames."""

    def __init__(self, network: Any, *, num_codebooks: int) -> None:
        """Raises ValueError for a number of codebooks that the network does not have."""
        config = network.config
        huggingface.check_num_codebooks("xcodec", num_codebooks, least=1, most=config.num_quantizers)
        self.network = network.eval().requires_grad_(False)
        self.num_codebooks = num_codebooks
        digest = weights.digest(network, without=UNUSED_WEIGHTS)
        settings = {"kind": "xcodec", "weights": digest, "num_codebooks": num_codebooks, "sample_rate": config.sample_rate}
        frame_rate = Fraction(config.sample_rate, config.hop_length)
        self.spec = TokenSpec(config.sample_rate, frame_rate, (config.codebook_size,) * num_codebooks, files.fingerprint(settings))
        self.reach = Reach(None, None, period=config.hop_length)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str, num_codebooks: int) -> "Xcodec":
        """From a folder in transformers' format or a hub name. Raises ValueError where it is not a whole X-Codec checkpoint."""
        return cls(huggingface.load("XcodecModel", name, revision=revision), num_codebooks=num_codebooks)

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(codes_BKN, lengths_B in frames)."""
        check_audio(wav_BT, lengths_B)
        return encode_rows(self._encode, wav_BT, lengths_B)

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(wav_BT, lengths_B in samples)."""
        check_codes(codes_BKN, lengths_B, self.spec)
        return decode_rows(self._decode, codes_BKN, lengths_B)

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND: each codebook's vector; their sum over K is what is projected to the latent that is decoded."""
        quantizers = self.network.to(codes_BKN.device).quantizer.quantizers[: self.num_codebooks]
        table_KVD = torch.stack([quantizer.codebook.embed for quantizer in quantizers])
        return table_KVD[torch.arange(self.num_codebooks, device=codes_BKN.device)[:, None], codes_BKN]

    @torch.no_grad()
    def _encode(self, wav_T: Tensor) -> Tensor:
        padded_T = F.pad(wav_T, (0, -len(wav_T) % self.network.config.hop_length))
        codes_KN = self.network.to(wav_T.device).encode(padded_T[None, None]).audio_codes[0]
        return codes_KN[: self.num_codebooks]  # the network only takes bandwidths of its list; the first codes are the same in all

    @torch.no_grad()
    def _decode(self, codes_KN: Tensor) -> Tensor:
        return self.network.to(codes_KN.device).decode(codes_KN[None]).audio_values[0, 0].clamp(-1, 1)


class Xcodec2:
    """The one codebook of an X-Codec 2 network: finite scalar quantisation, so its vectors are projected level by level.

    Its features come from transformers' extractor, which adds a zero sample before it pads to whole frames: where the audio already is
    whole frames, the extra frame of zeros is encoded with the rest and dropped.
    """

    def __init__(self, network: Any, extractor: Any) -> None:
        """`extractor`: transformers' Xcodec2FeatureExtractor. Raises ValueError where the two disagree about rate or hop."""
        config = network.config
        wanted, got = (config.sampling_rate, config.hop_length), (extractor.sampling_rate, extractor.hop_length)
        if wanted != got:
            raise ValueError(f"xcodec2: the feature extractor has (sample rate, hop) {got}, the network {wanted}; use the network's own")
        self.network = network.eval().requires_grad_(False)
        self.extractor = extractor
        digest = weights.digest(network, without=UNUSED_WEIGHTS)
        settings = {"kind": "xcodec2", "weights": digest, "levels": list(config.quantization_levels), "sample_rate": config.sampling_rate}
        frame_rate = Fraction(config.sampling_rate, config.hop_length)
        self.spec = TokenSpec(config.sampling_rate, frame_rate, (len(network.quantizer.quantizer.codebook),), files.fingerprint(settings))
        self.reach = Reach(None, None, period=config.hop_length)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str) -> "Xcodec2":
        """From a folder in transformers' format or a hub name. Raises ValueError where it is not a whole X-Codec 2 checkpoint."""
        network = huggingface.load("Xcodec2Model", name, revision=revision)
        return cls(network, huggingface.load_extractor("Xcodec2FeatureExtractor", name, revision=revision))

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(codes_BKN, lengths_B in frames), K = 1."""
        check_audio(wav_BT, lengths_B)
        return encode_rows(self._encode, wav_BT, lengths_B)

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(wav_BT, lengths_B in samples)."""
        check_codes(codes_BKN, lengths_B, self.spec)
        return decode_rows(self._decode, codes_BKN, lengths_B)

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND: the vector of each code, which is the latent that is decoded.

        Summed level by level: one matrix product would round by its shape, and a code's vector would depend on its neighbours.
        """
        quantizer = self.network.to(codes_BKN.device).quantizer
        levels_BKNL = quantizer.quantizer.codebook[codes_BKN]
        weight_DL, hidden_BKND = quantizer.project_out.weight, quantizer.project_out.bias.expand(*codes_BKN.shape, -1)
        for level in range(levels_BKNL.shape[-1]):
            hidden_BKND = hidden_BKND + levels_BKNL[..., level, None] * weight_DL[:, level]
        return hidden_BKND

    @torch.no_grad()
    def _encode(self, wav_T: Tensor) -> Tensor:
        inputs = self.extractor(wav_T.cpu(), sampling_rate=self.spec.sample_rate, return_tensors="pt").to(wav_T.device)
        codes_1KN = self.network.to(wav_T.device).encode(**inputs).audio_codes
        return codes_1KN[0, :, : self.spec.num_frames(len(wav_T))].long()

    @torch.no_grad()
    def _decode(self, codes_KN: Tensor) -> Tensor:
        return self.network.to(codes_KN.device).decode(codes_KN[None]).audio_values[0, 0].clamp(-1, 1)
