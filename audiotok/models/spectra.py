"""Short-time spectra with gradients: PyTorch's `stft` and `abs` with backward passes of half the cost: losses spend their time here."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

OVERLAP = 4  # windows over a sample
QUIETEST = 1e-8  # magnitude below which its gradient no longer grows


def stft(wav_BT: Tensor, window: int) -> Tensor:
    """Complex spectra [B, frames, window / 2 + 1], Hann, a quarter of a window apart, centred as `torch.stft` centres them."""
    padded_BT = F.pad(wav_BT[:, None], (window // 2, window // 2), mode="reflect")[:, 0]
    return _Spectra.apply(padded_BT, torch.hann_window(window, device=wav_BT.device))


def magnitude(spectrum: Tensor) -> Tensor:
    """|spectrum|."""
    return _Magnitude.apply(spectrum)


class _Spectra(Function):
    """Fourier transforms of overlapping pieces.

    The gradient of a sample is the real part of the sum over bins k of G_k exp(i 2 pi k n / window): an inverse real transform, where
    PyTorch's own takes a complex one of twice the length.
    """

    @staticmethod
    def forward(ctx: Any, padded_BT: Tensor, window_W: Tensor) -> Tensor:
        ctx.save_for_backward(window_W)
        ctx.samples = padded_BT.shape[1]
        window = len(window_W)
        return torch.fft.rfft(padded_BT.unfold(1, window, window // OVERLAP) * window_W)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BNF: Tensor) -> tuple[Tensor, None]:
        (window_W,) = ctx.saved_tensors
        window = len(window_W)
        halved_BNF = gradient_BNF * 0.5  # the inverse transform counts all bins twice but the first and the last
        halved_BNF[..., 0] *= 2
        halved_BNF[..., -1] *= 2
        pieces = (torch.fft.irfft(halved_BNF, window, norm="forward") * window_W).unflatten(2, (OVERLAP, -1))
        batch, num_frames, _, hop = pieces.shape
        sums = pieces.new_zeros(batch, num_frames + OVERLAP - 1, hop)
        for part in range(OVERLAP):
            sums[:, part : part + num_frames] += pieces[:, :, part]
        return F.pad(sums.flatten(1), (0, ctx.samples - sums.shape[1] * hop)), None


class _Magnitude(Function):
    @staticmethod
    def forward(ctx: Any, spectrum: Tensor) -> Tensor:
        size = torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag).sqrt_()
        ctx.save_for_backward(spectrum, size)
        return size

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        spectrum, size = ctx.saved_tensors
        return torch.view_as_complex(torch.view_as_real(spectrum) * (gradient / size.clamp(min=QUIETEST))[..., None])
