"""How the enhancers hear noisy speech: log-mel spectra, a codec's frame at a time, and a causal encoder of them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.nn.kv_cache import KVCache
from audiotok.nn.transformer import Transformer
from audiotok.tokenizers.encoders import LEVEL
from audiotok.tokenizers.mel import LogMel


@dataclass(frozen=True)
class Frames:
    """Log-mel spectra side by side, as many as make up a frame of `hop` samples."""

    mel: LogMel
    hop: int

    def __post_init__(self) -> None:
        if self.hop % self.mel.hop:
            raise ValueError(f"encoder.mel.hop={self.mel.hop} does not divide the codec's frame of {self.hop} samples; choose a divisor")

    @property
    def width(self) -> int:
        """Numbers in a frame."""
        return self.hop // self.mel.hop * self.mel.num_mels

    def __call__(self, wav_BT: Tensor, num_frames: int) -> Tensor:
        """spectra_BNS of the first `num_frames` frames, of silence past the end."""
        with torch.autocast(wav_BT.device.type, enabled=False):
            log_mel_BNM = self.mel(F.pad(wav_BT.float(), (0, num_frames * self.hop - wav_BT.shape[1])))
        return (log_mel_BNM + LEVEL).reshape(len(wav_BT), num_frames, self.width)


def silenced(wav_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """The samples with zeros past each row's length."""
    return wav_BT.where(torch.arange(wav_BT.shape[1], device=wav_BT.device) < lengths_B[:, None], 0)


class CausalEncoder(nn.Module):
    """hidden_BND of each frame: all that came before it, and `look_ahead` frames more. Two frames of look-ahead, h the hidden states:

    spectra   0 1 2 3 4 5
    hidden        0 1 2 3      hidden 0 is what the transformer says at spectra 2
    """

    def __init__(
        self, *, hop: int, mel: LogMel, look_ahead: int, width: int, layers: int, heads: int, feed_forward: int, dropout: float
    ) -> None:
        super().__init__()
        if look_ahead < 0:
            raise ValueError(f"encoder.look_ahead is 0 frames or more; got {look_ahead}")
        self.frames, self.look_ahead, self.width = Frames(mel, hop), look_ahead, width
        self.enter = nn.Linear(self.frames.width, width)
        self.dropout = nn.Dropout(dropout)
        self.transformer = Transformer(width, layers=layers, heads=heads, feed_forward=feed_forward, dropout=dropout)

    def forward(self, wav_BT: Tensor, num_frames: int) -> Tensor:
        """hidden_BND of the first frames. Rows hold zeros past their length, so that none hears what a batch pads it with."""
        return self.hear(self.frames(wav_BT, num_frames + self.look_ahead))[:, self.look_ahead :]

    def hear(self, spectra_BNS: Tensor, *, cache: KVCache | None = None) -> Tensor:
        """The transformer at each frame of spectra: the hidden states of the frames `look_ahead` before them."""
        return self.transformer(self.dropout(self.enter(spectra_BNS)), cache=cache)

    @property
    def look_ahead_samples(self) -> int:
        """Samples behind the end of a frame that its hidden state hears."""
        return self.look_ahead * self.frames.hop + (self.frames.mel.reach.after or 0)
