"""BigCodec (arXiv 2409.05377) through the package bigcodec: one codebook of 8192 at 80 Hz, 16 kHz speech, 159 M parameters."""

from collections.abc import Mapping
from fractions import Fraction
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

FILTERED = 5  # steps that an activation hears on each side: 12 taps at twice the rate on the way up, and again on the way down


class BigCodec:
    """The codes of a BigCodec network, as the authors' script encodes one utterance.

    The script puts zeros behind the utterance up to the next multiple of a frame, one whole frame where it is a multiple already; that
    frame's code is not kept, and neither is its sound.
    """

    def __init__(self, network: Any, *, sample_rate: int) -> None:
        """`network`: with the package's CodecEncoder as `encoder` and its CodecDecoder as `decoder`."""
        self.network = network.eval().requires_grad_(False)
        self.hop = int(network.encoder.hop_length)
        sizes = tuple(layer.codebook_size for layer in network.decoder.quantizer.layers)
        fingerprint = files.fingerprint({"kind": "bigcodec", "weights": weights.digest(network)})
        self.reach = Reach(None, _look_ahead(network.encoder), period=self.hop)
        self.spec = TokenSpec(sample_rate, Fraction(sample_rate, self.hop), sizes, fingerprint)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str, sample_rate: int, encoder: Mapping[str, Any], decoder: Mapping[str, Any]
    ) -> "BigCodec":
        """From the authors' bigcodec.pt, or the package's model.safetensors: the file, its folder or a hub name.

        `encoder`, `decoder`: the arguments of the package's CodecEncoder and CodecDecoder; the authors' file does not hold them.
        """
        try:
            from bigcodec import CodecDecoder, CodecEncoder  # noqa: PLC0415
        except ImportError as error:
            raise ValueError("bigcodec: the package is not installed; pip install 'audiotok[bigcodec]'") from error
        network = nn.Module()
        try:
            network.encoder, network.decoder = CodecEncoder(**encoder), CodecDecoder(**decoder)
        except TypeError as error:
            raise ValueError(f"bigcodec: {error}; encoder and decoder take what the package's classes of these names do") from error
        load_weights(network, checkpoints.weights_file(name, "model.safetensors", "bigcodec.pt", revision=revision))
        return cls(network, sample_rate=sample_rate)

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(codes_BKN, lengths_B in frames)."""
        check_audio(wav_BT, lengths_B)
        return encode_rows(self._encode, wav_BT, lengths_B)

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(wav_BT, lengths_B in samples)."""
        check_codes(codes_BKN, lengths_B, self.spec)
        return decode_rows(self._decode, codes_BKN, lengths_B)

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND: each codebook's vector, projected; their sum over K is the latent that is decoded."""
        layers = self.network.to(codes_BKN.device).decoder.quantizer.layers
        tables = [layer.out_proj(layer.codebook.weight) for layer in layers]
        return torch.stack([table_VD[codes_BN] for table_VD, codes_BN in zip(tables, codes_BKN.unbind(dim=1))], dim=1)

    @torch.no_grad()
    def _encode(self, wav_T: Tensor) -> Tensor:
        network = self.network.to(wav_T.device)
        padded_T = F.pad(wav_T, (0, self.hop - len(wav_T) % self.hop))
        _, codes_K1N, _ = network.decoder(network.encoder(padded_T[None, None]), vq=True)
        return codes_K1N[:, 0, : self.spec.num_frames(len(wav_T))]

    @torch.no_grad()
    def _decode(self, codes_KN: Tensor) -> Tensor:
        decoder = self.network.to(codes_KN.device).decoder
        return decoder(decoder.vq2emb(codes_KN.T[None]).transpose(1, 2), vq=False)[0, 0]


def load_weights(network: nn.Module, source: Path) -> None:
    """Fill `network.encoder` and `network.decoder` from either published format. Raises ValueError unless every weight is there."""
    tensors = checkpoints.read(source)
    if source.suffix == ".safetensors":
        return checkpoints.load(network, tensors, source=source)
    if missing := {"CodecEnc", "generator"} - tensors.keys():
        raise ValueError(
            f"{source}: holds no {' and no '.join(sorted(missing))}; the authors' bigcodec.pt or a .safetensors file is wanted"
        )
    checkpoints.load(network.get_submodule("encoder"), tensors["CodecEnc"], source=source)
    checkpoints.load(network.get_submodule("decoder"), tensors["generator"], source=source)


def _look_ahead(encoder: nn.Module) -> int:
    """Samples: the LSTM hears only the past; a convolution hears both ways, and so does an activation, by its two filters."""
    after, stride = 0, 1
    for module in encoder.modules():
        if isinstance(module, nn.Conv1d):
            (kernel,), (step,), (dilation,) = module.kernel_size, module.stride, module.dilation
            after += ((kernel - 1) * dilation - int(module.padding[0]) - (step - 1)) * stride
            stride *= step
        elif hasattr(module, "up_ratio"):
            after += FILTERED * stride
    return after
