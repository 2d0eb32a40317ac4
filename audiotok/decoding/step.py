"""What an engine asks of a model, whatever the model: to hear codes and to say what may follow them."""

from collections.abc import Callable, Sequence
from typing import Protocol, Self

from torch import Tensor

NONE = -1  # no code: before a row's start, past its end, at a hole of its layout, or free to be chosen


class Step(Protocol):
    """Some utterances in the midst of being spoken, a row each, at places of their own; it keeps what it needs of the past.

    A row hears NONE throughout first, then its codes: input i is what stands at position i - 1.
    """

    def __call__(self, heard_BKN: Tensor) -> Sequence[Tensor]:
        """Of each codebook logits_BNV: after each of N more inputs, what may stand at the position that follows."""
        ...

    def rewind(self, heard_B: Tensor) -> None:
        """Forget all but each row's first `heard_B` inputs."""
        ...

    def put(self, row: int, other: Self) -> None:
        """Go on in a row with the only utterance of `other`, a step of the same model."""
        ...


Begin = Callable[[Sequence[int]], Step]  # a step for some of a caller's utterances, by their indices, that has heard nothing yet
