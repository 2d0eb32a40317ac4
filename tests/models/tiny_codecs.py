"""Codecs and adversaries of a few thousand weights, and speech to train them on."""

import torch
from torch import Tensor, nn

from audiotok.models.codec import CodecModel
from audiotok.models.discriminators import Discriminators, MultiPeriod, MultiResolution
from audiotok.models.quantisers import TrainableResidual
from audiotok.models.reconstruction import SpectralDistance
from audiotok.tokenizers.codec import MelEncoder, WaveDecoder
from audiotok.tokenizers.mel import LogMel

DIM, HOP = 16, 320


def mel() -> LogMel:
    return LogMel(16000, 640, 640, 160, 32, 0, 8000, 1e-5)


def distance() -> SpectralDistance:
    return SpectralDistance(
        sample_rate=16000, mel_windows=[512], mel_bands=[40], stft_windows=[512], magnitude_weight=0.5, complex_weight=0.2
    )


def decoder() -> WaveDecoder:
    return WaveDecoder(
        dim=DIM,
        width=32,
        layers=2,
        kernel=5,
        expansion=2,
        attention_every=2,
        heads=2,
        window=8,
        n_fft=640,
        hop=160,
        frames=2,
        speaker_dim=0,
    )


def encoder() -> MelEncoder:
    return MelEncoder(mel=mel(), stride=2, width=32, layers=1, kernel=5, expansion=2, dim=DIM)


def residual(*, num_codebooks: int = 4, dropout: float = 0.0) -> TrainableResidual:
    return TrainableResidual(
        dim=DIM, num_codebooks=num_codebooks, codebook_size=32, decay=0.9, dead_below=0.0, dropout=dropout, commitment=1.0
    )


def codec(*, quantiser: nn.Module | None = None, seed: int = 0, **parts) -> CodecModel:
    torch.manual_seed(seed)
    made = {"encoder": encoder(), "decoder": decoder(), "distance": distance()} | parts
    return CodecModel(quantiser=quantiser or residual(), **made)


def adversary() -> Discriminators:
    return Discriminators(
        [
            MultiPeriod(periods=[2, 3], channels=[4, 8], kernel=5, stride=3),
            MultiResolution(windows=[256], spectrum="complex", channels=[4, 8], strides=[(2, 4), (1, 2)], kernel=(3, 5)),
        ]
    )


def crops(wav_T: Tensor, *, batch: int, samples: int) -> Tensor:
    """wav_BT, loud pieces of the utterance evenly spread."""
    starts = torch.linspace(4000, len(wav_T) - samples, batch).long()
    return torch.stack([wav_T[start : start + samples] for start in starts])


def descend(model: nn.Module, batch, *, steps: int, rate: float) -> list[dict[str, float]]:
    """The loss and its parts over some steps of AdamW on one batch, the random numbers of a step seeded by it."""
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=rate, betas=(0.9, 0.95))
    seen = []
    for step in range(steps):
        torch.manual_seed(step)
        loss, parts = model.train().loss(batch)  # type: ignore[operator]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append({"loss": loss.item()} | {name: value.item() for name, value in parts.items()})
    return seen
