"""Arithmetic on frames that rounds each alike, however many there are.

A library multiplies matrices of different shapes in different ways, and the last bit of a row then depends on how many rows came with it.
Now and then that bit is another code: of dMel, about one an hour.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 64  # rows; products of one shape are computed in one way


def product(rows: Tensor, matrix_DM: Tensor) -> Tensor:
    """rows [..., D] @ matrix_DM, each row to the bit what it is alone. Costs the arithmetic of the rows rounded up to `BLOCK`."""
    rows_ND = rows.reshape(-1, rows.shape[-1])
    blocks = F.pad(rows_ND, (0, 0, 0, -len(rows_ND) % BLOCK)).split(BLOCK)
    return torch.cat([block_ND @ matrix_DM for block_ND in blocks])[: len(rows_ND)].view(*rows.shape[:-1], -1)
