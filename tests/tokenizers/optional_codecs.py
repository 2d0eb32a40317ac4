"""The project's own codec with every encoder and quantiser but the default ones, for the laws."""

from collections.abc import Callable
from typing import Any

import pytest
import small_codec
import torch
from torch import Tensor, nn

from audiotok.models.continuous import TrainableContinuous
from audiotok.models.multiscale import TrainableMultiScale
from audiotok.models.product import TrainableProduct
from audiotok.tokenizers.codec import Codec, CodecNetwork
from audiotok.tokenizers.encoders import PooledMelEncoder, WaveEncoder

DIM = small_codec.DIM


def pooled(kind: str, **options: Any) -> PooledMelEncoder:
    encoder = PooledMelEncoder(
        mel=small_codec.mel(), stride=2, pool={"kind": kind, **options}, width=32, early=1, layers=1, kernel=3, expansion=2, dim=DIM
    )
    if kind == "adaptive":  # frames of its whole window heard alike, as none is at first
        nn.init.zeros_(encoder.pool.place)
        nn.init.normal_(encoder.pool.score.weight)
    return encoder


def wave() -> WaveEncoder:
    return WaveEncoder(sample_rate=16000, strides=[8, 8, 5], widths=[16, 16, 32], layers=[0, 1, 1], kernel=3, expansion=2, dim=DIM)


def multi_scale() -> TrainableMultiScale:
    return TrainableMultiScale(
        dim=DIM, factors=[2, 1, 1], codebook_size=64, decay=0.9, dead_below=0.0, dropout=0.0, sizes="uniform", commitment=1.0
    )


def product() -> TrainableProduct:
    parts = [small_codec.trainable_residual(dim=DIM // 2, num_codebooks=number) for number in (1, 2)]
    return TrainableProduct(parts, dim=DIM, dropout=0.0)


def continuous() -> TrainableContinuous:
    return TrainableContinuous(dim=DIM, latent_dim=6, levels=32, divergence=0.0, decay=0.5)


OPTIONS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "anti_aliased_multi_scale": (lambda: pooled("anti_aliased", lobes=1), multi_scale),
    "adaptive_product": (lambda: pooled("adaptive", heads=4), product),
    "soft_residual": (lambda: pooled("soft"), small_codec.trainable_residual),
    "wave_continuous": (wave, continuous),
}


@torch.no_grad()
def codec(name: str, request: pytest.FixtureRequest) -> Codec:
    """A codec whose quantiser has seen what its encoder makes of speech."""
    wav_T: Tensor = request.getfixturevalue("wav_16k")
    torch.manual_seed(0)
    encoder, quantiser = (make() for make in OPTIONS[name])
    small_codec.loud(encoder)
    latent_BND = encoder(wav_T[None])
    for _ in range(3):
        quantiser.train()(latent_BND)
    network = CodecNetwork(encoder=encoder, quantiser=quantiser.plain(), decoder=small_codec.decoder())  # type: ignore[operator]
    return Codec(network, num_codebooks=None)


def latent(hidden_KND: Tensor) -> Tensor:
    """latent_ND, those of a frame one after another."""
    return hidden_KND.sum(dim=0).reshape(-1, DIM)
