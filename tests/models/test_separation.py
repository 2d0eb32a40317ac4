"""Separators: the best order against an explicit search, gradients against differences, and that two real voices come apart."""

from itertools import permutations

import pytest
import soundfile
import torch
from learning import descend
from small_enhancers import codec, separator

from audiotok.data.together import MixedBatch, at_once
from audiotok.evaluation.reconstruction import si_sdr
from audiotok.models.enhancement.clean_codes import cross_entropy, encoded
from audiotok.models.enhancement.mask import compressed
from audiotok.models.enhancement.permutations import best_order, least, ratios
from audiotok.synthesis.separating import Separator, separated

OTHER = "1998-15444-0000.flac"  # of another speaker than wav_16k

every_kind = pytest.mark.parametrize("kind", ["tokens", "mask"])


@pytest.fixture(scope="module")
def two(speech, wav_16k):
    """Pieces of two people's speech at once, the second row of the batch shorter."""
    other_T = torch.from_numpy(soundfile.read(speech / "librispeech" / "test-other" / OTHER, dtype="float32")[0])
    rows = [at_once([wav_16k[start : start + 9600], other_T[start : start + 9600]], [0.0, 1.0], 16000) for start in (16000, 24000)]
    mixed_BT, wanted_BST = (torch.stack(part) for part in zip(*rows))
    return MixedBatch(mixed_BT, wanted_BST, torch.tensor([9600, 6000]))


def loss_in(kind, model, batch, row, order):
    """The loss of one row where output order[t] is to say voice t, by the means of the enhancers."""
    length = int(batch.lengths_B[row])
    mixed_1T, wanted_ST = batch.mixed_BT[row : row + 1, :length], batch.wanted_BST[row, :, :length]
    lengths_1, values = torch.tensor([length]), []
    if kind == "tokens":
        said = model.logits(mixed_1T, torch.tensor([model.codec.spec.num_frames(length)]))
        for voice, output in enumerate(order):
            codes_1KN, _ = encoded(model.codec, wanted_ST[voice : voice + 1], lengths_1)
            values.append(cross_entropy(said[output], codes_1KN, torch.ones_like(codes_1KN, dtype=torch.bool))[0])
        return torch.stack(values).mean()
    spectra_SFN, wanted_SFN = compressed(model(mixed_1T)[0]), compressed(model.enhancer.spectrum(wanted_ST))
    for voice, output in enumerate(order):
        found, wanted = spectra_SFN[output], wanted_SFN[voice]
        values.append(2 * (0.3 * (found - wanted).abs().square().mean() + 0.7 * (found.abs() - wanted.abs()).square().mean()))
    return torch.stack(values).mean() / wanted_SFN.abs().square().mean()


@every_kind
@pytest.mark.parametrize("voices", [2, 3])
def test_the_loss_is_the_least_over_all_orders_settled_for_each_utterance(kind, voices, two, wav_16k):
    model = separator(kind, codec(wav_16k), voices=voices).eval()
    more_BST = torch.cat([two.wanted_BST, two.mixed_BT[:, None].flip(2)], dim=1)[:, :voices]
    batch = MixedBatch(two.mixed_BT, more_BST, torch.tensor([9600, 9600]))
    with torch.no_grad():
        slow = [min(loss_in(kind, model, batch, row, order) for order in permutations(range(voices))) for row in range(2)]
        torch.testing.assert_close(model.loss(batch)[0], torch.stack(slow).mean(), rtol=1e-4, atol=1e-6)


@every_kind
def test_voices_told_in_another_order_give_the_same_loss(kind, two, wav_16k):
    model = separator(kind, codec(wav_16k)).eval()
    turned = two.wanted_BST.clone()
    turned[1] = turned[1].flip(0)
    torch.testing.assert_close(model.loss(two)[0], model.loss(MixedBatch(two.mixed_BT, turned, two.lengths_B))[0])


@every_kind
def test_what_stands_past_a_rows_end_changes_no_loss(kind, two, wav_16k):
    model = separator(kind, codec(wav_16k)).eval()
    mixed_BT, wanted_BST = two.mixed_BT.clone(), two.wanted_BST.clone()
    mixed_BT[1, 6000:], wanted_BST[1, :, 6000:] = 0.5, -0.5
    torch.testing.assert_close(model.loss(two)[0], model.loss(MixedBatch(mixed_BT, wanted_BST, two.lengths_B))[0])


@every_kind
def test_the_gradient_is_that_of_differences(kind, two, wav_16k):
    """Of the outputs' biases, through the choice of the order."""
    model = separator(kind, codec(wav_16k)).eval()
    model.loss(two)[0].backward()
    own = model.enhancer.heads if kind == "tokens" else model.enhancer.leave
    for weight in (own.bias, model.others[0].bias):
        place, step = int(weight.grad.abs().argmax()), 1e-2
        with torch.no_grad():
            sides = []
            for sign in (1, -1):
                weight[place] += sign * step
                sides.append(float(model.loss(two)[0]))
                weight[place] -= sign * step
        assert float(weight.grad[place]) == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=0.03, abs=1e-5)


