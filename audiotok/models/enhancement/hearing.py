"""How the enhancers hear noisy speech: by log-mel spectra or a codec's encoder, a codec's frame at a time, and a causal encoder of them."""

import copy
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from audiotok.data.code_vectors import unit
from audiotok.nn.kv_cache import KVCache
from audiotok.nn.transformer import Transformer
from audiotok.tokenizers.base import Reach
from audiotok.tokenizers.codec import Codec
from audiotok.tokenizers.encoders import LEVEL
from audiotok.tokenizers.mel import LogMel


class Ear(Protocol):
    """Samples to vectors, one for each `hop` of them. Calling it gives heard_BNS of ceil(T / hop)."""

    sample_rate: int
    hop: int
    width: int
    reach: Reach

    def __call__(self, wav_BT: Tensor) -> Tensor: ...


class Spectra(nn.Module):
    """Log-mel spectra, shifted to about 0."""

    def __init__(self, mel: LogMel) -> None:
        super().__init__()
        self.mel, self.sample_rate, self.hop, self.width, self.reach = mel, mel.sample_rate, mel.hop, mel.num_mels, mel.reach

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
        self.sample_rate, self.hop = codec.spec.sample_rate, self.encoder.hop
        self.width, self.reach = int(self.encoder.settings["dim"]), self.encoder.reach
        self.register_buffer("unit", unit(codec))

    def forward(self, wav_BT: Tensor) -> Tensor:
        """latent_BND."""
        return self.encoder(wav_BT) / self.unit


class Frames(nn.Module):
    """What an ear hears, as many vectors side by side as make up a frame of `hop` samples."""

    def __init__(self, ear: Ear, hop: int, *, sample_rate: int) -> None:
        super().__init__()
        if ear.sample_rate != sample_rate:
            raise ValueError(f"ear: it hears {ear.sample_rate} Hz, and the codec speaks at {sample_rate} Hz; choose an ear of that rate")
        if hop % ear.hop:
            raise ValueError(f"ear: it hears every {ear.hop} samples, which do not divide a frame of {hop}; choose a divisor")
        self.ear, self.hop, self.width = ear, hop, hop // ear.hop * ear.width
        self.latents = self.width if isinstance(ear, CodecEar) else 0  # numbers that `beside` puts before others

    def forward(self, wav_BT: Tensor, ends_B: Tensor, num_frames: int) -> Tensor:
        """heard_BNS of `num_frames` frames. A row is heard as if it were alone and as long as `ends_B` samples; behind them are zeros."""
        ends = ends_B.tolist()
        if len(set(ends)) == 1:
            heard_BNS = self.ear(_of_length(wav_BT, ends[0]))
        else:
            heard_BNS = pad_sequence([self.ear(_of_length(wav_T[None], end))[0] for wav_T, end in zip(wav_BT, ends)], batch_first=True)
        count = num_frames * (self.hop // self.ear.hop)
        return _of_length(heard_BNS.transpose(1, 2), count).transpose(1, 2).reshape(len(wav_BT), num_frames, self.width)

    def beside(self, heard_BNS: Tensor, hidden_BND: Tensor) -> Tensor:
        """What a codec's ear hears, before what a network makes of it; of another ear the latter alone."""
        return torch.cat([heard_BNS, hidden_BND], dim=-1) if self.latents else hidden_BND


def _of_length(values_BT: Tensor, length: int) -> Tensor:
    """The first `length` ones, zeros behind the last."""
    return F.pad(values_BT[..., :length], (0, max(length - values_BT.shape[-1], 0)))


def silenced(wav_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """The samples with zeros past each row's length."""
    return wav_BT.where(torch.arange(wav_BT.shape[1], device=wav_BT.device) < lengths_B[:, None], 0)


class CausalEncoder(nn.Module):
    """hidden_BND of each frame: all that came before it, and `look_ahead` frames more. Two frames of look-ahead, h the hidden states:

    heard     0 1 2 3 4 5
    hidden        0 1 2 3      hidden 0 is what the transformer says at heard 2

    Of a codec's ear, which hears ahead by itself, a hidden state holds the latents too (`Frames.beside`).
    """

    def __init__(
        self,
        *,
        hop: int,
        sample_rate: int,
        ear: Ear,
        look_ahead: int,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if look_ahead < 0 or (look_ahead and isinstance(ear, CodecEar)):
            raise ValueError(f"encoder.look_ahead is 0 frames or more, and 0 with a codec's ear, which hears ahead; got {look_ahead}")
        self.frames, self.look_ahead = Frames(ear, hop, sample_rate=sample_rate), look_ahead
        self.width = self.frames.latents + width
        self.enter = nn.Linear(self.frames.width, width)
        self.dropout = nn.Dropout(dropout)
        self.transformer = Transformer(width, layers=layers, heads=heads, feed_forward=feed_forward, dropout=dropout)

    def forward(self, wav_BT: Tensor, ends_B: Tensor, num_frames: int) -> Tensor:
        """hidden_BND of the first frames, of recordings that end after `ends_B` samples (`Frames`)."""
        return self.hear(self.frames(wav_BT, ends_B, num_frames + self.look_ahead))[:, self.look_ahead :]

    def hear(self, heard_BNS: Tensor, *, cache: KVCache | None = None) -> Tensor:
        """The hidden states of the frames `look_ahead` before each of these."""
        hidden_BND = self.transformer(self.dropout(self.enter(heard_BNS)), cache=cache)
        return self.frames.beside(heard_BNS, hidden_BND)

    @property
    def look_ahead_samples(self) -> int:
        """Samples behind the end of a frame that its hidden state hears."""
        return self.look_ahead * self.frames.hop + (self.frames.ear.reach.after or 0)


def begin_from_latents(layer: nn.Linear, frames: Frames, *, dim: int) -> None:
    """Let the first `dim` outputs of a layer be the latents of a codec's ear, those of a frame or the mean of several, and others zero.

    Of a layer that says latents of that codec: what is noisy comes out as the codec hears it, before anything is learnt. Nothing is done
    where the ear is none, or its codec one of another width.
    """
    if not isinstance(frames.ear, CodecEar) or frames.ear.width != dim:
        return
    count = frames.width // dim
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:dim, : frames.width] = torch.eye(dim).repeat(1, count) / count
        if layer.bias is not None:
            layer.bias.zero_()
