"""The same words from others, against other words from others."""

from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from real_codes import sentences

from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens.distance import bag_f, ngram_f
from audiotok.evaluation.tokens.invariance import Spoken, invariance


def share(reference_N: np.ndarray, estimate_N: np.ndarray) -> float:
    return float((reference_N == estimate_N).mean())


def spoken(text: str, speaker: str, language: str, *tokens: int) -> Spoken:
    return Spoken(f"{text}-{speaker}-{language}", text, speaker, language, np.array(tokens))


def labelled(tokens: np.ndarray) -> list[Spoken]:
    """tokens [texts, speakers, languages, N]."""
    places = product(*map(range, tokens.shape[:3]))
    return [spoken(f"t{text}", f"s{speaker}", f"l{language}", *tokens[text, speaker, language]) for text, speaker, language in places]


HAND = [
    spoken("a", "1", "en", 1, 2, 3, 4),
    spoken("a", "2", "en", 1, 2, 3, 9),  # same text, other speaker: 3/4
    spoken("b", "1", "en", 1, 0, 0, 0),  # with the second, other text and speaker: 1/4
]


def test_same_texts_are_read_against_a_floor_of_other_texts():
    found = invariance(HAND, share, across="speaker", max_pairs=10, seed=0)
    assert [(pair.id, pair.similarity) for pair in found.same_pairs] == [("a-1-en|a-2-en", 0.75)]
    assert [(pair.id, pair.similarity) for pair in found.floor_pairs] == [("a-2-en|b-1-en", 0.25)]
    assert (found.same, found.floor, found.normalised) == (0.75, 0.25, pytest.approx(0.5 / 0.75))


def test_the_pairs_are_all_that_qualify_and_no_others():
    utterances = labelled(np.zeros((3, 2, 2, 1), dtype=int))
    for across in ("speaker", "language"):
        found = invariance(utterances, lambda left, right: 0.0, across=across, max_pairs=10_000, seed=0)
        for same_text, pairs in ((True, found.same_pairs), (False, found.floor_pairs)):
            want = {
                f"{left.id}|{right.id}"
                for left, right in combinations(utterances, 2)
                if (left.text == right.text) == same_text
                and (
                    left.language != right.language
                    if across == "language"
                    else left.speaker != right.speaker and left.language == right.language
                )
            }
            assert {pair.id for pair in pairs} == want and len(pairs) == len(want)


def test_a_bound_on_pairs_draws_each_pair_as_often_as_any_other_and_the_same_for_a_seed():
    utterances = labelled(np.zeros((4, 3, 1, 1), dtype=int))
    drawn = [invariance(utterances, share, across="speaker", max_pairs=3, seed=seed) for seed in range(600)]
    ids = [pair.id for found in drawn for pair in found.floor_pairs]
    counts = np.unique(ids, return_counts=True)[1]
    assert len(counts) == 36 and len(ids) == 1800  # 6 pairs of texts times 6 of speakers
    assert ((counts - 50) ** 2 / 50).sum() < 66.6  # chi-squared with 35 degrees of freedom, 0.1 percent
    assert drawn[5] == invariance(utterances, share, across="speaker", max_pairs=3, seed=5)
    assert all(len({pair.id for pair in found.floor_pairs}) == 3 for found in drawn)


def test_tokens_that_only_the_text_decides_are_invariant_and_tokens_of_chance_are_not():
    generator = np.random.default_rng(0)
    decided = np.broadcast_to(generator.integers(0, 100, size=(6, 1, 1, 50)), (6, 3, 2, 50))
    chance = generator.integers(0, 100, size=(6, 3, 2, 50))
    for across in ("speaker", "language"):
        assert invariance(labelled(decided), ngram_f, across=across, max_pairs=500, seed=0).normalised == 1
        assert abs(invariance(labelled(chance), bag_f, across=across, max_pairs=500, seed=0).normalised) < 0.03


def test_translations_in_another_order_are_seen_by_bags():
    words = np.random.default_rng(0).integers(0, 1000, size=(5, 20))
    utterances = [spoken(f"t{i}", "s", "en", *row) for i, row in enumerate(words)]
    utterances += [spoken(f"t{i}", "s", "de", *row[::-1]) for i, row in enumerate(words)]
    assert invariance(utterances, bag_f, across="language", max_pairs=100, seed=0).normalised == 1
    assert invariance(utterances, ngram_f, across="language", max_pairs=100, seed=0).normalised < 0.3


def test_a_similarity_is_averaged_over_both_directions():
    lengths = lambda left, right: 1.0 if len(left) < len(right) else 0.0  # noqa: E731
    utterances = [spoken("a", "1", "en", 1), spoken("a", "2", "en", 1, 1), spoken("b", "1", "en", 1)]
    assert invariance(utterances, lengths, across="speaker", max_pairs=10, seed=0).same == 0.5


def test_without_pairs_or_with_a_floor_of_1_there_is_no_number():
    with pytest.raises(ValueError, match="no two of 2 utterances have the same text and another speaker"):
        invariance(HAND[1:], share, across="speaker", max_pairs=10, seed=0)
    with pytest.raises(ValueError, match="different texts and another speaker"):
        invariance(HAND[:2], share, across="speaker", max_pairs=10, seed=0)
    with pytest.raises(ValueError, match="no two of 0 utterances"):
        invariance([], share, across="language", max_pairs=10, seed=0)
    with pytest.raises(ValueError, match="want speaker or language"):
        invariance(HAND, share, across="room", max_pairs=10, seed=0)  # type: ignore[arg-type]
    with pytest.raises(NotApplicable, match="look the same"):
        _ = invariance(HAND, lambda left, right: 1.0, across="speaker", max_pairs=10, seed=0).normalised


def test_the_codec_hears_the_same_sentence_from_another_woman_more_in_its_coarsest_codebook_than_in_its_finest(speech: Path):
    found = {}
    for codebook in (0, 5):
        utterances = [
            Spoken(f"{said.speaker}-{said.label}", said.label, said.speaker, "de", said.codes_KN[codebook]) for said in sentences(speech)
        ]
        found[codebook] = invariance(utterances, bag_f, across="speaker", max_pairs=1000, seed=0)
        assert (len(found[codebook].same_pairs), len(found[codebook].floor_pairs)) == (30, 270)
    assert 0.02 < found[0].normalised < 0.2  # acoustic codes: the speaker matters far more than the words
    assert abs(found[5].normalised) < found[0].normalised / 2
