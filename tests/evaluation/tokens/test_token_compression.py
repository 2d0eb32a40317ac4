"""All methods side by side."""

from fractions import Fraction
from math import log2
from pathlib import Path

import numpy as np
import pytest
from real_codes import codec, corpus, dmel

from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens import compression
from audiotok.evaluation.tokens.adaptive import adaptive_bits
from audiotok.evaluation.tokens.lempel_ziv import dictionary_bits, lz78_bits

METHODS = ["fixed", "entropy_0", "entropy_1", "entropy_2", "huffman", "zlib", "lzma", "lz78", "adaptive", "adaptive_below"]


def test_a_second_costs_what_all_codebooks_of_its_frames_do():
    assert compression.bits_per_second(np.array([10.0, 8.5]), frame_rate=Fraction(25, 2)) == 18.5 * 12.5


def test_each_method_is_divided_by_the_tokens_of_its_codebook():
    codes_KN = np.random.default_rng(0).integers(0, 6, size=(2, 500))
    bits = compression.bits_per_token([codes_KN[:, :200], codes_KN[:, 200:]], sizes=[6, 8], order=1)
    streams = [codes_KN[1, :200], codes_KN[1, 200:]]
    assert list(bits) == METHODS and all(values.shape == (2,) for values in bits.values())
    assert bits["fixed"].tolist() == [log2(6), 3]
    assert bits["lzma"][1] * 500 == pytest.approx(dictionary_bits(streams, size=8, coder="lzma", packing="bits"))
    assert bits["lz78"][1] * 500 == pytest.approx(lz78_bits(streams, size=8))
    want = adaptive_bits([codes_KN[:, :200], codes_KN[:, 200:]], sizes=[6, 8], order=1, given_below=True) / 500
    assert bits["adaptive_below"] == pytest.approx(want)


def test_an_empty_corpus_takes_no_bits():
    for corpus_of_none in ([], [np.empty((1, 0), dtype=int)]):
        with pytest.raises(NotApplicable, match="no frames"):
            compression.bits_per_token(corpus_of_none, sizes=[4], order=1)


def test_codes_of_more_or_fewer_codebooks_than_sizes_are_refused():
    for sizes in ([4], [4, 4, 4]):
        with pytest.raises(ValueError, match=f"got 2 codebooks and {len(sizes)} sizes"):
            compression.bits_per_token([np.zeros((2, 3), dtype=int)], sizes=sizes, order=1)


def test_rates_of_real_codes_stand_in_the_order_that_theory_gives(speech: Path):
    for tokenizer in (codec(), dmel()):
        said = corpus(speech, tokenizer)
        bits = compression.bits_per_token(said.codes, sizes=said.sizes, order=2)
        rates = {name: compression.bits_per_second(values, frame_rate=said.frame_rate) for name, values in bits.items()}
        assert rates["fixed"] == pytest.approx(tokenizer.spec.bits_per_second)
        assert rates["entropy_2"] < rates["entropy_1"] < rates["entropy_0"] <= rates["huffman"] < rates["fixed"]
        assert rates["adaptive"] < rates["fixed"]
        assert rates["adaptive"] < min(rates["zlib"], rates["lzma"], rates["lz78"])  # a model of the units learns faster than a dictionary
        assert rates["adaptive"] > rates["entropy_2"]  # which pays for no learning


def test_counted_contexts_promise_of_short_real_speech_what_no_coder_holds(speech: Path):
    said = corpus(speech, codec())
    bits = compression.bits_per_token(said.codes, sizes=said.sizes, order=2)
    assert (bits["entropy_2"] < 0.1 * bits["fixed"]).all()
    assert (bits["adaptive"] > 0.8 * bits["fixed"]).all()
