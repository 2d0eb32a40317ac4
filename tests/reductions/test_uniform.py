"""Every pooling against a loop over groups that only knows its docstring."""

from collections.abc import Callable
from math import comb, exp, sqrt

import pytest
import torch
from reduction_cases import walk
from torch import Tensor

from audiotok.reductions.plan import Reduction
from audiotok.reductions.uniform import Adaptive, Average, Blur, First, Max, Soft

Weights = Callable[[Tensor, range], dict[int, float]]  # of the frames of a group


def size(frame_D: Tensor) -> float:
    return sqrt(sum(float(value) ** 2 for value in frame_D) / len(frame_D))


def first(hidden_ND: Tensor, group: range) -> dict[int, float]:
    return {group[0]: 1.0}


def average(hidden_ND: Tensor, group: range) -> dict[int, float]:
    return dict.fromkeys(group, 1.0)


def largest(hidden_ND: Tensor, group: range) -> dict[int, float]:
    return {max(group, key=lambda n: (size(hidden_ND[n]), -n)): 1.0}


def soft(hidden_ND: Tensor, group: range) -> dict[int, float]:
    total = sum(exp(size(hidden_ND[n])) for n in group)
    return {n: exp(size(hidden_ND[n])) / total for n in group}


def adaptive(near: float) -> Weights:
    def weights(hidden_ND: Tensor, group: range) -> dict[int, float]:
        mean_D = hidden_ND[list(group)].mean(dim=0)
        nearness = {n: exp(2 * abs(float(hidden_ND[n] @ mean_D)) / float(hidden_ND[n] @ hidden_ND[n] + mean_D @ mean_D)) for n in group}
        by_size, total = soft(hidden_ND, group), sum(nearness.values())
        return {n: near * nearness[n] / total + (1 - near) * by_size[n] for n in group}

    return weights


def blur(frames: int, taps: int) -> Weights:
    def weights(hidden_ND: Tensor, group: range) -> dict[int, float]:
        middle = group[0] + (frames - 1) / 2
        places = {int(middle - (taps - 1) / 2 + tap): comb(taps - 1, tap) for tap in range(taps)}
        return {n: float(height) for n, height in places.items() if 0 <= n < len(hidden_ND)}

    return weights


REFERENCES: list[tuple[Reduction, Weights]] = [
    (First(1), first), (First(3), first), (Average(2), average), (Average(7), average), (Max(2), largest), (Max(5), largest),
    (Soft(2), soft), (Soft(5), soft), (Adaptive(2, near=0.5), adaptive(0.5)), (Adaptive(4, near=0.9), adaptive(0.9)),
    (Adaptive(3, near=0.0), soft), (Blur(2, taps=2), blur(2, 2)), (Blur(2, taps=6), blur(2, 6)), (Blur(3, taps=5), blur(3, 5)),
    (Blur(4, taps=4), blur(4, 4)),
]  # fmt: skip


@pytest.mark.parametrize(("reduction", "weights"), REFERENCES, ids=[str(reduction) for reduction, _ in REFERENCES])
def test_each_token_has_the_weights_of_the_loop(reduction: Reduction, weights: Weights) -> None:
    frames = reduction.uniform or 0
    for num_frames in (0, 1, 2, 7, 8, 9, 30):
        hidden_ND = walk(num_frames, seed=num_frames).double()
        groups = [range(start, min(start + frames, num_frames)) for start in range(0, num_frames, frames)]
        expected_MN = torch.zeros(len(groups), num_frames, dtype=torch.float64)
        for token, group in enumerate(groups):
            found = weights(hidden_ND, group)
            for frame, weight in found.items():
                expected_MN[token, frame] = weight / sum(found.values())
        plan = reduction.plan(hidden_ND)
        assert plan.durations_M.tolist() == [len(group) for group in groups]
        assert torch.allclose(plan.down_MN.to_dense(), expected_MN, rtol=0, atol=1e-12)


def test_the_first_of_equally_large_frames_is_taken() -> None:
    assert Max(3).plan(torch.tensor([[0.0], [2.0], [-2.0], [1.0]])).down_MN.to_dense().tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]


def test_a_blur_hears_nothing_of_what_plain_downsampling_takes_for_a_signal() -> None:
    alternating_N1 = torch.tensor([1.0, -1.0]).repeat(10)[:, None]
    assert First(2).plan(alternating_N1).tokens(alternating_N1).flatten().tolist() == [1.0] * 10
    assert Blur(2, taps=4).plan(alternating_N1).tokens(alternating_N1)[1:-1].abs().max() < 1e-7


def test_a_frame_opposite_to_the_mean_is_as_near_as_one_along_it() -> None:
    near, far = exp(2 * 1 * 1 / (1 + 1)), exp(2 * 3 * 1 / (9 + 1))  # the mean is -1
    weights = Adaptive(2, near=1.0).plan(torch.tensor([[1.0], [-3.0]])).down_MN.to_dense()[0]
    assert weights.tolist() == pytest.approx([near / (near + far), far / (near + far)], abs=1e-12)


def test_frames_of_zeros_are_weighted_alike() -> None:
    for reduction in (Soft(2), Adaptive(2, near=0.5)):
        assert reduction.plan(torch.zeros(4, 3)).down_MN.to_dense()[0].tolist() == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize("kind", [First, Average, Max, Soft])
def test_tokens_of_no_frames_are_refused(kind: type) -> None:
    with pytest.raises(ValueError, match="tokens of 0 frames"):
        kind(0)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="tokens of 0 frames"):
        Adaptive(0, near=0.5)
    with pytest.raises(ValueError, match=r"near=1\.5"):
        Adaptive(2, near=1.5)
    with pytest.raises(ValueError, match="3 taps for groups of 2"):
        Blur(2, taps=3)
    with pytest.raises(ValueError, match="2 taps for groups of 4"):
        Blur(4, taps=2)
    with pytest.raises(ValueError, match="tokens of 0 frames"):
        Blur(0, taps=2)
