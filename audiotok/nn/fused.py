"""A step in which all that lies between one attention and the next is compiled by torch.compile, the same two functions for every block.

Norms, rotations, gates, residuals and the unpacking of int8 weights become parts of few kernels. Keys and values are written by PyTorch's
own operation: compiled, it might copy the cache of all layers. Whether a compiler is there shows at the first call.
"""

import functools
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import cast

import torch
from torch import Tensor

from audiotok.nn.kv_cache import KVCache
from audiotok.nn.transformer import Block, Transformer, attend, rotary

COMPILERS = ("cc", "gcc", "clang")  # Triton compiles its launchers by one
TOO_OFTEN = (
    "FailOnRecompileLimitHit",
    "FailOnCacheLimitHit",
)  # no RuntimeErrors, as other failures are; the latter until 2.6
TIMES = 64  # a function is compiled anew for other types of weights, one row or several, and what else PyTorch takes for granted

Into = Callable[[Block, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
Out = Callable[[Block, Tensor, Tensor], Tensor]


def step(module: Transformer, hidden_BND: Tensor, *, cache: KVCache) -> Tensor:
    """`module(hidden_BND, cache=cache)`, compiled at the first call; for what speaks, as there is no dropout.

    Raises RuntimeError where it cannot be compiled, or was too often.
    """
    try:
        with torch._dynamo.config.patch(cache_size_limit=TIMES):  # the name that all versions know
            return in_parts(module, hidden_BND, cache, *_compiled())
    except Exception as error:
        if type(error).__name__ not in TOO_OFTEN:
            raise
        raise RuntimeError(f"it was compiled anew {TIMES} times, for other shapes, types or settings of PyTorch") from error


def in_parts(module: Transformer, hidden_BND: Tensor, cache: KVCache, into: Into, out_of: Out) -> Tensor:
    """The module's call with a cache, by two functions for each block: before its attention, and behind it."""
    num = hidden_BND.shape[1]
    positions_BN = cache.lengths_B[:, None] + torch.arange(num, device=hidden_BND.device)
    cosine, sine = rotary(positions_BN, width=module.head_width)
    mask = cache.mask(positions_BN)
    for layer, block in enumerate(module.blocks):
        queries, keys, values = into(cast(Block, block), hidden_BND, cosine, sine)
        keys, values = cache.write(layer, keys, values, positions_BN=positions_BN)
        hidden_BND = out_of(cast(Block, block), hidden_BND, attend(queries.to(keys.dtype), keys, values, mask=mask))
    cache.grow(num)
    return module.norm(hidden_BND)


def into_attention(block: Block, hidden_BND: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [B, H, N, D]."""
    return block.attention.turned(block.attention_norm(hidden_BND), (cosine, sine))


def out_of_attention(block: Block, hidden_BND: Tensor, attended_BHND: Tensor) -> Tensor:
    """The block's hidden_BND, given its input and what was attended to."""
    hidden_BND = hidden_BND + block.attention.output(attended_BHND.transpose(1, 2).flatten(2))
    return hidden_BND + block.feed_forward(block.feed_forward_norm(hidden_BND))


def is_likely() -> bool:
    """Whether the packages and the compiler are there by which torch.compile makes kernels for a GPU."""
    return find_spec("triton") is not None and any(map(shutil.which, COMPILERS))


@functools.cache
def _compiled() -> tuple[Into, Out]:
    # In one piece or not at all: what is left in pieces would be no quicker, and no one would know.
    return torch.compile(into_attention, fullgraph=True), torch.compile(out_of_attention, fullgraph=True)
