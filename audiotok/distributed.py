"""The processes of one run: the only user of torch.distributed. Without torchrun there is one process, and every function says so.

Rank 0 writes files and logs; gradients are averaged over the ranks after each backward pass.
"""

import os
from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn


def start() -> None:
    """Join the other processes when launched by torchrun; nothing otherwise."""
    if "WORLD_SIZE" in os.environ and not distributed.is_initialized():
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def stop() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes files and logs."""
    return rank() == 0


def barrier() -> None:
    """Return when every process has come here."""
    if world_size() > 1:
        distributed.barrier()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes; a parameter without one on this rank counts as zero."""
    if world_size() == 1:
        return
    gradients: list[Tensor] = []
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= world_size()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
        gradient.copy_(mean.view_as(gradient))
