"""What was in the weights that made the codes."""

import hashlib

import torch
from torch import nn


def digest(network: nn.Module, *, without: tuple[str, ...] = ()) -> str:
    """Hex SHA-256 of every parameter and buffer but those whose name ends in one of `without`; the same on every device."""
    total = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if name.endswith(without):
            continue
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return total.hexdigest()
