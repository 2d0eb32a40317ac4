"""Plans against dense matrices, and everything that makes their parts against a loop."""

from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reduction_cases import walk
from torch import Tensor

from audiotok.reductions.plan import Composed, Plan, budget, interpolation, means, picks, segments, weighted
from audiotok.reductions.segments import Similar
from audiotok.reductions.uniform import Average, Blur, First

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)
durations_lists = st.lists(st.integers(1, 6), max_size=12)


def random_plan(durations: list[int], seed: int) -> Plan:
    """A plan with weights anywhere in the matrix."""
    generator = torch.Generator().manual_seed(seed)
    down_MN = 9 * torch.rand(len(durations), sum(durations), generator=generator, dtype=torch.float64)
    return Plan(down_MN.softmax(dim=1), torch.tensor(durations, dtype=torch.int64))


def grouped(durations: list[int], seed: int) -> list[int]:
    """Durations that sum to the number of those given."""
    left, found = len(durations), []
    generator = torch.Generator().manual_seed(seed)
    while left:
        found.append(int(torch.randint(1, left + 1, (), generator=generator)))
        left -= found[-1]
    return found


def test_the_picture_of_the_module_is_what_means_makes() -> None:
    plan = means(torch.tensor([2, 1, 2]))
    assert plan.down_MN.to_dense().tolist() == [[0.5, 0.5, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0.5, 0.5]]
    assert plan.up_NM.to_dense().tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
    assert (plan.num_tokens, plan.num_frames) == (3, 5)


@EXAMPLES
@given(durations_lists, st.integers(0, 99))
def test_tokens_and_frames_are_the_products_with_the_dense_matrices(durations: list[int], seed: int) -> None:
    plan, hidden_ND = random_plan(durations, seed), walk(sum(durations), seed=seed)
    tokens_MD = plan.tokens(hidden_ND)
    assert tokens_MD.dtype == hidden_ND.dtype
    assert torch.allclose(tokens_MD, plan.down_MN.to_dense().float() @ hidden_ND, atol=1e-5)
    assert torch.equal(plan.frames(tokens_MD), plan.up_NM.to_dense().float() @ tokens_MD)


@EXAMPLES
@given(durations_lists, st.integers(0, 99))
def test_plans_compose_to_the_products_of_their_matrices_down_and_up(durations: list[int], seed: int) -> None:
    first = random_plan(durations, seed)
    other = random_plan(grouped(durations, seed), seed + 1)
    both = first.then(other)
    assert torch.allclose(both.down_MN.to_dense(), other.down_MN.to_dense() @ first.down_MN.to_dense(), atol=1e-12, rtol=0)
    assert torch.equal(both.up_NM.to_dense(), first.up_NM.to_dense() @ other.up_NM.to_dense())


def test_sparse_plans_compose_without_becoming_dense() -> None:
    plan = means(torch.full((5_000,), 2)).then(means(torch.full((1_000,), 5)))
    assert plan.durations_M.tolist() == [10] * 1_000
    assert torch.equal(plan.down_MN.to_dense(), means(torch.full((1_000,), 10)).down_MN.to_dense().round(decimals=12))
    assert len(plan.down_MN.values()) == 10_000


@EXAMPLES
@given(durations_lists, st.integers(1, 4))
def test_a_split_says_a_long_token_again_for_the_frames_beyond(durations: list[int], longest: int) -> None:
    plan = random_plan(durations, 3)
    rows, expected = [], []
    for token, duration in enumerate(durations):
        while duration > 0:
            rows.append(token)
            expected.append(min(duration, longest))
            duration -= longest
    split = plan.split(longest)
    assert split.durations_M.tolist() == expected
    assert torch.equal(split.down_MN.to_dense(), plan.down_MN.to_dense()[rows])


@EXAMPLES
@given(st.lists(st.booleans(), max_size=30))
def test_segments_are_as_long_as_the_loop_says(starts: list[bool]) -> None:
    expected: list[int] = []
    for frame, start in enumerate(starts):
        if start or frame == 0:
            expected.append(0)
        expected[-1] += 1
    assert segments(torch.tensor(starts, dtype=torch.bool)).tolist() == expected


