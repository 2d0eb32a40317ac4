"""A drafter within the model: its first layers, and out (self-speculation as in LayerSkip, arXiv 2404.16710).

Nothing of the model is changed or copied. What is learnt is the norm after the last layer that is heard, and how the states there are to be
turned, so that the model's own head can read them (the tuned lens, arXiv 2303.08112): with the head W the exit's own head is W M, of which
only M is stored, and which is multiplied out once before anything is said.
"""

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from audiotok.models.lesson import Lesson, Sayer, sayer, states
from audiotok.models.text import Batch
from audiotok.nn.shallow import shallow

DIGEST_BYTES = 16


class EarlyExit(nn.Module):
    """The exit after `layers` layers of a model that is `width` wide. What else a model is told when it is made is nothing to it."""

    made_for: Tensor

    def __init__(self, spec: object, *, width: int, layers: int, **_: object) -> None:
        super().__init__()
        self.layers = layers
        self.norm = nn.RMSNorm(width)
        self.lens = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.lens.weight)
        self.register_buffer("made_for", torch.zeros(DIGEST_BYTES, dtype=torch.uint8))

    def meet(self, target: Any) -> None:
        """Remember whose drafter this is to be. Raises ValueError where it cannot be one of this model."""
        shallow(_fitting(target, self.norm).transformer, layers=self.layers, norm=self.norm)
        self.made_for.copy_(digest(target))

    def foretell(self, target: Sayer, lesson: Lesson, batch: Batch) -> list[Sequence[Tensor]]:
        """The logits [B, N, V_k] of each codebook at every place, once."""
        early = shallow(target.transformer, layers=self.layers, norm=nn.Identity())
        return [target.logits(self.lens(self.norm(states(early, lesson))))]

    @torch.inference_mode()
    def of(self, model: Any) -> Any:
        """The drafter: the model itself, cut short. Raises ValueError where it was not distilled for these weights."""
        refuse_others(self.made_for, model)
        twin = copy.copy(_fitting(model, self.norm))
        twin._modules = {name: part for name, part in twin._modules.items() if name not in ("transformer", "heads")}
        weight_VD = model.heads() @ self.lens.weight
        twin.__dict__["transformer"] = shallow(model.transformer, layers=self.layers, norm=self.norm)
        twin.__dict__["heads"] = lambda: weight_VD
        return twin


def digest(model: Any) -> Tensor:
    """uint8: whose weights these are, by two that no two trainings share."""
    weights = b"".join(part.detach().float().cpu().numpy().tobytes() for part in (model.bias, model.start))
    return torch.frombuffer(bytearray(hashlib.blake2b(weights, digest_size=DIGEST_BYTES).digest()), dtype=torch.uint8)


def refuse_others(made_for: Tensor, model: Any) -> None:
    """Raises ValueError where what was made for one model is to draft for another."""
    if not torch.equal(made_for.cpu(), digest(sayer(model))):
        raise ValueError("this drafter was distilled for other weights than the model's; run `audiotok distil` for the model that speaks")


def _fitting(model: Any, norm: nn.RMSNorm) -> Any:
    if (width := sayer(model).start.shape[0]) != norm.weight.shape[0]:
        raise ValueError(f"a drafter {norm.weight.shape[0]} wide for a model of {width}; set its width to the model's")
    return model
