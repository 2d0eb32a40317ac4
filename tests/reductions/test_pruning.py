"""Which frames are kept, against loops, and how the others follow them."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reduction_cases import walk
from torch import Tensor
from torch.nn import functional as F

from audiotok.reductions.plan import Plan, budget
from audiotok.reductions.pruning import ChangeAbove, Diverse, LargestChange, Redundant

EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)
utterances = st.builds(lambda frames, seed: walk(frames, width=3, seed=seed), st.integers(0, 30), st.integers(0, 999))
shares = st.floats(0.05, 1)


def cosine(one_D: Tensor, other_D: Tensor) -> float:
    return float(F.cosine_similarity(one_D.double(), other_D.double(), dim=0))


def least(values: list[float], number: int) -> list[int]:
    """Places of the smallest values, in order; the first of equals."""
    return sorted(sorted(range(len(values)), key=lambda n: values[n])[:number])


def assert_held(plan: Plan, kept: list[int], num_frames: int) -> None:
    assert plan.durations_M.tolist() == [end - start for start, end in itertools.pairwise([*kept, num_frames])]
    assert torch.equal(plan.down_MN.to_dense(), torch.eye(num_frames, dtype=torch.float64)[kept])


@EXAMPLES
@given(utterances, st.floats(-1, 1))
def test_a_frame_is_kept_where_it_is_unlike_the_last_one_kept(hidden_ND: Tensor, threshold: float) -> None:
    kept: list[int] = []
    for n in range(len(hidden_ND)):
        if not kept or cosine(hidden_ND[n], hidden_ND[kept[-1]]) <= threshold:
            kept.append(n)
    assert_held(ChangeAbove(threshold).plan(hidden_ND), kept, len(hidden_ND))


def test_a_slow_turn_is_followed() -> None:
    angle_N = torch.arange(40) * 0.05
    plan = ChangeAbove(0.9).plan(torch.stack([angle_N.cos(), angle_N.sin()], dim=1))
    assert plan.durations_M.tolist() == [10, 10, 10, 10]  # 0.5 turns of a radian, whose cosine is 0.88


@EXAMPLES
@given(utterances, shares)
def test_the_largest_changes_are_kept(hidden_ND: Tensor, share: float) -> None:
    alike = [-2.0 if n == 0 else cosine(hidden_ND[n - 1], hidden_ND[n]) for n in range(len(hidden_ND))]
    assert_held(LargestChange(share).plan(hidden_ND), least(alike, budget(share, len(alike))), len(hidden_ND))


@EXAMPLES
@given(utterances, shares)
def test_each_diverse_frame_is_the_furthest_from_those_before_it(hidden_ND: Tensor, share: float) -> None:
    kept = [0][: len(hidden_ND)]
    while len(kept) < budget(share, len(hidden_ND)):
        others = [n for n in range(len(hidden_ND)) if n not in kept]
        kept.append(max(others, key=lambda n: (min(1 - cosine(hidden_ND[n], hidden_ND[k]) for k in kept), -n)))
    assert_held(Diverse(share).plan(hidden_ND), sorted(kept), len(hidden_ND))


def redundant(hidden_ND: Tensor, share: float) -> list[int]:
    """Durations of the tokens, of all ways to divide what is between kept frames the one with the largest sum of cosines."""
    frames = range(len(hidden_ND))
    alike = []
    for n in frames:
        neighbours = [cosine(hidden_ND[n], hidden_ND[m]) for m in (n - 1, n + 1) if m in frames]
        alike.append(-2.0 if n == 0 else sum(neighbours) / len(neighbours))
    kept = least(alike, budget(share, len(alike)))
    starts = kept[:1]
    for one, other in itertools.pairwise(kept):
        sums = {
            start: sum(cosine(hidden_ND[n], hidden_ND[one if n < start else other]) for n in range(one + 1, other))
            for start in range(one + 1, other + 1)
        }
        starts.append(max(sums, key=lambda start: (sums[start], start)))
    return [end - start for start, end in itertools.pairwise([*starts, len(hidden_ND)])]


@EXAMPLES
@given(utterances, shares)
def test_redundant_frames_are_averaged_into_the_kept_ones_that_they_are_like(hidden_ND: Tensor, share: float) -> None:
    plan = Redundant(share).plan(hidden_ND)
    assert plan.durations_M.tolist() == redundant(hidden_ND, share)
    own_MN = plan.up_NM.to_dense().T
    assert torch.allclose(plan.down_MN.to_dense(), own_MN / own_MN.sum(dim=1, keepdim=True), rtol=0, atol=1e-12)


def test_a_frame_between_two_kept_ones_goes_to_the_one_it_is_like() -> None:
    angle_N = torch.tensor([0.0, 0.0, 50.0, 90.0, 180.0]).deg2rad()  # the third is 50 degrees from the first and 40 from the fourth
    plan = Redundant(3 / 5).plan(torch.stack([angle_N.cos(), angle_N.sin()], dim=1))
    assert plan.durations_M.tolist() == [2, 2, 1]
    assert plan.down_MN.to_dense().tolist() == [[0.5, 0.5, 0, 0, 0], [0, 0, 0.5, 0.5, 0], [0, 0, 0, 0, 1]]


@pytest.mark.parametrize("kind", [LargestChange, Diverse, Redundant])
def test_a_share_of_nothing_is_refused(kind: type) -> None:
    with pytest.raises(ValueError, match=r"got a share of 0, want one above 0 and at most 1"):
        kind(0)
