"""Codes of speech encoded again and again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from real_codes import codec, corpus, encoded

from audiotok.evaluation.tokens.drift import drift


def test_a_drift_worked_by_hand():
    cycles = [np.array([[1, 2, 3, 4], [5, 5, 5, 5]]), np.array([[1, 2, 3, 9], [5, 5, 5, 5]]), np.array([[1, 2, 8, 9], [5, 5, 5, 6]])]
    found = drift(cycles)
    assert found.from_first_CK.tolist() == [[0.75, 1], [0.5, 0.75]]
    assert found.neighbours_CK.tolist() == [[0.75, 1], [0.75, 0.75]]


def test_codes_that_repeat_themselves_do_not_drift_and_codes_that_settle_agree_with_themselves():
    first, settled = np.random.default_rng(0).integers(0, 1000, size=(2, 3, 50))
    same, other = drift([first] * 4), drift([first, settled, settled, settled])
    assert (same.from_first_CK == 1).all() and (same.neighbours_CK == 1).all()
    assert (other.from_first_CK < 0.1).all() and (other.neighbours_CK[1:] == 1).all()


def test_one_cycle_is_no_drift():
    with pytest.raises(ValueError, match="codes of 1 cycles"):
        drift([np.zeros((1, 3), dtype=int)])


def test_speech_through_the_codec_keeps_its_coarse_codes_better_than_its_fine_ones(speech: Path):
    cycles = [corpus(speech, codec()).codes[2]]
    for _ in range(3):
        frames_B = torch.tensor([cycles[-1].shape[1]])
        wav_BT, lengths_B = codec().decode(torch.from_numpy(cycles[-1])[None], frames_B)
        cycles.append(encoded(codec(), wav_BT[0, : lengths_B[0]]))
    found = drift(cycles)
    assert found.from_first_CK.shape == found.neighbours_CK.shape == (3, 6)
    assert (found.from_first_CK[0] == found.neighbours_CK[0]).all()
    assert (found.from_first_CK[:, 0] > 20 / 1024).all()  # far above chance
    assert (found.from_first_CK[:, 0] > found.from_first_CK[:, 5]).all()
    assert found.from_first_CK[2].mean() < found.from_first_CK[0].mean()
