"""Token prediction: the loss and its permutation against loops, and real mixtures of two voices."""

from dataclasses import replace
from functools import partial
from itertools import permutations
from math import log

import pytest
import torch
from probe_examples import CPU, EMBEDDING, FIT, MEL, RATE, banded
from torch import Tensor
from torch.nn import functional as F

from audiotok import audio
from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.probes.embedding import CodeEmbedding
from audiotok.evaluation.probes.heads import Convolutions, Frames
from audiotok.evaluation.probes.inputs import Labelled, ProbeInput, padded
from audiotok.evaluation.probes.token_prediction import Predicted, Predictor, PredictorSettings, commonest, predict_tokens

SIZES = (6, 4, 9)
HEAD = partial(Convolutions, channels=64, kernel=5, layers=2, dropout=0.0)


def predictor(*, speakers: int) -> Predictor:
    torch.manual_seed(0)
    way_in = CodeEmbedding(SIZES, width=8, mixing="attention", codebooks=None, factor=1, vectors=None)
    return Predictor(way_in, Frames, codebook_sizes=SIZES, speakers=speakers)


def random_codes(generator, frames: int) -> Tensor:
    return torch.stack([torch.randint(size, (frames,), generator=generator) for size in SIZES])


def random_examples(speakers: int, lengths=(7, 3, 1)) -> list[Labelled]:
    generator = torch.Generator().manual_seed(0)
    return [
        Labelled(
            str(n),
            ProbeInput(random_codes(generator, frames), RATE, SIZES),
            torch.stack([random_codes(generator, frames) for _ in range(speakers)]),
        )
        for n, frames in enumerate(lengths)
    ]


def slow_loss(outputs_SNV: Tensor, codes_SKN: Tensor, order) -> float:
    """Token by token, output order[t] against target t."""
    losses, starts = [], [0, 6, 10]
    for target, source in enumerate(order):
        for codebook, size in enumerate(SIZES):
            for frame in range(codes_SKN.shape[-1]):
                scores_C = outputs_SNV[source, frame, starts[codebook] : starts[codebook] + size]
                losses.append(F.cross_entropy(scores_C[None], codes_SKN[target, codebook, frame][None]).item())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("speakers", [1, 2, 3])
def test_the_loss_is_that_of_the_best_order_of_each_utterance(speakers):
    probe, examples = predictor(speakers=speakers), random_examples(speakers)
    batch = probe.collate(examples)
    outputs = probe(batch.inputs)
    slow = [
        min(slow_loss(row[:, : each.input.num_frames], each.target, order) for order in permutations(range(speakers)))
        for row, each in zip(outputs, examples)
    ]
    assert probe.loss(outputs, batch).item() == pytest.approx(sum(slow) / len(slow), rel=1e-5)


def sure(codes_SKN: Tensor) -> Tensor:
    """Outputs [S, N, V] that are certain of these codes."""
    return torch.cat([F.one_hot(codes_SKN[:, k], size).float() * 20 for k, size in enumerate(SIZES)], dim=-1)


def test_the_order_of_speakers_is_settled_by_utterance_and_undone():
    probe, examples = predictor(speakers=2), random_examples(2, (5, 5))
    batch = probe.collate(examples)
    swapped = torch.stack([sure(examples[0].target), sure(examples[1].target.flip(0))])
    assert probe.loss(swapped, batch) < 1e-3
    assert probe.errors(swapped, batch) == (0, 2 * 2 * 3 * 5)
    assert torch.equal(probe.codes(swapped, batch), torch.stack([each.target for each in examples]))
    three, chosen = predictor(speakers=3), random_examples(3, (5,))
    turned = sure(chosen[0].target[[2, 0, 1]])[None]
    assert torch.equal(three.codes(turned, three.collate(chosen))[0], chosen[0].target)


def test_padding_counts_neither_as_right_nor_as_wrong():
    probe, examples = predictor(speakers=1), random_examples(1, (7, 2))
    batch = probe.collate(examples)
    outputs = probe(batch.inputs)
    _, total = probe.errors(outputs, batch)
    assert total == (7 + 2) * 3
    noise = outputs.clone()
    noise[1, :, 2:] = torch.randn_like(noise[1, :, 2:])
    assert probe.errors(noise, batch) == probe.errors(outputs, batch)
    assert torch.equal(probe.loss(noise, batch), probe.loss(outputs, batch))


def settings(head=HEAD, *, rate=100.0, **fit) -> PredictorSettings:
    return PredictorSettings(replace(EMBEDDING, max_frame_rate=rate), head, replace(FIT, **fit))


