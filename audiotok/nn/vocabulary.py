"""Embeddings and logits of codes whose vectors are known: a rare code means what its neighbours in the codec mean."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class KnownVectors(nn.Module):
    """weight_VD of a vocabulary: what is learnt of each code by itself (nothing at first) plus a learned projection of its known vector.

    Each codebook has a projection of its own. `std` is that of the weights at the start, for vectors of mean square 1.
    """

    def __init__(self, vectors: Sequence[Tensor], width: int, *, std: float) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.zeros(sum(map(len, vectors)), width))
        self.projections = nn.ParameterList(torch.randn(each.shape[1], width) * std * each.shape[1] ** -0.5 for each in vectors)
        for number, each in enumerate(vectors):
            self.register_buffer(f"vectors_{number}", each.detach().clone().float())

    def forward(self) -> Tensor:
        """weight_VD, codebooks one after another."""
        known = [getattr(self, f"vectors_{number}") @ projection for number, projection in enumerate(self.projections)]
        return self.own + torch.cat(known)


class Learned(nn.Module):
    """weight_VD of a vocabulary of which nothing is known."""

    def __init__(self, size: int, width: int, *, std: float) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.randn(size, width) * std)

    def forward(self) -> Tensor:
        """weight_VD."""
        return self.own
