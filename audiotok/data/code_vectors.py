"""What a tokenizer's codes sound like, in the order in which a model counts them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from audiotok.tokenizers.base import Embedder
from audiotok.transforms.base import Layout


def code_vectors(tokenizer: Embedder, transform: Layout) -> list[Tensor]:
    """vectors_VD of each codebook of the transformed layout: the tokenizer's `embed` of every code, zeros for the pad id.

    Each codebook's are shifted and scaled to mean 0 and mean square 1, as later residual codebooks are much smaller than the first.
    """
    sizes, wanted = tokenizer.spec.codebook_sizes, transform.out_spec(tokenizer.spec).codebook_sizes
    last_K = torch.tensor(sizes) - 1
    codes_VK1 = torch.arange(max(sizes))[:, None].minimum(last_K)[..., None]
    hidden_VKD = tokenizer.embed(codes_VK1)[:, :, 0]
    vectors = [_standard(hidden_VKD[:size, k]) for k, size in enumerate(sizes)]
    known = [torch.cat([vectors[source] for source in sources]) for sources in transform.sources(tokenizer.spec)]
    return [F.pad(each_VD, (0, 0, 0, more - len(each_VD))) for each_VD, more in zip(known, wanted, strict=True)]


def _standard(vectors_VD: Tensor) -> Tensor:
    centred_VD = vectors_VD - vectors_VD.mean(dim=0)
    return centred_VD / centred_VD.square().mean().sqrt().clamp(min=1e-8)
