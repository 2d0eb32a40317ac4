"""CTC: its decoders against every path there is, and real words learnt from codes."""

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from probe_examples import CPU, EMBEDDING, FIT, RATE
from torch import nn

from audiotok.evaluation.metric import Ratio
from audiotok.evaluation.probes import ctc
from audiotok.evaluation.probes.embedding import embedding
from audiotok.evaluation.probes.fitting import relabelled
from audiotok.evaluation.probes.heads import Convolutions, Frames
from audiotok.evaluation.probes.inputs import Labelled, ProbeInput, common_kind
from audiotok.evaluation.probes.transcription import Transcriber, TranscriberSettings, silence, transcribe, uniform_loss

WORDS = {"0": "zero", "1": "one", "8": "eight"}


def slow_collapse(path):
    labels, last = [], None
    for label in path:
        if label != last and label != 0:
            labels.append(label)
        last = label
    return tuple(labels)


def every_spelling(log_probs_NV: np.ndarray) -> dict[tuple[int, ...], float]:
    """The probability of each label sequence: the sum over all of its paths."""
    found: dict[tuple[int, ...], float] = {}
    for path in product(range(log_probs_NV.shape[1]), repeat=len(log_probs_NV)):
        probability = float(np.exp(sum(log_probs_NV[frame, label] for frame, label in enumerate(path))))
        found[slow_collapse(path)] = found.get(slow_collapse(path), 0.0) + probability
    return found


def random_log_probs(seed: int, frames=6, labels=3) -> np.ndarray:
    return torch.randn(frames, labels, generator=torch.Generator().manual_seed(seed)).mul(1.5).log_softmax(dim=1).numpy()


@pytest.mark.parametrize("seed", range(20))
def test_a_wide_beam_finds_the_likeliest_of_all_spellings(seed):
    log_probs_NV = random_log_probs(seed)
    spellings = every_spelling(log_probs_NV)
    assert ctc.prefix_beam(log_probs_NV, width=200) == max(spellings, key=spellings.__getitem__)


def test_the_likeliest_path_is_not_always_the_likeliest_spelling():
    differ = [seed for seed in range(20) if ctc.greedy(random_log_probs(seed)) != ctc.prefix_beam(random_log_probs(seed), width=200)]
    assert 0 < len(differ) < 20


@pytest.mark.parametrize("path", [(), (0, 0), (1, 1, 0, 1, 2, 2, 0), (2, 0, 0, 2, 1)])
def test_paths_collapse_to_labels(path):
    assert ctc.collapsed(path) == slow_collapse(path)


@pytest.mark.parametrize("labels", [(1,), (1, 2), (1, 1), (1, 1, 1, 2, 2), (2, 1, 2, 1)])
def test_the_frames_that_labels_need_are_the_fewest_with_a_path(labels):
    shortest = next(n for n in range(1, 9) if any(slow_collapse(path) == labels for path in product(range(3), repeat=n)))
    assert ctc.frames_needed(labels) == shortest


def test_a_beam_keeps_something():
    with pytest.raises(ValueError, match="width=0"):
        ctc.prefix_beam(random_log_probs(0), width=0)


def settings(*, head=Frames, rate=0.0, beam=None, **fit) -> TranscriberSettings:
    return TranscriberSettings(EMBEDDING, head, replace(FIT, **fit), rate, beam)


def transcriber(examples, *, outputs=1) -> Transcriber:
    torch.manual_seed(0)
    kind = common_kind([each.input for each in examples])
    return Transcriber(
        embedding(kind, EMBEDDING, vectors=None), Frames, characters=sorted(set("".join(each.target for each in examples))), outputs=outputs
    )


def tiny(text: str, frames: int, id="a") -> Labelled:
    return Labelled(id, ProbeInput(torch.arange(frames)[None] % 4, 50, (4,)), text)


def test_the_loss_is_that_of_all_paths():
    example = tiny("aba", 5)
    probe = transcriber([example])
    batch = probe.collate([example])
    log_probs_BNV = probe(batch.inputs)
    expected = -np.log(every_spelling(log_probs_BNV[0].detach().numpy())[1, 2, 1]) / 3
    assert probe.loss(log_probs_BNV, batch).item() == pytest.approx(expected, rel=1e-5)
    equal = every_spelling(np.full((5, 3), -np.log(3)))[1, 2, 1]
    assert uniform_loss(probe, [example]) == pytest.approx(-np.log(equal) / 3, rel=1e-5)


