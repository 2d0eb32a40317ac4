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


def device(choice: str) -> torch.device:
    """The device that `choice` names: auto, cpu, cuda, cuda:1 ...; auto is this process's GPU where there is one, else the CPU.

    Raises ValueError for what PyTorch does not know or this machine does not have.
    """
    if choice == "auto":
        choice = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(choice)
    except RuntimeError as error:
        raise ValueError(f"device={choice}: {str(error).splitlines()[0]}; set device=auto, cpu or cuda") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={choice}: there are {torch.cuda.device_count()} GPUs here; set device=auto or cpu")
    return found


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
