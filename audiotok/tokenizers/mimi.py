"""Mimi (arXiv 2410.00037) through transformers: 24 kHz, 12.5 frames a second, one semantic codebook and up to 31 acoustic ones."""

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
from audiotok.types import TokenSpec


class Mimi:
    """The codes of a Mimi network: its semantic codebook first, then the acoustic ones, coarsest first.

    The network is causal: a frame's codes and sound depend on nothing after it. Audio is padded with zeros to whole frames, as Kyutai's
    own package does; transformers alone pads inside every layer instead, and gives a last frame that began short other codes.
    """

    def __init__(self, network: Any, *, num_codebooks: int) -> None:
        """Raises ValueError for a number of codebooks that the network does not have."""
        config = network.config
        huggingface.check_num_codebooks("mimi", num_codebooks, least=config.num_semantic_quantizers, most=config.num_quantizers)
        self.network = network.eval().requires_grad_(False)
        self.num_codebooks = num_codebooks
        settings = {"kind": "mimi", "weights": weights.digest(network), "num_codebooks": num_codebooks, "sample_rate": config.sampling_rate}
        frame_rate = Fraction(config.sampling_rate, config.frame_size)
        self.spec = TokenSpec(config.sampling_rate, frame_rate, (config.codebook_size,) * num_codebooks, files.fingerprint(settings))
        self.reach = Reach(None, 0, period=config.frame_size)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str, num_codebooks: int) -> "Mimi":
        """From a folder in transformers' format or a hub name. Raises ValueError where it is not a whole Mimi checkpoint."""
        return cls(huggingface.load("MimiModel", name, revision=revision), num_codebooks=num_codebooks)

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
        quantizer = self.network.to(codes_BKN.device).quantizer
        tables = [*_tables(quantizer.semantic_residual_vector_quantizer), *_tables(quantizer.acoustic_residual_vector_quantizer)]
        table_KVD = torch.stack(tables[: self.num_codebooks])
        return table_KVD[torch.arange(self.num_codebooks, device=codes_BKN.device)[:, None], codes_BKN]

    @torch.no_grad()
    def _encode(self, wav_T: Tensor) -> Tensor:
        padded_T = F.pad(wav_T, (0, -len(wav_T) % self.network.config.frame_size))
        network = self.network.to(wav_T.device)
        return network.encode(padded_T[None, None], num_quantizers=self.num_codebooks).audio_codes[0]

    @torch.no_grad()
    def _decode(self, codes_KN: Tensor) -> Tensor:
        return self.network.to(codes_KN.device).decode(codes_KN[None]).audio_values[0, 0].clamp(-1, 1)


def _tables(quantizer: Any) -> list[Tensor]:
    """The codebooks of one residual quantiser, each [V, D] in the space that is decoded."""
    tables = [layer.codebook.embed for layer in quantizer.layers]
    return tables if quantizer.output_proj is None else [F.linear(table_VD, quantizer.output_proj.weight[..., 0]) for table_VD in tables]
