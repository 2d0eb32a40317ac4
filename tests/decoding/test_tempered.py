"""Codebooks with temperatures of their own."""

import pytest
import torch
from speaking import PLAIN, batch, tiny_decoder

from audiotok.decoding.tempered import Tempered
from audiotok.transforms.patterns import Parallel


def test_a_codebook_keeps_its_distribution_under_a_sampler_whose_temperature_is_taken_back():
    model, text = tiny_decoder(Parallel(), **PLAIN).eval(), batch(Parallel(), (3, 6)).text
    plain, tempered = (model.begin(text, positions=4, conditional=True) for _ in range(2))
    step, heard_BKN = Tempered(tempered, [1.0, 1.0, 1 / 0.4]), torch.randint(0, 5, (1, 3, 2))
    step(heard_BKN)
    step.rewind(torch.tensor([0]))
    first, second, third = plain(heard_BKN)
    got = step(heard_BKN)
    assert torch.equal(got[0], first) and torch.equal(got[1], second)
    torch.testing.assert_close(got[2] / 0.4, third)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="are positive"):
        Tempered(tiny_decoder(Parallel()).eval().begin(batch(Parallel(), (3, 6)).text, positions=4, conditional=True), [0.0])
