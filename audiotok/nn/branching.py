"""Positions that branch: several continuations of one past, heard at once by a transformer with a cache.

Input 0 is the root, which goes on where the cache ends, and every other input follows one before it. Each sees the past, the inputs on
its way from the root, and itself, at the rotary position that it would have if its branch were the only one (arXiv 2305.09781):

    0 - 1 - 3        input     0  1  2  3
    |                parent       0  0  1        3 sees 0, 1 and itself,
    + - 2            depth     0  1  1  2        and stands at past + 2
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from audiotok.nn.inference import FastTransformer
from audiotok.nn.kv_cache import KVCache
from audiotok.nn.transformer import Transformer


@dataclass(frozen=True)
class Branches:
    """The last N of M inputs of a tree that begins at a cache's last M - N positions: depths [B, N], and which of the M each sees."""

    depths_BN: Tensor
    sees_BNM: Tensor

    @classmethod
    def of(cls, parents_BG: Tensor) -> "Branches":
        """Those of a root and of G nodes behind it, whose parents are earlier nodes, or -1 for the root."""
        rows, nodes = parents_BG.shape
        if (parents_BG < -1).any() or (parents_BG >= torch.arange(nodes, device=parents_BG.device)).any():
            raise ValueError(f"a node's parent is -1 (the root) or a node before it; got {parents_BG.tolist()}")
        rows_B = torch.arange(rows, device=parents_BG.device)
        sees_BNN = torch.eye(nodes + 1, dtype=torch.bool, device=parents_BG.device).repeat(rows, 1, 1)
        for node, parent_B in enumerate(parents_BG.unbind(1), start=1):
            sees_BNN[:, node] |= sees_BNN[rows_B, parent_B + 1]
        return cls(sees_BNN.sum(-1) - 1, sees_BNN)

    def last(self, count: int) -> "Branches":
        """The last `count` inputs alone; those before them have been heard."""
        first = self.depths_BN.shape[1] - count
        return replace(self, depths_BN=self.depths_BN[:, first:], sees_BNM=self.sees_BNM[:, first:])

    @property
    def heard(self) -> int:
        """How many inputs of the tree the cache holds already."""
        return self.sees_BNM.shape[2] - self.sees_BNM.shape[1]


def branched(transformer: Transformer | FastTransformer, hidden_BND: Tensor, *, cache: KVCache, branches: Branches) -> Tensor:
    """hidden_BND of inputs that branch, after which the cache holds them all, in their order; `KVCache.keep` then leaves one branch.

    A transformer that was made ready to speak runs its PyTorch code here: its compiled step knows inputs in a line only.
    """
    module = transformer.module if isinstance(transformer, FastTransformer) else transformer
    first_B1 = (cache.lengths_B - branches.heard)[:, None]
    return module(hidden_BND, cache=cache, places=(first_B1 + branches.depths_BN, cache.branching_mask(branches.sees_BNM)))
