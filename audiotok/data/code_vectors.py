"""What a tokenizer's codes sound like, in the order in which a model counts them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from audiotok.tokenizers.base import Embedder
from audiotok.transforms.base import Layout


def code_vectors(tokenizer: Embedder, transform: Layout, *, alike: bool = True) -> list[Tensor]:
    """vectors_VD of each codebook of the transformed layout: the tokenizer's `embed` of every code, zeros for the pad id.

    Each codebook's are shifted and scaled to mean 0 and mean square 1, as later residual codebooks are much smaller than the first; or,
    where they shall not be `alike`, all scaled by `unit`, so that those of a frame still add up.
    """
    wanted = transform.out_spec(tokenizer.spec).codebook_sizes
    vectors = _vectors(tokenizer)
    vectors = [_standard(each) for each in vectors] if alike else [each / _rms(vectors[0]) for each in vectors]
    known = [torch.cat([vectors[source] for source in sources]) for sources in transform.sources(tokenizer.spec)]
    return [F.pad(each_VD, (0, 0, 0, more - len(each_VD))) for each_VD, more in zip(known, wanted, strict=True)]


def unit(tokenizer: Embedder) -> Tensor:
    """The root mean square of the vectors of the first codebook, a number."""
    return _rms(_vectors(tokenizer)[0])


def _vectors(tokenizer: Embedder) -> list[Tensor]:
    sizes = tokenizer.spec.codebook_sizes
    codes_VK1 = torch.arange(max(sizes))[:, None].minimum(torch.tensor(sizes) - 1)[..., None]
    hidden_VKD = tokenizer.embed(codes_VK1)[:, :, 0]
    return [hidden_VKD[:size, k] for k, size in enumerate(sizes)]


def _standard(vectors_VD: Tensor) -> Tensor:
    centred_VD = vectors_VD - vectors_VD.mean(dim=0)
    return centred_VD / _rms(centred_VD)


def _rms(vectors_VD: Tensor) -> Tensor:
    return vectors_VD.square().mean().sqrt().clamp(min=1e-8)
