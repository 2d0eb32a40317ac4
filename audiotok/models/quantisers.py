"""Quantisers while they learn: vector-quantize-pytorch's, each able to give the plain one that is left of it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ, ResidualVQ

from audiotok.tokenizers import quantisers


class TrainableResidual(nn.Module):
    """Residual vector quantisation: codebooks as moving averages of what they are chosen for, from k-means, dead codewords restarted.

    A share `dropout` of the batches is quantised by a random number of the first codebooks, so that any number of them decodes
    (arXiv 2107.03312). With one codebook it is a plain vector quantiser.
    """

    def __init__(
        self, *, dim: int, num_codebooks: int, codebook_size: int, decay: float, dead_below: float, dropout: float, commitment: float
    ) -> None:
        super().__init__()
        self.dim = dim
        self.dropout = dropout
        self.vq = ResidualVQ(
            dim=dim,
            num_quantizers=num_codebooks,
            codebook_size=codebook_size,
            decay=decay,
            kmeans_init=True,
            kmeans_iters=10,
            threshold_ema_dead_code=dead_below,
            quantize_dropout=dropout > 0 and num_codebooks > 1,
            rotation_trick=True,  # arXiv 2410.06424
            commitment_weight=commitment,
        )

    def forward(self, latent_BND: Tensor) -> tuple[Tensor, Tensor]:
        """(quantised_BND through which gradients pass, commitment loss)."""
        quantised_BND, _, commitment = self.quantise(latent_BND)
        return quantised_BND, commitment

    def quantise(self, latent_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(quantised_BND through which gradients pass, codes_BKN, -1 where a codebook was left out, commitment loss)."""
        self.vq.quantize_dropout = self.training and torch.rand(()).item() < self.dropout
        quantised_BND, codes_BNK, losses = self.vq(latent_BND.float())
        return quantised_BND, codes_BNK.transpose(1, 2), losses.clamp(min=0).sum()

    def plain(self) -> quantisers.ResidualCodebooks:
        """The codebooks as they are now."""
        codebooks_KVD = self.vq.codebooks.detach()
        num_codebooks, codebook_size, dim = codebooks_KVD.shape
        plain = quantisers.ResidualCodebooks(num_codebooks=num_codebooks, codebook_size=codebook_size, dim=dim)
        plain.codebooks_KVD.copy_(codebooks_KVD)
        return plain.to(codebooks_KVD.device)


class TrainableScalar(nn.Module):
    """Finite scalar quantisation (arXiv 2309.15505): one codebook of the product of the levels, none of it learnt, none of it dead."""

    def __init__(self, *, dim: int, levels: Sequence[int]) -> None:
        super().__init__()
        self.dim = dim
        self.levels = [int(level) for level in levels]
        if not self.levels or min(self.levels) < 3:
            raise ValueError(f"finite scalar quantisation: each number has at least 3 levels; got {self.levels}")
        self.fsq = FSQ(levels=self.levels, dim=dim)

    def forward(self, latent_BND: Tensor) -> tuple[Tensor, Tensor]:
        """(quantised_BND through which gradients pass, 0)."""
        quantised_BND, _ = self.fsq(latent_BND.float())
        return quantised_BND, torch.zeros((), device=latent_BND.device)

    def plain(self) -> quantisers.FiniteScalar:
        """The same without training's parts."""
        plain = quantisers.FiniteScalar(levels=self.levels, dim=self.dim)
        for ours, theirs in ((plain.project_in, self.fsq.project_in), (plain.project_out, self.fsq.project_out)):
            if isinstance(theirs, nn.Linear):
                ours.load_state_dict(theirs.state_dict())
            else:  # none where the latent has a number for each level
                nn.init.eye_(ours.weight)
                nn.init.zeros_(ours.bias)
        return plain.to(self.fsq._levels.device)