def test_an_enhancers_own_weights_keep_their_names(wav_16k):
    """So that a separator can begin from them."""
    for kind, own in (("tokens", "tell.weight"), ("mask", "leave.weight")):
        names = set(separator(kind, codec(wav_16k)).state_dict())
        assert f"enhancer.{own}" in names and {"others.0.weight", "others.0.bias"} <= names


def test_two_real_voices_come_apart(two, wav_16k):
    model = separator("mask", codec(wav_16k))
    seen = descend(model, two, steps=250, rate=4e-3)
    made_ST = model.eval().separate(two.mixed_BT[:1], torch.tensor([9600]))[0]
    made_ST = made_ST[best_order(made_ST, two.wanted_BST[0])]
    gains = [
        si_sdr(wanted_T.numpy(), made_T.numpy()) - si_sdr(wanted_T.numpy(), two.mixed_BT[0].numpy())
        for wanted_T, made_T in zip(two.wanted_BST[0], made_ST)
    ]
    assert min(gains) > 3 and seen[-1]["loss"] < 0.7 * seen[0]["loss"]


def test_codes_of_two_real_voices_are_learnt(two, wav_16k):
    seen = descend(separator("tokens", codec(wav_16k)), two, steps=60, rate=3e-3)
    assert seen[-1]["loss"] < 0.75 * seen[0]["loss"] and seen[-1]["right"] > 2 * seen[0]["right"]


@every_kind
def test_a_row_does_not_depend_on_the_others_and_is_as_long_as_it_was(kind, two, wav_16k):
    model = separator(kind, codec(wav_16k)).eval()
    assert isinstance(model, Separator)
    together_BST = model.separate(two.mixed_BT, two.lengths_B)
    assert together_BST.shape == (2, 2, 9600) and not together_BST[1, :, 6000:].any()
    alone_ST = model.separate(two.mixed_BT[1:, :6000], torch.tensor([6000]))[0]
    torch.testing.assert_close(together_BST[1, :, :6000], alone_ST, rtol=1e-4, atol=1e-5)


def test_the_best_order_is_that_of_the_ratios_that_a_search_finds():
    torch.manual_seed(0)
    losses_BST = torch.randn(7, 3, 3)
    loss_B, order_BS = least(losses_BST)
    for row in range(7):
        found = {order: sum(float(losses_BST[row, order[t], t]) for t in range(3)) / 3 for order in permutations(range(3))}
        assert float(loss_B[row]) == pytest.approx(min(found.values())) and tuple(order_BS[row].tolist()) == min(
            found, key=found.__getitem__
        )
    wav_ST, noise_ST = torch.randn(2, 3, 400)
    estimates_ST = (wav_ST + 0.3 * noise_ST)[[2, 0, 1]]
    slow = [[si_sdr(wav_T.numpy(), estimate_T.numpy()) for wav_T in wav_ST] for estimate_T in estimates_ST]
    torch.testing.assert_close(ratios(estimates_ST, wav_ST), torch.tensor(slow, dtype=torch.float64), rtol=1e-4, atol=1e-3)
    assert best_order(estimates_ST, wav_ST).tolist() == [1, 2, 0]
    assert ratios(torch.zeros(1, 400), wav_ST[:1]).item() == pytest.approx(-100, abs=0.1)
    assert ratios(wav_ST[:1], wav_ST[:1]).item() == pytest.approx(100, abs=0.1)


class Turning:
    """Tells two known voices apart without fault, but in another order each time."""

    def __init__(self, wav_ST, some):
        self.wav_ST, self.codec, self.place, self.turn = wav_ST, some, 0, 0

    def separate(self, mixed_BT, lengths_B):
        length = mixed_BT.shape[1]
        start = next(at for at in range(self.place, self.wav_ST.shape[1]) if torch.equal(self.wav_ST.sum(0)[at : at + length], mixed_BT[0]))
        self.place, self.turn = start + 1, 1 - self.turn
        part_ST = self.wav_ST[:, start : start + length]
        return (part_ST.flip(0) if self.turn else part_ST)[None]


def test_each_voice_of_a_long_recording_goes_on_as_itself(two, wav_16k):
    wav_ST = two.wanted_BST[0]
    made_ST = separated(Turning(wav_ST, codec(wav_16k)), wav_ST.sum(0), seconds=0.2, overlap_seconds=0.05)
    torch.testing.assert_close(made_ST, wav_ST.flip(0), rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused(two, wav_16k):
    some = codec(wav_16k)
    with pytest.raises(ValueError, match=r"enhancer\.voices is 2 or more; got 1"):
        separator("mask", some, voices=1)
    with pytest.raises(ValueError, match=r"set noise\.together\.voices=3"):
        separator("tokens", some, voices=3).loss(two)
    with pytest.raises(ValueError, match=r"set enhance\.overlap_seconds"):
        separated(separator("mask", some), wav_16k, seconds=1.0, overlap_seconds=0.0)
    with pytest.raises(ValueError, match="NaN or infinity"):
        separator("mask", some).separate(torch.full((1, 100), torch.nan), torch.tensor([100]))
