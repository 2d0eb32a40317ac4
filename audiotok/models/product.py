"""Product quantisation while it learns: parts of the latent side by side, each with a quantiser of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from audiotok.models.nesting import kept_columns
from audiotok.tokenizers.quantisers import ProductCodebooks


class TrainableProduct(nn.Module):
    """The latent split into parts as wide as their quantisers say, e.g. a semantic one and an acoustic one (ImageFolder, arXiv 2410.01756).

    What makes the first part semantic is `audiotok.models.terms.SemanticDistillation`, which looks at the first dimensions alone. In a
    share `dropout` of the utterances the later parts are not heard: the first ones are to decode by themselves.
    """

    def __init__(self, parts: Sequence[Any], *, dim: int, dropout: float) -> None:
        super().__init__()
        self.parts: Any = nn.ModuleList(parts)
        self.dims: list[int] = [part.dim for part in parts]
        self.dim = dim
        self.dropout = dropout
        if sum(self.dims) != dim:
            raise ValueError(f"product quantiser: parts of {self.dims} dimensions make {sum(self.dims)}, the latent has {dim}")

    def forward(self, latent_BND: Tensor) -> tuple[Tensor, Tensor]:
        """(quantised_BND through which gradients pass, commitment loss)."""
        made = [part(piece_BND) for part, piece_BND in zip(self.parts, latent_BND.float().split(self.dims, dim=-1))]
        kept_BK = kept_columns(len(latent_BND), len(made), share=self.dropout if self.training else 0.0, sizes="uniform")
        heard = [words_BND * kept_B.to(words_BND)[:, None, None] for (words_BND, _), kept_B in zip(made, kept_BK.T)]
        return torch.cat(heard, dim=-1), torch.stack([loss for _, loss in made]).sum()

    def plain(self) -> ProductCodebooks:
        """The parts' plain quantisers."""
        return ProductCodebooks(parts=[part.plain() for part in self.parts], dims=self.dims)
