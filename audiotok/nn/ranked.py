"""A head that multiplies only the rows of the codes that are said often (FR-Spec, arXiv 2502.14856).

A drafter that never says a rare code loses little, as the model says those itself, and reads a part of its head.
"""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from audiotok.nn import matrix
from audiotok.nn.matrix import Matrix, Weights

LEFT_OUT = -1e4  # a logit whose probability is 0, and finite: where only codes that are left out may stand, they may, all alike


class RankedHead:
    """As `Matrix`, float32 [B, N, V], of the rows `kept_R` alone; the others' logits are `LEFT_OUT`."""

    def __init__(self, rows: Matrix, kept_R: Tensor, *, size: int) -> None:
        self.rows, self.kept_R, self.size = rows, kept_R, size

    def __call__(self, hidden_BND: Tensor) -> Tensor:
        logits_BNR = self.rows(hidden_BND)
        left_out_BNV = logits_BNR.new_full((*logits_BNR.shape[:-1], self.size), LEFT_OUT)
        return left_out_BNV.index_copy(-1, self.kept_R, logits_BNR)


class MadeHeads:
    """The last few heads of a transformer that speaks: a step begins with each sentence, and many rows are slow to copy."""

    def __init__(self) -> None:
        self._made = deque[tuple[Tensor, Tensor | None, Weights, Matrix | RankedHead]](maxlen=4)

    def get(self, weight_VD: Tensor, kept_R: Tensor | None, weights: Weights) -> Matrix | RankedHead:
        """The head of these very tensors, made if it is not among the last ones."""
        for known_VD, known_R, known_as, known in self._made:
            if known_VD is weight_VD and known_R is kept_R and known_as == weights:
                return known
        self._made.append((weight_VD, kept_R, weights, made := _head(weight_VD, kept_R, weights)))
        return made


def head(transformer: object, weight_VD: Tensor, *, kept_R: Tensor | None, weights: Weights | None = None) -> Matrix | RankedHead:
    """The head after a transformer, of all its rows where `kept_R` is None; as small as the transformer's weights where not told."""
    read_as: Weights = getattr(transformer, "weights", "fp32") if weights is None else weights
    made: MadeHeads | None = getattr(transformer, "made_heads", None)
    return _head(weight_VD, kept_R, read_as) if made is None else made.get(weight_VD, kept_R, read_as)


def _head(weight_VD: Tensor, kept_R: Tensor | None, weights: Weights) -> Matrix | RankedHead:
    if kept_R is None:
        return matrix.head(weight_VD, weights)
    return RankedHead(matrix.head(weight_VD[kept_R], weights), kept_R, size=len(weight_VD))


def most_frequent(ranks: Sequence[Sequence[int]], count: int) -> Tensor:
    """kept_R: the rows of a head, codebooks one after another, that are of the first `count` codes of each codebook in `ranks`."""
    if count < 1:
        raise ValueError(f"a drafter keeps at least one code of each codebook; got drafting.kept={count}")
    offsets = torch.tensor([0, *map(len, ranks)]).cumsum(0)
    return torch.cat([torch.tensor(ids[:count]).sort().values + offset for ids, offset in zip(ranks, offsets)])


def frequencies(codes: Sequence[Tensor], codebook_sizes: Sequence[int]) -> list[list[int]]:
    """Of each codebook all its codes, the most frequent in codes_BKN first, as frequent ones by their ids; -1 is no code."""
    totals = [torch.zeros(size, dtype=torch.int64) for size in codebook_sizes]
    for codes_BKN in codes:
        for total_V, codes_BN in zip(totals, codes_BKN.unbind(1), strict=True):
            total_V += torch.bincount(codes_BN[codes_BN >= 0], minlength=len(total_V))
    return [total_V.argsort(descending=True, stable=True).tolist() for total_V in totals]
