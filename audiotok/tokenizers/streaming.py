"""Codes of speech that comes in chunks, the same as of the whole, for every tokenizer that hears only so far.

Frames are encoded in blocks, each from the samples that its frames hear and no others, once they are there:

    |<- before ->|  block of frames  |<- after ->|
                 |<- before ->|  block of frames  |<- after ->|  ...

Blocks begin at the same frames however the speech was cut, so that the same arithmetic is done on the same samples: the codes do not
depend on the chunks, to the bit. Of the whole utterance, a network may do the same arithmetic in another order; where it does, one code
in many thousands differs (none for dMel and Lyra V2, whose frames are rounded alike; none of 21,972 in a DAC with random weights).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil, floor

import torch
from torch import Tensor

from audiotok.tokenizers.base import Streaming, StreamState, Tokenizer
from audiotok.types import TokenSpec


def streamed(tokenizer: Tokenizer, *, block: int) -> Streaming:
    """The tokenizer as a stream: its own where it has one, otherwise `Windowed`. Raises ValueError where it hears without bound."""
    return tokenizer if isinstance(tokenizer, Streaming) else Windowed(tokenizer, block=block)


def encode_chunks(stream: Streaming, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """codes_KN of each chunk wav_T in its turn, and last those that the end settles."""
    state = stream.open()
    for wav_T in chunks:
        codes_KN, state = stream.push(state, wav_T)
        yield codes_KN
    yield stream.close(state)


class Windowed:
    """A stream over a tokenizer whose frames hear a bounded number of samples.

    A block costs the encoding of its frames and of what they hear around them; its first frame waits for `block - 1` frames and the
    look-ahead. The codes come on the device of the samples.
    """

    def __init__(self, tokenizer: Tokenizer, *, block: int) -> None:
        """`block` in frames. Raises ValueError where the tokenizer hears without bound."""
        reach, hop = tokenizer.reach, tokenizer.spec.hop
        if reach.before is None or reach.after is None:
            raise ValueError(
                f"streaming: the frames of {type(tokenizer).__name__} hear without bound ({reach}); encode whole utterances, or choose a "
                f"tokenizer with a bounded reach, such as tokenizer=dmel"
            )
        if reach.period < 1 or reach.period % hop:
            raise ValueError(f"streaming: encoding can start anew every {reach.period} samples, which is no whole number of hops of {hop}")
        if block < 1:
            raise ValueError(f"streaming: got a block of {block} frames; one at least is encoded at a time")
        self.spec: TokenSpec = tokenizer.spec
        self._tokenizer = tokenizer
        self._block = block
        self._before, self._after, self._period = reach.before, reach.after, reach.period

    def open(self) -> StreamState:
        """Of a stream that has heard nothing."""
        return _Heard(torch.zeros(0), start=0, frames=0).to_state()

    def push(self, state: StreamState, wav_T: Tensor) -> tuple[Tensor, StreamState]:
        """(codes_KN of the blocks that these samples complete, the state after them)."""
        heard, blocks = _Heard.of_state(state).then(wav_T), []
        while heard.end >= self._needed(heard.frames + self._block):
            blocks.append(self._codes(heard, heard.frames + self._block))
            heard = heard.after(heard.frames + self._block, start=self._first_needed(heard.frames + self._block))
        return torch.cat([self._none(wav_T.device), *blocks], dim=1), heard.to_state()

    def close(self, state: StreamState) -> Tensor:
        """codes_KN of the frames that no block was completed for."""
        heard = _Heard.of_state(state)
        frames = self.spec.num_frames(heard.end)
        return self._codes(heard, frames) if frames > heard.frames else self._none(heard.wav_T.device)

    def _needed(self, frames: int) -> int:
        """The samples of the stream that so many frames hear."""
        return ceil(frames * self.spec.hop) + self._after

    def _first_needed(self, frame: int) -> int:
        """The sample at which encoding can start so that this frame and those after it hear what they should."""
        return max(floor(frame * self.spec.hop) - self._before, 0) // self._period * self._period

    def _codes(self, heard: "_Heard", until: int) -> Tensor:
        """codes_KN of the frames up to `until` that were not given out, from what they hear."""
        wav_T = heard.wav_T[: self._needed(until) - heard.start]
        codes_1KN, _ = self._tokenizer.encode(wav_T[None], torch.tensor([len(wav_T)], device=wav_T.device))
        first = int(heard.start / self.spec.hop)
        return codes_1KN[0, :, heard.frames - first : until - first]

    def _none(self, device: torch.device) -> Tensor:
        return torch.zeros(self.spec.num_codebooks, 0, dtype=torch.int64, device=device)


@dataclass(frozen=True)
class _Heard:
    """What a stream keeps of what it has heard."""

    wav_T: Tensor
    start: int  # the index of its first sample in the stream
    frames: int  # given out

    @property
    def end(self) -> int:
        return self.start + len(self.wav_T)

    def then(self, wav_T: Tensor) -> "_Heard":
        if wav_T.ndim != 1:
            raise ValueError(f"streaming: got samples of shape {tuple(wav_T.shape)}; push one utterance's [samples] at a time")
        return _Heard(torch.cat([self.wav_T.to(wav_T), wav_T]), self.start, self.frames)

    def after(self, frames: int, *, start: int) -> "_Heard":
        return _Heard(self.wav_T[start - self.start :], start, frames)

    def to_state(self) -> StreamState:
        return {"wav_T": self.wav_T.clone(), "start": torch.tensor(self.start), "frames": torch.tensor(self.frames)}

    @classmethod
    def of_state(cls, state: StreamState) -> "_Heard":
        return cls(state["wav_T"], int(state["start"]), int(state["frames"]))