def predicted(train, test, chosen, *, sizes=(16,) * 8) -> Predicted:
    return predict_tokens(train, test, dev=[], codebook_sizes=sizes, settings=chosen, seed=0, device=CPU)


def test_codes_that_are_heard_as_they_are_wanted_are_given_back(digits):
    train, test = (
        [replace(each, target=each.input.frames) for each in banded(part[::8], bands=2, levels=8)] for part in (digits.train, digits.test)
    )
    result = predicted(train, test, settings(Frames, epochs=60, learning_rate=1e-2), sizes=(8, 8))
    assert result.token_error_rate < 0.05 < commonest(train, test, codebook_sizes=(8, 8)).token_error_rate
    assert not result.convergence.near_chance and result.convergence.uniform_loss == pytest.approx(log(8))
    for each in test:
        wrong_KN = result.codes[each.id][0] != each.target
        assert result.tokens[each.id].numerator == wrong_KN.sum() and result.tokens[each.id].denominator == wrong_KN.numel()
    assert sum(result.codebooks) / 2 == pytest.approx(result.token_error_rate)


@pytest.fixture(scope="module")
def mixtures(digits, speech):
    """Two voices at once: what is heard, and the codes of each alone. 8 codebooks of 16."""

    def mixed(first: Labelled, second: Labelled) -> Labelled:
        waves = [audio.read(speech / each.id)[0] for each in (first, second)]
        frames = min(each.input.num_frames for each in (first, second))
        heard = ProbeInput(MEL(sum(padded(wav_T, frames * MEL.hop, dim=0)[: frames * MEL.hop] for wav_T in waves)), RATE)
        coded = banded([replace(each, input=ProbeInput(each.input.frames[:frames], RATE)) for each in (first, second)], bands=8, levels=16)
        [alone] = banded([Labelled(first.id, heard, "")], bands=8, levels=16)
        return replace(alone, target=torch.stack([each.input.frames for each in coded]))

    def paired(part):
        voices = [[each for each in part if each.speaker == name] for name in ("jackson", "theo")]
        return [mixed(*pair) for pair in zip(*voices)]

    return paired(digits.train), paired(digits.test)


def test_two_voices_are_separated_better_than_by_a_constant(mixtures):
    train, test = mixtures
    result = predicted(train, test, settings(epochs=15))
    constant = commonest(train, test, codebook_sizes=(16,) * 8)
    assert result.token_error_rate < constant.token_error_rate - 0.05
    assert {id: tuple(codes.shape) for id, codes in result.codes.items()} == {each.id: tuple(each.target.shape) for each in test}
    assert result.convergence.train_loss < log(16) and not result.convergence.near_chance


def test_features_may_be_heard_where_codes_are_wanted(digits):
    heard, wanted = digits.train[::40], banded(digits.train[::40], bands=4, levels=8)
    train = [replace(one, target=other.input.frames[:, : -1 if n % 2 else None]) for n, (one, other) in enumerate(zip(heard, wanted))]
    result = predicted(train, train, settings(epochs=3), sizes=(8,) * 4)
    assert [result.tokens[each.id].denominator for each in train] == [each.target.numel() for each in train]
    assert [result.codes[each.id].shape[-1] for each in train] == [each.input.num_frames for each in train]


def test_the_commonest_code_is_what_knows_nothing():
    examples = random_examples(1, (40, 30))
    result = commonest(examples, examples, codebook_sizes=SIZES)
    for codebook, size in enumerate(SIZES):
        every = torch.cat([each.target[0, codebook] for each in examples])
        assert result.codebooks[codebook] == pytest.approx(1 - every.bincount(minlength=size).max().item() / 70)


def test_frames_that_would_be_averaged_cannot_be_predicted():
    examples = random_examples(1)
    with pytest.raises(NotApplicable, match=r"62\.5 frames a second"):
        predicted(examples, examples, settings(rate=50.0), sizes=SIZES)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (torch.zeros(3, 7).long() + torch.tensor([[0], [4], [0]]), "codebook 1 holds 4"),
        (torch.zeros(2, 3, 7).long(), "target codes of 2 speakers, wanted 1"),
        (torch.zeros(3, 5).long(), "7 frames are heard and 5 wanted"),
        (torch.zeros(7).long(), "codes_KN or codes_SKN"),
        ("yes", "codes_KN or codes_SKN"),
    ],
)
def test_targets_that_do_not_fit_are_refused(target, reason):
    examples = random_examples(1)
    examples[0] = replace(examples[0], target=target)
    with pytest.raises(ValueError, match=reason):
        predictor(speakers=1).collate(examples)
