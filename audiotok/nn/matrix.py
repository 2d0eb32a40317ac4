"""Weights as a model that speaks reads them: in float32, in bf16, or in int8 with a scale per row.

Reading the weights is what a step of decoding costs, so half the bytes are nearly twice the speed. Only weights are made smaller; where
native.cpp does the product, vectors and sums stay float32.
"""

import copy
import ctypes
import mmap
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.nn import native

Weights = Literal["fp32", "bf16", "int8"]
# Vectors up to which native.cpp took less time than PyTorch's operations for a step, on a core of a Xeon with AMX. The products alone took
# 0.98, 1.0 and 0.65 of its time (fp32 against F.linear, bf16 against packed oneDNN, int8) for one vector, 0.55, 1.0 and 0.6 for four, 0.72,
# 1.9 and 0.6 for sixteen; for 32 1.03, 2.8 (AMX) and 0.7.
FEW: dict[Weights, int] = {"fp32": 32, "bf16": 16, "int8": 32}


LARGE_PAGE = 2**21  # bytes


class Matrix(nn.Module):
    """`matrix(hidden_BND)` is hidden_BND times the transposed weight [V, D], float32 [B, N, V].

    bf16 is rounded to the nearest, int8 to the nearest of 255 steps up to each row's largest. Small fp32 weights share the memory of the
    first, which must stay as it is; all others are copies.
    """

    weight: Tensor
    scale: Tensor | None

    def __init__(self, weight_VD: Tensor, weights: Weights) -> None:
        super().__init__()
        if weights not in ("fp32", "bf16", "int8"):
            raise ValueError(f"weights are fp32, bf16 or int8; got {weights!r}")
        weight, scale = weight_VD.detach().float(), None
        if weights == "bf16":
            weight = weight.bfloat16()
        elif weights == "int8":
            scale = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
            weight = (weight / scale[:, None]).round().to(torch.int8)
        self.weights: Weights = weights
        self.register_buffer("weight", in_large_pages(weight.contiguous()), persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def rows(self, first: int, end: int) -> "Matrix":
        """The matrix of the rows first <= row < end, in the same memory: a head for the codes that are legal alone."""
        part = copy.copy(self)
        part._buffers = {"weight": self.weight[first:end], "scale": None if self.scale is None else self.scale[first:end]}
        return part

    def forward(self, hidden_BND: Tensor) -> Tensor:
        vectors = hidden_BND.numel() // hidden_BND.shape[-1]
        library = native.library() if self.is_native() and vectors <= FEW[self.weights] else None
        if library is None:
            return self._plain(hidden_BND)
        hidden_BND = hidden_BND.float().contiguous()
        out = hidden_BND.new_empty(*hidden_BND.shape[:-1], self.weight.shape[0])
        product = getattr(library, f"product_{self.weights}")
        product(ctypes.byref(self.view()), native.address(hidden_BND), vectors, native.address(out), torch.get_num_threads())
        return out

    def is_native(self) -> bool:
        """Whether native.cpp can read it: it is on a CPU, and its width a multiple of the lanes."""
        return self.weight.device.type == "cpu" and self.weight.shape[1] % native.LANES == 0

    def view(self) -> native.Matrix:
        """What native.cpp reads of it, alive only as long as this is."""
        scale = None if self.scale is None else native.address(self.scale)
        return native.Matrix(native.address(self.weight), scale, *self.weight.shape)

    def _plain(self, hidden_BND: Tensor) -> Tensor:
        if self.scale is None:
            return F.linear(hidden_BND.to(self.weight.dtype), self.weight).float()
        if self.weight.device.type != "cpu":
            return F.linear(hidden_BND.bfloat16(), self.weight.bfloat16()).float() * self.scale
        ones_V = torch.ones_like(self.scale, dtype=torch.bfloat16)  # the scales in bf16 would cost more accuracy than the weights in int8
        product = torch._weight_int8pack_mm(hidden_BND.bfloat16().flatten(0, -2), self.weight, ones_V)
        return product.unflatten(0, hidden_BND.shape[:-1]).float() * self.scale


def in_large_pages(weight_VD: Tensor) -> Tensor:
    """A copy in memory of large pages, where the system has them and the weight is on a CPU and large itself; else the weight.

    A step reads all weights once, and waits for the translation of each page's address: with large pages it took 0.94 of the time in fp32
    and 0.86 in bf16 (12 layers, 768 wide, in turn, on 2 cores of a Xeon with AMX).
    """
    if weight_VD.device.type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE") or weight_VD.nbytes < LARGE_PAGE:
        return weight_VD
    memory = mmap.mmap(-1, weight_VD.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=weight_VD.dtype).view(weight_VD.shape).copy_(weight_VD)


def with_matrices(module: nn.Module, weights: Weights) -> nn.Module:
    """A module that computes the same with a `Matrix` for each linear layer without bias; it shares everything else with the first."""
    if isinstance(module, nn.Linear) and module.bias is None:
        return Matrix(module.weight, weights)
    twin = copy.copy(module)
    twin._parameters, twin._buffers = dict(module._parameters), dict(module._buffers)
    twin._modules = {name: None if child is None else with_matrices(child, weights) for name, child in module._modules.items()}
    return twin


def head(weight_VD: Tensor, weights: Weights) -> Matrix:
    """The weight of a head; on a GPU no smaller than bf16, as int8 alone would be written and read again in bf16 there."""
    return Matrix(weight_VD, "bf16" if weights == "int8" and weight_VD.device.type == "cuda" else weights)
