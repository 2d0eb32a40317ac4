"""Warping, and which of two segments a third is closer to."""

from collections import defaultdict
from itertools import product
from math import acos, pi, sqrt
from pathlib import Path

import numpy as np
import pytest
from real_codes import digits

from audiotok.evaluation.tokens.abx import Segment, abx, frame_distances
from audiotok.evaluation.tokens.dtw import dtw

ALL = {"max_cells": 10**6, "max_triples": 10**6, "seed": 0}


def slow_dtw(distances: np.ndarray) -> float:
    """As Libri-light writes it: fill the table, then walk back from its end."""
    rows, columns = distances.shape
    cost = np.full((rows, columns), np.inf)
    for row, column in product(range(rows), range(columns)):
        before = [cost[up, left] for up, left in ((row - 1, column), (row, column - 1), (row - 1, column - 1)) if min(up, left) >= 0]
        cost[row, column] = distances[row, column] + min(before, default=0.0)
    row, column, steps = rows - 1, columns - 1, 1
    while row and column:
        up, left, both = cost[row - 1, column], cost[row, column - 1], cost[row - 1, column - 1]
        if both <= left and both <= up:
            row, column = row - 1, column - 1
        elif left <= up:
            column -= 1
        else:
            row -= 1
        steps += 1
    return float(cost[-1, -1] / (steps + row + column))


def slow_abx(segments: list[Segment], *, mode: str) -> float:
    """Every triple by itself, of code segments."""
    cells = defaultdict(list)
    for a, b, x in product(segments, repeat=3):
        same = a.context == b.context == x.context and a.speaker == b.speaker and a.category == x.category != b.category
        if same and a is not x and (a.speaker == x.speaker) == (mode == "within"):
            to_a, to_b = (slow_dtw((x.frames_ND[:, None] != other.frames_ND[None]).mean(axis=-1)) for other in (a, b))
            cells[a.category, b.category, a.speaker, x.speaker, a.context].append(0.5 if to_a == to_b else float(to_a > to_b))
    speakers, pairs = defaultdict(list), defaultdict(list)
    for (a, b, speaker, *_), errors in cells.items():
        speakers[a, b, speaker].append(np.mean(errors))
    for (a, b, _), errors in speakers.items():
        pairs[a, b].append(np.mean(errors))
    return float(np.mean([np.mean(errors) for errors in pairs.values()]))


def segment(category: str, speaker: str, *codes: int, context: str = "") -> Segment:
    return Segment(category, speaker, context, np.array(codes)[:, None])


def drawn(seed: int, *, number: int = 24, context: bool = True) -> list[Segment]:
    generator = np.random.default_rng(seed)
    return [
        Segment(
            "abc"[generator.integers(3)],
            "xy"[generator.integers(2)],
            "uv"[generator.integers(2)] if context else "",
            generator.integers(0, 3, size=(generator.integers(1, 6), 2)),
        )
        for _ in range(number)
    ]


def test_warping_gives_the_values_of_libri_lights_own_tests():
    left = [[[0, 1], [0, 0], [1, 1], [42, 42]], [[0, 2], [0, 1], [1, 1], [-1, 0]], [[0, 0], [0, 1], [0, 0], [21, 211]]]
    right = [[0, 1], [1, 2], [0, 0]]
    distances_PNM = np.linalg.norm(np.array(left)[:, :, None] - np.array(right)[None, None], axis=-1)
    warped = dtw(distances_PNM, np.array([[3, 3], [4, 3], [2, 3]]))
    assert warped == pytest.approx([sqrt(2) / 2, 3 / 4, (2 + sqrt(2)) / 3], abs=1e-12)


def test_warping_many_padded_pairs_is_warping_one_by_one_and_changes_no_input():
    generator = np.random.default_rng(0)
    for values in (generator.random((200, 7, 9)), generator.integers(0, 3, size=(200, 7, 9)) / 2):  # the second is full of ties
        lengths_P2 = np.stack([generator.integers(1, 8, size=200), generator.integers(1, 10, size=200)], axis=1)
        before = values.copy()
        slow = [slow_dtw(table[:rows, :columns]) for table, (rows, columns) in zip(values, lengths_P2)]
        assert dtw(values, lengths_P2) == pytest.approx(slow, abs=1e-12)
        assert dtw(values[:1], lengths_P2[:1]) == pytest.approx(slow[:1])
        assert (values == before).all()


def test_the_cheapest_path_costs_what_librosa_finds():
    librosa = pytest.importorskip("librosa")
    for seed in range(10):
        table = np.random.default_rng(seed).random((8, 6))
        cost, path = librosa.sequence.dtw(C=table)
        assert dtw(table[None], np.array([[8, 6]]))[0] == pytest.approx(cost[-1, -1] / len(path))


def test_frames_are_as_far_apart_as_their_codes_differ_or_their_angle_is_wide():
    left, right = np.array([[[1, 2], [3, 4]]]), np.array([[[1, 9]]])
    assert frame_distances(left, right, "mismatch").tolist() == [[[0.5], [1.0]]]
    vectors, other = np.array([[[1.0, 0.0], [-2.0, 0.0], [0.0, 3.0], [0.0, 0.0], [1.0, 1.0]]]), np.array([[[5.0, 0.0]]])
    assert frame_distances(vectors, other, "angular").ravel() == pytest.approx([0, 1, 0.5, 0.5, acos(1 / sqrt(2)) / pi])
    with pytest.raises(ValueError, match="want mismatch or angular"):
        frame_distances(left, right, "euclidean")  # type: ignore[arg-type]


