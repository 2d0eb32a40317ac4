"""What a tokenizer is, and the laws it holds to.

Laws, tested over every tokenizer: the codes of an utterance depend neither on the batch it was in nor on its padding; inputs are not
changed; a second run gives the same; `encode` of T samples gives `spec.num_frames(T)` frames, and `decode` of N frames
`spec.num_samples(N)` samples. Past its length a row holds 0. A frame hears nothing beyond `reach`, and hears that far; where `reach` is
bounded, speech that comes in chunks of any length gives the codes of the whole (audiotok/tokenizers/streaming.py). What `decode` hears of
the codes is what `embed` says of them. The work is done on the device of the input.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from audiotok.types import TokenSpec


@dataclass(frozen=True)
class Reach:
    """The samples that the codes of a frame may depend on, and where encoding can start anew.

    Frame n lies on samples [n x hop, (n + 1) x hop) and hears `before` samples more on the left and `after` on the right; None: all that
    there are. Encoding may start at any multiple of `period` samples, at least a hop, and gives the same codes once `before` samples
    have gone by:

        0        period   2 period          n hop   (n + 1) hop
        |--------|--------|--------|-- ... --|--------|--
                                |<- before ->|        |<- after ->|
    """

    before: int | None  # samples
    after: int | None  # samples: the look-ahead
    period: int  # samples: a multiple of the hop


@runtime_checkable
class Encoder(Protocol):
    """The least that a tokenizer of somebody's own is: audio to codes, of which `spec` says what they mean."""

    spec: TokenSpec

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(codes_BKN, lengths_B in frames) of mono audio at `spec.sample_rate`."""
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """An encoder that also says what its frames hear."""

    spec: TokenSpec
    reach: Reach

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(codes_BKN, lengths_B in frames) of mono audio at `spec.sample_rate`."""
        ...


@runtime_checkable
class Decoder(Protocol):
    """Codes back to audio; absent where there is no way back (semantic units need a vocoder)."""

    spec: TokenSpec

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(wav_BT, lengths_B in samples)."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """The codebook vectors: probes and acoustic groups."""

    spec: TokenSpec

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND."""
        ...


@runtime_checkable
class Fittable(Protocol):
    """A tokenizer that has to be fitted to speech before it can encode; its `spec` raises ValueError until then."""

    @property
    def sample_rate(self) -> int:
        """Hz of the audio it is fitted to."""
        ...

    def fit(self, waves: Iterable[Tensor]) -> None:
        """Learn from utterances wav_T at `sample_rate`, in one pass and bounded memory."""
        ...

    def save(self, folder: Path) -> None:
        """Write what was learnt into a folder that the constructor can be given."""
        ...


StreamState = Mapping[str, Tensor]


@runtime_checkable
class Streaming(Protocol):
    """Speech to codes as it comes. The state is all there is to a stream: tensors by name, that a caller can save, copy and move."""

    spec: TokenSpec

    def open(self) -> StreamState:
        """Of a stream that has heard nothing."""
        ...

    def push(self, state: StreamState, wav_T: Tensor) -> tuple[Tensor, StreamState]:
        """(codes_KN of the frames that are settled by these samples, the state after them). `state` itself is not changed."""
        ...

    def close(self, state: StreamState) -> Tensor:
        """codes_KN of the frames that only the end settles."""
        ...


@dataclass(frozen=True, eq=False)
class Transmission:
    """Sound after a codec, and what it cost."""

    wav_T: Tensor  # as long as what went in
    payload_bits: int  # of the codec's own frames
    file_bits: int  # with what its container adds


@runtime_checkable
class WaveformCodec(Protocol):
    """Sound to sound at a bit rate, without codes that could be stored: the classical codecs, as baselines."""

    @property
    def sample_rate(self) -> int:
        """Hz, on both sides."""
        ...

    @property
    def bits_per_second(self) -> float:
        """The nominal rate; `transmit` tells the real one."""
        ...

    def transmit(self, wav_T: Tensor) -> Transmission:
        """The sound after the codec, its delay taken out."""
        ...
