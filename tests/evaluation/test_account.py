"""What a transform makes of codes, against numbers worked out by hand; the bits against the predictors they come from."""

from dataclasses import replace
from fractions import Fraction
from math import log2

import pytest
import torch
from torch import Tensor

from audiotok.evaluation.account import CONTEXT, Coded, Foretelling, account, stands
from audiotok.evaluation.language_model import Budget, Size
from audiotok.transforms.base import WithHoles
from audiotok.transforms.patterns import Delay, Flatten, Parallel
from audiotok.transforms.stack import Stack
from audiotok.types import TokenSpec

SPEC = TokenSpec(sample_rate=16_000, frame_rate=Fraction(50), codebook_sizes=(4, 8), fingerprint="abc")
BY = Foretelling(
    Size(width=16, layers=1, heads=2),
    Budget(steps=30, codes=400, probabilities=10_000_000, frames=20, learning_rate=1e-2, warmup_steps=2, weight_decay=0.0),
    order=1,
)


def coded(seed: int, frames: int) -> Coded:
    """Codes of which the second codebook follows from the first."""
    first_N = torch.randint(4, (frames,), generator=torch.Generator().manual_seed(seed))
    return Coded(str(seed), torch.stack([first_N, first_N + 2]), frames / 50)


TRAIN, TEST = [coded(seed, 60) for seed in range(6)], [coded(100 + seed, 41) for seed in range(3)]


def told(transform: object) -> dict:
    return account(TRAIN, TEST, transform, SPEC, by=BY, seed=0, device=torch.device("cpu"))  # type: ignore[arg-type]


def test_rates_are_counted_in_seconds_of_speech_and_holes_are_no_codes() -> None:
    plain, stacked, delayed = told(Parallel()), told(Stack(2)), told(Delay(3))
    assert plain["positions"] == pytest.approx(50) and plain["codes"] == pytest.approx(100)
    assert plain["fixed_bits"] == pytest.approx(SPEC.bits_per_second)
    assert plain["context_seconds"] == pytest.approx(CONTEXT / 100)
    assert stacked["positions"] == pytest.approx(21 / 41 * 50) and stacked["codes"] == pytest.approx(100)
    with_pad = 41 * 5 - 20 * 5  # bits of the earliest frames of a stack: 21 of 41
    assert stacked["fixed_bits"] == pytest.approx((with_pad + 20 * (log2(5) + log2(9))) * 50 / 41)
    assert delayed["positions"] == pytest.approx(44 / 41 * 50) and delayed["codes"] == pytest.approx(100)
    assert plain["exact"] and stacked["exact"] and delayed["exact"]
    assert plain["apply_speed"] > 0 and plain["invert_speed"] > 0


def test_what_follows_from_other_codes_costs_no_bits_once_it_is_learnt() -> None:
    plain = told(Parallel())
    assert plain["unigram_bits"] == pytest.approx(200, rel=0.05)  # two codes of two bits, told apart
    assert 100 <= plain["lm_bits"] < 150  # one code of two bits
    assert 100 <= plain["coded_bits"] < 125
    assert told(Flatten())["coded_bits"] < 125


def test_a_transform_that_loses_a_code_is_not_exact_and_tells_its_own_holes() -> None:
    class Halved:
        """Every second frame's codebook 1 is a hole."""

        lossless = False

        def out_spec(self, spec: TokenSpec) -> TokenSpec:
            return replace(spec, codebook_sizes=(4, 9))

        def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
            holed_KN = codes_KN.clone()
            holed_KN[1, ::2] = 8
            return holed_KN

        def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
            return codes_KN.clamp(max=7)

        def stands(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
            return codes_KN < torch.tensor([[4], [8]])

    assert isinstance(Halved(), WithHoles)
    assert stands(Halved().apply(TEST[0].codes_KN, SPEC), TEST[0], Halved(), SPEC).sum() == 41 + 20
    found = told(Halved())
    assert not found["exact"] and found["codes"] == pytest.approx(61 / 41 * 50)
