"""Classifier-free guidance: a model that knows the text, pushed away from itself not knowing it (MusicGen, arXiv 2306.05284)."""

from collections.abc import Sequence

from torch import Tensor

from audiotok.decoding.step import Step


class Guided:
    """A step of two that hear the same: logits u + scale (c - u) of the one that is told the text, c, and the one that is not, u.

    Scale 1 is c alone, 0 u alone; MusicGen takes 3. Both have to say finite logits: what may not stand is ruled out behind (`ending`).
    """

    def __init__(self, conditional: Step, unconditional: Step, *, scale: float) -> None:
        self.conditional, self.unconditional, self.scale = conditional, unconditional, scale

    def __call__(self, heard_BKN: Tensor) -> Sequence[Tensor]:
        pairs = zip(self.conditional(heard_BKN), self.unconditional(heard_BKN), strict=True)
        return [without_BNV.lerp(with_BNV, self.scale) for with_BNV, without_BNV in pairs]

    def rewind(self, heard_B: Tensor) -> None:
        self.conditional.rewind(heard_B)
        self.unconditional.rewind(heard_B)

    def put(self, row: int, other: "Guided") -> None:
        self.conditional.put(row, other.conditional)
        self.unconditional.put(row, other.unconditional)
