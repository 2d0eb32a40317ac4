"""What a model that says codes hears of a batch and is to say: what those ask who learn from it, whatever the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from audiotok.models.text import Batch
from audiotok.nn.ragged import follow


@dataclass(frozen=True)
class Lesson:
    """The text, its lengths, and after it the inputs at whose places codes_BKN are foretold; -1 where there is none."""

    text_BPD: Tensor
    lengths_B: Tensor
    inputs_BND: Tensor
    codes_BKN: Tensor


class Sayer(Protocol):
    """A model whose transformer hears a text and then inputs, and whose head says codes: `ArTts`, `CodeDecoder`."""

    transformer: Any
    heads: Any
    start: nn.Parameter
    bias: nn.Parameter
    kept_R: Tensor | None

    @property
    def codebook_sizes(self) -> tuple[int, ...]: ...

    def lesson(self, batch: Batch) -> Lesson: ...

    def logits(self, hidden_BND: Tensor) -> Sequence[Tensor]: ...

    def begin(self, *told: Any, positions: int, **more: Any) -> Any: ...

    def eval(self) -> Self: ...


def sayer(model: Any) -> Sayer:
    """The model, if a drafter can be made of it. Raises ValueError where it cannot."""
    if not (hasattr(model, "lesson") and hasattr(model, "kept_R")):
        raise ValueError(f"a drafter is made of an ArTts or a CodeDecoder; got {type(model).__name__}, choose drafting=small_model for it")
    return model


@torch.no_grad()
def states(transformer: Any, lesson: Lesson) -> Tensor:
    """hidden_BND of a transformer that does not learn, at the lesson's inputs."""
    return follow(transformer, lesson.text_BPD, lesson.lengths_B, lesson.inputs_BND)
