"""Which arithmetic the forward pass runs in."""

import platform
from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp32"]


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 products run in hardware: AVX512-BF16 or AMX, Arm's bf16, or an NVIDIA GPU from Ampere on.

    Without those PyTorch computes bf16 by conversion, slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def resolve(precision: Precision, *, device: torch.device) -> Literal["bf16", "fp32"]:
    """What `auto` stands for on this device."""
    if precision not in ("auto", "bf16", "fp32"):
        raise ValueError(f"precision is auto, bf16 or fp32; got {precision!r}")
    if precision == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    return precision


def autocast(precision: Precision, *, device: torch.device) -> torch.autocast:
    """The context of the forward pass: matrix products in bf16, the rest as PyTorch's autocast lists it; or float32 throughout."""
    return torch.autocast(device.type, torch.bfloat16, enabled=resolve(precision, device=device) == "bf16")
