"""Speech of any length made clean as it comes: the same, sample for sample, as `enhancing.enhanced` makes of the whole recording.

A recording is gone through in pieces that overlap, each a stream of its own, so that what is held does not grow with it and no piece is
longer than what the enhancer has learnt from. Four pieces, the overlaps faded into each other:

    |-----------|
              |-----------|
                        |-----------|
                                  |------|
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from audiotok.decoding.samplers import Sampler
from audiotok.models.enhancement.transducer import Transducer
from audiotok.synthesis.enhancement_stream import TransducerStream
from audiotok.synthesis.enhancing import refuse_overlap


@dataclass
class _Piece:
    """Samples from `start` up to `end` at most; those that are settled are in `made_T`."""

    start: int
    end: int
    stream: TransducerStream
    made_T: Tensor = field(default_factory=lambda: torch.zeros(0))
    closed: bool = False

    @property
    def settled(self) -> int:
        """Up to where the enhanced samples are there."""
        return self.start + len(self.made_T)

    def hear(self, wav_T: Tensor, *, heard: int) -> None:
        """Take what is its own of samples that begin at `heard`."""
        own_T = wav_T[max(self.start - heard, 0) : max(self.end - heard, 0)]
        if len(own_T):
            self._keep(self.stream.push(own_T))
        if heard + len(wav_T) >= self.end:
            self.close()

    def close(self) -> None:
        if not self.closed:
            self._keep(self.stream.close())
            self.closed = True

    def between(self, first: int, last: int) -> Tensor:
        return self.made_T[first - self.start : last - self.start]

    def _keep(self, made_T: Tensor) -> None:
        self.made_T = torch.cat([self.made_T.to(made_T), made_T])


class LongStream:
    """One recording, pushed in pieces of any length. `begin` opens a stream with room for `piece` samples."""

    def __init__(self, begin: Callable[[], TransducerStream], *, piece: int, overlap: int) -> None:
        """Raises ValueError where three pieces would overlap."""
        refuse_overlap(piece=piece, overlap=overlap)
        self._begin, self.piece, self.overlap = begin, piece, overlap
        self._rise_T = (torch.arange(overlap) + 0.5) / max(overlap, 1)
        self._heard, self._given = 0, 0
        self._pieces = [_Piece(0, piece, begin())]

    @property
    def latency_samples(self) -> int:
        """How long after a sample has come it is given out, at the latest, whatever the pieces.

        Whether the next piece is faded in is known when more has come than the overlap.
        """
        return max(self._pieces[0].stream.latency_samples, self.overlap + 1)

    def push(self, wav_T: Tensor) -> Tensor:
        """The enhanced samples that these ones settle. Raises ValueError for what is no finite audio."""
        return torch.cat([self._push(part_T) for part_T in wav_T.split(self.piece)])

    def close(self) -> Tensor:
        """The enhanced samples that only the end settles."""
        for piece in self._pieces:
            piece.close()
        return self._settled(ended=True)

    def _push(self, wav_T: Tensor) -> Tensor:
        while (start := self._pieces[-1].end - self.overlap) < self._heard + len(wav_T):
            self._pieces.append(_Piece(start, start + self.piece, self._begin()))
        for piece in self._pieces:
            piece.hear(wav_T, heard=self._heard)
        self._heard += len(wav_T)
        return self._settled(ended=False)

    def _settled(self, *, ended: bool) -> Tensor:
        parts = []
        while True:
            first = self._pieces[0]
            follows = self._heard > first.end  # what is no longer than the overlap is heard by the piece before alone
            parts.append(self._alone(first, first.settled if ended and not follows else first.end - self.overlap))
            if follows:
                parts.append(self._faded(first, self._pieces[1]))
            if not follows or self._given < first.end:
                return torch.cat(parts)
            self._pieces.pop(0)

    def _alone(self, first: _Piece, last: int) -> Tensor:
        start, self._given = self._given, max(self._given, min(last, first.settled))
        return first.between(start, self._given)

    def _faded(self, first: _Piece, second: _Piece) -> Tensor:
        start, begin = self._given, first.end - self.overlap
        if start < begin:
            return first.made_T[:0]
        self._given = max(start, min(first.settled, second.settled))
        rise_T = self._rise_T.to(first.made_T)[start - begin : self._given - begin]
        return first.between(start, self._given) * (1 - rise_T) + second.between(start, self._given) * rise_T


def long_stream(model: Transducer, *, sampler: Sampler, seed: int, seconds: float, overlap_seconds: float) -> LongStream:
    """A stream that goes through a recording as `enhanced` does with `Speaking` of the same model, sampler and seed."""
    rate = model.codec.spec.sample_rate
    begin = partial(TransducerStream, model, sampler=sampler, seed=seed, max_seconds=seconds)
    return LongStream(begin, piece=round(seconds * rate), overlap=round(overlap_seconds * rate))
