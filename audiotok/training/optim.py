"""AdamW and the learning rate as a pure function of the step, so that neither needs more than the step to go on."""

from math import cos, pi

import torch
from torch import nn

BETAS = (0.9, 0.95)  # of GPT-3 (arXiv 2005.14165)
FLOOR = 0.01  # of the peak, at the end of the cosine


def adamw(model: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) that decays matrices, and leaves biases and norms alone."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=BETAS, fused=True)


def learning_rate(step: int, *, peak: float, warmup_steps: int, steps: int) -> float:
    """The rate of the update that makes step `step` (from 1): a linear rise to `peak`, then half a cosine down to 1 % of it."""
    if step < warmup_steps:
        return peak * step / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + cos(pi * min(1.0, done))))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
