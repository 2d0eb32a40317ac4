"""Rows of two parts, each of a length of its own."""

from collections.abc import Callable

import torch
from torch import Tensor


def follow(transformer: Callable[[Tensor], Tensor], text_BPD: Tensor, lengths_B: Tensor, inputs_BND: Tensor) -> Tensor:
    """The transformer's hidden states [B, N, D] at the inputs. Each row is its text, then at once its inputs: no gap is left between."""
    width, num = text_BPD.shape[1], inputs_BND.shape[1]
    place_BS = torch.arange(width + num, device=inputs_BND.device).expand(len(inputs_BND), -1)
    source_BS = torch.where(place_BS < lengths_B[:, None], place_BS, place_BS - lengths_B[:, None] + width)
    row_BSD = take(torch.cat([text_BPD, inputs_BND], 1), source_BS.clamp_max(width + num - 1))
    return take(transformer(row_BSD), lengths_B[:, None] + torch.arange(num, device=inputs_BND.device))


def take(hidden_BND: Tensor, index_BM: Tensor) -> Tensor:
    """Each row's vectors at some places of its own, [B, M, D]."""
    return hidden_BND.gather(1, index_BM[..., None].expand(-1, -1, hidden_BND.shape[2]))
