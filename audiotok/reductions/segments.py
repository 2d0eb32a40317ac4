"""Tokens of neighbouring frames that are alike: each is the mean of the frames that it stands for.

How alike two frames are is the cosine of their latents, or the square of their distance. All but `Similar` look at the whole utterance
before they say where a token ends. The loops are compiled; a plan of 250 frames takes about a millisecond.
"""

import heapq
from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
import torch
from torch import Tensor

from audiotok.reductions.plan import Plan, budget, check_share, means, segments

CHUNK = 1 << 22  # similarities at a time


@dataclass(frozen=True)
class Similar:
    """A token ends where the cosine of a frame and the next is `threshold` or less, or after `longest` frames.

    After FlexiCodec (arXiv 2510.00981), which looks at the features of a speech recogniser; here it is the latents themselves.
    """

    threshold: float
    longest: int

    causal = True
    uniform = None

    def __post_init__(self) -> None:
        _check_longest(self.longest)

    def plan(self, hidden_ND: Tensor) -> Plan:
        unit_ND = unit(hidden_ND)
        differ_N = (unit_ND * unit_ND.roll(1, 0)).sum(dim=1) <= self.threshold
        differ_N[:1] = True
        frame_N = torch.arange(len(differ_N), device=differ_N.device)
        run_N = torch.where(differ_N, frame_N, 0).cummax(dim=0).values
        return means(segments((frame_N - run_N) % self.longest == 0))


@dataclass(frozen=True)
class Agglomerative:
    """Neighbouring tokens become one, the two that cost least first, until there are `share` as many tokens as frames.

    A token has at most `longest` frames, so that there may remain more. The cost of a merge:

    ward     what it adds to the sum of squared distances of frames from their token's mean
    average  one less the cosine of two frames, on average over the pairs of a frame here and a frame there

    The first of equals is merged first. O(N (D + log N)).
    """

    share: float
    linkage: Literal["ward", "average"]
    longest: int

    causal = False
    uniform = None

    def __post_init__(self) -> None:
        check_share(self.share)
        _check_longest(self.longest)
        if self.linkage not in ("ward", "average"):
            raise ValueError(f"got linkage={self.linkage}, want ward or average")

    def plan(self, hidden_ND: Tensor) -> Plan:
        ward = self.linkage == "ward"
        values_ND = _array(hidden_ND.double() if ward else unit(hidden_ND))
        starts_N = _agglomerate(values_ND, budget(self.share, len(values_ND)), ward, self.longest)
        return means(segments(torch.from_numpy(starts_N).to(hidden_ND.device)))


@dataclass(frozen=True)
class DensityPeaks:
    """Tokens grow around density peaks (VARSTok, arXiv 2509.04685).

    With the similarity s = (1 + cosine) / 2 and the distance d = 1 - s, a frame's density is exp(-d) for the mean d to its `neighbours`
    nearest frames, and its score the density times the d to the nearest frame that is denser (to the furthest one where none is). From the
    best score down, each frame that is not in a token begins one; it takes the frames behind it and then those before it, as long as they
    are free, s - `penalty` x their score is above `threshold`, and it has not `longest` frames.

    The code that VARSTok was trained with has the sign of the distances wrong, as its authors say; this is what the paper describes. N x N
    similarities are computed, never all kept.
    """

    neighbours: int
    threshold: float
    penalty: float
    longest: int

    causal = False
    uniform = None

    def __post_init__(self) -> None:
        _check_longest(self.longest)
        if self.neighbours < 1:
            raise ValueError(f"got the density of {self.neighbours} neighbours, want 1 or more")

    def plan(self, hidden_ND: Tensor) -> Plan:
        unit_ND = unit(hidden_ND)
        score_N = scores(unit_ND, self.neighbours)
        order_N = score_N.argsort(descending=True, stable=True)
        starts_N = _grow(_array(unit_ND), _array(score_N), _array(order_N), self.threshold, self.penalty, self.longest)
        return means(segments(torch.from_numpy(starts_N).to(hidden_ND.device)))


@dataclass(frozen=True)
class ByDensity:
    """Coarse tokens where little happens and fine ones where much does, `share` as many as frames (after SemToken, arXiv 2508.15190).

    The utterance begins as tokens of `longest` frames. As long as there are too few, the one whose frames scatter most is halved: by the
    trace of their covariance, which is SemToken's density, times their number, as a long token of some scatter loses more than a short one.
    """

    share: float
    longest: int

    causal = False
    uniform = None

    def __post_init__(self) -> None:
        check_share(self.share)
        _check_longest(self.longest)

    def plan(self, hidden_ND: Tensor) -> Plan:
        values_ND = _array(hidden_ND.double())
        starts_N = _refine(values_ND, budget(self.share, len(values_ND)), self.longest)
        return means(segments(torch.from_numpy(starts_N).to(hidden_ND.device)))


def unit(hidden_ND: Tensor) -> Tensor:
    """float64 rows of length 1, whose products are cosines. A frame of zeros is like any other one of zeros: it gets an axis of its own."""
    length_N1 = hidden_ND.double().norm(dim=1, keepdim=True)
    return torch.cat([hidden_ND.double() / length_N1.clamp(min=torch.finfo(torch.float64).tiny), (length_N1 == 0).double()], dim=1)


