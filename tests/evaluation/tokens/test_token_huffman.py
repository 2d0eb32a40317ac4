"""Huffman codes."""

from itertools import product
from math import log2
from pathlib import Path

import numpy as np
import pytest
from real_codes import codec, corpus, dmel

from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens.huffman import code_lengths, huffman, mean_length
from audiotok.evaluation.tokens.units import counted


def test_the_code_of_the_textbook():
    counts_V = np.array([45, 13, 12, 16, 9, 5])  # Cormen et al., Introduction to Algorithms, 16.3
    assert code_lengths(counts_V).tolist() == [1, 3, 3, 3, 4, 4]
    assert huffman(counts_V).mean_length == pytest.approx(2.24)


def test_probabilities_that_are_powers_of_a_half_are_coded_without_loss():
    code = huffman(np.array([4, 2, 1, 1]))
    assert (code.entropy, code.mean_length, code.efficiency) == (1.75, 1.75, 1)
    assert code.saving == pytest.approx(1 - 1.75 / 2)


def test_no_prefix_code_is_shorter():
    for seed in range(12):
        counts_V = np.random.default_rng(seed).integers(1, 30, size=5)
        possible = (np.array(lengths) for lengths in product(range(1, 6), repeat=5))
        best = min(lengths @ counts_V for lengths in possible if (0.5**lengths).sum() <= 1)  # Kraft: there is such a code
        assert huffman(counts_V).mean_length * counts_V.sum() == pytest.approx(best)


def test_every_code_is_full_and_within_a_bit_of_the_entropy():
    for seed in range(30):
        generator = np.random.default_rng(seed)
        counts_V = np.floor(generator.pareto(0.7, size=300)).astype(int)
        lengths_V = code_lengths(counts_V)
        code = huffman(counts_V)
        assert ((lengths_V == 0) == (counts_V == 0)).all()
        assert (0.5 ** lengths_V[lengths_V > 0]).sum() == 1
        assert code.entropy <= code.mean_length < code.entropy + 1


def test_a_lone_unit_takes_a_bit_and_is_coded_without_efficiency():
    code = huffman(np.array([0, 9, 0, 0]))
    assert code_lengths(np.array([0, 9, 0, 0])).tolist() == [0, 1, 0, 0]
    assert (code.mean_length, code.efficiency, code.saving) == (1, 0, 0.5)


def test_a_code_for_other_data_takes_more_bits_and_refuses_what_it_has_no_word_for():
    made_for, measured_on = np.array([8, 4, 2, 2, 0]), np.array([2, 2, 4, 8, 0])
    assert mean_length(code_lengths(made_for), measured_on) > huffman(measured_on).mean_length
    with pytest.raises(ValueError, match=r"1 units \(the first is 4\) have no code word; make the code for counts \+ 1"):
        mean_length(code_lengths(made_for), np.array([1, 1, 1, 1, 1]))


def test_nothing_cannot_be_coded():
    with pytest.raises(NotApplicable, match="nothing was counted"):
        huffman(np.zeros(3, dtype=int))
    with pytest.raises(NotApplicable, match="nothing was counted"):
        mean_length(np.ones(3, dtype=int), np.zeros(3, dtype=int))
    with pytest.raises(NotApplicable, match="codebook of one code"):
        _ = huffman(np.array([3])).saving


def test_levels_of_real_mel_bands_are_saved_on_and_real_codes_lie_within_a_bit_of_their_entropy(speech: Path):
    savings = []
    for tokenizer in (codec(), dmel()):
        said = corpus(speech, tokenizer)
        codes = [huffman(counted(said.streams(codebook), size=size)) for codebook, size in enumerate(said.sizes)]
        assert all(code.entropy <= code.mean_length < min(code.entropy + 1, log2(code.size) + 1) for code in codes)
        savings.append(np.mean([code.saving for code in codes]))
    assert savings[1] > 0.2 and savings[1] > savings[0] > 0  # a trained codebook is used more evenly than equal steps of magnitude
