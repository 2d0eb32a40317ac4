"""Entropies of counts and of contexts."""

from itertools import pairwise
from math import log, log2
from pathlib import Path

import numpy as np
import pytest
from real_codes import codec, corpus, dmel

from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens.entropy import conditional_entropy, entropy, miller_madow
from audiotok.evaluation.tokens.units import counted


def test_entropies_worked_by_hand():
    assert entropy(np.array([2, 1, 1, 0])) == 1.5
    assert entropy(np.array([[5, 5], [5, 5]])) == 2
    assert entropy(np.array([7])) == 0
    assert miller_madow(np.array([2, 1, 1, 0])) == pytest.approx(1.5 + 2 / (2 * 4 * log(2)))


def test_entropy_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    for seed in range(20):
        counts = np.random.default_rng(seed).integers(0, 50, size=200)
        assert entropy(counts) == pytest.approx(stats.entropy(counts, base=2), abs=1e-12)


def test_nothing_has_no_entropy():
    with pytest.raises(NotApplicable, match="nothing was counted"):
        entropy(np.zeros(4, dtype=int))
    with pytest.raises(NotApplicable, match="nothing was counted"):
        conditional_entropy([], size=4, order=1)


def test_the_correction_takes_out_most_of_the_bias_of_a_sample():
    true = log2(64)
    samples = [np.bincount(np.random.default_rng(seed).integers(0, 64, size=400), minlength=64) for seed in range(200)]
    assert np.mean([entropy(counts) for counts in samples]) == pytest.approx(true - 63 / (2 * 400 * log(2)), abs=0.01)
    assert np.mean([miller_madow(counts) for counts in samples]) == pytest.approx(true, abs=0.01)


def test_a_sequence_that_its_past_decides_has_no_entropy_given_the_past():
    units_N = np.tile([0, 0, 1, 1], 250)  # after one unit either may come, after two only one
    assert conditional_entropy([units_N], size=2, order=0) == pytest.approx(1, abs=1e-12)
    assert conditional_entropy([units_N], size=2, order=1) == pytest.approx(1, abs=0.01)
    assert conditional_entropy([units_N], size=2, order=2) == pytest.approx(0, abs=0.01)


def test_a_markov_chain_has_the_entropy_of_its_steps():
    generator, units_N = np.random.default_rng(0), [0]
    stays = generator.random(60_000) < 0.9
    for stay in stays:
        units_N.append(units_N[-1] if stay else 1 - units_N[-1])
    want = -(0.9 * log2(0.9) + 0.1 * log2(0.1))
    assert conditional_entropy([np.array(units_N)], size=2, order=1) == pytest.approx(want, abs=0.01)


def test_conditional_entropy_is_entropy_less_the_information_in_the_context():
    metrics = pytest.importorskip("sklearn.metrics")
    units_N = np.random.default_rng(0).integers(0, 6, size=500)
    context_N = np.concatenate([[-1], units_N[:-1]])
    told = metrics.mutual_info_score(context_N, units_N) / log(2)
    assert conditional_entropy([units_N], size=6, order=1) == pytest.approx(entropy(np.bincount(units_N)) - told, abs=1e-9)


def test_a_short_corpus_of_chance_looks_compressible_to_counted_contexts():
    units_N = np.random.default_rng(0).integers(0, 1024, size=10_000)
    assert conditional_entropy([units_N], size=1024, order=0) > 9.9
    assert conditional_entropy([units_N], size=1024, order=1) == pytest.approx(3.4, abs=0.1)  # what the docstring warns of


def test_no_order_of_real_codes_has_more_entropy_than_a_lower_one_nor_more_than_the_codebook_holds(speech: Path):
    for tokenizer in (codec(), dmel()):
        said = corpus(speech, tokenizer)
        for codebook in range(0, len(said.sizes), 5):
            streams, size = said.streams(codebook), said.sizes[codebook]
            bits = [conditional_entropy(streams, size=size, order=order) for order in range(4)]
            assert log2(size) >= entropy(counted(streams, size=size)) == pytest.approx(bits[0], abs=1e-9)
            assert all(lower >= higher - 1e-9 for lower, higher in pairwise(bits))
