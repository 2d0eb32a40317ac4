"""What a tokenizer is, and the laws it holds to.

Laws, tested over every tokenizer: the codes of an utterance depend neither on the batch it was in nor on its padding; inputs are not
changed; a second run gives the same; `encode` of T samples gives `spec.num_frames(T)` frames, and `decode` of N frames
`spec.num_samples(N)` samples. Past its length a row holds 0. The work is done on the device of the input.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from audiotok.types import TokenSpec


@runtime_checkable
class Tokenizer(Protocol):
    """Audio to codes."""

    spec: TokenSpec

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
