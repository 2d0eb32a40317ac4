"""DAC, the Descript audio codec (arXiv 2306.06546), through transformers: 16 and 24 kHz with a hop of 320 samples, 44.1 kHz with 512."""

from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from audiotok import files
from audiotok.tokenizers import huggingface, weights
from audiotok.tokenizers.base import Reach
from audiotok.tokenizers.batches import check_audio, check_codes, decode_rows, encode_rows
from audiotok.types import TokenSpec


class Dac:
    """The residual codes of a DAC network, coarsest codebook first; any number of them decodes.

    Audio is padded with zeros to whole frames, as the codec itself does. Where a stride is odd its transposed convolutions end early (8
    samples at 16 and 24 kHz); these last samples are zeros. The network sees both ways and is given one utterance at a time.
    """

    def __init__(self, network: Any, *, num_codebooks: int) -> None:
        """Raises ValueError for a number of codebooks that the network does not have."""
        config = network.config
        huggingface.check_num_codebooks("dac", num_codebooks, least=1, most=config.n_codebooks)
        self.network = network.eval().requires_grad_(False)
        self.num_codebooks = num_codebooks
        settings = {"kind": "dac", "weights": weights.digest(network), "num_codebooks": num_codebooks, "sample_rate": config.sampling_rate}
        frame_rate = Fraction(config.sampling_rate, config.hop_length)
        self.spec = TokenSpec(config.sampling_rate, frame_rate, (config.codebook_size,) * num_codebooks, files.fingerprint(settings))
        self.reach = _reach(config.downsampling_ratios)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str, num_codebooks: int) -> "Dac":
        """From a folder in transformers' format or a hub name. Raises ValueError where it is not a whole DAC checkpoint."""
        return cls(huggingface.load("DacModel", name, revision=revision), num_codebooks=num_codebooks)

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(codes_BKN, lengths_B in frames)."""
        check_audio(wav_BT, lengths_B)
        return encode_rows(self._encode, wav_BT, lengths_B)

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(wav_BT, lengths_B in samples)."""
        check_codes(codes_BKN, lengths_B, self.spec)
        return decode_rows(self._decode, codes_BKN, lengths_B)

    @torch.no_grad()
    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND: each codebook's vector after its projection out; their sum over K is the latent that is decoded."""
        quantizers = self.network.to(codes_BKN.device).quantizer.quantizers[: self.num_codebooks]
        table_KVD = torch.stack([quantizer.out_proj(quantizer.codebook.weight.T[None])[0].T for quantizer in quantizers])
        return table_KVD[torch.arange(self.num_codebooks, device=codes_BKN.device)[:, None], codes_BKN]

    @torch.no_grad()
    def _encode(self, wav_T: Tensor) -> Tensor:
        padded_T = F.pad(wav_T, (0, -len(wav_T) % self.network.config.hop_length))
        network = self.network.to(wav_T.device)
        return network.encode(padded_T[None, None], n_quantizers=self.num_codebooks).audio_codes[0]

    @torch.no_grad()
    def _decode(self, codes_KN: Tensor) -> Tensor:
        wav_T = self.network.to(codes_KN.device).decode(audio_codes=codes_KN[None]).audio_values[0]
        return F.pad(wav_T, (0, self.spec.num_samples(codes_KN.shape[1]) - len(wav_T)))


def _reach(ratios: list[int]) -> Reach:
    """Of the encoder: a convolution of 7, then for each ratio three of 7 (dilated 1, 3, 9) and one of 2 x ratio, and a last one of 3."""
    before = after = 3
    stride = 1
    for ratio in ratios:
        before += (3 * (1 + 3 + 9) + ceil(ratio / 2)) * stride
        after += (3 * (1 + 3 + 9) + ratio // 2) * stride
        stride *= ratio
    return Reach(before + stride, after + stride, period=stride)
