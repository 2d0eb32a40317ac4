"""Latents, a tokenizer of random codewords, and every reduction, for the tests of reductions."""

from fractions import Fraction

import torch
from torch import Tensor

from audiotok import files
from audiotok.reductions.clusters import KMeans, KMedoids
from audiotok.reductions.plan import Composed, Reduction
from audiotok.reductions.pruning import ChangeAbove, Diverse, LargestChange, Redundant
from audiotok.reductions.segments import Agglomerative, ByDensity, DensityPeaks, Similar
from audiotok.reductions.uniform import Adaptive, Average, Blur, First, Max, Soft
from audiotok.types import TokenSpec

UNIFORM: list[Reduction] = [
    First(1), First(3), Average(2), Average(5), Max(3), Soft(2), Adaptive(3, near=0.4), Blur(2, taps=4), Blur(3, taps=5),
    Composed([Average(2), Max(2)]),
]  # fmt: skip
VARYING: list[Reduction] = [
    Similar(0.8, longest=4), Similar(0.95, longest=50), Agglomerative(0.4, linkage="ward", longest=6),
    Agglomerative(0.3, linkage="average", longest=50), DensityPeaks(4, threshold=0.9, penalty=0.1, longest=5), ByDensity(0.4, longest=8),
    KMeans(0.5, rounds=4), KMedoids(0.5, rounds=4), ChangeAbove(0.8), LargestChange(0.4), Diverse(0.4), Redundant(0.4),
    Composed([Average(2), Similar(0.7, longest=4)]), Composed([Similar(0.8, longest=4), Average(2)]),
]  # fmt: skip
EVERY = UNIFORM + VARYING


class Codewords:
    """A tokenizer of residual codebooks whose codewords are drawn, each codebook half as long as the one before."""

    def __init__(self, *sizes: int, width: int = 6, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.spec = TokenSpec(16_000, Fraction(50), sizes, files.fingerprint(["codewords", sizes, width, seed]))
        self.vectors = [torch.randn(size, width, generator=generator) * 0.5**k for k, size in enumerate(sizes)]

    def embed(self, codes_BKN: Tensor) -> Tensor:
        return torch.stack([vectors_VD[codes_BKN[:, k]] for k, vectors_VD in enumerate(self.vectors)], dim=1)


def walk(num_frames: int, *, width: int = 6, seed: int = 0) -> Tensor:
    """hidden_ND that stays here and jumps there, as speech does; no two frames are equally far from a third."""
    generator = torch.Generator().manual_seed(seed)
    frames = [torch.randn(width, generator=generator)]
    for _ in range(num_frames):
        pace = float(torch.rand((), generator=generator)) ** 3
        frames.append((1 - pace) * frames[-1] + pace * torch.randn(width, generator=generator))
    return torch.stack(frames)[1:]


def random_codes(spec: TokenSpec, num_frames: int, *, seed: int = 0) -> Tensor:
    """codes_KN in which frames repeat."""
    generator = torch.Generator().manual_seed(seed)
    codes_KN = (torch.rand(spec.num_codebooks, num_frames, generator=generator) * torch.tensor(spec.codebook_sizes)[:, None]).long()
    return codes_KN.repeat_interleave(torch.randint(1, 4, (num_frames,), generator=generator), dim=1)[:, :num_frames]
