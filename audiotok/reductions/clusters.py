"""Token pooling by clustering (arXiv 2110.03860): frames that are alike are one token, wherever in the utterance they are.

Clusters are of one utterance. A token is a run of frames of the same cluster, so that tokens stand in time order and their number says
what is sent: more than there are clusters, where a sound comes back.

    frames     a a b b a b        clusters {a a a} {b b b}
    tokens     A   B   A B        durations 2 2 1 1

So that a rate can be asked for, the number of clusters is sought by bisection: the largest it finds whose runs are at most `share` times
the frames. The paper has a number of clusters and no order, and weights frames by the attention they get; here all weigh the same.

The first centres are frames at equal distances in time, so that nothing is drawn. A frame goes to the nearest centre, the first of equals,
and centres move to their frames until they stay or `rounds` are over; one that has lost all its frames stays where it is.
O(rounds x share x N^2 x D log N): some ten milliseconds for 250 frames, a minute for 10,000.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from audiotok.reductions.plan import Plan, budget, check_share, picks, segments, weighted

CHUNK = 1 << 22  # distances at a time


@dataclass(frozen=True)
class KMeans:
    """Every token is the mean of all frames of its cluster, not of its own alone."""

    share: float
    rounds: int

    causal = False
    uniform = None

    def __post_init__(self) -> None:
        _check(self.share, self.rounds)

    def plan(self, hidden_ND: Tensor) -> Plan:
        cluster_N, _ = _sought(hidden_ND.double(), self.share, self.rounds, medoids=False)
        return _means_of_clusters(cluster_N)


@dataclass(frozen=True)
class KMedoids:
    """Every token is the frame of its cluster that has the smallest sum of squared distances to the cluster's others."""

    share: float
    rounds: int

    causal = False
    uniform = None

    def __post_init__(self) -> None:
        _check(self.share, self.rounds)

    def plan(self, hidden_ND: Tensor) -> Plan:
        cluster_N, medoid_C = _sought(hidden_ND.double(), self.share, self.rounds, medoids=True)
        durations_M, cluster_M = _runs(cluster_N)
        return picks(medoid_C[cluster_M], durations_M)


def _check(share: float, rounds: int) -> None:
    check_share(share)
    if rounds < 1:
        raise ValueError(f"got {rounds} rounds of clustering, want 1 or more")


def _sought(hidden_ND: Tensor, share: float, rounds: int, *, medoids: bool) -> tuple[Tensor, Tensor]:
    """`_clustered` with the largest number of clusters that bisection finds to make few enough runs; one cluster always does."""
    wanted = budget(share, len(hidden_ND))
    best, first_wrong = _clustered(hidden_ND, min(wanted, 1), rounds, medoids=medoids), wanted + 1
    while first_wrong - len(best[1]) > 1:
        middle = (first_wrong + len(best[1])) // 2
        tried = _clustered(hidden_ND, middle, rounds, medoids=medoids)
        if len(_runs(tried[0])[0]) <= wanted:
            best = tried
        else:
            first_wrong = middle
    return best


def _clustered(hidden_ND: Tensor, clusters: int, rounds: int, *, medoids: bool) -> tuple[Tensor, Tensor]:
    """(cluster of each frame, the frame nearest to each cluster's mean).

    The frame nearest to the mean is the medoid, as the sum of squared distances to a point is the one to the mean and n times its own.
    """
    nearest_C = (torch.arange(clusters, device=hidden_ND.device) * len(hidden_ND)).div(max(clusters, 1), rounding_mode="floor")
    centre_CD, cluster_N = hidden_ND[nearest_C], torch.full_like(hidden_ND[:, 0], -1, dtype=torch.int64)
    for _ in range(rounds):
        before_N, cluster_N = cluster_N, _nearest(hidden_ND, centre_CD)
        if torch.equal(before_N, cluster_N):
            break
        mean_CD = _means(hidden_ND, cluster_N, centre_CD)
        nearest_C = _nearest_member(hidden_ND, cluster_N, mean_CD, nearest_C)
        centre_CD = hidden_ND[nearest_C] if medoids else mean_CD
    return cluster_N, nearest_C


def _nearest(hidden_ND: Tensor, centre_CD: Tensor) -> Tensor:
    if not len(hidden_ND):
        return torch.zeros(0, dtype=torch.int64, device=hidden_ND.device)
    chunks = hidden_ND.split(max(CHUNK // len(centre_CD), 1))
    squares_C = centre_CD.square().sum(dim=1)
    return torch.cat([(squares_C - 2 * chunk_ND @ centre_CD.T).argmin(dim=1) for chunk_ND in chunks])


def _means(hidden_ND: Tensor, cluster_N: Tensor, empty_CD: Tensor) -> Tensor:
    """The mean of each cluster's frames, `empty_CD` where it has none."""
    sums_CD = torch.zeros_like(empty_CD).index_add(0, cluster_N, hidden_ND)
    sizes_C1 = cluster_N.bincount(minlength=len(empty_CD))[:, None]
    return torch.where(sizes_C1 > 0, sums_CD / sizes_C1.clamp(min=1), empty_CD)


def _nearest_member(hidden_ND: Tensor, cluster_N: Tensor, mean_CD: Tensor, empty_C: Tensor) -> Tensor:
    """The frame of each cluster that is nearest to its mean, the first of equals; `empty_C` where it has none."""
    apart_N = (hidden_ND - mean_CD[cluster_N]).square().sum(dim=1)
    smallest_C = torch.full_like(mean_CD[:, 0], torch.inf).scatter_reduce(0, cluster_N, apart_N, "amin")
    candidate_N = torch.where(apart_N == smallest_C[cluster_N], torch.arange(len(apart_N), device=apart_N.device), len(apart_N))
    first_C = torch.full_like(empty_C, len(apart_N)).scatter_reduce(0, cluster_N, candidate_N, "amin")
    return torch.where(first_C < len(apart_N), first_C, empty_C)


def _runs(cluster_N: Tensor) -> tuple[Tensor, Tensor]:
    """(durations_M, cluster_M) of the runs of one cluster."""
    durations_M = segments(cluster_N != cluster_N.roll(1))
    return durations_M, cluster_N[durations_M.cumsum(0) - durations_M]


def _means_of_clusters(cluster_N: Tensor) -> Plan:
    durations_M, cluster_M = _runs(cluster_N)
    members_N = cluster_N.argsort(stable=True)
    sizes_C = cluster_N.bincount()
    ends_C, sizes_M = sizes_C.cumsum(0), sizes_C[cluster_M]
    token_E = torch.arange(len(cluster_M), device=cluster_N.device).repeat_interleave(sizes_M)
    place_E = torch.arange(len(token_E), device=token_E.device) - (sizes_M.cumsum(0) - sizes_M)[token_E]
    frame_E = members_N[(ends_C[cluster_M] - sizes_M)[token_E] + place_E]
    return weighted(token_E, frame_E, torch.ones_like(frame_E, dtype=torch.float64), durations_M)
