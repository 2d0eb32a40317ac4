"""Clusters of an utterance's frames against loops, and the runs that they make."""

import pytest
import torch
from reduction_cases import walk
from torch import Tensor

from audiotok.reductions.clusters import KMeans, KMedoids
from audiotok.reductions.plan import Reduction, budget


def squared(one_D: Tensor, other_D: Tensor) -> float:
    return float((one_D - other_D).square().sum())


def clustered(hidden_ND: Tensor, clusters: int, rounds: int, *, medoids: bool) -> tuple[list[int], list[int]]:
    """(cluster of each frame, medoid of each cluster), by the sum of squared distances to a cluster's frames."""
    frames = range(len(hidden_ND))
    medoid = [cluster * len(hidden_ND) // clusters for cluster in range(clusters)]
    centres = [hidden_ND[frame] for frame in medoid]
    belongs: list[int] = []
    for _ in range(rounds):
        before = belongs
        belongs = [min(range(clusters), key=lambda cluster: (squared(hidden_ND[n], centres[cluster]), cluster)) for n in frames]
        if before == belongs:
            break
        for cluster in range(clusters):
            members = [n for n in frames if belongs[n] == cluster]
            if members:
                medoid[cluster] = min(members, key=lambda n: (sum(squared(hidden_ND[n], hidden_ND[m]) for m in members), n))
                centres[cluster] = hidden_ND[medoid[cluster]] if medoids else hidden_ND[members].mean(dim=0)
    return belongs, medoid


def runs(belongs: list[int]) -> list[tuple[int, int]]:
    """(cluster, length) one after another."""
    found: list[tuple[int, int]] = []
    for cluster in belongs:
        found[-1:] = [(cluster, found[-1][1] + 1)] if found and found[-1][0] == cluster else [*found[-1:], (cluster, 1)]
    return found


def sought(hidden_ND: Tensor, share: float, rounds: int, *, medoids: bool) -> tuple[list[int], list[int]]:
    wanted = budget(share, len(hidden_ND))
    most, fewest_wrong, best = 1, wanted + 1, clustered(hidden_ND, 1, rounds, medoids=medoids)
    while fewest_wrong - most > 1:
        middle = (most + fewest_wrong) // 2
        tried = clustered(hidden_ND, middle, rounds, medoids=medoids)
        most, fewest_wrong, best = (middle, fewest_wrong, tried) if len(runs(tried[0])) <= wanted else (most, middle, best)
    return best


CASES = [(1, 0.5, 3), (2, 0.5, 3), (13, 0.5, 1), (30, 0.3, 20), (30, 0.7, 3), (41, 0.1, 6)]


@pytest.mark.parametrize(("num_frames", "share", "rounds"), CASES)
def test_tokens_are_the_runs_of_clusters_and_the_means_of_all_their_frames(num_frames: int, share: float, rounds: int) -> None:
    hidden_ND = walk(num_frames, width=2, seed=num_frames).double()
    belongs, _ = sought(hidden_ND, share, rounds, medoids=False)
    expected = [[float(belongs[n] == cluster) / belongs.count(cluster) for n in range(num_frames)] for cluster, _ in runs(belongs)]
    plan = KMeans(share, rounds=rounds).plan(hidden_ND)
    assert plan.durations_M.tolist() == [length for _, length in runs(belongs)]
    assert torch.allclose(plan.down_MN.to_dense(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("num_frames", "share", "rounds"), CASES)
def test_a_medoid_is_the_frame_with_the_smallest_sum_of_squared_distances(num_frames: int, share: float, rounds: int) -> None:
    hidden_ND = walk(num_frames, width=2, seed=num_frames).double()
    belongs, medoid = sought(hidden_ND, share, rounds, medoids=True)
    plan = KMedoids(share, rounds=rounds).plan(hidden_ND)
    assert plan.durations_M.tolist() == [length for _, length in runs(belongs)]
    assert plan.down_MN.to_dense().argmax(dim=1).tolist() == [medoid[cluster] for cluster, _ in runs(belongs)]
    assert (plan.down_MN.values() == 1).all()


@pytest.mark.parametrize("kind", [KMeans, KMedoids])
def test_the_picture_of_the_module(kind: type) -> None:
    a, b = [0.0, 1.0], [1.0, 0.0]
    plan = kind(4 / 6, rounds=5).plan(torch.tensor([a, a, b, b, a, b]))
    assert plan.durations_M.tolist() == [2, 2, 1, 1]
    means = [[1 / 3, 1 / 3, 0, 0, 1 / 3, 0], [0, 0, 1 / 3, 1 / 3, 0, 1 / 3]]
    rows = means if kind is KMeans else [[1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]
    assert torch.allclose(plan.down_MN.to_dense(), torch.tensor([*rows, *rows], dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("reduction", [KMeans(0.4, rounds=5), KMedoids(0.4, rounds=5)], ids=repr)
def test_distances_held_at_a_time_do_not_matter(reduction: Reduction, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden_ND = walk(60)
    whole = reduction.plan(hidden_ND)
    monkeypatch.setattr("audiotok.reductions.clusters.CHUNK", 50)
    assert torch.equal(reduction.plan(hidden_ND).down_MN.to_dense(), whole.down_MN.to_dense())


@pytest.mark.parametrize("kind", [KMeans, KMedoids])
def test_settings_that_mean_nothing_are_refused(kind: type) -> None:
    with pytest.raises(ValueError, match="0 rounds"):
        kind(0.5, rounds=0)
    with pytest.raises(ValueError, match="a share of 0"):
        kind(0, rounds=3)
