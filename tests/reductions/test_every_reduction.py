"""What holds for every reduction, whatever it does."""

import pytest
import torch
from reduction_cases import EVERY, walk
from torch import Tensor

from audiotok.reductions.plan import Plan, Reduction, budget

CAUSAL = [reduction for reduction in EVERY if reduction.causal]
LENGTHS = (0, 1, 2, 3, 5, 17, 64)

every_reduction = pytest.mark.parametrize("reduction", EVERY, ids=repr)


def tokens(plan: Plan) -> list[tuple[int, list[list[float]]]]:
    """Each token's duration and (frame, weight) pairs."""
    token_E, frame_E = plan.down_MN.indices()
    weights_E = plan.down_MN.values().round(decimals=12)
    pairs_E2 = torch.stack([frame_E.double(), weights_E], dim=1)
    return [(int(duration), pairs_E2[token_E == token].tolist()) for token, duration in enumerate(plan.durations_M)]


@every_reduction
def test_every_token_is_a_weighted_mean_and_stands_for_frames(reduction: Reduction) -> None:
    for num_frames in LENGTHS:
        plan = reduction.plan(walk(num_frames, seed=num_frames))
        down_MN = plan.down_MN.to_dense()
        assert down_MN.shape == (len(plan.durations_M), num_frames)
        assert (down_MN >= 0).all() and torch.allclose(
            down_MN.sum(dim=1), torch.ones(len(down_MN), dtype=torch.float64), rtol=0, atol=1e-12
        )
        assert plan.durations_M.sum() == num_frames and (plan.durations_M >= 1).all()
        assert plan.num_tokens <= num_frames


@every_reduction
def test_a_second_plan_is_the_first_and_the_latents_are_left_alone(reduction: Reduction) -> None:
    hidden_ND = walk(50)
    before_ND = hidden_ND.clone()
    assert tokens(reduction.plan(hidden_ND)) == tokens(reduction.plan(hidden_ND))
    assert torch.equal(hidden_ND, before_ND)


@every_reduction
def test_uniform_tokens_stand_for_that_many_frames_but_for_the_last(reduction: Reduction) -> None:
    for num_frames in LENGTHS:
        durations = reduction.plan(walk(num_frames)).durations_M.tolist()
        if reduction.uniform is not None:
            assert durations[:-1] == [reduction.uniform] * (len(durations) - 1)
            assert len(durations) == -(-num_frames // reduction.uniform)
    if reduction.uniform is None:
        assert len(set(reduction.plan(walk(64)).durations_M.tolist())) > 1


@every_reduction
def test_there_are_no_more_tokens_than_the_share_and_none_longer_than_allowed(reduction: Reduction) -> None:
    share, longest = getattr(reduction, "share", 1.0), getattr(reduction, "longest", 64)
    for seed in range(6):
        plan = reduction.plan(walk(64, seed=seed))
        assert plan.num_tokens <= budget(share, 64)
        assert plan.durations_M.max() <= longest


def prefixes_hold(reduction: Reduction, hidden_ND: Tensor) -> bool:
    whole = tokens(reduction.plan(hidden_ND))
    beginnings = [tokens(reduction.plan(hidden_ND[:end]))[:-1] for end in range(len(hidden_ND))]
    return all(beginning == whole[: len(beginning)] for beginning in beginnings)


@pytest.mark.parametrize("reduction", CAUSAL, ids=repr)
def test_no_token_of_a_causal_reduction_but_the_last_changes_when_frames_follow(reduction: Reduction) -> None:
    for seed in range(3):
        assert prefixes_hold(reduction, walk(40, seed=seed))


def behind(plan: Plan, start: int) -> list[tuple[int, list[list[float]]]]:
    """`tokens` of a plan of the frames from `start` on, as of the whole."""
    return [(duration, [[frame + start, weight] for frame, weight in pairs]) for duration, pairs in tokens(plan)]


def begins_anew(reduction: Reduction, hidden_ND: Tensor) -> bool:
    plan = reduction.plan(hidden_ND)
    starts = (plan.durations_M.cumsum(0) - plan.durations_M).tolist()
    return all(behind(reduction.plan(hidden_ND[start:]), start) == tokens(plan)[token:] for token, start in enumerate(starts))


@pytest.mark.parametrize("reduction", CAUSAL, ids=repr)
def test_a_causal_reduction_can_begin_anew_behind_any_token(reduction: Reduction) -> None:
    assert begins_anew(reduction, walk(40))


@pytest.mark.parametrize("reduction", [reduction for reduction in EVERY if not reduction.causal], ids=repr)
def test_what_is_said_not_to_be_causal_is_not(reduction: Reduction) -> None:
    hidden = [walk(40, seed=seed) for seed in range(8)]
    assert not all(prefixes_hold(reduction, hidden_ND) and begins_anew(reduction, hidden_ND) for hidden_ND in hidden)
