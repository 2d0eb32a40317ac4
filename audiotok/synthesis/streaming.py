"""Sound as it is spoken: a sentence's audio comes in pieces while the model goes on, and together they are what `speak` gives.

    positions of the layout    |=================>            the model chooses
    frames of the tokenizer    |==============>               once all of a frame's codes stand: a delay of d positions holds d back
    sound                      |=====>                        once all the frames stand that a decoder hears: its reach

The last of these is the longest: a decoder that sees 90 frames of 20 ms to each side keeps back 1.8 s. `ahead` lets it see fewer, and the
sound then differs from that of the whole.
"""

from fractions import Fraction
from math import ceil
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from audiotok.decoding.ending import PROBED, limits
from audiotok.nn.convnext import WindowedAttention
from audiotok.tokenizers.base import Decoder
from audiotok.tokenizers.codec import WaveDecoder
from audiotok.transforms.base import Layout
from audiotok.types import TokenSpec


@runtime_checkable
class Local(Decoder, Protocol):
    """A tokenizer that says how many frames to each side of a frame its sound hears."""

    decode_reach: int


def decoder_reach(tokenizer: Decoder) -> int | None:
    """Frames to each side of a frame that its sound may depend on; None where that is all of them, or not known."""
    if isinstance(tokenizer, Local):
        return tokenizer.decode_reach
    decoder: Any = getattr(getattr(tokenizer, "network", None), "decoder", None)
    if not isinstance(decoder, WaveDecoder):
        return None
    blocks: Any = decoder.blocks
    vectors = sum(block.window if isinstance(block, WindowedAttention) else block.kernel // 2 for block in blocks)
    spectra = ceil((decoder.head.n_fft - decoder.head.hop) / (2 * decoder.head.hop))
    return ceil(Fraction((vectors + ceil(spectra / decoder.head.frames)) * decoder.hop) / tokenizer.spec.hop)


def comes_in_order(layout: Layout, spec: TokenSpec) -> bool:
    """Whether a frame's codes stand before those of all but the next few, whatever the length."""
    try:
        limits(layout, spec, max_frames=PROBED)
    except ValueError:
        return False
    return True


class FrameStream:
    """The tokenizer's codes, frame by frame, of positions that come in pieces; the first `skipped` frames are not given."""

    def __init__(self, layout: Layout, spec: TokenSpec, *, skipped: int) -> None:
        self._layout, self._spec, self.given = layout, spec, skipped
        self._laid: list[Tensor] = []
        self._positions, self._settled = 0, 0

    def push(self, codes_KN: Tensor) -> Tensor:
        """codes_KN of the frames that are settled by these positions."""
        self._laid.append(codes_KN)
        self._positions += codes_KN.shape[1]
        # The last position is held back: where frames share one, the end may be within it.
        while len(self._layout.frame_index(self._settled + 1, self._spec)) < self._positions:
            self._settled += 1
        if self._settled <= self.given:
            return codes_KN.new_zeros(self._spec.num_codebooks, 0)
        length = len(self._layout.frame_index(self._settled, self._spec))
        self._laid = [torch.cat(self._laid, 1)]
        new_KN = self._layout.invert(self._laid[0][:, :length], self._spec)[:, self.given :]
        self.given = self._settled
        return new_KN


class SoundStream:
    """Sound of frames that come in pieces, `block` frames at a time. `reach` as of `decoder_reach`, of which `ahead` is waited for."""

    def __init__(self, tokenizer: Decoder, *, reach: int | None, ahead: int | None, block: int) -> None:
        if block < 1 or (ahead is not None and ahead < 0):
            raise ValueError(
                f"streaming: got blocks of {block} frames and {ahead} ahead; one at least is decoded at a time, none waited for"
            )
        self._tokenizer, self._reach, self._block = tokenizer, reach, block
        self._ahead = reach if ahead is None or reach is None else min(ahead, reach)
        self._codes_KN = torch.zeros(tokenizer.spec.num_codebooks, 0, dtype=torch.int64)
        self._first, self._given = 0, 0  # the frame that `_codes_KN` begins with; frames whose sound was given

    def push(self, codes_KN: Tensor) -> Tensor:
        """wav_T of the blocks that these frames complete."""
        self._codes_KN = torch.cat([self._codes_KN, codes_KN], 1)
        pieces = []
        while self._ahead is not None and self._given + self._block + self._ahead <= self._end:
            pieces.append(self._sound(self._given + self._block))
        return torch.cat(pieces) if pieces else torch.zeros(0)

    def close(self) -> Tensor:
        """wav_T of what is left."""
        return self._sound(self._end) if self._end > self._given else torch.zeros(0)

    @property
    def _end(self) -> int:
        return self._first + self._codes_KN.shape[1]

    def _sound(self, until: int) -> Tensor:
        spec, seen = self._tokenizer.spec, self._end if self._ahead is None else min(self._end, until + self._ahead)
        codes_KN = self._codes_KN[:, : seen - self._first]
        wav_BT, _ = self._tokenizer.decode(codes_KN[None], torch.tensor([codes_KN.shape[1]]))
        start = spec.num_samples(self._given - self._first)
        wav_T = wav_BT[0, start : spec.num_samples(until - self._first)]
        self._given = until
        first = self._first if self._reach is None else max(self._first, until - self._reach)
        self._codes_KN, self._first = self._codes_KN[:, first - self._first :], first
        return wav_T


def wav_header(sample_rate: int) -> bytes:
    """Of a mono 16-bit WAV whose length is not known yet: as long as can be said, which readers of a pipe take for "to its end"."""
    unknown, width = (0xFFFFFFFF).to_bytes(4, "little"), 2
    numbers = [(16, 4), (1, 2), (1, 2), (sample_rate, 4), (sample_rate * width, 4), (width, 2), (8 * width, 2)]
    described = b"".join(number.to_bytes(size, "little") for number, size in numbers)
    return b"RIFF" + unknown + b"WAVEfmt " + described + b"data" + unknown


def pcm16(wav_T: Tensor) -> bytes:
    """Samples as `audio.write` rounds them, little-endian."""
    return (wav_T.double() * 32768).round().clamp(-32768, 32767).to(torch.int16).numpy().astype("<i2").tobytes()
