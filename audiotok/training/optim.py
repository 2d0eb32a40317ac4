"""AdamW and the learning rate as a pure function of the step, so that neither needs more than the step to go on."""

from collections.abc import Sequence
from math import cos, pi

import torch
from torch import Tensor, nn

from audiotok import distributed

BETAS = (0.9, 0.95)  # of GPT-3 (arXiv 2005.14165)
FLOOR = 0.01  # of the peak, at the end of the cosine


Learners = Sequence[tuple[nn.Module, float]]  # parts of a model that learn for themselves, each with a factor of the learning rate


def learners(model: nn.Module) -> Learners:
    """What the model's `learners()` says, such as a codec and its adversaries; the model itself where it has none."""
    told = getattr(model, "learners", None)
    return [(model, 1.0)] if told is None else told()


def adamw(model: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) that decays matrices, and leaves biases and norms alone."""
    groups = [group for part, factor in learners(model) for group in _groups(part, factor=factor, weight_decay=weight_decay)]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, fused=True)


def _groups(part: nn.Module, *, factor: float, weight_decay: float) -> list[dict]:
    trained = [parameter for parameter in part.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": weight_decay, "factor": factor},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0, "factor": factor},
    ]
    return [group for group in groups if group["params"]]


def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """The norm of the model's whole gradient, before that of each of its learners is cut to `max_norm`."""
    norms = [distributed.whole(nn.utils.clip_grad_norm_(part.parameters(), max_norm)) for part, _ in learners(model)]
    return torch.stack(norms).norm()


def learning_rate(step: int, *, peak: float, warmup_steps: int, steps: int) -> float:
    """The rate of the update that makes step `step` (from 1): a linear rise to `peak`, then half a cosine down to 1 % of it."""
    if step < warmup_steps:
        return peak * step / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + cos(pi * min(1.0, done))))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """`rate`, times the factor of each learner."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
