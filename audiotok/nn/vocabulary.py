"""Embeddings and logits of codes whose vectors are known: a rare code means what its neighbours in the codec mean."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


class Settled(nn.Module):
    """weight_VD of a vocabulary that learns no more, worked out once: of many codes that takes as long as speaking a second."""

    weight_VD: Tensor

    @torch.no_grad()
    def __init__(self, learnt: KnownVectors) -> None:
        super().__init__()
        self.register_buffer("weight_VD", learnt(), persistent=False)

    def forward(self) -> Tensor:
        """weight_VD."""
        return self.weight_VD


class Learned(nn.Module):
    """weight_VD of a vocabulary of which nothing is known."""

    def __init__(self, size: int, width: int, *, std: float) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.randn(size, width) * std)

    def forward(self) -> Tensor:
        """weight_VD."""
        return self.own


def vocabulary(codebook_sizes: Sequence[int], vectors: Sequence[Tensor] | None, *, width: int, std: float) -> KnownVectors | Learned:
    """One of the codes of all codebooks, from their vectors if there are any. Raises ValueError where those are of other codebooks."""
    if vectors is None:
        return Learned(sum(codebook_sizes), width, std=std)
    if (sizes := [len(each) for each in vectors]) != list(codebook_sizes):
        raise ValueError(f"vectors of {sizes} codes, codebooks of {list(codebook_sizes)}; they are those of the transformed codes")
    return KnownVectors(vectors, width, std=std)


def embedded(codes_BKN: Tensor, weight_VD: Tensor, offsets_K: Tensor) -> Tensor:
    """The sum over codebooks of the codes' vectors, [B, N, D]; a code of -1 adds nothing."""
    known_BNK = (codes_BKN >= 0).transpose(1, 2)
    ids_BNK = (codes_BKN.clamp_min(0) + offsets_K[:, None]).transpose(1, 2)
    bags = F.embedding_bag(ids_BNK.flatten(0, 1), weight_VD, mode="sum", per_sample_weights=known_BNK.flatten(0, 1).to(weight_VD.dtype))
    return bags.unflatten(0, ids_BNK.shape[:2])
