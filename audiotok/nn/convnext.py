"""ConvNeXt blocks over time and attention within a window: what codecs and vocoders are made of.

Everything sees finitely far, so that a long recording can be worked on in pieces and the pieces agree with the whole.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNeXt(nn.Module):
    """x + scale * mlp(norm(depthwise(x))) over frames (arXiv 2201.03545, in one dimension as Vocos, arXiv 2306.00814)."""

    def __init__(self, width: int, *, kernel: int, expansion: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"a ConvNeXt kernel is odd, so that a frame stays in its place; got {kernel}")
        self.kernel = kernel
        self.taps = nn.Parameter(torch.randn(kernel, width) / kernel**0.5)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, hidden_BND: Tensor) -> Tensor:
        """hidden_BND; zeros stand before the first frame and after the last."""
        num_frames, reach = hidden_BND.shape[1], self.kernel // 2
        # A sum of shifted products: on a CPU faster than a grouped convolution, and linear in everything.
        padded_BND = F.pad(hidden_BND, (0, 0, reach, reach))
        mixed_BND = padded_BND[:, :num_frames] * self.taps[0]
        for tap in range(1, self.kernel):
            mixed_BND = torch.addcmul(mixed_BND, padded_BND[:, tap : tap + num_frames], self.taps[tap])
        return hidden_BND + self.down(F.gelu(self.up(self.norm(mixed_BND)))) * self.scale


class WindowedAttention(nn.Module):
    """x + attention(norm(x)), each frame seeing `window` frames to each side, with a learned bias for each distance and head.

    Computed in blocks of `window` frames against three such blocks of keys: time and memory are linear in the number of frames.
    """

    def __init__(self, width: int, *, heads: int, window: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"attention: width {width} cannot be shared by {heads} heads; choose a divisor")
        if window < 1:
            raise ValueError(f"attention: a frame sees at least one to each side; got window={window}")
        self.heads = heads
        self.window = window
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.distance_bias = nn.Parameter(torch.zeros(heads, 2 * window + 1))

    def forward(self, hidden_BND: Tensor) -> Tensor:
        """hidden_BND."""
        batch, num_frames, width = hidden_BND.shape
        window, blocks = self.window, -(-num_frames // self.window)
        padded_BND = F.pad(self.project(self.norm(hidden_BND)), (0, 0, window, (blocks + 1) * window - num_frames))
        query, key, value = padded_BND.view(batch, blocks + 2, window, 3, self.heads, width // self.heads).unbind(dim=3)
        query = query[:, 1:-1].transpose(2, 3)  # batch, block, head, window, width
        key, value = (torch.cat([part[:, :-2], part[:, 1:-1], part[:, 2:]], dim=2).transpose(2, 3) for part in (key, value))
        weights = (query @ key.transpose(3, 4)) * query.shape[-1] ** -0.5 + self._bias(num_frames, blocks, query.device)
        mixed = (weights.float().softmax(dim=-1).to(value.dtype) @ value).transpose(2, 3).reshape(batch, blocks * window, width)
        return hidden_BND + self.output(mixed[:, :num_frames])

    def _bias(self, num_frames: int, blocks: int, device: torch.device) -> Tensor:
        """[block, head, window, 3 x window]: the bias of the distance, minus infinity beyond the window and outside the utterance."""
        window = self.window
        position_Q = torch.arange(window, device=device)[:, None] + window
        distance_QK = torch.arange(3 * window, device=device) - position_Q
        bias_HQK = self.distance_bias[:, distance_QK.clamp(-window, window) + window]
        frame_CK = torch.arange(3 * window, device=device) + (torch.arange(blocks, device=device) * window - window)[:, None]
        seen = (distance_QK.abs() <= window) & ((frame_CK >= 0) & (frame_CK < num_frames))[:, None]
        # A query past the last frame sees nothing, and is cut off: it may see all, so that no softmax is over nothing.
        seen = seen | ~seen.any(dim=-1, keepdim=True)
        return bias_HQK.masked_fill(~seen[:, None], -torch.inf)
