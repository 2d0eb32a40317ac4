"""Arithmetic on frames that rounds each alike, however many there are.

A library multiplies matrices of different shapes in different ways, and the last bit of a row then depends on how many rows came with it.
Now and then that bit is another code: of dMel, about one an hour.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

BLOCK = 64  # rows; products of one shape are computed in one way


def product(rows: Tensor, matrix_DM: Tensor) -> Tensor:
    """rows [..., D] @ matrix_DM, each row to the bit what it is alone. Costs the arithmetic of the rows rounded up to `BLOCK`."""
    return _by_blocks(rows, lambda block_ND: block_ND @ matrix_DM)


class RowsAlike(TorchFunctionMode):
    """While it is entered, a network gives each frame to the bit what it gives it in any other company.

    `nn.Linear` and `rows @ matrix` are computed as `product` is. What works element by element, or within a frame, rounds alike anyhow as
    long as frames are a multiple of 16 wide, which is what a CPU computes at once.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.linear:
            rows, *layer = args
            return _by_blocks(rows, lambda block_ND: func(block_ND, *layer, **kwargs or {}))
        if func in MATRIX_PRODUCTS and args[1].ndim == 2:
            return product(*args)
        return func(*args, **kwargs or {})


MATRIX_PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__)


def _by_blocks(rows: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    rows_ND = rows.reshape(-1, rows.shape[-1])
    blocks = F.pad(rows_ND, (0, 0, 0, -len(rows_ND) % BLOCK)).split(BLOCK)
    return torch.cat([of(block_ND) for block_ND in blocks])[: len(rows_ND)].view(*rows.shape[:-1], -1)
