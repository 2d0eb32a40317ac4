"""ConvNeXt and windowed attention against plain references; what a frame sees; what it costs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from audiotok.nn.convnext import ConvNeXt, WindowedAttention

WIDTH = 8


def frames(number: int, *, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, number, WIDTH, generator=torch.Generator().manual_seed(seed))


def attention(window: int, *, heads: int = 2) -> WindowedAttention:
    torch.manual_seed(0)
    made = WindowedAttention(WIDTH, heads=heads, window=window)
    nn.init.normal_(made.distance_bias)
    return made


def seen(block: nn.Module, *, frame: int, number: int) -> list[int]:
    """The frames that one frame of the output depends on."""
    hidden_BND = frames(number, batch=1).requires_grad_()
    block(hidden_BND)[0, frame].sum().backward()
    return hidden_BND.grad[0].abs().sum(dim=-1).nonzero().flatten().tolist()


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("number", [1, 2, 20])
def test_the_shifted_products_are_a_grouped_convolution(kernel: int, number: int) -> None:
    block, hidden_BND = ConvNeXt(WIDTH, kernel=kernel, expansion=3), frames(number)
    convolution = nn.Conv1d(WIDTH, WIDTH, kernel, padding=kernel // 2, groups=WIDTH, bias=False)
    convolution.weight.data = block.taps.data.T[:, None].clone()
    mixed_BND = convolution(hidden_BND.transpose(1, 2)).transpose(1, 2)
    expected_BND = hidden_BND + block.down(F.gelu(block.up(block.norm(mixed_BND)))) * block.scale
    torch.testing.assert_close(block(hidden_BND), expected_BND, rtol=1e-5, atol=1e-6)


def test_a_frame_sees_half_a_kernel_or_a_window_to_each_side() -> None:
    assert seen(ConvNeXt(WIDTH, kernel=5, expansion=2), frame=10, number=20) == [8, 9, 10, 11, 12]
    for frame, expected in ((0, range(5)), (7, range(3, 12)), (19, range(15, 20))):
        assert seen(attention(4), frame=frame, number=20) == list(expected)


def dense(block: WindowedAttention, hidden_BND: Tensor) -> Tensor:
    """The same with every frame against every other, and a mask."""
    batch, number, width = hidden_BND.shape
    split = (batch, number, 3, block.heads, width // block.heads)
    query, key, value = block.project(block.norm(hidden_BND)).view(split).permute(2, 0, 3, 1, 4)
    distance_NN = torch.arange(number) - torch.arange(number)[:, None]
    bias_HNN = torch.stack([row[distance_NN.clamp(-block.window, block.window) + block.window] for row in block.distance_bias])
    bias_HNN = bias_HNN.masked_fill(distance_NN.abs() > block.window, -torch.inf)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias_HNN.expand(batch, -1, -1, -1))
    return hidden_BND + block.output(mixed.transpose(1, 2).reshape(batch, number, width))


@pytest.mark.parametrize("window", [1, 3, 8])
@pytest.mark.parametrize("number", [1, 2, 3, 7, 8, 9, 16, 50])
def test_attention_in_blocks_is_attention_under_a_mask(window: int, number: int) -> None:
    block = attention(window)
    ours, theirs = frames(number).requires_grad_(), frames(number).requires_grad_()
    torch.testing.assert_close(block(ours), dense(block, theirs), rtol=1e-5, atol=1e-5)
    gradients = []
    for hidden_BND, output_BND in ((ours, block(ours)), (theirs, dense(block, theirs))):
        gradients.append(torch.autograd.grad(output_BND.square().sum(), [hidden_BND, *block.parameters()]))
    for ours_, theirs_ in zip(*gradients):
        torch.testing.assert_close(ours_, theirs_, rtol=1e-3, atol=1e-3)


class Largest(TorchDispatchMode):
    """Sees the largest tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = func(*args, **kwargs or {})
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return made


def largest(number: int) -> int:
    with torch.no_grad(), Largest() as mode:
        attention(8)(frames(number, batch=1))
    return mode.numbers


def test_the_memory_of_attention_is_linear_in_the_number_of_frames() -> None:
    assert largest(4000) / largest(1000) == pytest.approx(4, rel=0.05)
    assert largest(4000) < 4000 * 4000 / 50


def test_under_bf16_frames_past_the_end_spoil_nothing() -> None:
    block, hidden_BND = attention(8), frames(21)
    with torch.autocast("cpu", torch.bfloat16):
        rough_BND = block(hidden_BND)
    torch.testing.assert_close(rough_BND.float(), block(hidden_BND), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ConvNeXt(WIDTH, kernel=4, expansion=2), "kernel is odd.* got 4"),
        (lambda: WindowedAttention(WIDTH, heads=3, window=4), "width 8 cannot be shared by 3 heads"),
        (lambda: WindowedAttention(WIDTH, heads=0, window=4), "by 0 heads"),
        (lambda: WindowedAttention(WIDTH, heads=2, window=0), "window=0"),
    ],
)
def test_sizes_that_make_no_network_are_refused(make: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()
