"""Fewer frames of many: what may stand in an encoder where the frame rate falls.

Each takes hidden_BND, N a multiple of the stride, and gives N / stride frames. Output n stands for inputs [n x stride, (n + 1) x stride)
and hears `around` more on either side, zeros beyond the ends. All is linear layers and sums of shifted products.
"""

from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Stacked(nn.Module):
    """A group's frames side by side, mixed by one matrix: a strided convolution as long as its stride."""

    def __init__(self, width: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.around = 0
        self.mix = nn.Linear(stride * width, width)

    def forward(self, hidden_BND: Tensor) -> Tensor:
        batch, frames, width = hidden_BND.shape
        return self.mix(hidden_BND.reshape(batch, frames // self.stride, self.stride * width))


class AntiAliased(nn.Module):
    """A low-pass filter before the rate falls, so that a shift of the input is a shift of the output (arXiv 1904.11486).

    The filter is a windowed sinc of `lobes` output frames to each side, with its cut-off at half the output's rate; nothing is learnt.
    """

    weights: Tensor

    def __init__(self, width: int, *, stride: int, lobes: int) -> None:
        super().__init__()
        if lobes < 1:
            raise ValueError(f"anti-aliased pooling: the filter spans at least one output frame to each side; got lobes={lobes}")
        self.stride = stride
        self.around = ceil(lobes * stride - (stride - 1) / 2) - 1  # the outermost taps that are not zero
        place = torch.arange(-self.around, stride + self.around, dtype=torch.float64) - (stride - 1) / 2
        inside = (place / (lobes * stride)).clamp(-1, 1)
        taps = torch.sinc(place / stride) * torch.cos(torch.pi / 2 * inside).square()
        self.register_buffer("weights", (taps / taps.sum()).float(), persistent=False)

    def forward(self, hidden_BND: Tensor) -> Tensor:
        views = shifted(hidden_BND, stride=self.stride, around=self.around)
        total = torch.zeros_like(views[0])
        for weight, view_BND in zip(self.weights, views):
            total = torch.addcmul(total, view_BND, weight.to(view_BND.dtype))
        return total


class Soft(nn.Module):
    """A group's mean, each number weighted by its exponential: between the mean and the largest (SoftPool, arXiv 2101.00440)."""

    def __init__(self, width: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.around = 0

    def forward(self, hidden_BND: Tensor) -> Tensor:
        views = shifted(hidden_BND, stride=self.stride, around=0)
        return weighted_mean(views, views)


class Adaptive(nn.Module):
    """A mean over the group and half a group to each side, weighted by what each frame says it is worth; learned.

    Each of `heads` parts of the width has its own weights: a softmax over the window of a linear score and of a bias for the place.
    """

    def __init__(self, width: int, *, stride: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"adaptive pooling: width {width} cannot be shared by {heads} heads; choose a divisor")
        self.stride = stride
        self.around = stride // 2
        self.share = width // heads
        self.score = nn.Linear(width, heads)
        self.place = nn.Parameter(torch.zeros(stride + 2 * self.around, heads))
        # At first the group's mean, almost: half a group further off counts little.
        nn.init.zeros_(self.score.weight)
        with torch.no_grad():
            outside = torch.arange(stride + 2 * self.around)
            self.place[(outside < self.around) | (outside >= stride + self.around)] = -3.0

    def forward(self, hidden_BND: Tensor) -> Tensor:
        scores = shifted(self.score(hidden_BND), stride=self.stride, around=self.around)
        wide = [(score + bias).repeat_interleave(self.share, dim=-1) for score, bias in zip(scores, self.place)]
        return weighted_mean(shifted(hidden_BND, stride=self.stride, around=self.around), wide)


def shifted(hidden_BND: Tensor, *, stride: int, around: int) -> list[Tensor]:
    """Place by place of the window [-around, stride + around), what stands there for each output frame: [B, N / stride, D] each."""
    padded_BND = F.pad(hidden_BND, (0, 0, around, around))
    last = hidden_BND.shape[1] - stride
    return [padded_BND[:, place : place + last + 1 : stride] for place in range(stride + 2 * around)]


def weighted_mean(views: list[Tensor], scores: list[Tensor]) -> Tensor:
    """The mean over places, weighted by the softmax over places of the scores; element by element."""
    highest = torch.stack([score.detach() for score in scores]).amax(dim=0)
    weights = [(score - highest).exp() for score in scores]
    total, norm = torch.zeros_like(views[0]), torch.zeros_like(highest)
    for view_BND, weight_BND in zip(views, weights):
        total, norm = total + view_BND * weight_BND, norm + weight_BND
    return total / norm
