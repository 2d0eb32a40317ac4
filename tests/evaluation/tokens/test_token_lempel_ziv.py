"""Dictionary coders."""

import lzma
import zlib
from math import log2
from pathlib import Path

import numpy as np
import pytest
from real_codes import codec, corpus, dmel

from audiotok.evaluation.tokens.lempel_ziv import dictionary_bits, lz78_bits, lz78_phrases, packed


def unpacked(content: bytes, *, width: int, count: int) -> list[int]:
    bits = "".join(f"{byte:08b}" for byte in content)
    return [int(bits[width * i : width * (i + 1)], 2) for i in range(count)]


def slow_phrases(units: list[int]) -> list[tuple[int, ...]]:
    known: set[tuple[int, ...]] = set()
    phrases, phrase = [], ()
    for unit in units:
        phrase = (*phrase, unit)
        if phrase not in known:
            known.add(phrase)
            phrases.append(phrase)
            phrase = ()
    return [*phrases, phrase] if phrase else phrases


@pytest.mark.parametrize(("size", "width"), [(2, 1), (3, 2), (16, 4), (1000, 10), (1024, 10), (1025, 11), (100_000, 17)])
def test_units_are_packed_in_the_fewest_bits_that_hold_them_and_can_be_unpacked(size: int, width: int):
    units_N = np.random.default_rng(0).integers(0, size, size=101)
    content = packed(units_N, size=size, packing="bits")
    assert len(content) == -(-101 * width // 8)
    assert unpacked(content, width=width, count=101) == units_N.tolist()
    whole = -(-width // 8) * 8
    assert unpacked(packed(units_N, size=size, packing="bytes"), width=whole, count=101) == units_N.tolist()


def test_two_bytes_are_numpys_own_most_significant_first():
    units_N = np.array([1, 256, 1023])
    assert packed(units_N, size=1024, packing="bytes") == units_N.astype(">u2").tobytes()


def test_what_dictionaries_write_can_be_read_back():
    units_N = np.tile(np.random.default_rng(0).integers(0, 1024, size=100), 10)
    content = packed(units_N, size=1024, packing="bits")
    assert dictionary_bits([units_N], size=1024, coder="zlib", packing="bits") == 8 * len(zlib.compress(content, 9))
    raw = lzma.compress(content, format=lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}])
    assert dictionary_bits([units_N], size=1024, coder="lzma", packing="bits") == 8 * len(raw)
    assert lzma.decompress(raw, format=lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9}]) == content


def test_repeats_shrink_and_chance_does_not():
    generator = np.random.default_rng(0)
    repeats, chance = np.tile(generator.integers(0, 1024, size=64), 64), generator.integers(0, 1024, size=4096)
    for coder in ("zlib", "lzma"):
        assert dictionary_bits([repeats], size=1024, coder=coder, packing="bits") < 0.1 * 4096 * 10
        assert 4096 * 10 <= dictionary_bits([chance], size=1024, coder=coder, packing="bits") < 1.01 * 4096 * 10
    assert lz78_bits([repeats], size=1024) < 0.5 * lz78_bits([chance], size=1024)


def test_lz78_cuts_the_phrases_of_the_textbook():
    # A | AB | B | ABA | ABAB, after Ziv and Lempel
    assert lz78_phrases([np.array([0, 0, 1, 1, 0, 1, 0, 0, 1, 0, 1])]) == 5
    assert lz78_bits([np.array([0, 0, 1, 1, 0, 1, 0, 0, 1, 0, 1])], size=2) == pytest.approx(log2(120) + 5)
    assert lz78_phrases([]) == 0 == lz78_bits([], size=8)


def test_lz78_cuts_where_a_slow_reference_cuts():
    for seed in range(40):
        units_N = np.random.default_rng(seed).integers(0, 3, size=seed * 5)
        assert lz78_phrases([units_N]) == len(slow_phrases(units_N.tolist()))


def test_lz78_learns_from_one_stream_for_the_next_but_ends_its_phrase():
    units_N = np.random.default_rng(0).integers(0, 4, size=300)
    apart, together = 2 * lz78_phrases([units_N]), lz78_phrases([units_N, units_N])
    assert together < apart
    assert lz78_phrases([np.array([0]), np.array([0]), np.array([0])]) == 3  # one new phrase, and twice a known one cut short


def test_lz78_comes_near_the_entropy_of_a_long_source():
    units_N = np.random.default_rng(0).choice(2, p=[0.9, 0.1], size=300_000)
    entropy = -(0.9 * log2(0.9) + 0.1 * log2(0.1))
    assert entropy < lz78_bits([units_N], size=2) / 300_000 < 1.4 * entropy


def test_names_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="want zlib or lzma"):
        dictionary_bits([np.array([1])], size=2, coder="zip", packing="bits")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="want bits or bytes"):
        packed(np.array([1]), size=2, packing="words")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="want 0 to 1"):
        lz78_bits([np.array([2])], size=2)


def test_mel_levels_of_real_speech_shrink_and_codes_of_a_trained_codebook_hardly_do(speech: Path):
    levels, codes = corpus(speech, dmel()), corpus(speech, codec())
    frames = sum(codes_KN.shape[1] for codes_KN in levels.codes)
    for coder in ("zlib", "lzma"):
        assert dictionary_bits(levels.streams(10), size=16, coder=coder, packing="bits") < 0.9 * 4 * frames
        finest = codes.streams(5)
        assert dictionary_bits(finest, size=1024, coder=coder, packing="bits") > 0.98 * 10 * sum(map(len, finest))
