"""Trained quantisers as plain arithmetic on tensors: what is left of them once training is over.

Training itself is vector-quantize-pytorch's (`audiotok.models.quantisers`); nothing of it is needed to encode or decode.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Quantiser(Protocol):
    """Latents to codes and back. A frame of codes stands for `stride` latents, of which the last few may repeat the last one."""

    codebook_sizes: tuple[int, ...]
    stride: int

    @property
    def settings(self) -> dict[str, Any]:
        """What `load` makes it from, with its kind."""
        ...

    def encode(self, latent_ND: Tensor) -> Tensor:
        """codes_KN."""
        ...

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND; over K they sum up to what is decoded: a frame's `stride` latents, one after another along D.

        K may be fewer than all: the first ones.
        """
        ...


class ResidualCodebooks(nn.Module):
    """Residual vector quantisation (arXiv 2107.03312) over codebooks [K, V, D], greedy; with K = 1 a plain vector quantiser."""

    codebooks_KVD: Tensor
    stride = 1

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
            codes_N = nearest(residual_ND, codebook_VD)
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

    levels: Tensor
    basis: Tensor
    stride = 1

    def __init__(self, *, levels: Sequence[int], dim: int) -> None:
        super().__init__()
        sizes = tuple(int(level) for level in levels)
        self.settings = {"kind": "fsq", "levels": sizes, "dim": dim}
        self.project_in = nn.Linear(dim, len(sizes))
        self.project_out = nn.Linear(len(sizes), dim)
        self.register_buffer("levels", torch.tensor(sizes), persistent=False)
        self.register_buffer("basis", torch.cumprod(torch.tensor((1, *sizes[:-1])), dim=0), persistent=False)
        self.codebook_sizes = (prod(sizes),)

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


