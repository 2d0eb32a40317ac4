"""What a model hears in training of what it will hear of itself: parallel scheduled sampling (arXiv 1906.07651)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def not_learnt_from() -> Iterator[None]:
    """What is foretold within has no gradient, and takes none from the pass behind it.

    Autocast keeps what it casts, in older PyTorch also weights cast without a gradient, which then got none (its issue 112583).
    """
    with torch.no_grad():
        yield
    torch.clear_autocast_cache()


def share_of_own(codes_BKN: Tensor, mean: float) -> Tensor:
    """bool [B, 1, N]: positions at which a model hears its own codes; the share differs from row to row, `mean` on average."""
    share_B11 = 2 * mean * torch.rand(codes_BKN.shape[0], 1, 1, device=codes_BKN.device)
    return torch.rand(codes_BKN.shape[0], 1, codes_BKN.shape[2], device=codes_BKN.device) < share_B11


def drawn(logits: Sequence[Tensor]) -> Tensor:
    """codes_BKN, one of each distribution; by the Gumbel trick: one pass, no cumulative sums."""
    return torch.stack([(logits_BNV.float() + _gumbel(logits_BNV)).argmax(-1) for logits_BNV in logits], dim=1)


def _gumbel(logits_BNV: Tensor) -> Tensor:
    return -torch.log(-torch.log(torch.rand(logits_BNV.shape, device=logits_BNV.device).clamp_min(1e-9)))
