"""Trained quantisers as plain arithmetic on tensors: what is left of them once training is over.

Training itself is vector-quantize-pytorch's (`audiotok.models.quantisers`); nothing of it is needed to encode or decode.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Quantiser(Protocol):
    """Latents to codes and back."""

    codebook_sizes: tuple[int, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """What `load` makes it from, with its kind."""
        ...

    def encode(self, latent_ND: Tensor) -> Tensor:
        """codes_KN."""
        ...

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND; over K they sum up to the latent that is decoded. K may be fewer than all: the first ones."""
        ...


class ResidualCodebooks(nn.Module):
    """Residual vector quantisation (arXiv 2107.03312) over codebooks [K, V, D], greedy; with K = 1 a plain vector quantiser."""

    codebooks_KVD: Tensor

    def __init__(self, *, num_codebooks: int, codebook_size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("codebooks_KVD", torch.zeros(num_codebooks, codebook_size, dim))
        self.codebook_sizes = (codebook_size,) * num_codebooks

    @property
    def settings(self) -> dict[str, Any]:
        num_codebooks, codebook_size, dim = self.codebooks_KVD.shape
        return {"kind": "residual", "num_codebooks": num_codebooks, "codebook_size": codebook_size, "dim": dim}

    def encode(self, latent_ND: Tensor) -> Tensor:
        """codes_KN: each stage takes the codeword nearest to what the stages before it left over."""
        residual_ND, rows = latent_ND.float(), []
        for codebook_VD in self.codebooks_KVD:
            codes_N = (codebook_VD.square().sum(dim=1) - 2 * residual_ND @ codebook_VD.T).argmin(dim=1)
            rows.append(codes_N)
            residual_ND = residual_ND - codebook_VD[codes_N]
        return torch.stack(rows)

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND: the codewords."""
        return self.codebooks_KVD[torch.arange(codes_BKN.shape[1], device=codes_BKN.device)[:, None], codes_BKN]


class FiniteScalar(nn.Module):
    """Finite scalar quantisation (arXiv 2309.15505): a few numbers between -1 and 1, each rounded to one of its levels; one codebook.

    As vector-quantize-pytorch's FSQ computes it, so that what one has learnt the other can use.
    """

    def __init__(self, *, levels: Sequence[int], dim: int) -> None:
        super().__init__()
        levels = tuple(int(level) for level in levels)
        self.settings = {"kind": "fsq", "levels": levels, "dim": dim}
        self.project_in = nn.Linear(dim, len(levels))
        self.project_out = nn.Linear(len(levels), dim)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("basis", torch.cumprod(torch.tensor((1, *levels[:-1])), dim=0), persistent=False)
        self.codebook_sizes = (int(torch.tensor(levels).prod()),)

    def encode(self, latent_ND: Tensor) -> Tensor:
        """codes_KN, K = 1."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        bounded = (self.project_in(latent_ND.float()) + (offset / half).atanh()).tanh() * half - offset
        digits = bounded.round().long() + self.levels // 2
        return (digits * self.basis).sum(dim=-1)[None]

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND."""
        digits = codes_BKN[..., None] // self.basis % self.levels
        half = self.levels // 2
        return self.project_out((digits - half) / half)


KINDS = {"residual": ResidualCodebooks, "fsq": FiniteScalar}


def load(settings: dict[str, Any]) -> Any:
    """The quantiser that `settings` describe, its weights still to be filled."""
    if (kind := settings.get("kind")) not in KINDS:
        raise ValueError(f"quantiser kind {kind!r}; known are {', '.join(KINDS)}")
    return KINDS[kind](**{key: value for key, value in settings.items() if key != "kind"})