class MultiScaleCodebooks(nn.Module):
    """Residual quantisation at several rates (VAR, arXiv 2404.02905; SNAC, arXiv 2410.14411).

    Stage i quantises the mean of every `factors[i]` latents of what the stages before it left over, and gives it back to each of them. A
    frame of codes is the widest factor, its columns the stages' codes, coarse to fine as the factors say. Factors 4, 2, 1:

        latents   . . . .        columns of one frame    a b c d e f g
        stage 0   a a a a                                | | | +-+-+-+- stage 2
        stage 1   b b c c                                | +-+- stage 1
        stage 2   d e f g                                +- stage 0

    so bits per second are exact, and any number of first columns is a code as well.
    """

    codebooks_SVD: Tensor

    def __init__(self, *, factors: Sequence[int], codebook_size: int, dim: int) -> None:
        super().__init__()
        self.factors = tuple(int(factor) for factor in factors)
        self.stride = max(self.factors)
        if any(self.stride % factor for factor in self.factors):
            raise ValueError(f"multi-scale codebooks: the widest factor is a multiple of every other; got {self.factors}")
        self.register_buffer("codebooks_SVD", torch.zeros(len(self.factors), codebook_size, dim))
        self.codebook_sizes = (codebook_size,) * len(self.columns)

    @property
    def columns(self) -> list[tuple[int, int]]:
        """(stage, first of its latents in a frame) of each column."""
        return [(stage, start) for stage, factor in enumerate(self.factors) for start in range(0, self.stride, factor)]

    @property
    def settings(self) -> dict[str, Any]:
        _, codebook_size, dim = self.codebooks_SVD.shape
        return {"kind": "multi_scale", "factors": list(self.factors), "codebook_size": codebook_size, "dim": dim}

    def encode(self, latent_ND: Tensor) -> Tensor:
        """codes_KN of ceil(N / stride) frames."""
        residual_ND, rows = to_multiple(latent_ND.float()[None], self.stride)[0], []
        for factor, codebook_VD in zip(self.factors, self.codebooks_SVD):
            codes_N = nearest(residual_ND.unflatten(0, (-1, factor)).mean(dim=1), codebook_VD)
            residual_ND = residual_ND - codebook_VD[codes_N].repeat_interleave(factor, dim=0)
            rows.append(codes_N.unflatten(0, (-1, self.stride // factor)).T)
        return torch.cat(rows)

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND: the codewords at the latents they stand for, zeros at the frame's others."""
        hidden = codes_BKN.new_zeros(*codes_BKN.shape, self.stride, self.codebooks_SVD.shape[-1], dtype=torch.float32)
        for column, (stage, start) in enumerate(self.columns[: codes_BKN.shape[1]]):
            hidden[:, column, :, start : start + self.factors[stage]] = self.codebooks_SVD[stage][codes_BKN[:, column], None]
        return hidden.flatten(-2)


class ProductCodebooks(nn.Module):
    """Parts of a latent side by side, each quantised by a quantiser of its own (arXiv 2410.01756); their codes one after another."""

    stride = 1

    def __init__(self, *, parts: Sequence[nn.Module | dict[str, Any]], dims: Sequence[int]) -> None:
        """`dims`: how much of the latent each part has."""
        super().__init__()
        made: list[Any] = [part if isinstance(part, nn.Module) else load(part) for part in parts]
        if len(made) != len(dims) or any(part.stride != 1 for part in made):
            raise ValueError(f"product codebooks: one width for each part, of one latent a frame; got {len(made)} parts, widths {dims}")
        self.parts: Any = nn.ModuleList(made)
        self.dims = [int(dim) for dim in dims]
        self.codebook_sizes = tuple(size for part in made for size in part.codebook_sizes)

    @property
    def settings(self) -> dict[str, Any]:
        return {"kind": "product", "parts": [part.settings for part in self.parts], "dims": self.dims}

    def encode(self, latent_ND: Tensor) -> Tensor:
        """codes_KN, the first part's first."""
        return torch.cat([part.encode(piece_ND) for part, piece_ND in zip(self.parts, latent_ND.split(self.dims, dim=-1))])

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND: each part's vectors at its place, zeros at the others'."""
        before, after, rows = 0, sum(self.dims), []
        for part, dim, codes in zip(self.parts, self.dims, codes_BKN.split(self._columns(codes_BKN.shape[1]), dim=1)):
            after -= dim
            if codes.shape[1]:
                rows.append(F.pad(part.embed(codes), (before, after)))
            before += dim
        return torch.cat(rows, dim=1)

    def _columns(self, total: int) -> list[int]:
        """How many of the first `total` columns are each part's."""
        numbers = []
        for part in self.parts:
            numbers.append(min(total, len(part.codebook_sizes)))
            total -= numbers[-1]
        return numbers


class DimensionWise(nn.Module):
    """A continuous latent quantised after training, each of its dimensions by itself (TokenBridge, arXiv 2503.16430).

    A dimension is standardised and put in one of `levels` bins that are equally probable for a Gaussian; a bin stands for its mean.
    """

    stride = 1
    mean: Tensor
    deviation: Tensor
    edges: Tensor
    centres: Tensor

    def __init__(self, *, levels: int, latent_dim: int, dim: int) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"dimension-wise quantisation takes at least 2 levels; got {levels}")
        self.settings = {"kind": "dimension_wise", "levels": levels, "latent_dim": latent_dim, "dim": dim}
        self.project_in = nn.Linear(dim, latent_dim)
        self.project_out = nn.Linear(latent_dim, dim)
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("deviation", torch.ones(latent_dim))
        edges_L = torch.special.ndtri(torch.arange(1, levels, dtype=torch.float64) / levels)
        density_L = F.pad((-edges_L.square() / 2).exp() / (2 * torch.pi) ** 0.5, (1, 1))
        self.register_buffer("edges", edges_L.float(), persistent=False)
        self.register_buffer("centres", (levels * (density_L[:-1] - density_L[1:])).float(), persistent=False)
        self.codebook_sizes = (levels,) * latent_dim

    def encode(self, latent_ND: Tensor) -> Tensor:
        """codes_KN, a column for each dimension."""
        standard = (self.project_in(latent_ND.float()) - self.mean) / self.deviation
        return torch.bucketize(standard, self.edges).T

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND. The first column brings the mean of all dimensions with it, so that those that are left out are at theirs."""
        columns = codes_BKN.shape[1]
        offsets = self.centres[codes_BKN] * self.deviation[:columns, None]
        hidden_BKND = offsets[..., None] * self.project_out.weight.T[:columns, None]
        hidden_BKND[:, 0] += self.project_out(self.mean)
        return hidden_BKND


def nearest(latent_ND: Tensor, codebook_VD: Tensor) -> Tensor:
    """codes_N of the codewords nearest to the latents."""
    return (codebook_VD.square().sum(dim=1) - 2 * latent_ND @ codebook_VD.T).argmin(dim=1)


def to_multiple(latent_BND: Tensor, stride: int) -> Tensor:
    """latent_BND with the last one repeated until there are a multiple of `stride`."""
    missing = -latent_BND.shape[1] % stride
    return torch.cat([latent_BND, latent_BND[:, -1:].expand(-1, missing, -1)], dim=1) if missing else latent_BND


KINDS: dict[str, Any] = {
    "residual": ResidualCodebooks,
    "fsq": FiniteScalar,
    "multi_scale": MultiScaleCodebooks,
    "product": ProductCodebooks,
    "dimension_wise": DimensionWise,
}


def load(settings: dict[str, Any]) -> Any:
    """The quantiser that `settings` describe, its weights still to be filled."""
    if (kind := settings.get("kind")) not in KINDS:
        raise ValueError(f"quantiser kind {kind!r}; known are {', '.join(KINDS)}")
    return KINDS[kind](**{key: value for key, value in settings.items() if key != "kind"})
