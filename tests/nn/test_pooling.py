import math

import pytest
import torch
from torch import Tensor, nn

from audiotok.nn.pooling import Adaptive, AntiAliased, Soft, Stacked

WIDTH = 16
POOLS = {
    "stacked": lambda stride: Stacked(WIDTH, stride=stride),
    "anti_aliased": lambda stride: AntiAliased(WIDTH, stride=stride, lobes=2),
    "soft": lambda stride: Soft(WIDTH, stride=stride),
    "adaptive": lambda stride: Adaptive(WIDTH, stride=stride, heads=4),
}


def made(kind: str, stride: int) -> nn.Module:
    torch.manual_seed(0)
    pool = POOLS[kind](stride)
    if kind == "adaptive":
        nn.init.normal_(pool.score.weight)
    return pool


def tone(frames: int, *, cycles: float, shift: float = 0.0) -> Tensor:
    """A sinusoid of so many cycles a frame."""
    return torch.sin(2 * math.pi * cycles * (torch.arange(frames) + shift))[None, :, None].expand(1, frames, WIDTH).contiguous()


@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("kind", sorted(POOLS))
def test_a_pooled_frame_hears_its_group_and_as_far_around_as_is_said_and_no_further(kind: str, stride: int) -> None:
    pool = made(kind, stride)
    hidden = torch.randn(1, 12 * stride, WIDTH)
    pooled, heard = pool(hidden), set()
    assert pooled.shape == (1, 12, WIDTH)
    for place in range(12 * stride):
        changed = hidden.clone()
        changed[:, place] += 3.0
        if not torch.equal(pool(changed)[:, 5], pooled[:, 5]):
            heard.add(place)
    assert (min(heard), max(heard)) == (5 * stride - pool.around, 6 * stride + pool.around - 1)


@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("kind", ["anti_aliased", "soft", "adaptive"])
def test_what_does_not_change_stays_what_it_is(kind: str, stride: int) -> None:
    hidden = torch.randn(1, 1, WIDTH).expand(1, 12 * stride, WIDTH)
    torch.testing.assert_close(made(kind, stride)(hidden)[:, 3:-3], hidden[:, : 12 - 6], rtol=1e-4, atol=1e-5)


def test_anti_aliased_pooling_lets_slow_tones_pass_in_their_place_and_stops_those_that_would_fold() -> None:
    pool = AntiAliased(WIDTH, stride=4, lobes=4)
    slow, fast = tone(200, cycles=0.03), tone(200, cycles=0.22)
    middles = tone(50, cycles=0.03 * 4, shift=1.5 / 4)
    torch.testing.assert_close(pool(slow)[:, 5:-5], middles[:, 5:-5], rtol=0, atol=0.02)
    assert pool(fast)[:, 5:-5].abs().max() < 0.03
    assert Soft(WIDTH, stride=4)(fast)[:, 5:-5].abs().max() > 0.1  # a mean without a filter folds it


def test_soft_pooling_is_the_mean_weighted_by_exponentials() -> None:
    hidden = torch.randn(2, 12, WIDTH)
    groups = hidden.unflatten(1, (4, 3))
    torch.testing.assert_close(Soft(WIDTH, stride=3)(hidden), (groups.softmax(dim=2) * groups).sum(dim=2))


def test_adaptive_pooling_is_attention_within_its_window() -> None:
    pool, hidden = made("adaptive", 4), torch.randn(1, 24, WIDTH)
    window = hidden[:, 6:14]  # of frame 2: [8, 12) and 2 more on either side
    weights = (pool.score(window) + pool.place).softmax(dim=1).repeat_interleave(WIDTH // 4, dim=-1)
    torch.testing.assert_close(pool(hidden)[:, 2], (weights * window).sum(dim=1))


def test_adaptive_pooling_begins_near_the_mean_and_learns_its_weights() -> None:
    pool = Adaptive(WIDTH, stride=2, heads=2)
    hidden = torch.randn(1, 40, WIDTH)
    torch.testing.assert_close(pool(hidden), hidden.unflatten(1, (20, 2)).mean(dim=2), rtol=0, atol=0.35)
    pool(hidden).square().sum().backward()
    assert pool.score.weight.grad.abs().sum() > 0 and pool.place.grad.abs().sum() > 0


def test_pools_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be shared by 3 heads"):
        Adaptive(WIDTH, stride=2, heads=3)
    with pytest.raises(ValueError, match="lobes=0"):
        AntiAliased(WIDTH, stride=2, lobes=0)
