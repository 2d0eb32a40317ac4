"""The exponential moving average of a model's weights: what is validated and what speaks."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from audiotok import distributed
from audiotok.tokenizers.base import Encoder


class EMA:
    """A second model whose weights follow the first: w' <- d w' + (1 - d) w, with d = min(decay, (1 + step) / (10 + step)).

    The rising d (as in TensorFlow's ExponentialMovingAverage) lets a short run forget where it began.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model, _tokenizers(model)).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int) -> None:
        """Follow the weights that step `step` made. Buffers are copied."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = [distributed.local(parameter.data) for parameter in self.model.parameters()]
        torch._foreach_lerp_(averages, [distributed.local(parameter.data) for parameter in model.parameters()], weight)
        for average, buffer in zip(self.model.buffers(), model.buffers()):
            average.copy_(buffer)


def _tokenizers(model: nn.Module) -> dict[int, Any]:
    """By their ids, those that a model holds as they are: they learn nothing, and another program's cannot be copied."""
    held = [value for module in model.modules() for value in vars(module).values()]
    return {id(value): value for value in held if isinstance(value, Encoder) and not isinstance(value, nn.Module)}
