"""Residual codebooks at several rates while they learn, any first part of which decodes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from audiotok.models.nesting import Sizes, kept_columns
from audiotok.tokenizers.quantisers import MultiScaleCodebooks, to_multiple


class TrainableMultiScale(nn.Module):
    """Stage i quantises the mean of every `factors[i]` latents of what is left over (VAR, arXiv 2404.02905; SNAC, arXiv 2410.14411).

    In a share `dropout` of the utterances only the first few columns of each frame are heard (nested dropout over depth, and with falling
    factors over time: `audiotok.models.nesting`). Every codebook learns from every utterance, heard or not.
    """

    def __init__(
        self, *, dim: int, factors: Sequence[int], codebook_size: int, decay: float, dead_below: float, dropout: float, sizes: Sizes,
        commitment: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dim = dim
        self.codebook_size = codebook_size
        self.dropout = dropout
        self.sizes: Sizes = sizes
        self.columns = MultiScaleCodebooks(factors=factors, codebook_size=1, dim=1).columns
        self.factors = [int(factor) for factor in factors]
        self.stride = max(self.factors)
        self.stages: Any = nn.ModuleList(
            VectorQuantize(
                dim=dim,
                codebook_size=codebook_size,
                decay=decay,
                kmeans_init=True,
                kmeans_iters=10,
                threshold_ema_dead_code=dead_below,
                commitment_weight=commitment,
            )
            for _ in self.factors
        )

    def forward(self, latent_BND: Tensor) -> tuple[Tensor, Tensor]:
        """(quantised_BND through which gradients pass, commitment loss)."""
        latents_BND = to_multiple(latent_BND.float(), self.stride)
        kept_BK = kept_columns(len(latent_BND), len(self.columns), share=self.dropout if self.training else 0.0, sizes=self.sizes)
        residual_BND, heard_BND, losses = latents_BND, torch.zeros_like(latents_BND), []
        for stage, (factor, quantise) in enumerate(zip(self.factors, self.stages)):
            words_BND, _, loss = quantise(residual_BND.unflatten(1, (-1, factor)).mean(dim=2))
            spread_BND = words_BND.detach().repeat_interleave(factor, dim=1)
            heard_BND = heard_BND + spread_BND * self._heard(kept_BK, stage, latents_BND)
            residual_BND = residual_BND - spread_BND
            losses.append(loss.sum())
        quantised_BND = rotate_to(latents_BND, heard_BND)  # arXiv 2410.06424, once, over the whole of the stages
        return quantised_BND[:, : latent_BND.shape[1]], torch.stack(losses).sum()

    def _heard(self, kept_BK: Tensor, stage: int, latents_BND: Tensor) -> Tensor:
        """[B, N, 1], whether this stage is heard at a latent."""
        of_stage = [column for column, (other, _) in enumerate(self.columns) if other == stage]
        in_frame = kept_BK[:, of_stage].repeat_interleave(self.factors[stage], dim=1)
        return in_frame.repeat(1, latents_BND.shape[1] // self.stride)[..., None].to(latents_BND)

    def plain(self) -> MultiScaleCodebooks:
        """The codebooks as they are now."""
        plain = MultiScaleCodebooks(factors=self.factors, codebook_size=self.codebook_size, dim=self.dim)
        codebooks_SVD = torch.stack([stage.codebook.detach() for stage in self.stages])
        plain.codebooks_SVD.copy_(codebooks_SVD)
        return plain.to(codebooks_SVD.device)
