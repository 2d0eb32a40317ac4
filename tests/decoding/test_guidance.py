"""Guidance: between knowing the text and not, and beyond."""

import pytest
import torch
from speaking import PLAIN, SPEC, batch, say, tiny_decoder

from audiotok.decoding.ending import Limited, limits
from audiotok.decoding.guidance import Guided
from audiotok.transforms.patterns import Delay

POSITIONS = 12


def steps(model, text):
    return [model.begin(text, positions=POSITIONS, conditional=conditional) for conditional in (True, False)]


@pytest.fixture
def model():
    return tiny_decoder(Delay(step=1), **PLAIN).eval()


@pytest.mark.parametrize(("scale", "which"), [(1.0, 0), (0.0, 1)])
def test_scale_one_is_the_model_that_is_told_and_zero_the_one_that_is_not(model, scale, which):
    text, heard_BKN = batch(Delay(step=1), (3, 6), (5, 8)).text, torch.randint(0, 5, (2, 3, 4))
    guided, alone = Guided(*steps(model, text), scale=scale), steps(model, text)[which]
    for guided_BNV, alone_BNV in zip(guided(heard_BKN), alone(heard_BKN), strict=True):
        assert torch.equal(guided_BNV, alone_BNV)


def test_logits_are_pushed_away_from_those_without_the_text(model):
    text, heard_BKN = batch(Delay(step=1), (3, 6)).text, torch.randint(0, 5, (1, 3, 2))
    told, untold = steps(model, text)
    for got, with_text, without in zip(Guided(*steps(model, text), scale=3.0)(heard_BKN), told(heard_BKN), untold(heard_BKN)):
        torch.testing.assert_close(got, without + 3 * (with_text - without))


def test_both_are_rewound_and_both_take_another_utterance(model):
    text, heard_BKN = batch(Delay(step=1), (3, 6), (5, 8), (4, 7)).text, torch.randint(0, 5, (3, 3, 6))
    expected = Guided(*steps(model, text), scale=2.0)(heard_BKN)
    guided, other = Guided(*steps(model, text.rows([0, 1])), scale=2.0), Guided(*steps(model, text.rows([2])), scale=2.0)
    guided(heard_BKN[:2])
    other(heard_BKN[2:, :, :3])
    guided.put(1, other)
    guided.rewind(torch.tensor([2, 3]))
    got = guided(torch.stack([heard_BKN[0, :, 2:4], heard_BKN[2, :, 3:5]]))
    for got_BNV, expected_BNV in zip(got, expected):
        torch.testing.assert_close(got_BNV[0], expected_BNV[0, 2:4], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(got_BNV[1], expected_BNV[2, 3:5], rtol=1e-4, atol=1e-4)


def test_a_guided_model_is_held_to_the_limits_of_the_layout(model):
    transform, text = Delay(step=1), batch(Delay(step=1), (3, 6)).text
    step = Limited(Guided(*steps(model, text), scale=3.0), limits(transform, SPEC, max_frames=POSITIONS - 2), rows=1)
    (codes_KN,) = say(step, sizes=model.codebook_sizes, end=model.end, positions=POSITIONS)
    assert transform.invert(codes_KN, SPEC).shape[1] == codes_KN.shape[1] - 2
