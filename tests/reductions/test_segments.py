"""Where tokens start, against loops that try everything, and against scikit-learn."""

import itertools
from collections.abc import Callable
from math import exp, inf

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reduction_cases import walk
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor
from torch.nn import functional as F

from audiotok.reductions.plan import Plan, budget
from audiotok.reductions.segments import Agglomerative, ByDensity, DensityPeaks, Similar, unit

EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)


def cosine(one_D: Tensor, other_D: Tensor) -> float:
    return float(F.cosine_similarity(one_D.double(), other_D.double(), dim=0))


def spread(hidden_ND: Tensor) -> float:
    """The squared distances of the frames from their mean, summed."""
    return float((hidden_ND.double() - hidden_ND.double().mean(dim=0)).square().sum())


def durations(groups: list[list[int]]) -> list[int]:
    assert [frame for group in groups for frame in group] == list(range(sum(map(len, groups))))
    return [len(group) for group in groups]


def is_mean_of_its_own(plan: Plan) -> bool:
    own_MN = plan.up_NM.to_dense().T
    return torch.allclose(plan.down_MN.to_dense(), own_MN / own_MN.sum(dim=1, keepdim=True), rtol=0, atol=1e-12)


def similar(hidden_ND: Tensor, threshold: float, longest: int) -> list[list[int]]:
    groups: list[list[int]] = []
    for n in range(len(hidden_ND)):
        if n and cosine(hidden_ND[n - 1], hidden_ND[n]) > threshold and len(groups[-1]) < longest:
            groups[-1].append(n)
        else:
            groups.append([n])
    return groups


@EXAMPLES
@given(st.integers(0, 40), st.integers(0, 999), st.floats(-0.5, 1), st.integers(1, 9))
def test_a_token_ends_where_the_next_frame_is_unlike_or_it_is_long(num_frames: int, seed: int, threshold: float, longest: int) -> None:
    hidden_ND = walk(num_frames, width=3, seed=seed)
    plan = Similar(threshold, longest=longest).plan(hidden_ND)
    assert plan.durations_M.tolist() == durations(similar(hidden_ND, threshold, longest))
    assert is_mean_of_its_own(plan)


def test_a_cosine_equal_to_the_threshold_ends_a_token() -> None:
    hidden_ND = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    assert Similar(0.0, longest=9).plan(hidden_ND).durations_M.tolist() == [2, 1]
    assert Similar(-0.1, longest=9).plan(hidden_ND).durations_M.tolist() == [3]
    assert Similar(1.0, longest=9).plan(hidden_ND).durations_M.tolist() == [1, 1, 1]


def test_frames_of_zeros_are_alike_and_unlike_all_others() -> None:
    unit_ND = unit(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]))
    assert torch.allclose(unit_ND @ unit_ND.T, torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]], dtype=torch.float64))


Cost = Callable[[Tensor, list[int], list[int]], float]


def ward(hidden_ND: Tensor, left: list[int], right: list[int]) -> float:
    return spread(hidden_ND[left + right]) - spread(hidden_ND[left]) - spread(hidden_ND[right])


def average(hidden_ND: Tensor, left: list[int], right: list[int]) -> float:
    return 1 - sum(cosine(hidden_ND[a], hidden_ND[b]) for a in left for b in right) / (len(left) * len(right))


def agglomerative(hidden_ND: Tensor, tokens: int, cost: Cost, longest: int) -> list[list[int]]:
    groups = [[n] for n in range(len(hidden_ND))]
    while len(groups) > tokens:
        pairs = itertools.pairwise(groups)
        costs = [cost(hidden_ND, left, right) if len(left) + len(right) <= longest else inf for left, right in pairs]
        if min(costs) == inf:
            break
        best = costs.index(min(costs))
        groups[best : best + 2] = [groups[best] + groups[best + 1]]
    return groups


@pytest.mark.parametrize(("linkage", "cost"), [("ward", ward), ("average", average)])
@pytest.mark.parametrize(("share", "longest"), [(0.5, 100), (0.3, 4), (0.05, 5), (1.0, 3)])
def test_the_two_neighbours_that_cost_least_merge_first(linkage: str, cost: Cost, share: float, longest: int) -> None:
    for seed, num_frames in enumerate((0, 1, 2, 9, 24)):
        hidden_ND = walk(num_frames, seed=seed)
        plan = Agglomerative(share, linkage=linkage, longest=longest).plan(hidden_ND)
        assert plan.durations_M.tolist() == durations(agglomerative(hidden_ND, budget(share, num_frames), cost, longest))
        assert is_mean_of_its_own(plan)


def test_wards_linkage_is_scikit_learns_on_a_chain() -> None:
    for seed in range(8):
        hidden_ND = walk(120, seed=seed)
        chain_NN = np.eye(120, k=1) + np.eye(120, k=-1)
        for share in (0.1, 0.35, 0.7):
            plan = Agglomerative(share, linkage="ward", longest=120).plan(hidden_ND)
            labels = AgglomerativeClustering(plan.num_tokens, linkage="ward", connectivity=chain_NN).fit_predict(hidden_ND.double().numpy())
            assert plan.num_tokens == budget(share, 120)
            assert np.array_equal(np.flatnonzero(np.diff(labels)) + 1, plan.durations_M.cumsum(0)[:-1].numpy())


