"""Codes or features to the vectors that a probe's head reads: `embedding(inputs) -> (hidden_BND, lengths_B)`, zeros past a row's length.

Where frames come faster than `max_frame_rate`, neighbouring embedded frames are averaged, so that a tokenizer with a frame for every sample
stays affordable; what the averaging loses is part of the score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.data.code_vectors import code_vectors
from audiotok.evaluation.probes.inputs import InputKind, Inputs, averaged, padded, reduction, valid
from audiotok.tokenizers.base import Embedder
from audiotok.transforms.patterns import Parallel


@dataclass(frozen=True)
class EmbeddingSettings:
    """How frames become vectors. DASB: width 1024, mixing "attention", all codebooks, each frame."""

    width: int
    mixing: Literal["attention", "mean"]  # of a frame's codebooks
    codebooks: tuple[int, ...] | None  # that the probe may see; None: all
    max_frame_rate: float  # Hz

    def __post_init__(self) -> None:
        if self.mixing not in ("attention", "mean"):
            raise ValueError(f"mixing is attention or mean; got {self.mixing!r}")


def embedding(kind: InputKind, settings: EmbeddingSettings, *, vectors: Sequence[Tensor] | None) -> nn.Module:
    """The embedding of one kind of input; `vectors` (of `codec_vectors`) are what a codec's own table starts from."""
    factor = reduction(kind.frame_rate, settings.max_frame_rate)
    if kind.codebook_sizes is None:
        return FeatureEmbedding(kind.width, width=settings.width, factor=factor)
    return CodeEmbedding(
        kind.codebook_sizes,
        width=settings.width,
        mixing=settings.mixing,
        codebooks=settings.codebooks,
        factor=factor,
        vectors=vectors,
    )


class CodeEmbedding(nn.Module):
    """DASB's attention over codebooks (arXiv 2406.14294): one table, and a softmax over what each code of a frame is worth.

        e[k] = table[code[k] + offset[k]]    s[k] = w2 relu(W1 e[k] + b1)    x = sum over k of softmax(s)[k] e[k]

    A code's worth depends on the code alone, so it is computed once for each code of the batch, and x is one weighted sum of rows of the
    table, averaged over `factor` frames or not: there is never a vector for each code of each frame in memory. One codebook, or the mean of
    all ("mean"), needs no s. `codebooks` are the ones the probe may see.

    With `vectors` (one [V, D] for each codebook) the table starts from them, filled up with zeros to `width`; where they are wider they
    keep their width and a learned matrix takes them to `width`.
    """

    offsets_K: Tensor
    codebooks_K: Tensor

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        *,
        width: int,
        mixing: Literal["attention", "mean"],
        codebooks: Sequence[int] | None,
        factor: int,
        vectors: Sequence[Tensor] | None,
    ) -> None:
        super().__init__()
        chosen = _chosen(codebooks, len(codebook_sizes))
        sizes = [codebook_sizes[k] for k in chosen]
        self.width = width
        self.factor = factor
        self.register_buffer("codebooks_K", torch.tensor(chosen), persistent=False)
        self.register_buffer("offsets_K", torch.tensor([0, *accumulate(sizes[:-1])]), persistent=False)
        self.table, self.project = _table(sum(sizes), width, None if vectors is None else [vectors[k] for k in chosen], sizes)
        self.worth = _worth(width) if mixing == "attention" and len(chosen) > 1 else None

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        ids_BNK = inputs.frames[:, self.codebooks_K].transpose(1, 2) + self.offsets_K
        ids_BNK = padded(ids_BNK, -(-ids_BNK.shape[1] // self.factor) * self.factor, dim=1)
        mask_BN = valid(inputs.lengths_B, ids_BNK.shape[1])
        weights_BNK = (self.shares(ids_BNK) * mask_BN[..., None]).to(self.table.weight.dtype)
        groups_BM = mask_BN.unflatten(1, (-1, self.factor)).sum(dim=2).clamp(min=1)
        batch, frames = groups_BM.shape
        weights = weights_BNK.reshape(batch * frames, -1) / groups_BM.reshape(-1, 1)
        summed = F.embedding_bag(ids_BNK.reshape(batch * frames, -1), self.table.weight, per_sample_weights=weights, mode="sum")
        return self.project(summed.reshape(batch, frames, -1)), -(-inputs.lengths_B // self.factor)

    def shares(self, ids_BNK: Tensor) -> Tensor:
        """The weight of each code in its frame's sum, [B, N, K]."""
        if self.worth is None:
            return torch.full(ids_BNK.shape, 1 / ids_BNK.shape[-1], device=ids_BNK.device)
        ids_V, where_BNK = ids_BNK.unique(return_inverse=True)
        return self.worth(self.project(self.table(ids_V)))[:, 0][where_BNK].float().softmax(dim=-1)


def _chosen(codebooks: Sequence[int] | None, count: int) -> list[int]:
    chosen = list(range(count)) if codebooks is None else list(codebooks)
    if not chosen or len(set(chosen)) < len(chosen) or min(chosen) < 0 or max(chosen) >= count:
        raise ValueError(f"codebooks: wanted some of 0 ... {count - 1}, each once; got {chosen}")
    return chosen


def _worth(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1, bias=False))


def _table(rows: int, width: int, vectors: Sequence[Tensor] | None, sizes: Sequence[int]) -> tuple[nn.Embedding, nn.Module]:
    """The table, and what takes its rows to `width`."""
    if vectors is None:
        return nn.Embedding(rows, width), nn.Identity()
    if [len(vectors_VD) for vectors_VD in vectors] != list(sizes):
        raise ValueError(f"vectors of {[len(each) for each in vectors]} codes were given for codebooks of {list(sizes)}")
    rows_VD = torch.cat([vectors_VD.detach().float() for vectors_VD in vectors])
    if rows_VD.shape[1] <= width:
        return nn.Embedding.from_pretrained(padded(rows_VD, width, dim=1).clone(), freeze=False), nn.Identity()
    return nn.Embedding.from_pretrained(rows_VD.clone(), freeze=False), nn.Linear(rows_VD.shape[1], width, bias=False)


def codec_vectors(tokenizer: Embedder) -> list[Tensor]:
    """The vectors_VD of each codebook as the codec hears them, each codebook's with mean 0 and mean square 1."""
    return code_vectors(tokenizer, Parallel())


class FeatureEmbedding(nn.Module):
    """Continuous features: a layer norm and a linear layer, the way into the same heads."""

    def __init__(self, features: int, *, width: int, factor: int) -> None:
        super().__init__()
        self.width = width
        self.factor = factor
        self.norm = nn.LayerNorm(features)
        self.linear = nn.Linear(features, width)

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        return averaged(self.linear(self.norm(inputs.frames)), inputs.lengths_B, factor=self.factor)