def test_a_frame_gives_as_many_outputs_as_are_asked_for():
    example = tiny("abc", 2)
    probe = transcriber([example], outputs=3)
    batch = probe.collate([example])
    assert probe(batch.inputs).shape == (1, 6, 4) and probe.lengths(batch.inputs).tolist() == [6]
    assert probe.loss(probe(batch.inputs), batch) > 0
    slow = tiny("abc", 2, id="b")
    for rate, too_long in ((0.0, 2), (75.0, 2 * 0), (50.0, 2)):
        result = transcribe([example], [slow], dev=[], settings=settings(rate=rate, epochs=1), seed=0, device=CPU)
        assert result.too_long == too_long


def spelt(digits):
    """Three words, each of them many times, with their text."""
    parts = ([each for each in part if each.target in WORDS] for part in (digits.train, digits.test))
    return [relabelled(part, [WORDS[each.target] for each in part]) for part in parts]


@pytest.fixture(scope="module")
def spoken(clustered):
    return spelt(clustered)


@pytest.mark.parametrize(("heard", "beam", "wer", "cer"), [("mel", None, 0.4, 0.2), ("codes", 4, 0.7, 0.35)])
def test_ctc_learns_to_spell_three_words(digits, clustered, heard, beam, wer, cer):
    train, test = spelt(digits if heard == "mel" else clustered)
    head = partial(Convolutions, channels=64, kernel=9, layers=2, dropout=0.0)
    chosen = settings(head=head, beam=beam, epochs=25, batch_size=12, learning_rate=3e-3)
    result = transcribe(train, test, dev=[], settings=chosen, seed=0, device=CPU)
    assert result.wer < wer and result.cer < cer
    assert not result.convergence.near_chance and result.convergence.train_loss < 0.1 * result.convergence.uniform_loss
    assert result.wer == sum(ratio.numerator for ratio in result.words.values()) / len(test)
    assert sum(result.heard[each.id] != each.target for each in test) <= result.wer * len(test)


def test_what_hears_nothing_gets_every_word_wrong(spoken):
    result = silence(spoken[1])
    assert result.wer == result.cer == 1.0
    assert set(result.words.values()) == {Ratio(1, 1)}


def test_a_probe_that_has_not_learnt_is_near_chance(spoken):
    result = transcribe(*spoken, dev=[], settings=settings(epochs=1, learning_rate=1e-6), seed=0, device=CPU)
    assert result.convergence.near_chance
    assert result.convergence.train_loss > 0.5 * result.convergence.uniform_loss


def test_errors_are_summed_over_utterances_before_they_are_divided():
    train = [tiny("ab", 8, "1"), tiny("ab ab ab", 30, "2")]
    result = transcribe(train, train, dev=train, settings=settings(epochs=1), seed=0, device=CPU)
    assert [ratio.denominator for ratio in result.words.values()] == [1, 3]
    assert result.wer == sum(ratio.numerator for ratio in result.words.values()) / 4
    assert result.history.epochs[0].dev[0] <= 5


def test_a_character_that_training_lacks_is_an_error():
    result = transcribe([tiny("ab", 8)], [tiny("abz", 8, "b")], dev=[], settings=settings(epochs=1), seed=0, device=CPU)
    assert result.characters["b"].denominator == 3 and result.characters["b"].numerator >= 1


@pytest.mark.parametrize("target", ["", " ", ("a",)])
def test_an_utterance_without_words_is_refused(target):
    with pytest.raises(ValueError, match="a text with words"):
        transcribe(
            [Labelled("a", ProbeInput(torch.zeros(1, 3).long(), RATE, (4,)), target)], [], dev=[], settings=settings(), seed=0, device=CPU
        )


def test_outputs_are_log_probabilities():
    example = tiny("abc", 4)
    probe = transcriber([example], outputs=2)
    assert isinstance(probe, nn.Module)
    torch.testing.assert_close(probe(probe.collate([example]).inputs).exp().sum(dim=-1), torch.ones(1, 8))
