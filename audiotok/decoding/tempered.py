"""Temperatures of some codebooks' own, under one sampler.

A pointer's moves are drawn position after position: at a low temperature it would stay too long almost everywhere, as staying is the
likelier of the two in all but the last position of a phoneme. So the codes may be drawn near their mode, and the moves as they were learnt.
"""

from collections.abc import Sequence

from torch import Tensor

from audiotok.decoding.step import Step


class Tempered:
    """A step whose logits are divided, codebook by codebook, by `temperatures_K`; the sampler's temperature comes on top."""

    def __init__(self, step: Step, temperatures_K: Sequence[float]) -> None:
        if min(temperatures_K) <= 0:
            raise ValueError(f"temperatures of codebooks are positive; got {list(temperatures_K)}")
        self.step, self.temperatures_K = step, tuple(temperatures_K)

    def __call__(self, heard_BKN: Tensor) -> Sequence[Tensor]:
        return [logits_BNV / each for logits_BNV, each in zip(self.step(heard_BKN), self.temperatures_K, strict=True)]

    def rewind(self, heard_B: Tensor) -> None:
        self.step.rewind(heard_B)

    def put(self, row: int, other: "Tempered") -> None:
        self.step.put(row, other.step)
