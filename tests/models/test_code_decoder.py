"""The plain code language model: its ends, that stepping gives what training computes, and that it learns when to stop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning import descend
from speaking import LAYOUTS, PLAIN, RANDOM, SPEC, batch, heard, name, original, say, tiny_decoder, utterance

from audiotok.decoding.autoregressive import generate
from audiotok.decoding.ending import Limited, limits
from audiotok.decoding.rows import Job
from audiotok.models.code_decoder import closed
from audiotok.models.text import Batch, Text
from audiotok.transforms.chain import chain
from audiotok.transforms.patterns import CoarseFirst, Delay, Flatten, Parallel
from audiotok.transforms.stack import Stack
from audiotok.types import TokenSpec

LONGEST = 24  # frames

every_layout = pytest.mark.parametrize("transform", LAYOUTS, ids=name)


def begun(model, text, transform, *, spec=SPEC, longest=LONGEST, conditional=True):
    known = limits(transform, spec, max_frames=longest)
    step = model.begin(text, positions=known.first_KN.shape[1], conditional=conditional)
    return Limited(step, known, rows=len(text.lengths_B))


def whole(model, some: Batch, codes_BKN):
    """Logits of every position, from one pass over the whole sequence."""
    text_BPD, lengths_B = model.encode(some.text, told_B=model.told(len(codes_BKN)))
    return model.logits(model.hidden(text_BPD, lengths_B, model.history(codes_BKN)))


def assert_logits(stepped, expected, places):
    for stepped_BNV, expected_BNV in zip(stepped, expected, strict=True):
        torch.testing.assert_close(stepped_BNV, expected_BNV[:, places], rtol=1e-4, atol=1e-4)


def test_closed_draws_what_its_docstring_draws():
    parallel = closed(torch.tensor([[[1, 2, 3], [4, 5, 6]]]), (9, 8))
    assert parallel.codes_BKN.tolist() == [[[1, 2, 3, 8], [4, 5, 6, -1]]]
    delayed = closed(torch.tensor([[[1, 2, 3, -1], [-1, 4, 5, 6]]]), (10, 9))
    assert delayed.codes_BKN.tolist() == [[[1, 2, 3, 9, -1], [8, 4, 5, 6, -1]]]
    assert parallel.ends_B.tolist() == delayed.ends_B.tolist() == [3]


@every_layout
def test_the_loss_falls(transform):
    seen = descend(tiny_decoder(transform), batch(transform, (3, 6), (4, 9)), steps=30, rate=1e-2)
    assert sum(each["loss"] for each in seen[-5:]) < 0.9 * sum(each["loss"] for each in seen[:5])


@every_layout
def test_a_row_of_a_batch_has_the_loss_it_has_alone(transform):
    model = tiny_decoder(transform).eval()
    utterances = [utterance(1, transform, phonemes=3, frames=5), utterance(2, transform, phonemes=6, frames=13)]
    alone = [model.loss(Batch.of([one]))[1] for one in utterances]
    together = model.loss(Batch.of(utterances))[1]
    counts = torch.tensor([float((one.codes_KN >= 0).sum()) for one in utterances])
    codes = (torch.stack([one["codes"] for one in alone]) * counts).sum() / counts.sum()
    torch.testing.assert_close(together["codes"], codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together["ends"], torch.stack([one["ends"] for one in alone]).mean(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("from_vectors", [False, True])
@every_layout
def test_stepping_gives_the_logits_of_the_whole_sequence_one_or_several_positions_at_a_time(transform, from_vectors):
    model, some = tiny_decoder(transform, from_vectors=from_vectors).eval(), batch(transform, (3, 7), (6, 7))
    codes_BKN = closed(some.codes_BKN, model.codebook_sizes).codes_BKN
    expected, inputs = whole(model, some, codes_BKN), heard(codes_BKN)
    one, several = (model.begin(some.text, positions=inputs.shape[2], conditional=True) for _ in range(2))
    for n in range(inputs.shape[2]):
        assert_logits(one(inputs[..., n : n + 1]), expected, slice(n, n + 1))
    for n in range(0, inputs.shape[2], 3):
        assert_logits(several(inputs[..., n : n + 3]), expected, slice(n, n + 3))


def test_a_rewound_row_goes_on_as_if_it_had_never_heard_the_rest():
    transform = Delay(step=1)
    model, some = tiny_decoder(transform).eval(), batch(transform, (3, 7), (6, 9))
    codes_BKN = closed(some.codes_BKN, model.codebook_sizes).codes_BKN
    expected, inputs = whole(model, some, codes_BKN), heard(codes_BKN)
    step = model.begin(some.text, positions=12, conditional=True)
    step(inputs[..., :3])
    step((inputs[..., 3:6] + 1).clamp_max(4))
    step.rewind(torch.tensor([3, 2]))
    stepped = step(torch.stack([inputs[0, :, 3:5], inputs[1, :, 2:4]]))
    for stepped_BNV, expected_BNV in zip(stepped, expected):
        torch.testing.assert_close(stepped_BNV[0], expected_BNV[0, 3:5], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(stepped_BNV[1], expected_BNV[1, 2:4], rtol=1e-4, atol=1e-4)


def test_an_utterance_put_into_a_row_goes_on_there_and_leaves_the_others_alone():
    transform = Parallel()
    model, some = tiny_decoder(transform).eval(), batch(transform, (3, 7), (6, 9), (4, 8))
    codes_BKN = closed(some.codes_BKN, model.codebook_sizes).codes_BKN
    expected, inputs = whole(model, some, codes_BKN), heard(codes_BKN)
    step = model.begin(some.text.rows([0, 1]), positions=12, conditional=True)
    other = model.begin(Text.of([utterance(3, transform, phonemes=4, frames=8).line]), positions=9, conditional=True)
    step(inputs[:2, :, :5])
    other(inputs[2:, :, :2])
    step.put(1, other)
    stepped = step(torch.stack([inputs[0, :, 5:7], inputs[2, :, 2:4]]))
    for stepped_BNV, expected_BNV in zip(stepped, expected):
        torch.testing.assert_close(stepped_BNV[0], expected_BNV[0, 5:7], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(stepped_BNV[1], expected_BNV[2, 2:4], rtol=1e-4, atol=1e-4)


@every_layout
def test_a_learnt_utterance_is_said_with_its_length_exactly(transform):
    model, some = tiny_decoder(transform, **PLAIN), batch(transform, (3, 6), (5, 11))
    descend(model, some, steps=80, rate=1e-2)
    model.eval()
    step = begun(model, some.text, transform)
    positions = step.limits.first_KN.shape[1]
    said = say(step, sizes=model.codebook_sizes, end=model.end, positions=positions, seeds=[0, 1])
    for codes_KN, wanted_KN in zip(said, some.codes_BKN):
        assert torch.equal(transform.invert(codes_KN, SPEC), original(wanted_KN, transform))


def test_one_codebook_is_learnt_too():
    spec = TokenSpec(16000, 50, (7,), "one")
    model, some = tiny_decoder(Parallel(), spec=spec, **PLAIN), batch(Parallel(), (3, 6), (4, 9), spec=spec)
    descend(model, some, steps=80, rate=1e-2)
    step = begun(model.eval(), some.text, Parallel(), spec=spec)
    said = say(step, sizes=model.codebook_sizes, end=model.end, positions=LONGEST, seeds=[0, 1])
    assert [row.tolist() for row in said] == [some.codes_BKN[0, :, :6].tolist(), some.codes_BKN[1].tolist()]


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.0, 1.0, 30.0]))
@every_layout
def test_whatever_an_untrained_model_says_up_to_its_end_can_be_inverted(transform, seed, scale):
    model = tiny_decoder(transform, seed=seed).eval()
    with torch.no_grad():
        model.bias.copy_(torch.randn(model.bias.shape, generator=torch.Generator().manual_seed(seed)) * scale)
    step = begun(model, batch(transform, (3, 6), (5, 8)).text, transform, longest=7)
    positions = step.limits.first_KN.shape[1]
    said = say(step, sizes=model.codebook_sizes, end=model.end, positions=positions, sampler=RANDOM, seeds=[seed, seed + 1])
    for codes_KN in (each for each in said if each.shape[1] < positions):
        frames = transform.invert(codes_KN, SPEC).shape[1]
        assert len(transform.frame_index(frames, SPEC)) == codes_KN.shape[1] > 0


@every_layout
def test_the_engine_says_with_two_rows_what_the_slow_loop_says_of_each_alone(transform):
    model, text = tiny_decoder(transform).eval(), batch(transform, *[(3, 6), (5, 8), (2, 3), (4, 5)]).text
    positions = len(transform.frame_index(9, SPEC))
    jobs = [Job(seed=seed, max_positions=positions) for seed in range(4)]
    options = {"sampler": RANDOM, "codebook_sizes": model.codebook_sizes, "end": model.end, "device": "cpu"}
    made = generate(lambda rows: begun(model, text.rows(rows), transform, longest=9), jobs, rows=2, **options)
    for each in made:
        step = begun(model, text.rows([each.job]), transform, longest=9)
        (alone_KN,) = say(step, sizes=model.codebook_sizes, end=model.end, positions=positions, sampler=RANDOM, seeds=[each.job])
        assert torch.equal(each.codes_KN, alone_KN)


@every_layout
def test_limits_hold_at_several_positions_at_once_and_after_a_rewind(transform):
    model, some = tiny_decoder(transform).eval(), batch(transform, (3, 6), (5, 9))
    holes_KN = transform.out_spec(SPEC).codebook_sizes
    codes_BKN = torch.where(some.codes_BKN < 0, torch.tensor(holes_KN)[:, None] - 1, some.codes_BKN)
    inputs, one, several = heard(codes_BKN), *(begun(model, some.text, transform) for _ in range(2))
    single = [one(inputs[..., n : n + 1]) for n in range(inputs.shape[2])]
    several(inputs)
    several.rewind(torch.tensor([2, 2]))
    for k, logits_BNV in enumerate(several(inputs[..., 2:])):
        expected_BNV = torch.cat([each[k] for each in single[2:]], 1)
        assert torch.equal(logits_BNV.isfinite(), expected_BNV.isfinite())


@every_layout
def test_a_limited_row_that_another_is_put_into_may_end_where_that_one_may(transform):
    model, text = tiny_decoder(transform).eval(), batch(transform, (3, 6), (5, 9)).text
    step, other = begun(model, text, transform), begun(model, text.rows([0]), transform)
    nothing = torch.full((2, len(model.codebook_sizes), 1), -1)
    step(nothing)
    step(torch.zeros_like(nothing))
    expected = other(nothing[:1])
    step.put(0, other)
    other.rewind(torch.tensor([0]))
    step.rewind(torch.tensor([0, 2]))
    for logits_BNV, expected_BNV in zip(step(nothing), expected):
        assert torch.equal(logits_BNV[:1].isfinite(), expected_BNV.isfinite())


SAID_TWICE = [
    chain({"stack": Stack(frames=2), "delay": Delay(step=1)}),
    chain({"delay": Delay(step=1), "stack": Stack(frames=2)}),
    chain({"stack": Stack(frames=2), "flatten": Flatten()}),
    chain({"flatten": Flatten(), "stack": Stack(frames=2)}),
]


@pytest.mark.parametrize("longest", [7, 8, 100])
@pytest.mark.parametrize("transform", [CoarseFirst(), *SAID_TWICE], ids=lambda transform: type(transform).__name__)
def test_a_layout_that_does_not_say_where_it_ends_in_one_way_is_refused(transform, longest):
    with pytest.raises(ValueError, match="choose transform=parallel"):
        limits(transform, SPEC, max_frames=longest)


@pytest.mark.parametrize("longest", [1, 2, 3, 100])
@every_layout
def test_limits_of_few_frames_are_those_of_many_cut_short(transform, longest):
    few, many = limits(transform, SPEC, max_frames=longest), limits(transform, SPEC, max_frames=400)
    positions = len(transform.frame_index(longest, SPEC)) + 1
    assert torch.equal(few.tail_KR, many.tail_KR) and torch.equal(few.closes_K, many.closes_K)
    for short, long in ((few.first_KN, many.first_KN), (few.end_KN, many.end_KN), (few.may_end_N, many.may_end_N)):
        assert torch.equal(short, long[..., :positions])


@every_layout
def test_a_row_that_never_says_its_end_goes_on_to_the_last_position(transform):
    model = tiny_decoder(transform).eval()
    with torch.no_grad():
        pads_K = torch.tensor(model.codebook_sizes).cumsum(0) - 1
        model.bias[pads_K] = -1e4
    step = begun(model, batch(transform, (3, 6)).text, transform, longest=6)
    positions = step.limits.first_KN.shape[1]
    (codes_KN,) = say(step, sizes=model.codebook_sizes, end=model.end, positions=positions, sampler=RANDOM)
    assert codes_KN.shape[1] == positions == len(transform.frame_index(6, SPEC)) + 1


def test_a_frame_is_never_left_half_said():
    model = tiny_decoder(Flatten()).eval()
    with torch.no_grad():
        model.bias[model.end] = 100.0
    step = begun(model, batch(Flatten(), (3, 6)).text, Flatten())
    (codes_KN,) = say(step, sizes=model.codebook_sizes, end=model.end, positions=30)
    assert codes_KN.shape == (1, 3)


def test_history_is_spoiled_in_training_only_and_never_where_no_code_stands():
    model, given = (
        tiny_decoder(Stack(frames=2)),
        closed(batch(Stack(frames=2), *[(3, 41)] * 8).codes_BKN, tiny_decoder(Stack(frames=2)).codebook_sizes),
    )
    spoiled_BKN = model.train().spoiled(given)
    assert 0.05 < (spoiled_BKN != given.codes_BKN).float().mean() < 0.7
    beyond_BKN = ~given.real_BKN & ~(spoiled_BKN == -1)
    assert torch.equal(spoiled_BKN[beyond_BKN], given.codes_BKN[beyond_BKN])
    assert (spoiled_BKN[:, 0, :-1] != model.end).all()
    assert torch.equal(model.eval().spoiled(given), given.codes_BKN)


def test_own_codes_are_drawn_but_never_an_end():
    model, given = tiny_decoder(Parallel(), own_history=1.0), closed(batch(Parallel(), *[(3, 40)] * 8).codes_BKN, (8, 7, 5))
    logits = [torch.zeros(8, 41, size) for size in (8, 7, 5)]
    logits[0][..., model.end] = 1e3
    replayed_BKN = model.replayed(given.codes_BKN, given.real_BKN, logits)
    assert (replayed_BKN[:, 0, :-1] != model.end).all() and (replayed_BKN[:, 0, -1] == model.end).all()
    assert (replayed_BKN != given.codes_BKN).float().mean() > 0.3


def test_what_is_said_without_the_text_does_not_depend_on_it():
    model = tiny_decoder(Parallel()).eval()
    one, other = batch(Parallel(), (3, 6)).text, batch(Parallel(), (3, 6), (5, 6)).text.rows([1])
    nothing = torch.full((1, 3, 1), -1)
    for conditional, same in ((False, True), (True, False)):
        first, second = (model.begin(text, positions=3, conditional=conditional)(nothing)[0] for text in (one, other))
        assert torch.allclose(first, second) == same


def test_in_training_the_text_of_some_utterances_is_withheld():
    model = tiny_decoder(Parallel(), unconditional=0.25)
    assert 0.15 < 1 - model.train().told(1000).float().mean() < 0.35
    assert model.eval().told(1000).all()
    model.unconditional = 1.0
    model.train().loss(batch(Parallel(), (3, 6)))[0].backward()
    assert model.text.phoneme.weight.grad.abs().max() == 0 and model.nothing.grad.abs().max() > 0


def test_losses_and_gradients_are_finite_in_bfloat16():
    model = tiny_decoder(Delay(step=1)).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = model.loss(batch(Delay(step=1), (3, 6), (5, 9)))
    loss.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters()) and loss.isfinite()
