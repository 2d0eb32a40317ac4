"""Small adversaries, and a few steps of training."""

from typing import Any

import torch
from torch import nn

from audiotok.models.discriminators import Discriminators, MultiPeriod, MultiResolution


def adversary() -> Discriminators:
    return Discriminators(
        [
            MultiPeriod(periods=[2, 3], channels=[4, 8], kernel=5, stride=3),
            MultiResolution(windows=[256], spectrum="complex", channels=[4, 8], strides=[(2, 4), (1, 2)], kernel=(3, 5)),
        ]
    )


def descend(model: nn.Module, batch: Any, *, steps: int, rate: float) -> list[dict[str, float]]:
    """The loss and its parts over some steps of AdamW on one batch, the random numbers of a step seeded by it."""
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=rate, betas=(0.9, 0.95))
    seen = []
    for step in range(steps):
        torch.manual_seed(step)
        loss, parts = model.train().loss(batch)  # type: ignore[operator]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append({"loss": loss.item()} | {name: value.item() for name, value in parts.items()})
    return seen