def test_triples_worked_by_hand():
    # X = A's other token 1 1; of B 2 2 it is farther. Both tokens of a serve as X; b has one token and is only ever B.
    found = abx([segment("a", "s", 1, 1), segment("a", "s", 1, 1), segment("b", "s", 2, 2)], mode="within", distance="mismatch", **ALL)
    assert (found.error, found.triples, found.pairs) == (0, 2, {("a", "b"): 0})
    # 1 1 is equally far from 2 2 as from 3 3; as X, 2 2 is equal to b
    found = abx([segment("a", "s", 1, 1), segment("a", "s", 2, 2), segment("b", "s", 2, 2)], mode="within", distance="mismatch", **ALL)
    assert (found.error, found.triples) == ((0.5 + 1) / 2, 2)


def test_across_speakers_x_is_of_another_than_a_and_b():
    segments = [segment("a", "s", 1), segment("b", "s", 2), segment("a", "t", 2)]
    found = abx(segments, mode="across", distance="mismatch", **ALL)
    assert (found.triples, found.pairs) == (1, {("a", "b"): 1.0})  # speaker t says a as s says b; t says no b, so gives no A and B
    with pytest.raises(ValueError, match="make no triple within speakers"):
        abx(segments, mode="within", distance="mismatch", **ALL)


@pytest.mark.parametrize("mode", ["within", "across"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_error_is_that_of_every_triple_taken_by_itself(mode: str, seed: int):
    segments = drawn(seed)
    found = abx(segments, mode=mode, distance="mismatch", **ALL)  # type: ignore[arg-type]
    assert found.error == pytest.approx(slow_abx(segments, mode=mode), abs=1e-12)


def test_categories_weigh_alike_however_many_tokens_they_have():
    rare = [segment("a", "s", 1), segment("a", "s", 1), segment("b", "s", 2), segment("b", "s", 2)]
    many = rare + [segment("b", "s", 2)] * 20
    wrong = [segment("c", "s", 5), segment("c", "s", 6)]  # c is told from nothing
    few, more = (abx(segments + wrong, mode="within", distance="mismatch", **ALL) for segments in (rare, many))
    assert few.error == more.error == np.mean(list(few.pairs.values())) and more.triples > few.triples


@pytest.mark.parametrize("mode", ["within", "across"])
def test_segments_of_chance_are_told_apart_half_the_time_and_those_of_their_category_always(mode: str):
    chance = abx(drawn(0, number=150, context=False), mode=mode, distance="mismatch", **ALL)  # type: ignore[arg-type]
    assert chance.error == pytest.approx(0.5, abs=0.03)
    sure = [segment(name, speaker, *[ord(name)] * length) for name in "abc" for speaker in "xy" for length in (1, 4)]
    assert abx(sure, mode=mode, distance="mismatch", **ALL).error == 0  # type: ignore[arg-type]


def test_bounds_draw_a_part_that_a_seed_decides_and_that_is_right_on_average():
    segments = drawn(3, number=60)
    whole = abx(segments, mode="within", distance="mismatch", **ALL)
    parts = [abx(segments, mode="within", distance="mismatch", max_cells=6, max_triples=5, seed=seed) for seed in range(150)]
    assert all(part.triples <= 30 for part in parts) and parts[7] != parts[8]
    assert parts[7] == abx(segments, mode="within", distance="mismatch", max_cells=6, max_triples=5, seed=7)
    assert np.mean([part.error for part in parts]) == pytest.approx(whole.error, abs=0.03)


def test_what_makes_no_segment_and_no_mode_is_named():
    with pytest.raises(ValueError, match=r"want \[N, D\]"):
        abx([Segment("a", "s", "", np.array([1, 2]))] * 2 + [segment("b", "s", 1)], mode="within", distance="mismatch", **ALL)
    with pytest.raises(ValueError, match=r"shape \[0, 1\]"):
        abx([segment("a", "s", 1), segment("a", "s"), segment("b", "s", 1)], mode="within", distance="mismatch", **ALL)
    with pytest.raises(ValueError, match="want within or across"):
        abx([segment("a", "s", 1)], mode="between", distance="mismatch", **ALL)  # type: ignore[arg-type]


def test_real_digits_are_told_apart_within_a_speaker_and_less_well_across_speakers(speech: Path):
    said = digits(speech)
    bounded = {"max_cells": 150, "max_triples": 12, "seed": 0}
    codes = [Segment(digit.label, digit.speaker, "", digit.codes_KN.T) for digit in said]
    levels = [Segment(digit.label, digit.speaker, "", digit.codes_KN.T.astype(float) - 8) for digit in said]
    within, across = (abx(codes, mode=mode, distance="mismatch", **bounded).error for mode in ("within", "across"))  # type: ignore[arg-type]
    spectral = abx(levels, mode="across", distance="angular", **bounded).error  # type: ignore[arg-type]
    assert within < 0.12 and within < across < 0.5
    assert spectral < across  # of levels it matters how far apart they are, which a code that is equal or not cannot tell
