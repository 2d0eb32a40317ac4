"""Classification and verification of real spoken digits."""

import random
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import combinations
from math import log

import pytest
import torch
from probe_examples import CPU, EMBEDDING, FIT, SMALL, banded
from torch import nn

from audiotok.evaluation.metric import Ratio
from audiotok.evaluation.probes.classification import ClassifierSettings, classify, fit_classifier, majority
from audiotok.evaluation.probes.fitting import predictions, relabelled
from audiotok.evaluation.probes.heads import Frames, Pooled
from audiotok.evaluation.probes.inputs import downsampled
from audiotok.evaluation.probes.scores import near_chance
from audiotok.evaluation.probes.speechbrain_heads import CosineOutput
from audiotok.evaluation.probes.verification import Trial, embed, verify

LINEAR = partial(Pooled, frames=Frames)


def settings(head=SMALL, *, output=nn.Linear, **fit) -> ClassifierSettings:
    return ClassifierSettings(EMBEDDING, head, output, replace(FIT, **fit))


def classified(train, test, head=SMALL, *, seed=0, **fit):
    return classify(train, test, dev=[], settings=settings(head, **fit), seed=seed, device=CPU)


@pytest.mark.parametrize(("bands", "wanted"), [(1, 0.3), (8, 0.6)])
def test_codes_tell_digits_apart(digits, clustered, bands, wanted):
    train, test = (
        (clustered.train, clustered.test) if bands == 1 else (banded(part, bands=8, levels=16) for part in (digits.train, digits.test))
    )
    result = classified(train, test, epochs=6)
    assert result.accuracy > wanted > 3 * result.slots[0].chance - 0.01
    assert not result.convergence.near_chance
    assert result.convergence.train_loss < 0.7 * result.convergence.uniform_loss == pytest.approx(0.7 * log(10))


def test_a_mel_spectrogram_goes_through_the_same_code_and_says_more(digits):
    full = classified(digits.train, digits.test, epochs=6)
    train, test = (
        [replace(each, input=downsampled(each.input, max_frame_rate=12.5)) for each in part] for part in (digits.train, digits.test)
    )
    assert full.accuracy > 0.7
    assert classified(train, test).accuracy > 0.7
    assert 0.5 < classified(digits.train, digits.test, LINEAR).accuracy < full.accuracy


def test_shuffled_labels_stay_within_chance(clustered):
    """Takes of one word by one speaker get one answer, more or less: 50 guesses in each of 5 runs, not 200."""

    def accuracy(seed: int, *, shuffle: bool) -> float:
        labels = [each.target for each in clustered.train]
        if shuffle:
            random.Random(seed).shuffle(labels)
        return classified(relabelled(clustered.train, labels), clustered.test, LINEAR, seed=seed, epochs=6).accuracy

    shuffled = sum(accuracy(seed, shuffle=True) for seed in range(5)) / 5
    assert near_chance(shuffled, chance=0.1, count=5 * 50)
    assert not near_chance(accuracy(0, shuffle=False), chance=0.1, count=50)


def test_every_utterance_has_its_item_and_the_score_is_their_mean(clustered):
    result = classified(clustered.train[::4], clustered.test, LINEAR, epochs=2)
    [slot] = result.slots
    assert list(slot.items) == [each.id for each in clustered.test] == list(result.right)
    assert result.accuracy == slot.accuracy == sum(slot.items.values()) / len(slot.items) == result.exact_match
    table = Counter({(true, answer): count for true, row in slot.confusion.items() for answer, count in row.items()})
    assert sum(table.values()) == len(clustered.test) and sum(table[name, name] for name in slot.classes) == sum(slot.items.values())


def test_the_same_seed_answers_the_same(clustered):
    one, again, other = (classified(clustered.train, clustered.test, LINEAR, seed=seed, epochs=2) for seed in (0, 0, 1))
    assert one.slots == again.slots and one.convergence == again.convergence
    assert one.convergence != other.convergence


def slotted(examples):
    return relabelled(examples, [(each.target, each.speaker) for each in examples])


def test_several_slots_are_told_at_once(clustered):
    result = classified(slotted(clustered.train), slotted(clustered.test), epochs=6)
    digit, speaker = result.slots
    assert (len(digit.classes), len(speaker.classes)) == (10, 5)
    assert digit.accuracy > 0.5 and speaker.accuracy > 0.5
    assert result.accuracy == pytest.approx((digit.accuracy + speaker.accuracy) / 2)
    for id, exact in result.exact.items():
        assert exact == digit.items[id] * speaker.items[id]
        assert result.right[id] == Ratio(digit.items[id] + speaker.items[id], 2)
    assert result.convergence.uniform_loss == pytest.approx(log(10) + log(5))