def density_peaks(hidden_ND: Tensor, neighbours: int, threshold: float, penalty: float, longest: int) -> list[list[int]]:
    frames = range(len(hidden_ND))
    alike = [[(1 + cosine(hidden_ND[a], hidden_ND[b])) / 2 for b in frames] for a in frames]
    nearest = [sorted(1 - alike[a][b] for b in frames if b != a)[:neighbours] for a in frames]
    density = [exp(-sum(distances) / len(distances)) if distances else 0.0 for distances in nearest]
    score = []
    for a in frames:
        denser = [1 - alike[a][b] for b in frames if density[b] > density[a]]
        score.append(density[a] * (min(denser) if denser else max(1 - alike[a][b] for b in frames)))
    groups: list[list[int]] = []
    for seed in sorted(frames, key=lambda n: -score[n]):
        taken = {frame for group in groups for frame in group}
        if seed in taken:
            continue
        group = [seed]
        for step in (1, -1):
            n = seed + step
            while n in frames and n not in taken and len(group) < longest and alike[seed][n] - penalty * score[n] > threshold:
                group.append(n)
                n += step
        groups.append(sorted(group))
    return sorted(groups)


@EXAMPLES
@given(st.integers(0, 24), st.integers(0, 999), st.integers(1, 12), st.floats(0.5, 1), st.floats(0, 1), st.integers(1, 7))
def test_tokens_grow_around_density_peaks(
    num_frames: int, seed: int, neighbours: int, threshold: float, penalty: float, longest: int
) -> None:
    hidden_ND = walk(num_frames, width=3, seed=seed)
    plan = DensityPeaks(neighbours, threshold=threshold, penalty=penalty, longest=longest).plan(hidden_ND)
    assert plan.durations_M.tolist() == durations(density_peaks(hidden_ND, neighbours, threshold, penalty, longest))
    assert is_mean_of_its_own(plan)


def test_densities_do_not_depend_on_how_many_similarities_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden_ND, reduction = walk(60), DensityPeaks(5, threshold=0.9, penalty=0.2, longest=5)
    whole = reduction.plan(hidden_ND).durations_M
    monkeypatch.setattr("audiotok.reductions.segments.CHUNK", 7 * 60)
    assert torch.equal(reduction.plan(hidden_ND).durations_M, whole)
    assert 1 < len(whole) < 60


def by_density(hidden_ND: Tensor, tokens: int, longest: int) -> list[list[int]]:
    frames = list(range(len(hidden_ND)))
    groups = [frames[start : start + longest] for start in range(0, len(frames), longest)]
    while len(groups) < tokens and any(len(group) > 1 for group in groups):
        spreads = [spread(hidden_ND[group]) if len(group) > 1 else -1 for group in groups]
        widest = spreads.index(max(spreads))
        middle = (len(groups[widest]) + 1) // 2
        groups[widest : widest + 1] = [groups[widest][:middle], groups[widest][middle:]]
    return groups


@EXAMPLES
@given(st.integers(0, 40), st.integers(0, 999), st.floats(0.05, 1), st.integers(1, 12))
def test_the_token_whose_frames_scatter_most_is_halved_first(num_frames: int, seed: int, share: float, longest: int) -> None:
    hidden_ND = walk(num_frames, width=3, seed=seed)
    plan = ByDensity(share, longest=longest).plan(hidden_ND)
    assert plan.durations_M.tolist() == durations(by_density(hidden_ND, budget(share, num_frames), longest))
    assert is_mean_of_its_own(plan)


def test_what_stays_the_same_gets_coarse_tokens_and_what_moves_fine_ones() -> None:
    hidden_ND = torch.cat([torch.zeros(8, 1), torch.arange(8.0)[:, None]])
    assert ByDensity(9 / 16, longest=8).plan(hidden_ND).durations_M.tolist() == [8, 1, 1, 1, 1, 1, 1, 1, 1]
    assert Agglomerative(9 / 16, linkage="ward", longest=8).plan(hidden_ND).durations_M.tolist() == [8, 1, 1, 1, 1, 1, 1, 1, 1]


def test_settings_that_mean_nothing_are_refused() -> None:
    for make in (
        lambda: Similar(0.5, longest=0),
        lambda: Agglomerative(0.5, linkage="ward", longest=0),
        lambda: DensityPeaks(3, threshold=0.5, penalty=0.1, longest=0),
        lambda: ByDensity(0.5, longest=0),
    ):
        with pytest.raises(ValueError, match="at most 0 frames"):
            make()
    for share in (0.0, 1.5, -1.0):
        with pytest.raises(ValueError, match="got a share of"):
            Agglomerative(share, linkage="ward", longest=8)
        with pytest.raises(ValueError, match="got a share of"):
            ByDensity(share, longest=8)
    with pytest.raises(ValueError, match="linkage=single, want ward or average"):
        Agglomerative(0.5, linkage="single", longest=8)
    with pytest.raises(ValueError, match="0 neighbours"):
        DensityPeaks(0, threshold=0.5, penalty=0.1, longest=4)
