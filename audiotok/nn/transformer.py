"""A decoder-only transformer: RMSNorm (arXiv 1910.07467), rotary positions (arXiv 2104.09864), SwiGLU (arXiv 2002.05202), pre-norm.

Vectors in, vectors out: embeddings, conditions and heads belong to the models. One module serves training (a whole sequence, causal) and
generation (a cache, a few positions at a time), and the two agree.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.nn.kv_cache import KVCache

ROTARY_BASE = 10000.0  # of arXiv 2104.09864
PLAIN_LENGTH = 1024  # up to here plain products, forward and backward in bf16 on a CPU, took a third to a half of the fused kernel's time


class Transformer(nn.Module):
    """`layers` blocks and a final norm. Dropout acts on what a block adds, not on attention weights: those stay in the fused kernels."""

    def __init__(self, width: int, *, layers: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"rotary positions need an even width per head; got width {width} for {heads} heads")
        self.heads = heads
        self.head_width = width // heads
        self.blocks = nn.ModuleList(Block(width, heads=heads, feed_forward=feed_forward, dropout=dropout) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self._initialise()

    def _initialise(self) -> None:
        # GPT-2's: what enters the residual stream is scaled down by its number of additions.
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                into_residual = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * len(self.blocks)) ** 0.5 if into_residual else 0.02)

    def cache(self, rows: int, *, positions: int) -> KVCache:
        """An empty cache on the weights' device and in their type."""
        weight = self.norm.weight
        return KVCache.empty(
            rows,
            layers=len(self.blocks),
            heads=self.heads,
            positions=positions,
            width=self.head_width,
            dtype=weight.dtype,
            device=weight.device,
        )

    def forward(
        self,
        hidden_BND: Tensor,
        *,
        cache: KVCache | None = None,
        lengths_B: Tensor | None = None,
        places: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """hidden_BND, each position seeing itself and those before it.

        Without a cache the sequence starts at position 0; rows padded on the right need no mask, as nothing looks ahead. With one it goes
        on where each row of the cache ends, and the cache grows by `lengths_B` positions (all N where that is None): a prompt padded on
        the right is given with its true lengths, and what is computed past them is meaningless. `places`, with a cache only, are rotary
        positions and a mask [B, 1, N, S] of the inputs' own, where they do not follow each other (`audiotok.nn.branching`).
        """
        _, num_positions, _ = hidden_BND.shape
        if cache is None:
            positions_BN = torch.arange(num_positions, device=hidden_BND.device)[None]
            mask = None
        else:
            if num_positions > cache.capacity:
                raise ValueError(f"{num_positions} positions do not fit in a cache of {cache.capacity}")
            positions_BN = cache.lengths_B[:, None] + torch.arange(num_positions, device=hidden_BND.device)
            mask = cache.mask(positions_BN) if places is None else places[1]
        rotation = rotary(positions_BN if places is None else places[0], width=self.head_width)
        for layer, block in enumerate(self.blocks):
            hidden_BND = block(hidden_BND, rotation=rotation, layer=layer, cache=cache, positions_BN=positions_BN, mask=mask)
        if cache is not None:
            cache.grow(num_positions, lengths_B=lengths_B)
        return self.norm(hidden_BND)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, width: int, *, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width)
        self.attention = Attention(width, heads=heads)
        self.feed_forward_norm = nn.RMSNorm(width)
        self.feed_forward = SwiGLU(width, hidden=feed_forward)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        hidden_BND: Tensor,
        *,
        rotation: tuple[Tensor, Tensor],
        layer: int,
        cache: KVCache | None,
        positions_BN: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        attended_BND = self.attention(
            self.attention_norm(hidden_BND), rotation=rotation, layer=layer, cache=cache, positions_BN=positions_BN, mask=mask
        )
        hidden_BND = hidden_BND + self.dropout(attended_BND)
        return hidden_BND + self.dropout(self.feed_forward(self.feed_forward_norm(hidden_BND)))


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.input = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(
        self,
        hidden_BND: Tensor,
        *,
        rotation: tuple[Tensor, Tensor],
        layer: int,
        cache: KVCache | None,
        positions_BN: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        queries, keys, values = self.turned(hidden_BND, rotation)
        if cache is not None:
            keys, values = cache.write(layer, keys, values, positions_BN=positions_BN)
            queries = queries.to(keys.dtype)
        attended_BHND = attend(queries, keys, values, mask=mask)
        return self.output(attended_BHND.transpose(1, 2).flatten(2))

    def turned(self, hidden_BND: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, H, N, D], the first two turned to their positions."""
        queries, keys, values = self.input(hidden_BND).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return rotate(queries, rotation), rotate(keys, rotation), values


class SwiGLU(nn.Module):
    """down(silu(gate) * up)."""

    def __init__(self, width: int, *, hidden: int) -> None:
        super().__init__()
        self.input = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, hidden_BND: Tensor) -> Tensor:
        gate, up = self.input(hidden_BND).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


def attend(queries_BHND: Tensor, keys_BHSD: Tensor, values_BHSD: Tensor, *, mask: Tensor | None) -> Tensor:
    """Attention of [B, H, N, D], causal where no mask is given."""
    length = queries_BHND.shape[2]
    if mask is not None or queries_BHND.device.type != "cpu" or length > PLAIN_LENGTH:
        return F.scaled_dot_product_attention(queries_BHND, keys_BHSD, values_BHSD, attn_mask=mask, is_causal=mask is None)
    scores_BHNN = (queries_BHND * queries_BHND.shape[-1] ** -0.5) @ keys_BHSD.transpose(-1, -2)
    later_NN = torch.ones(length, length, dtype=torch.bool).triu(1)
    return scores_BHNN.masked_fill(later_NN, float("-inf")).softmax(-1) @ values_BHSD


def rotary(positions_BN: Tensor, *, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each float32 [B, 1, N, width / 2], by which queries and keys of one head are turned."""
    frequencies = ROTARY_BASE ** (-torch.arange(0, width, 2, device=positions_BN.device, dtype=torch.float32) / width)
    angles = positions_BN[:, None, :, None].float() * frequencies
    return angles.cos(), angles.sin()


def rotate(vectors_BHND: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """The vectors with component i and component i + D/2 turned as one plane, computed in float32."""
    cosine, sine = rotation
    first, second = vectors_BHND.float().chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1).to(vectors_BHND.dtype)
