"""Edits, frames, n-grams and bags."""

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from real_codes import codec, corpus, dmel

from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens import distance


def ids(text: str) -> np.ndarray:
    return np.array([ord(letter) for letter in text], dtype=np.int64)


def pairs(count: int, *, kinds: int, longest: int) -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(0)
    draw = lambda: generator.integers(0, kinds, size=generator.integers(0, longest + 1))  # noqa: E731
    return [(draw(), draw()) for _ in range(count)]


def slow_edits(reference: list[int], estimate: list[int]) -> int:
    """The textbook table, row by row."""
    above = list(range(len(estimate) + 1))
    for row, left in enumerate(reference, 1):
        current = [row]
        for column, right in enumerate(estimate, 1):
            current.append(min(above[column] + 1, current[-1] + 1, above[column - 1] + (left != right)))
        above = current
    return above[-1]


def test_repeats_are_taken_out_only_where_they_are_neighbours():
    assert distance.deduplicated(np.array([7, 7, 7, 2, 2, 7])).tolist() == [7, 2, 7]
    assert distance.deduplicated(np.array([], dtype=int)).tolist() == []
    assert distance.deduplicated(np.array([4])).tolist() == [4]


def test_the_edit_distance_of_the_textbook():
    assert distance.edit_distance(ids("kitten"), ids("sitting")) == 3
    assert distance.edit_distance(ids("intention"), ids("execution")) == 5


def test_bit_parallel_edits_are_those_of_the_table():
    for kinds in (1, 2, 5, 300):
        for reference, estimate in pairs(60, kinds=kinds, longest=40):
            assert distance.edit_distance(reference, estimate) == slow_edits(reference.tolist(), estimate.tolist())


def test_edits_are_those_of_rapidfuzz_at_the_length_of_utterances_and_quick():
    levenshtein = pytest.importorskip("rapidfuzz.distance.Levenshtein")
    for reference, estimate in pairs(10, kinds=20, longest=3000):
        began = time.perf_counter()
        edits = distance.edit_distance(reference, estimate)
        assert time.perf_counter() - began < 0.5  # the table takes seconds
        assert edits == levenshtein.distance(reference.tolist(), estimate.tolist())


def test_unit_edit_distance_counts_deduplicated_units_over_the_length_asked_for():
    reference, estimate = np.array([1, 1, 2, 2, 3, 3]), np.array([1, 2, 2, 4, 3, 5])
    ued = lambda **options: distance.unit_edit_distance(reference, estimate, **options)  # noqa: E731
    assert ued(deduplicate=True, normalise="reference") == pytest.approx(2 / 3)  # 1 2 3 against 1 2 4 3 5
    assert ued(deduplicate=True, normalise="longest") == pytest.approx(2 / 5)
    assert ued(deduplicate=False, normalise="reference") == ued(deduplicate=False, normalise="longest") == pytest.approx(3 / 6)


def test_unit_edit_distance_may_exceed_1_of_a_short_reference_but_not_of_the_longer_sequence():
    reference, estimate = np.array([1]), np.arange(2, 12)
    assert distance.unit_edit_distance(reference, estimate, deduplicate=True, normalise="reference") == 10
    assert distance.unit_edit_distance(reference, estimate, deduplicate=True, normalise="longest") == 1
    assert distance.unit_edit_distance(estimate, np.array([], dtype=int), deduplicate=True, normalise="reference") == 1


def test_a_missing_reference_is_no_score():
    nothing = np.array([], dtype=int)
    with pytest.raises(NotApplicable, match="empty reference"):
        distance.unit_edit_distance(nothing, np.array([1]), deduplicate=False, normalise="longest")
    with pytest.raises(NotApplicable, match="empty reference"):
        distance.ngram_f(nothing, np.array([1]))
    with pytest.raises(NotApplicable, match="no frames"):
        distance.frame_agreement(nothing[None], nothing[None])


