"""Byte-pair encoding of units."""

import sys
from collections import Counter
from itertools import pairwise
from math import log2
from pathlib import Path

import numpy as np
import pytest
from real_codes import codec, corpus

from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens import bpe
from audiotok.evaluation.tokens.distance import deduplicated

SURROGATE = bpe.SURROGATES.start - bpe.FIRST  # the first unit whose character is put off by them


@pytest.fixture
def tokenizers() -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed; pip install 'audiotok[transformers]'")


def slow_merge(units: list[int], pair: tuple[int, int], merged: int) -> list[int]:
    out: list[int] = []
    place = 0
    while place < len(units):
        found = tuple(units[place : place + 2]) == pair
        out.append(merged if found else units[place])
        place += 2 if found else 1
    return out


def slow_bpe(streams: list[list[int]], *, size: int, vocabulary: int) -> list[tuple[int, int]]:
    """Merges in the order learnt: the most frequent pair, among equals that of the lowest ids."""
    merges: list[tuple[int, int]] = []
    while size + len(merges) < vocabulary:
        counts = Counter(pair for units in streams for pair in pairwise(units))
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        streams = [slow_merge(units, best, size + len(merges)) for units in streams]
        merges.append(best)
    return merges


def slow_encode(units: list[int], merges: list[tuple[int, int]], *, size: int) -> list[int]:
    for number, pair in enumerate(merges):
        units = slow_merge(units, pair, size + number)
    return units


def chain(length: int, *, size: int, seed: int) -> np.ndarray:
    """Units that often go up by one, without neighbours alike."""
    generator, units = np.random.default_rng(seed), [0]
    for follows, other in zip(generator.random(length - 1) < 0.6, generator.integers(1, size, size=length - 1)):
        units.append((units[-1] + (1 if follows else int(other))) % size)
    return np.array(units)


@pytest.mark.parametrize("size", [2, 55_000, 56_000, 1_000_000, bpe.LARGEST])
def test_units_survive_as_characters_up_to_a_million_and_beyond(size: int):
    around = np.arange(SURROGATE - 50, SURROGATE + 50)
    spread = np.linspace(0, size - 1, 5000).astype(int)
    units_N = np.unique(np.concatenate([np.arange(300), around, spread, np.arange(size - 300, size)]))
    units_N = units_N[(units_N >= 0) & (units_N < size)]
    written = bpe.text(units_N, size=size)
    assert len(set(written)) == len(written) == len(units_N)
    assert bpe.units(written.encode().decode()).tolist() == units_N.tolist()  # by way of UTF-8, as tokenizers takes it


def test_more_units_than_characters_and_units_out_of_range_are_refused():
    with pytest.raises(ValueError, match=f"want at most {bpe.LARGEST}"):
        bpe.text(np.array([0]), size=bpe.LARGEST + 1)
    with pytest.raises(ValueError, match="want 0 to 3"):
        bpe.text(np.array([4]), size=4)


def test_codebooks_are_flattened_frame_by_frame_with_offsets():
    assert bpe.flattened(np.array([[0, 1], [2, 3]]), sizes=[4, 4]).tolist() == [0, 6, 1, 7]
    with pytest.raises(ValueError, match="got 2 codebooks and 1 sizes"):
        bpe.flattened(np.array([[0], [1]]), sizes=[4])
    with pytest.raises(ValueError, match="want 0 to 1"):
        bpe.flattened(np.array([[0], [2]]), sizes=[4, 2])


def test_merges_worked_by_hand(tokenizers: None):
    trained = bpe.train_bpe([np.array([0, 1, 2, 0, 1, 2, 0, 1])], size=3, vocabulary=100)
    # 0 1 three times -> 3, which leaves 3 2 3 2 3; of 2 3 and 3 2, twice each, 2 3 -> 4; in 3 4 4 no pair occurs twice
    assert trained.vocabulary == 5
    assert trained.encode(np.array([0, 1, 2, 0, 1, 2, 0, 1])).tolist() == [3, 4, 4]
    assert trained.encode(np.array([2, 1, 0])).tolist() == [2, 1, 0]
    assert trained.decode(np.array([4, 3, 2])).tolist() == [2, 0, 1, 0, 1, 2]


def test_merges_and_encodings_are_those_of_a_slow_reference(tokenizers: None):
    for seed in range(5):
        streams = [chain(120, size=6, seed=10 * seed + number) for number in range(3)]
        streams += [np.random.default_rng(seed).integers(0, 3, size=120)]  # with runs, whose pairs overlap
        trained = bpe.train_bpe(streams[1:], size=6, vocabulary=30)
        merges = slow_bpe([units_N.tolist() for units_N in streams[1:]], size=6, vocabulary=30)
        assert trained.vocabulary == 6 + len(merges)
        for units_N in streams:
            assert trained.encode(units_N).tolist() == slow_encode(units_N.tolist(), merges, size=6)


def test_every_stream_can_be_decoded_with_units_that_training_never_saw_too(tokenizers: None):
    trained = bpe.train_bpe([np.tile([1, 2], 50)], size=60_000, vocabulary=60_010)
    units_N = np.array([1, 2, 59_999, 55_000, 1, 2, 1, 2, 0])
    assert trained.decode(trained.encode(units_N)).tolist() == units_N.tolist()
    assert len(trained.encode(units_N)) < len(units_N)


def test_a_vocabulary_without_room_for_merges_leaves_streams_as_they_are(tokenizers: None):
    units_N = chain(100, size=5, seed=0)
    trained = bpe.train_bpe([units_N], size=5, vocabulary=5)
    assert trained.encode(units_N).tolist() == units_N.tolist()
    assert bpe.efficiency(trained, [units_N], seconds=2).length_ratio == 1
    with pytest.raises(ValueError, match="got a vocabulary of 4 ids for 5 units"):
        bpe.train_bpe([units_N], size=5, vocabulary=4)


def test_efficiency_is_of_held_out_streams_in_tokens_and_bits_a_second(tokenizers: None):
    trained = bpe.train_bpe([np.tile([0, 1], 20)], size=2, vocabulary=3)
    found = bpe.efficiency(trained, [np.array([0, 1, 0, 1]), np.array([1, 1])], seconds=2)
    assert (found.units, found.tokens, found.vocabulary) == (6, 4, 3)
    assert (found.length_ratio, found.tokens_per_second, found.bits_per_second) == (4 / 6, 2, 2 * log2(3))
    with pytest.raises(NotApplicable, match="0 units"):
        bpe.efficiency(trained, [], seconds=1)


def test_the_extra_is_named_where_the_package_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"pip install 'audiotok\[transformers\]'"):
        bpe.train_bpe([np.array([0])], size=1, vocabulary=2)


def test_real_codes_are_shortened_more_by_more_merges_and_come_back_whole(tokenizers: None, speech: Path):
    said = corpus(speech, codec())
    *train, held_out = (deduplicated(codes_N) for codes_N in reversed(said.streams(0)))
    ratios = []
    for vocabulary in (1024, 1074, 1224):
        trained = bpe.train_bpe(train, size=1024, vocabulary=vocabulary)
        assert trained.decode(trained.encode(held_out)).tolist() == held_out.tolist()
        ratios.append(bpe.efficiency(trained, [held_out], seconds=15).length_ratio)
    assert ratios[0] == 1 and ratios == sorted(ratios, reverse=True) and 0.5 < ratios[2] < 1
    flat = [bpe.flattened(codes_KN[:2], sizes=[1024, 1024]) for codes_KN in said.codes]
    assert bpe.train_bpe(flat, size=2048, vocabulary=2060).vocabulary == 2060
