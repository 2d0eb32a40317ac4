"""SpeechTokenizer (arXiv 2308.16692) through its own package: 8 residual codebooks of 1024 at 50 Hz, the first distilled from HuBERT."""

from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiotok import files
from audiotok.tokenizers import checkpoints, weights
from audiotok.tokenizers.base import Reach
from audiotok.tokenizers.batches import check_audio, check_codes, decode_rows, encode_rows
from audiotok.types import TokenSpec


class SpeechTokenizer:
    """The first codebooks of a SpeechTokenizer network, as the package itself encodes one utterance: 0 is semantic, the rest acoustic.

    The encoder reads an utterance in both directions (an LSTM), so each code depends on all of it.
    """

    def __init__(self, network: Any, *, num_codebooks: int) -> None:
        """Raises ValueError for more codebooks than the network has."""
        self.network = network.eval().requires_grad_(False)
        if not 1 <= num_codebooks <= network.n_q:
            raise ValueError(f"speechtokenizer: got num_codebooks={num_codebooks}; this network has {network.n_q}")
        hop = prod(network.encoder.ratios)
        settings = {"kind": "speechtokenizer", "weights": weights.digest(network), "num_codebooks": num_codebooks}
        sizes = (network.quantizer.bins,) * num_codebooks
        self.spec = TokenSpec(network.sample_rate, Fraction(network.sample_rate, hop), sizes, files.fingerprint(settings))
        self.reach = Reach(None, None, period=hop)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str, num_codebooks: int) -> "SpeechTokenizer":
        """From a folder with config.json and the weights (model.safetensors, SpeechTokenizer.pt or ckpt.dev), or owner/model/folder."""
        try:
            from speechtokenizer import SpeechTokenizer as Network  # noqa: PLC0415
        except ImportError as error:
            raise ValueError(f"speechtokenizer: {error}; pip install 'audiotok[speechtokenizer]'") from error
        config_path = checkpoints.located(name, "config.json", revision=revision)
        try:
            network = Network(checkpoints.read_json(config_path))
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{config_path}: not the settings of a SpeechTokenizer network ({error})") from error
        source = checkpoints.located(name, "model.safetensors", "SpeechTokenizer.pt", "ckpt.dev", revision=revision)
        checkpoints.load(network, checkpoints.read(source), source=source)
        return cls(network, num_codebooks=num_codebooks)

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(codes_BKN, lengths_B in frames), the semantic codebook first."""
        check_audio(wav_BT, lengths_B)
        return encode_rows(self._encode, wav_BT, lengths_B)

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(wav_BT, lengths_B in samples)."""
        check_codes(codes_BKN, lengths_B, self.spec)
        return decode_rows(self._decode, codes_BKN, lengths_B)

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND: each codebook's vector; their sum over K is the latent that is decoded."""
        layers = self.network.quantizer.vq.layers[: self.spec.num_codebooks]
        codebooks_KVD = torch.stack([layer.codebook for layer in layers]).to(codes_BKN.device)
        return codebooks_KVD[torch.arange(self.spec.num_codebooks, device=codes_BKN.device)[:, None], codes_BKN]

    @torch.no_grad()
    def _encode(self, wav_T: Tensor) -> Tensor:
        return self.network.to(wav_T.device).encode(wav_T[None, None], n_q=self.spec.num_codebooks)[:, 0]

    @torch.no_grad()
    def _decode(self, codes_KN: Tensor) -> Tensor:
        return self.network.to(codes_KN.device).decode(codes_KN[:, None])[0, 0].clamp(-1, 1)
