"""The nouns that every layer speaks, and the one legend of shape suffixes.

B batch, T samples, N frames or positions, K codebooks, V vocabulary, D width, M mel bands, H heads, P phonemes.
`wav_BT` is float32 in [-1, 1]; `codes_BKN` are int64; `lengths_B` are int64 and count what the last axis counts.
"""

import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import accumulate
from math import ceil, log2


@dataclass(frozen=True)
class TokenSpec:
    """What a stream of tokens means. Travels with the tokens; never copied into a YAML file."""

    sample_rate: int  # Hz of the waveform the tokens stand for
    frame_rate: Fraction  # frames per second, exact
    codebook_sizes: tuple[int, ...]  # one per codebook
    fingerprint: str  # of the weights and settings that made the codes

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame_rate", Fraction(self.frame_rate))
        object.__setattr__(self, "codebook_sizes", tuple(int(size) for size in self.codebook_sizes))
        if self.sample_rate < 1 or self.frame_rate <= 0 or not self.codebook_sizes or min(self.codebook_sizes) < 1:
            raise ValueError(f"a token spec needs positive rates and at least one codebook of at least one entry; got {self}")

    @property
    def num_codebooks(self) -> int:
        return len(self.codebook_sizes)

    @property
    def hop(self) -> Fraction:
        """Samples per frame."""
        return self.sample_rate / self.frame_rate

    @property
    def bits_per_second(self) -> float:
        """The rate of a fixed-length code, entropy not counted."""
        return float(self.frame_rate) * sum(log2(size) for size in self.codebook_sizes)

    @property
    def vocabulary_offsets(self) -> tuple[int, ...]:
        """Where each codebook starts in one flat vocabulary of `sum(codebook_sizes)` ids."""
        return (0, *accumulate(self.codebook_sizes[:-1]))

    def num_frames(self, num_samples: int) -> int:
        """Frames that cover `num_samples` samples."""
        return ceil(num_samples / self.hop)

    def num_samples(self, num_frames: int) -> int:
        """Samples that `num_frames` frames stand for."""
        return round(num_frames * self.hop)

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"frame_rate": str(self.frame_rate)})

    @classmethod
    def from_json(cls, text: str) -> "TokenSpec":
        fields = json.loads(text)
        return cls(**fields | {"frame_rate": Fraction(fields["frame_rate"])})
