"""A codec of a few thousand weights that tells speech apart without having been trained."""

from typing import Any

import torch
from torch import Tensor, nn

from audiotok.models.codec import CodecModel
from audiotok.models.quantisers import TrainableResidual, TrainableScalar
from audiotok.models.reconstruction import SpectralDistance
from audiotok.tokenizers.codec import CodecNetwork, MelEncoder, WaveDecoder
from audiotok.tokenizers.mel import LogMel
from audiotok.tokenizers.quantisers import FiniteScalar, ResidualCodebooks, nearest

RATE, HOP, DIM = 16000, 320, 16


def mel() -> LogMel:
    return LogMel(sample_rate=RATE, n_fft=512, window=480, hop=160, num_mels=40, low_hz=0, high_hz=8000, floor=1e-5)


def loud(network: nn.Module) -> nn.Module:
    """The network with blocks that say as much as what they are added to, so that what a frame hears can be seen."""
    for module in network.modules():
        if hasattr(module, "taps"):
            nn.init.ones_(module.scale)
    return network


def encoder(**changes: Any) -> MelEncoder:
    return MelEncoder(**{"mel": mel(), "stride": 2, "width": 32, "layers": 2, "kernel": 3, "expansion": 2, "dim": DIM} | changes)


def decoder(**changes: Any) -> WaveDecoder:
    sizes = {
        "dim": DIM, "width": 32, "layers": 2, "kernel": 3, "expansion": 2, "attention_every": 2, "heads": 2, "window": 4, "n_fft": 640,
        "hop": 160, "frames": 2, "speaker_dim": 0,
    }  # fmt: skip
    return WaveDecoder(**sizes | changes)


def residual(latent_ND: Tensor, *, num_codebooks: int) -> ResidualCodebooks:
    """Codewords drawn from what there is to quantise."""
    plain = ResidualCodebooks(num_codebooks=num_codebooks, codebook_size=32, dim=DIM)
    for codebook_VD in plain.codebooks_KVD:
        codebook_VD.copy_(latent_ND[torch.randperm(len(latent_ND))[:32]])
        latent_ND = latent_ND - codebook_VD[nearest(latent_ND, codebook_VD)]
    return plain


def scalar() -> FiniteScalar:
    plain = FiniteScalar(levels=[8, 5, 5], dim=DIM)
    nn.init.normal_(plain.project_in.weight)
    return plain


@torch.no_grad()
def network(wav_T: Tensor, *, quantiser: str = "residual", seed: int = 0) -> CodecNetwork:
    """A codec whose codes tell the pieces of `wav_T` apart."""
    torch.manual_seed(seed)
    ears = loud(encoder())
    made = residual(ears(wav_T[None])[0], num_codebooks=4) if quantiser == "residual" else scalar()
    return CodecNetwork(encoder=ears, quantiser=made, decoder=decoder())


def trainable_residual(**changes: Any) -> TrainableResidual:
    options = {"dim": DIM, "num_codebooks": 4, "codebook_size": 32, "decay": 0.9, "dead_below": 0.0, "dropout": 0.0, "commitment": 1.0}
    return TrainableResidual(**options | changes)


def trainable_scalar() -> TrainableScalar:
    return TrainableScalar(dim=DIM, levels=[8, 5, 5])


def distance() -> SpectralDistance:
    return SpectralDistance(
        sample_rate=RATE,
        mel_windows=[256, 512],
        mel_bands=[20, 40],
        stft_windows=[512],
        magnitude_weight=1.0,
        complex_weight=0.1,
        compression=1.0,
    )


def model(*, seed: int = 0, **parts: Any) -> CodecModel:
    torch.manual_seed(seed)
    made = {"encoder": encoder(), "quantiser": trainable_residual(), "decoder": decoder(), "distance": distance()}
    return CodecModel(**made | parts)


def crops(wav_T: Tensor, *, number: int, samples: int) -> Tensor:
    """wav_BT, pieces of the utterance evenly spread."""
    return torch.stack([wav_T[start : start + samples] for start in torch.linspace(8000, len(wav_T) - samples, number).long()])
