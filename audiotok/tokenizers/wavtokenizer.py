"""WavTokenizer (arXiv 2408.16532): one codebook of 4096 at 40 or 75 Hz, 24 kHz, decoded by attention, ConvNeXt and an inverse STFT.

No package carries the whole network. It is put together here from those that carry its parts (encoder and quantiser: encodec; ConvNeXt
layers and inverse STFT: vocos) and the block of convolutions and attention between them, under the names of the published checkpoints.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok import files
from audiotok.tokenizers import checkpoints, weights
from audiotok.tokenizers.base import Reach
from audiotok.tokenizers.batches import check_audio, check_codes, decode_rows, encode_rows
from audiotok.types import TokenSpec

PARTS = ("feature_extractor.encodec.encoder", "feature_extractor.encodec.quantizer", "backbone", "head")  # what codes and sound need


class WavTokenizer:
    """The codes of a WavTokenizer network, as its authors' `encode_infer` and `decode` treat one utterance."""

    def __init__(self, network: Any) -> None:
        """`network`: as `build` makes it, or the authors' own WavTokenizer object."""
        self.network = network.eval().requires_grad_(False)
        encodec = network.feature_extractor.encodec
        sample_rate, layers = encodec.sample_rate, encodec.quantizer.vq.layers
        settings = {"kind": "wavtokenizer"} | {part: weights.digest(network.get_submodule(part)) for part in PARTS}
        sizes = tuple(len(layer.codebook) for layer in layers)
        ratios = encodec.encoder.ratios  # first stride first
        self.spec = TokenSpec(sample_rate, Fraction(sample_rate, prod(ratios)), sizes, files.fingerprint(settings))
        self.reach = Reach(None, _look_ahead(ratios), period=prod(ratios))

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str, filename: str, network: nn.Module) -> "WavTokenizer":
        """From a published checkpoint (Lightning, or the same tensors as safetensors): the file, its folder or a hub name.

        Discriminators, optimiser and the unused waveform decoder that lie in it are passed over.
        """
        source = checkpoints.weights_file(name, filename, revision=revision)
        tensors = checkpoints.read(source)
        tensors = tensors.get("state_dict", tensors)
        wanted = {name: tensor for name, tensor in tensors.items() if name.startswith(tuple(f"{part}." for part in PARTS))}
        checkpoints.load(network, wanted, source=source)
        return cls(network)

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(codes_BKN, lengths_B in frames)."""
        check_audio(wav_BT, lengths_B)
        return encode_rows(self._encode, wav_BT, lengths_B)

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(wav_BT, lengths_B in samples)."""
        check_codes(codes_BKN, lengths_B, self.spec)
        return decode_rows(self._decode, codes_BKN, lengths_B)

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND: each codebook's vector; their sum over K is the latent that is decoded."""
        layers = self.network.to(codes_BKN.device).feature_extractor.encodec.quantizer.vq.layers
        return torch.stack([layer.codebook[codes_BN] for layer, codes_BN in zip(layers, codes_BKN.unbind(dim=1))], dim=1)

    @torch.no_grad()
    def _encode(self, wav_T: Tensor) -> Tensor:
        encodec = self.network.to(wav_T.device).feature_extractor.encodec
        return encodec.quantizer.vq.encode(encodec.encoder(wav_T[None, None]))[:, 0]

    @torch.no_grad()
    def _decode(self, codes_KN: Tensor) -> Tensor:
        network, condition = self.network.to(codes_KN.device), torch.zeros(1, dtype=torch.int64, device=codes_KN.device)
        hidden_1DN = self.embed(codes_KN[None]).sum(dim=1).transpose(1, 2)
        # Condition 0 of the adaptive norms: the published networks were trained with four that stand for the same.
        return network.head(network.backbone(hidden_1DN, bandwidth_id=condition))[0].clamp(-1, 1)


def _look_ahead(ratios: Sequence[int]) -> int:
    """Samples: the LSTM hears only the past, but a convolution of 7, for each ratio one of 3 and one of 2 x ratio, and a last one of 7."""
    after, stride = 3, 1
    for ratio in ratios:
        after += (1 + ratio // 2) * stride
        stride *= ratio
    return after + 3 * stride


def build(
    *,
    sample_rate: int,
    ratios: Sequence[int],
    num_filters: int,
    dim: int,
    codebook_size: int,
    width: int,
    hidden_width: int,
    num_layers: int,
    num_conditions: int,
) -> nn.Module:
    """A network with random weights under the published names. `ratios`: the encoder's strides, last first; their product is the hop."""
    try:
        from encodec import EncodecModel, modules, quantization  # noqa: PLC0415
        from vocos.heads import ISTFTHead  # noqa: PLC0415
        from vocos.models import VocosBackbone  # noqa: PLC0415
    except ImportError as error:
        raise ValueError(f"wavtokenizer: {error}; pip install 'audiotok[wavtokenizer]'") from error
    coder = modules.SEANetEncoder(causal=False, norm="weight_norm", dimension=dim, n_filters=num_filters, ratios=list(ratios))
    quantizer = quantization.ResidualVectorQuantizer(dimension=dim, n_q=1, bins=codebook_size)
    network, hop = nn.Module(), prod(ratios)
    unused: Any = nn.Identity()  # EnCodec's own decoder
    network.feature_extractor = nn.Module()
    network.feature_extractor.encodec = EncodecModel(coder, unused, quantizer, [], sample_rate, 1)
    network.backbone = Backbone(VocosBackbone(dim, width, hidden_width, num_layers, adanorm_num_embeddings=num_conditions), width=width)
    network.head = ISTFTHead(width, n_fft=4 * hop, hop_length=hop, padding="same")
    return network


class Backbone(nn.Module):
    """The layers of a Vocos backbone with convolutions and attention put in after its first."""

    def __init__(self, vocos: Any, *, width: int) -> None:
        super().__init__()
        self.embed, self.norm, self.convnext, self.final_layer_norm = vocos.embed, vocos.norm, vocos.convnext, vocos.final_layer_norm
        before, after = [Residual(width), Residual(width)], [Residual(width), Residual(width)]
        self.pos_net = nn.Sequential(*before, Attention(width), *after, group_norm(width))

    def forward(self, hidden_BDN: Tensor, bandwidth_id: Tensor) -> Tensor:
        """hidden_BND."""
        hidden_BND = self.pos_net(self.embed(hidden_BDN)).transpose(1, 2)
        hidden_BDN = self.norm(hidden_BND, bandwidth_id).transpose(1, 2)
        for layer in self.convnext:
            hidden_BDN = layer(hidden_BDN, bandwidth_id)
        return self.final_layer_norm(hidden_BDN.transpose(1, 2))


class Residual(nn.Module):
    """Two convolutions over three frames and a way past them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(width), nn.Conv1d(width, width, 3, padding=1)
        self.norm2, self.conv2 = group_norm(width), nn.Conv1d(width, width, 3, padding=1)

    def forward(self, hidden_BDN: Tensor) -> Tensor:
        """hidden_BDN."""
        return hidden_BDN + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(hidden_BDN))))))


class Attention(nn.Module):
    """One head over the whole utterance and a way past it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = group_norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv1d(width, width, 1) for _ in range(4))

    def forward(self, hidden_BDN: Tensor) -> Tensor:
        """hidden_BDN."""
        normed_BDN = self.norm(hidden_BDN)
        query, key, value = (layer(normed_BDN).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return hidden_BDN + self.proj_out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2))


def group_norm(width: int) -> nn.GroupNorm:
    """Over a 32nd of the channels and all frames at once."""
    return nn.GroupNorm(32, width, eps=1e-6)
