"""What codes tell about labels."""

from math import log
from pathlib import Path

import numpy as np
import pytest
from real_codes import digits

from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens import content
from audiotok.evaluation.tokens.entropy import entropy


def labels_and_codes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels_N = generator.integers(0, 6, size=600)
    return labels_N, (labels_N * 3 + generator.integers(0, 9, size=600)) % 25


def test_a_table_worked_by_hand():
    # codes 0 0 1 1 for labels a a a b: H(label) = 0.8113, H(label | code) = (0 + 1) / 2
    counts_PV = content.joint_counts(np.array(["a", "a", "a", "b"]), np.array([7, 7, 9, 9]))
    assert counts_PV.tolist() == [[2, 1], [0, 1]]
    assert content.mutual_information(counts_PV) == pytest.approx(0.8112781 - 0.5)
    assert content.phone_purity(counts_PV) == 3 / 4
    assert content.cluster_purity(counts_PV) == 3 / 4
    assert content.cluster_purity(np.array([[2, 2, 1], [0, 0, 1]])) == 3 / 6
    assert content.phone_purity(np.array([[2, 2, 1], [0, 0, 1]])) == 5 / 6


def test_information_is_sklearns_and_its_share_sklearns_homogeneity():
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(10):
        labels_N, codes_N = labels_and_codes(seed)
        found = content.information(labels_N, codes_N, groups_N=np.arange(600), shuffles=1, seed=0)
        assert found.bits == pytest.approx(metrics.mutual_info_score(labels_N, codes_N) / log(2), abs=1e-9)
        assert found.normalised == pytest.approx(metrics.homogeneity_score(labels_N, codes_N), abs=1e-9)
        counts_PV = content.joint_counts(labels_N, codes_N)
        assert (counts_PV == metrics.cluster.contingency_matrix(labels_N, codes_N)).all()


def test_the_floor_of_single_frames_is_the_expectation_that_sklearn_computes():
    cluster = pytest.importorskip("sklearn.metrics.cluster")
    labels_N, codes_N = labels_and_codes(0)
    expected = cluster.expected_mutual_information(cluster.contingency_matrix(labels_N, codes_N), 600) / log(2)
    found = content.information(labels_N, codes_N, groups_N=np.arange(600), shuffles=400, seed=0)
    assert found.floor == pytest.approx(expected, rel=0.01)


def test_codes_that_are_the_labels_tell_all_and_a_constant_code_nothing():
    labels_N = np.random.default_rng(0).integers(0, 6, size=600)
    options = {"groups_N": np.arange(600), "shuffles": 5, "seed": 0}
    same = content.information(labels_N, 5 - labels_N, **options)  # type: ignore[arg-type]
    assert same.bits == pytest.approx(entropy(np.bincount(labels_N))) and same.normalised == pytest.approx(1)
    assert same.corrected == pytest.approx(1)
    constant = content.information(labels_N, np.zeros(600, dtype=int), **options)  # type: ignore[arg-type]
    assert (constant.bits, constant.floor, constant.corrected) == (0, 0, 0)


def test_codes_of_chance_seem_to_tell_much_and_tell_nothing_above_the_floor():
    generator = np.random.default_rng(0)
    labels_N, codes_N = generator.integers(0, 40, size=3000), generator.integers(0, 1024, size=3000)
    found = content.information(labels_N, codes_N, groups_N=np.arange(3000), shuffles=20, seed=0)
    assert found.normalised > 0.6
    assert abs(found.corrected) < 0.02


def test_frames_that_repeat_within_a_segment_are_shuffled_with_it():
    generator = np.random.default_rng(0)
    groups_N = np.repeat(np.arange(60), 20)
    labels_N, codes_N = generator.integers(0, 5, size=60)[groups_N], generator.integers(0, 30, size=60)[groups_N]  # unrelated, but held
    by_segment = content.information(labels_N, codes_N, groups_N=groups_N, shuffles=200, seed=0)
    by_frame = content.information(labels_N, codes_N, groups_N=np.arange(1200), shuffles=20, seed=0)
    assert abs(by_segment.corrected) < 0.2 < by_frame.corrected  # frames taken for independent make chance look like content
    assert by_segment.floor > 5 * by_frame.floor


def test_a_seed_decides_the_shuffles():
    labels_N, codes_N = labels_and_codes(0)
    draw = lambda seed: content.information(labels_N, codes_N, groups_N=np.arange(600), shuffles=3, seed=seed)  # noqa: E731
    assert draw(1) == draw(1) and draw(1).floor != draw(2).floor


def test_labels_that_do_not_fit_are_refused_and_a_single_label_is_no_question():
    codes_N = np.array([1, 2, 1, 2])
    with pytest.raises(ValueError, match="one label for each frame"):
        content.joint_counts(np.array([1, 2]), codes_N)
    with pytest.raises(ValueError, match="frame 1 has another label than the first of its group"):
        content.information(np.array([0, 1, 1, 1]), codes_N, groups_N=np.array([0, 0, 1, 1]), shuffles=1, seed=0)
    with pytest.raises(ValueError, match="one group for each frame"):
        content.information(np.array([0, 1, 1, 1]), codes_N, groups_N=np.array([0, 0]), shuffles=1, seed=0)
    with pytest.raises(ValueError, match="got 0 shuffles"):
        content.information(np.array([0, 1, 1, 1]), codes_N, groups_N=np.arange(4), shuffles=0, seed=0)
    with pytest.raises(NotApplicable, match="no frames"):
        content.joint_counts(codes_N[:0], codes_N[:0])
    with pytest.raises(NotApplicable, match="nothing to tell apart"):
        content.information(np.zeros(4, dtype=int), codes_N, groups_N=np.arange(4), shuffles=1, seed=0)
    with pytest.raises(NotApplicable, match="too few segments"):
        _ = content.information(np.array([0, 1]), np.array([0, 1]), groups_N=np.arange(2), shuffles=1, seed=0).corrected


def test_real_mel_levels_tell_the_speaker_and_little_of_the_digit_once_chance_is_taken_off(speech: Path):
    said = digits(speech)
    lengths = [digit.codes_KN.shape[1] for digit in said]
    groups_N = np.repeat(np.arange(len(said)), lengths)
    codes_KN = np.concatenate([digit.codes_KN for digit in said], axis=1)[[0, 10, 40]]
    options = {"groups_N": groups_N, "shuffles": 20, "seed": 0}
    speaker, digit = (
        content.codebook_information(np.repeat(labels, lengths), codes_KN, **options)  # type: ignore[arg-type]
        for labels in ([digit.speaker for digit in said], [digit.label for digit in said])
    )
    for of_speaker, of_digit in zip(speaker, digit, strict=True):
        assert of_speaker.corrected > 0.1 > of_digit.corrected > 0  # levels hold the loudness and line of each speaker's recordings
        assert of_digit.floor > 0.4 * of_digit.bits