def scores(unit_ND: Tensor, neighbours: int) -> Tensor:
    """How much of a density peak each frame is; see `DensityPeaks`."""
    near = min(neighbours, len(unit_ND) - 1)
    if near < 1:
        return unit_ND.new_zeros(len(unit_ND))
    rows = torch.arange(len(unit_ND), device=unit_ND.device).split(max(CHUNK // len(unit_ND), 1))
    density_N = torch.cat([_density(_apart(unit_ND, row), row, near) for row in rows])
    return density_N * torch.cat([_to_denser(_apart(unit_ND, row), density_N, row) for row in rows])


def _apart(unit_ND: Tensor, row_R: Tensor) -> Tensor:
    return (1 - unit_ND[row_R] @ unit_ND.T) / 2


def _density(apart_RN: Tensor, row_R: Tensor, near: int) -> Tensor:
    others_RN = apart_RN.scatter(1, row_R[:, None], torch.inf)
    return (-others_RN.topk(near, largest=False).values.mean(dim=1)).exp()


def _to_denser(apart_RN: Tensor, density_N: Tensor, row_R: Tensor) -> Tensor:
    denser_RN = density_N > density_N[row_R, None]
    nearest_R = apart_RN.masked_fill(~denser_RN, torch.inf).amin(dim=1)
    return torch.where(denser_RN.any(dim=1), nearest_R, apart_RN.amax(dim=1))


def _array(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()


def _check_longest(longest: int) -> None:
    if longest < 1:
        raise ValueError(f"got tokens of at most {longest} frames, want 1 or more")


@numba.njit(cache=True)
def _merge_cost(sum_ND: np.ndarray, size_N: np.ndarray, left: int, right: int, ward: bool) -> float:
    a, b = size_N[left], size_N[right]
    total = 0.0
    if ward:
        for i in range(sum_ND.shape[1]):
            total += (sum_ND[left, i] / a - sum_ND[right, i] / b) ** 2
        return total * a * b / (a + b)
    for i in range(sum_ND.shape[1]):  # the mean over pairs of a product is the product of the means
        total += sum_ND[left, i] * sum_ND[right, i]
    return 1.0 - total / (a * b)


@numba.njit(cache=True)
def _agglomerate(values_ND: np.ndarray, wanted: int, ward: bool, longest: int) -> np.ndarray:
    """Where tokens start. A token is known by its first frame; an entry of the heap is out of date where that token's age is another."""
    frames = len(values_ND)
    sum_ND, size_N, age_N = values_ND.copy(), np.ones(frames, np.int64), np.zeros(frames, np.int64)
    before_N, starts_N = np.arange(frames) - 1, np.ones(frames, np.bool_)
    heap = [(_merge_cost(sum_ND, size_N, left, left + 1, ward), left, 0) for left in range(frames - 1)]
    heapq.heapify(heap)
    tokens = frames
    while tokens > wanted and len(heap) > 0:
        _, left, age = heapq.heappop(heap)
        right = left + size_N[left]
        if not starts_N[left] or age != age_N[left] or size_N[left] + size_N[right] > longest:
            continue
        sum_ND[left] += sum_ND[right]
        size_N[left] += size_N[right]
        starts_N[right] = False
        tokens -= 1
        after = left + size_N[left]
        if after < frames:
            before_N[after] = left
        for first in (left, before_N[left]):
            if first >= 0 and first + size_N[first] < frames:
                age_N[first] += 1
                heapq.heappush(heap, (_merge_cost(sum_ND, size_N, first, first + size_N[first], ward), first, age_N[first]))
    return starts_N


@numba.njit(cache=True)
def _grow(unit_ND: np.ndarray, score_N: np.ndarray, order_N: np.ndarray, threshold: float, penalty: float, longest: int) -> np.ndarray:
    frames = len(unit_ND)
    taken_N, starts_N = np.zeros(frames, np.bool_), np.zeros(frames, np.bool_)
    for seed in order_N:
        if taken_N[seed]:
            continue
        taken_N[seed] = True
        first, size = seed, 1
        for step in (1, -1):
            frame = seed + step
            while 0 <= frame < frames and not taken_N[frame] and size < longest:
                alike = (1.0 + np.dot(unit_ND[seed], unit_ND[frame])) / 2.0
                if alike - penalty * score_N[frame] <= threshold:
                    break
                taken_N[frame] = True
                first, size = min(first, frame), size + 1
                frame += step
        starts_N[first] = True
    return starts_N


@numba.njit(cache=True)
def _scatter(sum_ND: np.ndarray, square_N: np.ndarray, first: int, end: int) -> float:
    """The squared distances of frames [first, end) from their mean, summed."""
    total = square_N[end] - square_N[first]
    for i in range(sum_ND.shape[1]):
        total -= (sum_ND[end, i] - sum_ND[first, i]) ** 2 / (end - first)
    return total


@numba.njit(cache=True)
def _refine(values_ND: np.ndarray, wanted: int, longest: int) -> np.ndarray:
    frames, width = values_ND.shape
    sum_ND, square_N = np.zeros((frames + 1, width)), np.zeros(frames + 1)
    for n in range(frames):
        sum_ND[n + 1] = sum_ND[n] + values_ND[n]
        square_N[n + 1] = square_N[n] + np.sum(values_ND[n] ** 2)
    starts_N = np.arange(frames) % longest == 0
    tokens = starts_N.sum()
    heap = [(0.0, 0, 0)]
    heap.clear()
    for first in range(0, frames, longest):
        end = min(first + longest, frames)
        heapq.heappush(heap, (-_scatter(sum_ND, square_N, first, end), first, end))
    while tokens < wanted and len(heap) > 0:
        _, first, end = heapq.heappop(heap)
        if end - first < 2:
            continue
        middle = (first + end + 1) // 2
        starts_N[middle] = True
        tokens += 1
        heapq.heappush(heap, (-_scatter(sum_ND, square_N, first, middle), first, middle))
        heapq.heappush(heap, (-_scatter(sum_ND, square_N, middle, end), middle, end))
    return starts_N
