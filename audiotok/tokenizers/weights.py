"""What was in the weights that made the codes."""

import hashlib

import torch
from torch import nn


def digest(network: nn.Module) -> str:
    """Hex SHA-256 of every parameter and buffer; the same on every device and in every file format."""
    total = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return total.hexdigest()
