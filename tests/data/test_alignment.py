"""The aligner: its search against a slow reference, its fit on real speech."""

from itertools import pairwise, product

import pytest
import torch

from audiotok.data.alignment import Features, Segment, close_short_pauses, segments, train, viterbi
from audiotok.data.phonemes import SILENCE, PhonemeVocabulary, phonemize, split_stress


def all_paths(num_frames, optional):
    """Every path that the chain allows, by brute force."""
    last = len(optional) - 1
    for path in product(range(len(optional)), repeat=num_frames):
        starts = path[0] == 0 or (path[0] == 1 and optional[0])
        ends = path[-1] == last or (path[-1] == last - 1 and optional[-1])
        moves = all(b - a in (0, 1) or (b - a == 2 and optional[a + 1]) for a, b in pairwise(path))
        if starts and ends and moves:
            yield path


@pytest.mark.parametrize("optional", [[True, False, True, False, True], [False, False, False], [False, True, False], [True, False]])
def test_viterbi_finds_what_brute_force_finds(optional):
    for seed in range(20):
        score_NS = torch.randn(5, len(optional), generator=torch.Generator().manual_seed(seed))
        best = max(all_paths(5, optional), key=lambda path: sum(score_NS[n, s] for n, s in enumerate(path)))
        assert viterbi(score_NS, torch.tensor(optional)).tolist() == list(best)


def test_audio_too_short_for_its_text_is_refused():
    with pytest.raises(ValueError, match="2 frames of audio cannot hold 3 states"):
        viterbi(torch.zeros(2, 3), torch.tensor([False] * 3))


def test_a_pause_may_stand_between_words_and_at_breaks_once():
    chain = segments([["h", "iː"], [","], ["j", "uː"]])
    assert [segment.phoneme for segment in chain] == [SILENCE, "h", "iː", ",", "j", "uː", SILENCE]
    assert [segment.optional for segment in chain] == [True, False, False, True, False, False, True]


def test_short_pauses_give_their_frames_to_the_phoneme_before():
    chain = [Segment("a", False), Segment(SILENCE, True), Segment("b", False), Segment(SILENCE, True)]
    assert list(close_short_pauses(chain, [5, 2, 4, 7])) == [("a", 7), ("b", 4), (SILENCE, 7)]


def test_an_aligner_fitted_to_tones_finds_where_each_begins():
    """Three made phonemes, tones of known durations: within 20 ms at the median, from a flat start and no hint but their order."""
    generator = torch.Generator().manual_seed(0)
    pitch = {"a": 300.0, "b": 900.0, "c": 2500.0}
    features, transcripts, truth = [], [], []
    for _ in range(30):
        names = [["a", "b", "c"][i] for i in torch.randint(0, 3, (6,), generator=generator).tolist()]
        names = [name for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
        frames = torch.randint(8, 30, (len(names),), generator=generator).tolist()
        tones = [torch.sin(6.2832 * pitch[name] * torch.arange(160 * n) / 16000) for name, n in zip(names, frames)]
        features.append(Features(16000)(0.3 * torch.cat(tones)))
        transcripts.append(segments([names]))
        truth.append(frames)
    aligner = train(features, transcripts, states=2, iterations=8, gaussians=1)
    errors = []
    for frames_ND, chain, frames in zip(features, transcripts, truth):
        counts = aligner.align(frames_ND, chain)
        ends = counts.cumsum(0)[1:-1][:-1]
        errors += (ends - torch.tensor(frames).cumsum(0)[:-1]).abs().tolist()
    assert sorted(errors)[len(errors) // 2] <= 2


@pytest.mark.parametrize(
    ("text", "language"),
    [("Press 1.", "en"), ("Presione 5.", "es"), ("Appuyez sur le 5.", "fr"), ("Premi il tasto 5!", "it"), ("Нажмите пять.", "ru")],
)
def test_digits_are_read_out_in_every_language(text, language):
    pytest.importorskip("gruut", reason="needs the tts extra")
    words = phonemize(text, language)
    assert sum(len(word) for word in words) > 6
    assert words[-1][0] in ".!"


def test_upper_case_transcripts_are_read_as_words_and_short_ones_as_letters():
    pytest.importorskip("gruut", reason="needs the tts extra")
    assert phonemize("PRESS THE POUND KEY", "en") == phonemize("press the pound key", "en")
    assert sum(map(len, phonemize("ISDN", "en"))) >= 6


def test_what_cannot_be_pronounced_is_refused():
    pytest.importorskip("gruut", reason="needs the tts extra")
    with pytest.raises(ValueError, match="nothing to pronounce"):
        phonemize("...", "en")
    with pytest.raises(ValueError, match="no pronunciations for language 'de'"):
        phonemize("Guten Tag", "de")


def test_a_vocabulary_keeps_stress_apart_and_names_what_it_lacks():
    assert split_stress("ˈoʊ") == ("oʊ", 1)
    vocabulary = PhonemeVocabulary.of([["h", "ˈoʊ"], ["oʊ", "."]])
    ids, stress = vocabulary.encode(["h", "ˈoʊ", "oʊ", "."])
    assert ids[1] == ids[2] and stress == [0, 1, 0, 0] and 0 not in ids
    with pytest.raises(ValueError, match="never seen in training: x"):
        vocabulary.encode(["h", "x"])
