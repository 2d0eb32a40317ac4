"""Codes of speech that comes in chunks, the same as of the whole, for every tokenizer that hears only so far.

The samples that frames still to come may hear are kept and encoded again with the new ones, and a frame is given out once nothing that
comes later can change it. That costs `reach.before + reach.after` samples of encoding a push, and a delay of `reach.after`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import floor

import torch
from torch import Tensor

from audiotok.tokenizers.base import Streaming, StreamState, Tokenizer
from audiotok.types import TokenSpec


def streamed(tokenizer: Tokenizer) -> Streaming:
    """The tokenizer as a stream: its own where it has one, otherwise by `Windowed`. Raises ValueError where it hears without bound."""
    return tokenizer if isinstance(tokenizer, Streaming) else Windowed(tokenizer)


def encode_chunks(stream: Streaming, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """codes_KN of each chunk wav_T in its turn, and those that the end settles last."""
    state = stream.open()
    for wav_T in chunks:
        codes_KN, state = stream.push(state, wav_T)
        yield codes_KN
    yield stream.close(state)


class Windowed:
    """A stream over a tokenizer whose frames hear a bounded number of samples. The codes come on the device of the samples."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        reach, hop = tokenizer.reach, tokenizer.spec.hop
        if reach.before is None or reach.after is None:
            raise ValueError(
                f"streaming: the frames of {type(tokenizer).__name__} hear without bound ({reach}); encode whole utterances, or choose a "
                f"tokenizer with a bounded reach, such as tokenizer=dmel"
            )
        if reach.period < 1 or reach.period % hop:
            raise ValueError(f"streaming: encoding can start anew every {reach.period} samples, which is no whole number of hops of {hop}")
        self.spec: TokenSpec = tokenizer.spec
        self._tokenizer = tokenizer
        self._before, self._after, self._period = reach.before, reach.after, reach.period

    def open(self) -> StreamState:
        """Of a stream that has heard nothing."""
        return _Heard(torch.zeros(0), start=0, emitted=0).to_state()

    def push(self, state: StreamState, wav_T: Tensor) -> tuple[Tensor, StreamState]:
        """(codes_KN of the frames that are settled by these samples, the state after them)."""
        heard = _Heard.of_state(state).then(wav_T)
        settled = max(floor((heard.end - self._after) / self.spec.hop), heard.emitted)
        codes_KN = self._frames(heard, settled)
        kept_from = max(floor(settled * self.spec.hop) - self._before, 0) // self._period * self._period
        return codes_KN, heard.after(settled, kept_from=max(kept_from, heard.start)).to_state()

    def close(self, state: StreamState) -> Tensor:
        """codes_KN of the frames that only the end settles."""
        heard = _Heard.of_state(state)
        return self._frames(heard, self.spec.num_frames(heard.end))

    def _frames(self, heard: "_Heard", until: int) -> Tensor:
        """codes_KN of the frames from the first that was not given out."""
        if until <= heard.emitted:
            return torch.zeros(self.spec.num_codebooks, 0, dtype=torch.int64, device=heard.wav_T.device)
        codes_1KN, _ = self._tokenizer.encode(heard.wav_T[None], torch.tensor([len(heard.wav_T)], device=heard.wav_T.device))
        first = int(heard.start / self.spec.hop)
        return codes_1KN[0, :, heard.emitted - first : until - first]


@dataclass(frozen=True)
class _Heard:
    """What a stream keeps of what it has heard."""

    wav_T: Tensor
    start: int  # the index of its first sample in the stream
    emitted: int  # frames given out

    @property
    def end(self) -> int:
        return self.start + len(self.wav_T)

    def then(self, wav_T: Tensor) -> "_Heard":
        if wav_T.ndim != 1:
            raise ValueError(f"streaming: got samples of shape {tuple(wav_T.shape)}; push one utterance's [samples] at a time")
        return _Heard(torch.cat([self.wav_T.to(wav_T), wav_T]), self.start, self.emitted)

    def after(self, emitted: int, *, kept_from: int) -> "_Heard":
        return _Heard(self.wav_T[kept_from - self.start :].clone(), kept_from, emitted)

    def to_state(self) -> StreamState:
        return {"wav_T": self.wav_T, "start": torch.tensor(self.start), "emitted": torch.tensor(self.emitted)}

    @classmethod
    def of_state(cls, state: StreamState) -> "_Heard":
        return cls(state["wav_T"], int(state["start"]), int(state["emitted"]))
