"""How the enhancers hear noisy speech: by log-mel spectra or a codec's encoder, a codec's frame at a time, and a causal encoder of them."""

import copy
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.data.code_vectors import unit
from audiotok.nn.kv_cache import KVCache
from audiotok.nn.transformer import Transformer
from audiotok.tokenizers.base import Reach
from audiotok.tokenizers.codec import Codec
from audiotok.tokenizers.encoders import LEVEL
from audiotok.tokenizers.mel import LogMel


class Ear(Protocol):
    """Samples to vectors, one for each `hop` of them. Calling it gives heard_BNS of ceil(T / hop)."""

    hop: int
    width: int
    reach: Reach

    def __call__(self, wav_BT: Tensor) -> Tensor: ...


class Spectra(nn.Module):
    """Log-mel spectra, shifted to about 0."""

    def __init__(self, mel: LogMel) -> None:
        super().__init__()
        self.mel, self.hop, self.width, self.reach = mel, mel.hop, mel.num_mels, mel.reach

    def forward(self, wav_BT: Tensor) -> Tensor:
        """log_mel_BNM."""
        with torch.autocast(wav_BT.device.type, enabled=False):
            return self.mel(wav_BT.float()) + LEVEL


class CodecEar(nn.Module):
    """The encoder of a codec, which learns on from there: of clean speech it hears from the start what its codes are made of.

    Latents are scaled as `code_vectors(codec, ..., alike=False)` scales the codes.
    """

    unit: Tensor

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(codec.network.encoder).requires_grad_(True)
        self.hop, self.width, self.reach = self.encoder.hop, int(self.encoder.settings["dim"]), self.encoder.reach
        self.register_buffer("unit", unit(codec))

    def forward(self, wav_BT: Tensor) -> Tensor:
        """latent_BND."""
        return self.encoder(wav_BT) / self.unit


class Frames(nn.Module):
    """What an ear hears, as many vectors side by side as make up a frame of `hop` samples."""

    def __init__(self, ear: Ear, hop: int) -> None:
        super().__init__()
        if hop % ear.hop:
            raise ValueError(f"encoder.ear hears every {ear.hop} samples, which do not divide a frame of {hop}; choose a divisor")
        self.ear, self.hop, self.width = ear, hop, hop // ear.hop * ear.width

    def forward(self, wav_BT: Tensor, num_frames: int) -> Tensor:
        """heard_BNS of the first `num_frames` frames, of silence past the end."""
        heard_BNS = self.ear(F.pad(wav_BT, (0, num_frames * self.hop - wav_BT.shape[1])))
        return heard_BNS.reshape(len(wav_BT), num_frames, self.width)


def silenced(wav_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """The samples with zeros past each row's length."""
    return wav_BT.where(torch.arange(wav_BT.shape[1], device=wav_BT.device) < lengths_B[:, None], 0)


class CausalEncoder(nn.Module):
    """hidden_BND of each frame: all that came before it, and `look_ahead` frames more. Two frames of look-ahead, h the hidden states:

    heard     0 1 2 3 4 5
    hidden        0 1 2 3      hidden 0 is what the transformer says at heard 2

    Latents of a codec's ear, which hears ahead by itself, stand before the transformer's in each hidden state (`latents` numbers of it).
    """

    def __init__(
        self, *, hop: int, ear: Ear, look_ahead: int, width: int, layers: int, heads: int, feed_forward: int, dropout: float
    ) -> None:
        super().__init__()
        if look_ahead < 0 or (look_ahead and isinstance(ear, CodecEar)):
            raise ValueError(f"encoder.look_ahead is 0 frames or more, and 0 with a codec's ear, which hears ahead; got {look_ahead}")
        self.frames, self.look_ahead = Frames(ear, hop), look_ahead
        self.latents = self.frames.width if isinstance(ear, CodecEar) else 0
        self.width = self.latents + width
        self.enter = nn.Linear(self.frames.width, width)
        self.dropout = nn.Dropout(dropout)
        self.transformer = Transformer(width, layers=layers, heads=heads, feed_forward=feed_forward, dropout=dropout)

    def forward(self, wav_BT: Tensor, num_frames: int) -> Tensor:
        """hidden_BND of the first frames. Rows hold zeros past their length, so that none hears what a batch pads it with."""
        return self.hear(self.frames(wav_BT, num_frames + self.look_ahead))[:, self.look_ahead :]

    def hear(self, heard_BNS: Tensor, *, cache: KVCache | None = None) -> Tensor:
        """The hidden states of the frames `look_ahead` before each of these."""
        hidden_BND = self.transformer(self.dropout(self.enter(heard_BNS)), cache=cache)
        return torch.cat([heard_BNS, hidden_BND], dim=-1) if self.latents else hidden_BND

    @property
    def look_ahead_samples(self) -> int:
        """Samples behind the end of a frame that its hidden state hears."""
        return self.look_ahead * self.frames.hop + (self.frames.ear.reach.after or 0)


def begin_from_latents(weight_ED: Tensor, frames: Frames) -> None:
    """Let a layer say the latents of a codec's ear, which stand before its other inputs: those of a frame, or the mean of several.

    Of a layer that says latents of that codec: what is noisy comes out as the codec hears it, before anything is learnt. Nothing is done
    where the ear is none, or its codec one of another width.
    """
    dim = weight_ED.shape[0]
    if not isinstance(frames.ear, CodecEar) or frames.ear.width != dim:
        return
    count = frames.width // dim
    with torch.no_grad():
        weight_ED[:, : frames.width] = torch.eye(dim).repeat(1, count) / count
