"""What is emitted against its law: draws by the thousand, chi-square, shares within their standard error."""

from collections.abc import Sequence
from functools import reduce

import torch
from scipy.stats import chisquare
from torch import Tensor

from audiotok.decoding.acceptance import Rule
from audiotok.decoding.kernels import Kernel
from audiotok.decoding.samplers import Uniforms, invert_cdf


class Shared(Uniforms):
    """Random numbers of one generator for thousands of rows: a law does not care whose they are."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def more(self, rows: Sequence[int], count: int) -> Tensor:
        return torch.rand(len(rows), count, generator=self.generator, dtype=torch.float64)


def draw(law_BV: Tensor, numbers: Uniforms) -> Tensor:
    return invert_cdf(law_BV, numbers.more(range(len(law_BV)), 1)[:, 0])


def joint(parts: Sequence[Tensor]) -> Tensor:
    """Of laws or kernels of codebooks those of their product, the last codebook the fastest."""
    return reduce(torch.kron, parts)


def index(codes_BK: Tensor, sizes: Sequence[int]) -> Tensor:
    return reduce(lambda known_B, k: known_B * sizes[k] + codes_BK[:, k], range(len(sizes)), torch.zeros_like(codes_BK[:, 0]))


def p_value(found_N: Tensor, law_S: Tensor) -> float:
    """Of the chi-square test; cells that are expected less than five times are counted together."""
    counts_S, expected_S = found_N.bincount(minlength=len(law_S)).double(), law_S * len(found_N)
    assert counts_S[law_S == 0].sum() == 0, "what has no probability was emitted"
    rare_S = expected_S < 5
    cells = [torch.cat([values[~rare_S], values[rare_S].sum()[None]]) for values in (counts_S, expected_S)]
    counts, expected = (values[cells[1] > 0].numpy() for values in cells)
    return chisquare(counts, expected * counts.sum() / expected.sum()).pvalue if len(counts) > 1 else 1.0


def emit(rule: Rule, p: Sequence[Tensor], q: Sequence[Tensor], *, num: int = 20_000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The first emitted codes [num, K] where one position was drafted, and whether it stood; p and q are laws [V_k] of each codebook."""
    numbers = Shared(seed)
    drafted_BK = torch.stack([draw(law_V.expand(num, -1), numbers) for law_V in q], dim=1)
    p_BNV, q_BGV = [law_V.expand(num, 2, -1) for law_V in p], [law_V.expand(num, 1, -1) for law_V in q]
    accepted_B, next_BK = rule.verify(p_BNV, q_BGV, drafted_BK[..., None], numbers)
    stood_B = accepted_B == 1
    return torch.where(stood_B[:, None], drafted_BK, next_BK), stood_B


def overlap(p_S: Tensor, q_S: Tensor) -> float:
    return torch.minimum(p_S, q_S).sum().item()


def same_share(found_B: Tensor, share: float) -> bool:
    """Within 3.5 standard errors."""
    return abs(found_B.double().mean().item() - share) < 3.5 * (share * (1 - share) / len(found_B)) ** 0.5 + 1e-12


def dense(kernel: Kernel, size: int) -> Tensor:
    """W [groups, codes]."""
    codes_VV, groups_VV = torch.arange(size).expand(size, size), torch.arange(size)[:, None].expand(size, size)
    return kernel.mass(torch.eye(size, dtype=torch.float64), codes_VV.flatten(), groups_VV.flatten()).view(size, size)
