"""Some frames are kept, each held until the next one that is; the first frame always is.

Frames are compared by the cosine of their latents, so that a threshold means the same whatever a tokenizer's latents are scaled by.
"""

from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor

from audiotok.reductions.plan import Plan, budget, check_share, means, picks, segments
from audiotok.reductions.segments import unit


@dataclass(frozen=True)
class ChangeAbove:
    """A frame is kept where its cosine with the last one that was kept is `threshold` or less.

    After EVS (arXiv 2510.14624), which compares neighbours: a slow change then goes unseen however far it leads.
    """

    threshold: float

    causal = True
    uniform = None

    def plan(self, hidden_ND: Tensor) -> Plan:
        return _held(torch.from_numpy(_changed(unit(hidden_ND).cpu().numpy(), self.threshold)).to(hidden_ND.device))


@dataclass(frozen=True)
class LargestChange:
    """The `share` of frames that are furthest from the frame before them, by cosine; the first of equals (EVS, arXiv 2510.14624)."""

    share: float

    causal = False
    uniform = None

    def __post_init__(self) -> None:
        check_share(self.share)

    def plan(self, hidden_ND: Tensor) -> Plan:
        unit_ND = unit(hidden_ND)
        alike_N = (unit_ND * unit_ND.roll(1, 0)).sum(dim=1)
        alike_N[:1] = -torch.inf
        return _held(_least(alike_N, budget(self.share, len(alike_N))))


@dataclass(frozen=True)
class Diverse:
    """A `share` of frames that are far from one another (DivPrune, arXiv 2503.02175).

    Each is the one furthest from all that are kept before; distance is one less the cosine, and the first of equals is taken. DivPrune
    begins with the frame that is furthest from its nearest, and here it is the first one, which has to be kept. O(share x N^2 x D).
    """

    share: float

    causal = False
    uniform = None

    def __post_init__(self) -> None:
        check_share(self.share)

    def plan(self, hidden_ND: Tensor) -> Plan:
        kept_N = _spread(unit(hidden_ND).cpu().numpy(), budget(self.share, len(hidden_ND)))
        return _held(torch.from_numpy(kept_N).to(hidden_ND.device))


@dataclass(frozen=True)
class Redundant:
    """The frames that are most like their neighbours are averaged into the ones that are kept (after FiCoCo, arXiv 2411.17686).

    Filter: the `share` of frames that are least like the frame before and the frame behind, on average, is kept. Correlate: of the others
    between two kept ones, the first go to the one before and the rest to the one behind, divided so that the sum of the cosines with the
    frame they go to is largest; of equals, more go to the one before. Compress: a token is the mean of a kept frame and of those that went
    to it, and stands for them.
    """

    share: float

    causal = False
    uniform = None

    def __post_init__(self) -> None:
        check_share(self.share)

    def plan(self, hidden_ND: Tensor) -> Plan:
        unit_ND = unit(hidden_ND)
        kept_N = _least(_redundancy(unit_ND), budget(self.share, len(unit_ND)))
        return means(segments(_divided(unit_ND, kept_N)))


def _divided(unit_ND: Tensor, kept_N: Tensor) -> Tensor:
    """Where tokens start, when each frame goes to the kept one before or to the one behind it."""
    kept_M, gap_N, frame_N = kept_N.nonzero()[:, 0], kept_N.long().cumsum(0) - 1, torch.arange(len(kept_N), device=kept_N.device)
    behind_N = kept_M[(gap_N + 1).clamp(max=len(kept_M) - 1)] if len(kept_M) else gap_N  # nothing is behind the last: it is so itself
    gain_N = (unit_ND * (unit_ND[kept_M[gap_N]] - unit_ND[behind_N])).sum(dim=1).masked_fill(kept_N, 0)
    total_N = gain_N.cumsum(0)
    so_far_N = total_N - total_N[kept_M][gap_N]  # what it gains that the gap's frames up to this one go to the one before
    best_M = torch.zeros_like(total_N[kept_M]).scatter_reduce(0, gap_N, so_far_N, "amax")
    last_M = torch.zeros_like(kept_M).scatter_reduce(0, gap_N, torch.where(so_far_N == best_M[gap_N], frame_N, 0), "amax")
    return torch.zeros_like(kept_N).scatter(0, torch.cat([kept_M[:1], last_M[:-1] + 1]), True)


def _redundancy(unit_ND: Tensor) -> Tensor:
    """The mean cosine with the frames before and behind, of those there are; the first frame's is the least of all."""
    alike_N = (unit_ND[1:] * unit_ND[:-1]).sum(dim=1)
    sums_N, numbers_N = unit_ND.new_zeros(2, len(unit_ND))
    for there in (slice(1, None), slice(None, -1)):
        sums_N[there] += alike_N
        numbers_N[there] += 1
    return torch.cat([sums_N.new_full((1,), -torch.inf), (sums_N / numbers_N)[1:]])[: len(unit_ND)]


def _least(values_N: Tensor, number: int) -> Tensor:
    """Bool: the smallest values, the first of equals."""
    kept_N = torch.zeros_like(values_N, dtype=torch.bool)
    kept_N[values_N.argsort(stable=True)[:number]] = True
    return kept_N


def _held(kept_N: Tensor) -> Plan:
    return picks(kept_N.nonzero()[:, 0], segments(kept_N))


@numba.njit(cache=True)
def _changed(unit_ND: np.ndarray, threshold: float) -> np.ndarray:
    kept_N = np.zeros(len(unit_ND), np.bool_)
    last = 0
    for frame in range(len(unit_ND)):
        if frame == 0 or np.dot(unit_ND[frame], unit_ND[last]) <= threshold:
            kept_N[frame] = True
            last = frame
    return kept_N


@numba.njit(cache=True)
def _spread(unit_ND: np.ndarray, wanted: int) -> np.ndarray:
    """Farthest-point sampling from the first frame on."""
    frames = len(unit_ND)
    kept_N, alike_N = np.zeros(frames, np.bool_), np.full(frames, -np.inf)
    last = 0
    for _ in range(wanted):
        kept_N[last] = True
        alike_N = np.maximum(alike_N, np.dot(unit_ND, unit_ND[last]))
        alike_N[last] = np.inf
        last = int(np.argmin(alike_N))
    return kept_N
