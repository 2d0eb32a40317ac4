"""Heads that know how a codec's codes add up: sums against a loop, and the codec's own choice where the latent is known for sure."""

import pytest
import torch
from small_enhancers import codec, transducer

from audiotok.data.code_vectors import code_vectors
from audiotok.models.enhancement.residual_heads import ResidualHeads, lagging
from audiotok.transforms.patterns import Delay, Parallel


def heads_of(some, *, delay):
    layout = Delay(delay)
    return ResidualHeads(some.spec.codebook_sizes, code_vectors(some, layout, alike=False), delay=delay, dim=8)


@pytest.fixture
def spoken(wav_16k):
    some = codec(wav_16k)
    wav_1T = wav_16k[None, 8000 : 8000 + 9600]
    return some, wav_1T, some.encode(wav_1T, torch.tensor([9600]))[0]


@pytest.mark.parametrize("delay", [1, 2])
@pytest.mark.parametrize("positions", [1, 4, None])
def test_what_was_said_of_a_frame_is_the_sum_of_the_vectors_of_its_earlier_codebooks(delay, positions, spoken):
    some, _, codes_BKN = spoken
    heads, codes_KP = heads_of(some, delay=delay), Delay(delay).apply(codes_BKN[0], some.spec)
    width = codes_KP.shape[1]
    said_NKD = heads.said(codes_KP[None], positions or width)[0]
    vectors = code_vectors(some, Delay(delay), alike=False)
    for n in range(len(said_NKD)):
        for k in range(len(codes_KP)):
            frame = width - len(said_NKD) + n - delay * k
            before = [vectors[j][codes_KP[j, frame + delay * j]] for j in range(k) if frame + delay * j >= 0]
            torch.testing.assert_close(said_NKD[n, k], sum(before, torch.zeros(heads.dim)))


def test_sure_of_the_latents_it_says_the_codecs_codes_and_in_doubt_all_are_alike(spoken):
    some, wav_1T, codes_BKN = spoken
    heads, layout = heads_of(some, delay=1), Delay(1)
    scale = some.embed(torch.arange(32).repeat(3, 1)[None])[0, 0].square().mean().sqrt()
    latent_BND = some.network.encoder(wav_1T) / scale
    codes_BKP = layout.apply(codes_BKN[0], some.spec)[None]
    guess_BPD = torch.nn.functional.pad(latent_BND, (0, 0, 0, 2))
    told_BPKE = torch.nn.functional.pad(lagging(guess_BPD, codes_BKP.shape[2], codebooks=3, delay=1), (0, 1), value=8.0)
    said_BKP = torch.stack([logits_BPV[..., :32].argmax(-1) for logits_BPV in heads(told_BPKE, codes_BKP)], dim=1)
    assert torch.equal(layout.invert(said_BKP[0], some.spec), codes_BKN[0])
    told_BPKE[..., -1] = -50.0
    assert all(
        torch.allclose(each.softmax(-1)[..., :32], torch.full_like(each, 1 / 32)[..., :32], atol=1e-4)
        for each in heads(told_BPKE, codes_BKP)
    )


def test_without_vectors_nothing_is_subtracted_and_codes_are_learnt():
    heads = ResidualHeads((5, 5), None, delay=1, dim=8)
    told_BNKE = torch.randn(1, 3, 2, heads.outputs)
    first, second = (heads(told_BNKE, codes_BKP) for codes_BKP in (torch.randint(5, (1, 2, 3)), torch.randint(5, (1, 2, 3))))
    assert all(torch.equal(*each) for each in zip(first, second)) and float(first[0].detach().std()) > 0


def test_vectors_that_are_not_made_alike_still_add_up(spoken):
    some, _, codes_BKN = spoken
    vectors = code_vectors(some, Parallel(), alike=False)
    added_ND = sum(each[codes] for each, codes in zip(vectors, codes_BKN[0]))
    whole_ND = some.embed(codes_BKN).sum(dim=1)[0]
    torch.testing.assert_close(added_ND * (whole_ND.norm() / added_ND.norm()), whole_ND, rtol=1e-4, atol=1e-4)
    assert float(vectors[0].square().mean()) == pytest.approx(1.0)


@pytest.mark.parametrize("delay", [1, 2])
def test_after_a_wrong_code_the_ones_behind_it_make_good_for_it(delay, spoken):
    some, _, codes_BKN = spoken
    codes = transducer(some, delay=delay).codes
    heads = heads_of(some, delay=delay)
    placed = codes.placed(codes_BKN, torch.tensor([codes_BKN.shape[2]]))
    heard_BKP, frame = placed.codes_BKP.clone(), 4
    heard_BKP[0, 0, frame] = (heard_BKP[0, 0, frame] + 5) % 32
    aimed = heads.aimed(placed, heard_BKP)
    vectors = code_vectors(some, Delay(delay), alike=False)
    whole_D = sum(vectors[k][codes_BKN[0, k, frame]] for k in range(3))
    left_D, said = whole_D - vectors[0][heard_BKP[0, 0, frame]], codes_BKN[0, 1, frame]
    assert aimed.codes_BKP[0, 1, frame + delay] == (vectors[1][:32] - left_D).norm(dim=1).argmin()
    assert aimed.codes_BKP[0, 2, frame + 2 * delay] == (vectors[2][:32] - (left_D - vectors[1][said])).norm(dim=1).argmin()
    changed = (aimed.codes_BKP != placed.codes_BKP)[0].nonzero().tolist()
    assert changed and {tuple(each) for each in changed} <= {(1, frame + delay), (2, frame + 2 * delay)}
    assert heads.aimed(placed, placed.codes_BKP) is placed


def test_what_is_left_and_what_guesses_miss_are_sums_over_the_codes_that_stand(spoken):
    some, _, codes_BKN = spoken
    heads, vectors = heads_of(some, delay=1), code_vectors(some, Delay(1), alike=False)
    plain = ResidualHeads(some.spec.codebook_sizes, code_vectors(some, Parallel(), alike=False), delay=0, dim=8)
    left_NKD = plain.left(codes_BKN)[0]
    placed = transducer(some).codes.placed(codes_BKN, torch.tensor([codes_BKN.shape[2]]))
    whole_PKD, told_BPKE = heads.whole(placed)[0], torch.randn(1, placed.codes_BKP.shape[2], 3, heads.outputs)
    missed = []
    for n in range(codes_BKN.shape[2]):
        each = [vectors[k][codes_BKN[0, k, n]] for k in range(3)]
        for k in range(3):
            torch.testing.assert_close(left_NKD[n, k], sum(each[k:]))
            torch.testing.assert_close(whole_PKD[n + k, k], sum(each))
            missed.append((told_BPKE[0, n + k, k, :-1] - sum(each)).square().sum() / 2)
    torch.testing.assert_close(heads.miss(told_BPKE, whole_PKD[None], placed.real_BKP), torch.stack(missed).mean())