def test_a_label_that_training_lacks_is_answered_wrongly_and_counted(clustered):
    train = [each for each in clustered.train if each.target != "9"]
    [slot] = classified(train, clustered.test, LINEAR, epochs=2).slots
    assert slot.unseen == 20 and "9" not in slot.classes
    assert not any(slot.items[each.id] for each in clustered.test if each.target == "9")
    with_dev = classify(train, clustered.test, dev=clustered.test, settings=settings(LINEAR, epochs=2), seed=0, device=CPU)
    assert with_dev.history.epochs[0].dev[0] > 0.1


def test_the_commonest_label_scores_its_share(clustered):
    train = [each for each in clustered.train if each.target in "37" or each.speaker == "jackson"]
    result = majority(slotted(train), slotted(clustered.test))
    assert set(result.slots[0].confusion["0"]) == {"3"} and set(result.slots[1].confusion["theo"]) == {"jackson"}
    assert result.slots[0].accuracy == 0.1 and result.slots[1].accuracy == 0.2
    assert result.exact_match == pytest.approx(0.02)
    assert result.convergence is None


@pytest.mark.parametrize(
    ("examples", "reason"),
    [
        (lambda part: relabelled(part[:2], ["1", ("1", "2")]), "a label for each slot"),
        (lambda part: relabelled(part[:2], [torch.zeros(1), torch.zeros(1)]), "a label or a tuple of labels"),
    ],
)
def test_targets_that_are_no_labels_are_refused(clustered, examples, reason):
    with pytest.raises(ValueError, match=reason):
        classified(examples(clustered.train), clustered.test)


def test_two_utterances_of_one_name_are_refused(clustered):
    with pytest.raises(ValueError, match="2 test utterances have 1 ids"):
        classified(clustered.train[:20], [clustered.test[0]] * 2, LINEAR, epochs=1)


def test_a_margin_takes_one_label(clustered):
    pytest.importorskip("speechbrain", reason="pip install 'audiotok[probes]'")
    with pytest.raises(ValueError, match="got 2 slots"):
        classify(
            slotted(clustered.train),
            [],
            dev=[],
            settings=settings(output=partial(CosineOutput, margin=0.2, scale=30.0)),
            seed=0,
            device=CPU,
        )


def pairs(examples) -> list[Trial]:
    """Of different words, so that what was said does not tell."""
    return [Trial(one.id, other.id, one.speaker == other.speaker) for one, other in combinations(examples, 2) if one.target != other.target]


@pytest.fixture(scope="module")
def speakers(digits):
    """(utterances of three speakers to learn from, those of the two others to tell apart), targets the speakers."""
    strangers = sorted({each.speaker for each in digits.train})[3:]
    train = [each for each in digits.train if each.speaker not in strangers]
    test = [each for each in digits.test if each.speaker in strangers]
    return relabelled(train, [each.speaker for each in train]), test


@pytest.mark.parametrize("margin", [True, False])
def test_strangers_are_told_apart_by_what_was_learnt_from_others(speakers, margin):
    if margin:
        pytest.importorskip("speechbrain", reason="pip install 'audiotok[probes]'")
    train, test = speakers
    output = partial(CosineOutput, margin=0.2, scale=30.0) if margin else nn.Linear
    chosen = settings(LINEAR, output=output, epochs=10)
    result = verify(train, test, pairs(test), dev=[], settings=chosen, target_prior=0.01, seed=0, device=CPU)
    assert result.eer < 0.45 and not result.convergence.near_chance
    assert 0 < result.min_dcf <= 1 and len(result.scores) == len(pairs(test))
    assert max(map(abs, result.scores)) <= 1 + 1e-9


def test_people_who_were_learnt_from_are_told_apart_better_than_strangers(speakers, digits):
    train, strangers = speakers
    names = {each.speaker for each in train}
    heard = [each for each in digits.test if each.speaker in names]
    known, unknown = (
        verify(train, test, pairs(test), dev=[], settings=settings(LINEAR), target_prior=0.01, seed=0, device=CPU)
        for test in (heard, strangers)
    )
    assert known.eer < 0.2 < unknown.eer


def test_embeddings_are_of_length_one_and_lie_along_what_the_head_says(speakers):
    train, test = speakers
    classifier, _ = fit_classifier(train, dev=[], settings=settings(LINEAR, epochs=1), seed=0, device=CPU)
    found = embed(classifier, test[:5], batch_size=2)
    for [example], batch, _ in predictions(classifier, test[:5], batch_size=1):
        hidden_D = classifier.embed(batch.inputs)[0].double()
        torch.testing.assert_close(found[example.id], (hidden_D / hidden_D.norm()).detach())


def test_a_trial_of_an_unknown_utterance_is_refused(speakers):
    train, test = speakers
    for trials in ([], [Trial(test[0].id, "nobody", False)]):
        with pytest.raises(ValueError, match=f"{len(trials)} trials; {len(trials)} of their utterances"):
            verify(train, test[:2], trials, dev=[], settings=settings(LINEAR, epochs=1), target_prior=0.01, seed=0, device=CPU)