def test_a_normaliser_and_an_order_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="normalise='mean', want one of reference, longest"):
        distance.unit_edit_distance(ids("a"), ids("a"), deduplicate=False, normalise="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="order 0"):
        distance.ngram_f(ids("a"), ids("a"), order=0)


def test_frames_agree_by_codebook_and_a_missing_frame_is_a_disagreement():
    reference_KN, estimate_KN = np.array([[1, 2, 3, 4], [5, 5, 5, 5]]), np.array([[1, 2, 9], [6, 5, 5]])
    assert distance.frame_agreement(reference_KN, estimate_KN).tolist() == [2 / 4, 2 / 4]
    assert distance.frame_agreement(estimate_KN, reference_KN).tolist() == [2 / 4, 2 / 4]
    with pytest.raises(ValueError, match="got 2 and 1 codebooks"):
        distance.frame_agreement(reference_KN, estimate_KN[:1])


def test_frames_of_independent_codes_agree_as_often_as_chance():
    reference_KN, estimate_KN = np.random.default_rng(0).integers(0, 8, size=(2, 3, 20_000))
    assert distance.frame_agreement(reference_KN, estimate_KN) == pytest.approx([1 / 8] * 3, abs=0.01)


def slow_ngram_f(reference: list[int], estimate: list[int], *, order: int, beta: float) -> float:
    precisions, recalls = [], []
    for n in range(1, order + 1):
        left, right = (Counter(tuple(side[i : i + n]) for i in range(len(side) - n + 1)) for side in (reference, estimate))
        if left and right:
            precisions.append((left & right).total() / right.total())
            recalls.append((left & right).total() / left.total())
    precision, recall = (sum(values) / max(len(values), 1) for values in (precisions, recalls))
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall) if precision else 0.0


def test_n_grams_worked_by_hand():
    # of 1 2 3 and 1 2 4 there are 2 of 3 units and 1 of 2 pairs
    assert distance.ngram_f(np.array([1, 2, 3]), np.array([1, 2, 4]), order=2) == pytest.approx((2 / 3 + 1 / 2) / 2)
    # precision 2/4, recall 2/2 of units: F2 = 5 * 0.5 / (4 * 0.5 + 1)
    assert distance.ngram_f(np.array([1, 2]), np.array([3, 2, 1, 4]), order=1) == pytest.approx(5 * 0.5 / 3)
    assert distance.ngram_f(np.array([1, 2]), np.array([], dtype=int)) == 0


def test_n_grams_are_counted_as_a_slow_reference_counts_them():
    for reference, estimate in pairs(150, kinds=3, longest=15):
        if len(reference):
            want = slow_ngram_f(reference.tolist(), estimate.tolist(), order=4, beta=3)
            assert distance.ngram_f(reference, estimate, order=4, beta=3) == pytest.approx(want, abs=1e-12)


def test_n_gram_f_is_sacrebleus_chrf_of_the_units_as_characters(speech: Path):
    sacrebleu = pytest.importorskip("sacrebleu.metrics", reason="sacrebleu is not installed")
    text = lambda units_N: "".join(chr(0x4E00 + unit) for unit in units_N)  # noqa: E731
    first_KN, second_KN, third_KN = corpus(speech, codec()).codes
    cases = [pair for pair in pairs(50, kinds=4, longest=30) if len(pair[0]) and len(pair[1])]
    cases += [(first_KN[0], second_KN[0]), (third_KN[1], third_KN[2]), (first_KN[0], np.roll(first_KN[0], 1))]
    for reference, estimate in cases:
        for order, beta in ((6, 2), (3, 1)):
            golden = sacrebleu.CHRF(char_order=order, beta=beta).sentence_score(text(estimate), [text(reference)]).score / 100
            assert distance.ngram_f(reference, estimate, order=order, beta=beta) == pytest.approx(golden, abs=1e-9)


def test_a_bag_has_no_order():
    units_N = np.random.default_rng(0).integers(0, 50, size=200)
    shuffled = np.random.default_rng(1).permutation(units_N)
    assert distance.bag_f(units_N, shuffled) == 1
    assert distance.ngram_f(units_N, shuffled) < 0.5


def test_real_codes_are_nearest_to_themselves_and_nearer_to_themselves_late_than_to_other_speech(speech: Path):
    for tokenizer in (codec(), dmel()):
        first_KN, second_KN, _ = corpus(speech, tokenizer).codes
        late_KN = first_KN[:, 1:]
        options = {"deduplicate": True, "normalise": "longest"}
        zero, near, far = (
            distance.codebook_edit_distances(first_KN, other_KN, **options)  # type: ignore[arg-type]
            for other_KN in (first_KN, late_KN, second_KN)
        )
        assert (zero == 0).all() and (near <= 1 / 200).all() and (far > 0.15).all() and (far <= 1).all()
        assert (distance.frame_agreement(first_KN, first_KN) == 1).all()
        assert (distance.frame_agreement(first_KN, late_KN) < 1).all()
        assert distance.ngram_f(first_KN[0], first_KN[0]) == 1
        assert distance.ngram_f(first_KN[0], late_KN[0]) > 0.99 > distance.ngram_f(first_KN[0], second_KN[0])
