"""The use of a codebook."""

from math import log2
from pathlib import Path

import numpy as np
import pytest
from real_codes import codec, corpus, dmel

from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens import usage
from audiotok.evaluation.tokens.units import counted


def zipf(size: int, samples: int, *, seed: int) -> np.ndarray:
    shares = 1 / np.arange(1, size + 1)
    return np.random.default_rng(seed).multinomial(samples, shares / shares.sum())


def test_a_codebook_worked_by_hand():
    found = usage.usage(np.array([4, 2, 1, 1, 0, 0, 0, 0]))
    assert (found.size, found.samples, found.active, found.active_share, found.dead) == (8, 8, 4, 0.5, (4, 5, 6, 7))
    assert (found.entropy, found.normalised_entropy) == (1.75, 1.75 / 3)
    assert found.perplexity == pytest.approx(2**1.75)
    assert found.coverage == 1 - 2 / 8  # two codes seen once
    assert found.estimated == pytest.approx(4 + 7 / 8 * 2 * 1 / (2 * 2))  # two once, one twice
    assert found.zipf_slope == pytest.approx(log2(2 / 4))  # counts 4 and 2 at ranks 1 and 2
    assert found.gini == pytest.approx(sum(abs(a - b) for a in [4, 2, 1, 1, 0, 0, 0, 0] for b in [4, 2, 1, 1, 0, 0, 0, 0]) / (2 * 8 * 8))


def test_a_codebook_used_evenly_and_one_with_a_single_live_code_are_the_extremes():
    even, lone = usage.usage(np.full(16, 10)), usage.usage(np.bincount([3] * 50, minlength=16))
    assert (even.normalised_entropy, even.perplexity, even.gini, even.active_share, even.coverage) == (1, 16, 0, 1, 1)
    assert even.zipf_slope == pytest.approx(0, abs=1e-12)
    assert (lone.normalised_entropy, lone.perplexity, lone.gini, lone.active, lone.zipf_slope) == (0, 1, 15 / 16, 1, None)


def test_dead_codes_lower_the_normalised_entropy():
    counts_V = np.array([50, 50] + [0] * 1022)
    assert usage.usage(counts_V).normalised_entropy == 0.1  # over the active codes it would be 1


def test_nothing_counted_and_a_codebook_of_one_code_have_no_use():
    for measure in (usage.usage, usage.coverage, usage.chao1, usage.gini):
        with pytest.raises(NotApplicable, match="nothing was counted"):
            measure(np.zeros(4, dtype=int))
    with pytest.raises(NotApplicable, match="codebook of one code"):
        _ = usage.usage(np.array([3])).normalised_entropy
    with pytest.raises(NotApplicable, match="1 codes occur 2 times or more"):
        usage.zipf_slope(np.array([5, 1, 0]))


def test_the_gini_coefficient_is_the_mean_difference_over_twice_the_mean():
    for seed in range(10):
        counts_V = np.random.default_rng(seed).integers(0, 9, size=40)
        differences = np.abs(counts_V[:, None] - counts_V[None]).mean()
        assert usage.gini(counts_V) == pytest.approx(differences / (2 * counts_V.mean()), abs=1e-12)


def test_the_zipf_slope_is_the_regression_of_scipy_and_minus_1_for_zipfs_law():
    stats = pytest.importorskip("scipy.stats")
    counts_V = np.random.default_rng(1).permutation(zipf(500, 20_000, seed=0))
    kept = np.sort(counts_V[counts_V >= 2])[::-1]
    golden = stats.linregress(np.log(np.arange(1, len(kept) + 1)), np.log(kept)).slope
    assert usage.zipf_slope(counts_V) == pytest.approx(golden, abs=1e-9)
    assert usage.zipf_slope(zipf(500, 10_000_000, seed=0)) == pytest.approx(-1, abs=0.02)


def test_coverage_foretells_how_often_the_next_codes_are_known():
    shares = 1 / np.arange(1, 2001)
    shares /= shares.sum()
    told, true = [], []
    for seed in range(100):
        counts_V = np.random.default_rng(seed).multinomial(1000, shares)
        told.append(usage.coverage(counts_V))
        true.append(shares[counts_V > 0].sum())
    assert np.mean(told) == pytest.approx(np.mean(true), abs=0.005)


def test_the_estimate_lies_between_what_was_seen_and_what_exists():
    for samples in (200, 1000, 5000):
        counts_V = np.bincount(np.random.default_rng(0).integers(0, 800, size=samples), minlength=1024)  # 224 codes are dead
        active, estimated = np.count_nonzero(counts_V), usage.chao1(counts_V)
        assert active <= estimated == pytest.approx(800, rel=0.15)
    assert usage.chao1(np.bincount(np.arange(40), minlength=50)) == 50  # all seen once: no more than there is room for


def test_use_of_real_codes_grows_with_the_speech_beyond_even_what_one_utterance_lets_estimate(speech: Path):
    said = corpus(speech, codec())
    for codebook in (0, 5):
        little = usage.usage(counted(said.streams(codebook)[2:], size=1024))
        all_of_it = usage.usage(counted(said.streams(codebook), size=1024))
        assert little.samples == 142 and little.active < little.estimated < all_of_it.active < all_of_it.estimated <= 1024
        assert all_of_it.coverage > little.coverage
        assert len(all_of_it.dead) == 1024 - all_of_it.active
        assert all_of_it.perplexity < all_of_it.active


def test_levels_of_mel_bands_are_used_less_evenly_than_codes_that_were_learnt(speech: Path):
    levels, codes = corpus(speech, dmel()), corpus(speech, codec())
    evenness = [
        np.mean([usage.usage(counted(said.streams(codebook), size=size)).normalised_entropy for codebook, size in enumerate(said.sizes)])
        for said in (levels, codes)
    ]
    assert evenness[0] < 0.8 < evenness[1]
