"""Codecs that go on learning from where another training ended: with frozen codes and a better decoder, or as a whole."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiotok.models.codec import CodecModel
from audiotok.models.nesting import kept_columns
from audiotok.models.perturbation import Corruption
from audiotok.models.reconstruction import SpectralDistance
from audiotok.tokenizers import weights
from audiotok.tokenizers.codec import load_network


class FrozenQuantiser(nn.Module):
    """A quantiser that is done learning: codes as they are, of which a decoder is to make more.

    A share `dropout` of the utterances is decoded from a random number of the first codebooks, so that any number of them still decodes.
    `corrupt` makes other codes of them, as a language model's would be (`audiotok.models.perturbation`).
    """

    def __init__(self, quantiser: nn.Module, *, dropout: float, corrupt: Corruption | None = None) -> None:
        super().__init__()
        self.quantiser: Any = quantiser.requires_grad_(False)
        self.dropout = dropout
        self.corrupt = corrupt

    @torch.no_grad()
    def forward(self, latent_BND: Tensor) -> tuple[Tensor, Tensor]:
        """(quantised_BND, 0): no gradient passes."""
        with torch.autocast(latent_BND.device.type, enabled=False):
            codes_BKN = torch.stack([self.quantiser.encode(latent_ND) for latent_ND in latent_BND.float()])
        if self.training and self.corrupt is not None:
            codes_BKN = self.corrupt(codes_BKN, self.quantiser)
        kept_BK = kept_columns(*codes_BKN.shape[:2], share=self.dropout if self.training else 0.0, sizes="uniform")
        hidden_BND = (self.quantiser.embed(codes_BKN) * kept_BK.to(codes_BKN.device)[:, :, None, None]).sum(dim=1)
        quantised_BND = hidden_BND.unflatten(-1, (self.quantiser.stride, -1)).flatten(1, 2)[:, : latent_BND.shape[1]]
        return quantised_BND, latent_BND.new_zeros((), dtype=torch.float32)

    def plain(self) -> nn.Module:
        """The quantiser itself."""
        return self.quantiser


def trained_codec(path: str, *, distance: SpectralDistance, dropout: float, corrupt: Corruption | None = None) -> CodecModel:
    """The codec of a folder, or of that name in the package, with its decoder alone free to learn: its codes stay what they are."""
    network = load_network(weights.located(path))
    network.encoder.requires_grad_(False)
    return CodecModel(
        encoder=network.encoder,
        quantiser=FrozenQuantiser(network.quantiser, dropout=dropout, corrupt=corrupt),
        decoder=network.decoder,
        distance=distance,
    )


def from_checkpoint(codec: CodecModel, path: str) -> CodecModel:
    """The codec with the averaged weights of a checkpoint of its training (a step_* folder), all of it free to learn.

    Raises ValueError where the checkpoint is of another model, absent or damaged.
    """
    weights.load(codec, Path(path) / "ema.safetensors")
    return codec


def frozen(codec: CodecModel, *, dropout: float, corrupt: Corruption | None = None) -> CodecModel:
    """The codec with its decoder alone free to learn, so that its codes stay what they are."""
    codec.encoder.requires_grad_(False)
    return CodecModel(
        encoder=codec.encoder, quantiser=FrozenQuantiser(codec.quantiser.plain(), dropout=dropout), decoder=codec.decoder,
        distance=codec.distance,
    )  # fmt: skip
