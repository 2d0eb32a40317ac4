"""Beam search against all sequences, on laws that remember everything that was said."""

from itertools import product

import pytest
import torch

from audiotok.decoding.beam import search
from audiotok.decoding.step import NONE

SIZES = (3, 2)


class Remembering:
    """A step whose logits are a random function of a row's whole past."""

    def __init__(self, rows, *, seed=0):
        self.past, self.seed = [()] * rows, seed

    def __call__(self, heard_BKN):
        self.past = [(*past, *codes) for past, codes in zip(self.past, heard_BKN[..., 0].tolist())]
        rows = [self.logits(past) for past in self.past]
        return [torch.stack(each)[:, None] for each in zip(*rows)]

    def logits(self, past):
        draw = torch.Generator().manual_seed(hash((self.seed, past)) % 2**31)
        return [2 * torch.randn(size, generator=draw, dtype=torch.float64) for size in SIZES]

    def reorder(self, rows_B):
        self.past = [self.past[row] for row in rows_B.tolist()]


def every_sequence(length, *, seed=0, first=(0, 0)):
    """(log-probability, codes) of all, best first."""
    frames = list(product(*(range(low, size) for low, size in zip(first, SIZES))))
    found = []
    for sequence in product(frames, repeat=length):
        past, total = (NONE,) * len(SIZES), 0.0
        for frame in sequence:
            for logits, code, low in zip(Remembering(0, seed=seed).logits(past), frame, first):
                total += float(logits[low:].log_softmax(-1)[code - low])
            past = (*past, *frame)
        found.append((total, [list(codes) for codes in zip(*sequence)]))
    return sorted(found, reverse=True)


def legal(length, first=(0, 0)):
    return torch.tensor(first)[:, None].repeat(1, length), torch.tensor(SIZES)[:, None].repeat(1, length)


@pytest.mark.parametrize("seed", range(4))
def test_with_room_for_all_sequences_the_search_is_exact(seed):
    expected = every_sequence(3, seed=seed)
    found = search(Remembering(len(expected), seed=seed), beams=len(expected), legal=legal(3))
    assert [beam.codes_KN.tolist() for beam in found] == [codes for _, codes in expected]
    assert [beam.score for beam in found] == pytest.approx([score for score, _ in expected])


@pytest.mark.parametrize("seed", range(4))
def test_one_beam_is_greedy_and_more_have_the_scores_of_their_sequences(seed):
    step, heard, codes = Remembering(1, seed=seed), torch.full((1, 2, 1), NONE), []
    for _ in range(4):
        heard = torch.stack([logits.argmax(-1) for logits in step(heard)], dim=1)
        codes.append(heard[0, :, 0])
    (greedy,) = search(Remembering(1, seed=seed), beams=1, legal=legal(4))
    assert torch.equal(greedy.codes_KN, torch.stack(codes, dim=1))
    scores = {str(codes): score for score, codes in every_sequence(4, seed=seed)}
    for beam in search(Remembering(5, seed=seed), beams=5, legal=legal(4)):
        assert beam.score == pytest.approx(scores[str(beam.codes_KN.tolist())])


def test_only_legal_codes_are_chosen_and_their_law_is_over_them():
    expected = every_sequence(2, first=(1, 1))
    found = search(Remembering(9), beams=9, legal=legal(2, first=(1, 1)))
    assert [beam.codes_KN.tolist() for beam in found] == [codes for _, codes in expected]  # four: no beam stands for nothing
    assert [beam.score for beam in found] == pytest.approx([score for score, _ in expected])


def test_no_beams_and_logits_that_are_not_finite_are_refused():
    class Broken(Remembering):
        def logits(self, past):
            return [torch.full((size,), torch.nan) for size in SIZES]

    with pytest.raises(ValueError, match="beams=0"):
        search(Remembering(0), beams=0, legal=legal(1))
    with pytest.raises(FloatingPointError, match="earlier checkpoint"):
        search(Broken(1), beams=1, legal=legal(1))