@EXAMPLES
@given(durations_lists)
def test_interpolation_is_numpys_between_the_middles_of_tokens(durations: list[int]) -> None:
    up_NM = interpolation(torch.tensor(durations, dtype=torch.int64)).to_dense()
    assert up_NM.shape == (sum(durations), len(durations))
    if durations:
        ends = np.cumsum(durations)
        middles, values = ends - np.array(durations) / 2, np.arange(len(durations)) ** 2 + 1.0
        expected = np.interp(np.arange(sum(durations)) + 0.5, middles, values)
        assert np.allclose(up_NM.numpy() @ values, expected, rtol=0, atol=1e-10)
        assert np.allclose(up_NM.sum(dim=1), 1, rtol=0, atol=1e-12)


def test_weights_are_divided_by_their_sum_and_those_of_nothing_are_left_out() -> None:
    plan = weighted(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2, 1, 2]), torch.tensor([1.0, 3.0, 0.0, 2.0]), torch.tensor([1, 2]))
    assert plan.down_MN.to_dense().tolist() == [[0.25, 0, 0.75], [0, 0, 1]]
    assert len(plan.down_MN.values()) == 3


def test_picks_take_frames_whole() -> None:
    assert picks(torch.tensor([2, 0]), torch.tensor([1, 2])).down_MN.to_dense().tolist() == [[0, 0, 1], [1, 0, 0]]


def test_a_budget_rounds_as_pooling_does() -> None:
    for frames in range(1, 12):
        for num_frames in range(400):
            assert budget(1 / frames, num_frames) == ceil(num_frames / frames)


@pytest.mark.parametrize(
    ("down_MN", "durations", "message"),
    [
        ([[0.5, 0.4]], [2], r"weights of token 0 sum to 0\.9"),
        ([[1.0, 0.0], [1.5, -0.5]], [1, 1], "weights of token 1 sum to 1.0, want weights that are not negative"),
        ([[0.5, float("nan")]], [2], "weights of token 0 sum to nan"),
        ([[0.5, 0.5]], [3], r"got a matrix of \[1, 2\], want \[1, 3\]"),
        ([[0.5, 0.5]], [1, 1], r"got a matrix of \[1, 2\], want \[2, 2\]"),
        ([[1.0, 0.0], [0.0, 1.0]], [2, 0], r"\[2, 0\], want int64 of 1 frame at least"),
        ([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0], "want int64"),
    ],
)
def test_what_is_not_a_plan_is_refused(down_MN: list[list[float]], durations: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(torch.tensor(down_MN), torch.tensor(durations))


def test_plans_that_do_not_fit_are_not_composed() -> None:
    with pytest.raises(ValueError, match="a plan for 2 frames after one that makes 3 tokens"):
        means(torch.tensor([1, 1, 1])).then(means(torch.tensor([2])))


def test_reductions_compose_each_over_the_tokens_of_the_one_before() -> None:
    hidden_ND = walk(37)
    first = Blur(3, taps=5).plan(hidden_ND)
    second = Similar(0.9, longest=3).plan(first.tokens(hidden_ND))
    composed = Composed([Blur(3, taps=5), Similar(0.9, longest=3)]).plan(hidden_ND)
    assert 1 < composed.num_tokens < first.num_tokens
    assert torch.equal(composed.durations_M, first.then(second).durations_M)
    assert torch.equal(composed.down_MN.to_dense(), first.then(second).down_MN.to_dense())


def test_a_composition_is_uniform_and_causal_where_that_can_be_said() -> None:
    assert Composed([Average(2), First(3)]).uniform == 6
    assert Composed([Average(2), Similar(0.9, longest=3)]).uniform is None
    assert Composed([Similar(0.9, longest=3), Average(2)]).causal
    assert not Composed([Average(2), Similar(0.9, longest=3)]).causal
    assert not Composed([Blur(2, taps=2), Average(2)]).causal
    with pytest.raises(ValueError, match="no reductions"):
        Composed([])


def test_means_of_means_of_equal_groups_are_the_means_of_all() -> None:
    def dense(plan: Plan) -> Tensor:
        return plan.down_MN.to_dense()

    hidden_ND = walk(24)
    assert torch.allclose(dense(Composed([Average(2), Average(3)]).plan(hidden_ND)), dense(Average(6).plan(hidden_ND)), rtol=0, atol=1e-15)
