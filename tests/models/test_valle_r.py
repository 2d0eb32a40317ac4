"""The model with a pointer: that it is in each phoneme once, in order, and stops, whatever it draws; and that it learns when to move."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning import descend
from speaking import LAYOUTS, PLAIN, RANDOM, SIZES, SPEC, SPOILING, batch, heard, name, original, say, utterance

from audiotok.data.aligned import AlignedUtterance, Line
from audiotok.decoding.autoregressive import generate
from audiotok.decoding.ending import Limited, limits, with_moves
from audiotok.decoding.guidance import Guided
from audiotok.decoding.rows import Job
from audiotok.models.code_decoder import CodeDecoder, closed
from audiotok.models.text import Batch, Text
from audiotok.models.valle_r import Pointer, ValleR, forced_moves, visits
from audiotok.transforms.patterns import Delay, Parallel
from audiotok.transforms.stack import Stack

DENSE = [transform for transform in LAYOUTS if transform != Stack(frames=4)]

every_layout = pytest.mark.parametrize("transform", DENSE, ids=name)


def tiny(transform, *, seed=0, **changes):
    torch.manual_seed(seed)
    decoder = partial(CodeDecoder, from_vectors=False, **(SIZES | SPOILING | changes))
    shape = {"num_phonemes": 9, "num_speakers": 2, "num_languages": 2, "vectors": list}
    return ValleR(transform.out_spec(SPEC), decoder=decoder, phoneme_weight=0.1, move_weight=0.5, **shape)


def begun(model, text, transform, *, longest):
    known = with_moves(limits(transform, SPEC, max_frames=longest))
    step = model.begin(text, positions=known.first_KN.shape[1], conditional=True)
    return Limited(step, known, rows=len(text.lengths_B))


def spoken(model, text, transform, *, longest, **settings):
    step = begun(model, text, transform, longest=longest)
    positions = step.limits.first_KN.shape[1]
    return say(step, sizes=model.codebook_sizes, end=model.end, positions=positions, **settings)


def text_of(*lines):
    return Text.of([Line(phonemes, [0] * len(phonemes), 1, 0) for phonemes in lines])


def whole(model, some, codes_BKN, moves_BN):
    """Logits of every position but the limits of the pointer, from one pass over the whole sequence."""
    decoder, told_B = model.decoder, torch.ones(len(codes_BKN), dtype=torch.bool)
    text_BPD, lengths_B = decoder.encode(some.text, told_B=told_B)
    pointer = Pointer.of(torch.cat([torch.zeros_like(moves_BN[:, :1]), moves_BN[:, :-1].cumsum(1)], 1))
    inputs_BND = decoder.history(codes_BKN) + model.embed_pointer(text_BPD, pointer, some.text, told_B=told_B)
    hidden_BND = decoder.hidden(text_BPD, lengths_B, inputs_BND)
    return [*decoder.logits(hidden_BND), model.move_logits(hidden_BND, pointer, some.text)]


def taught(model, some):
    """(what is heard of the batch and its moves, the logits of every position)."""
    given = closed(some.codes_BKN, model.decoder.codebook_sizes)
    path_BN = visits(some.path.phoneme_BN, some.text.lengths_B, given.ends_B)
    moves_BN = torch.cat([path_BN.diff(dim=1), torch.zeros_like(path_BN[:, :1])], 1)
    inputs = heard(torch.cat([given.codes_BKN, moves_BN[:, None]], 1))
    return inputs, whole(model, some, given.codes_BKN, moves_BN)


def assert_same_logits(stepped, expected):
    """Where the pointer lets codebook 0 say it."""
    for stepped_BNV, expected_BNV in zip(stepped, expected, strict=True):
        said = stepped_BNV > -1e8
        torch.testing.assert_close(stepped_BNV[said], expected_BNV[said], rtol=1e-4, atol=1e-4)
        assert said.any(-1).all()


def test_visits_draws_what_its_docstring_draws():
    path_BN = visits(torch.tensor([[0, 0, 2, 2, 3, 3]]), torch.tensor([4]), torch.tensor([6]))
    assert path_BN.tolist() == [[0, 0, 1, 2, 3, 3, 4]]


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_a_path_visits_every_phoneme_and_is_kept_where_it_does_already(data):
    rows = data.draw(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6).filter(sum), min_size=1, max_size=3))
    counts = [torch.tensor([0] * max(0, len(row) - sum(row)) + row)[-len(row) :] for row in rows]
    counts = [count if count.sum() >= len(count) else count + 1 for count in counts]
    paths = [torch.repeat_interleave(torch.arange(len(count)), count) for count in counts]
    padded_BN = torch.nn.utils.rnn.pad_sequence(paths, batch_first=True)
    lengths_B, positions_B = (torch.tensor([len(each) for each in part]) for part in (counts, paths))
    for path_N, count, visited_N in zip(paths, counts, visits(padded_BN, lengths_B, positions_B)):
        within_N = visited_N[: len(path_N)]
        assert within_N[0] == 0 and within_N[-1] == len(count) - 1 and set(within_N.diff().tolist()) <= {0, 1}
        assert (visited_N[len(path_N) :] == len(count)).all()
        assert (count == 0).any() or torch.equal(within_N, path_N)


def test_fewer_positions_than_phonemes_are_refused():
    with pytest.raises(ValueError, match="choose a transform with more positions"):
        tiny(Stack(frames=4)).loss(batch(Stack(frames=4), (3, 9), (4, 12)))


@every_layout
def test_the_loss_falls(transform):
    seen = descend(tiny(transform), batch(transform, (3, 8), (4, 9)), steps=30, rate=1e-2)
    assert sum(each["loss"] for each in seen[-5:]) < 0.9 * sum(each["loss"] for each in seen[:5])


def test_a_row_of_a_batch_has_the_loss_it_has_alone():
    model = tiny(Delay(step=1)).eval()
    utterances = [utterance(1, Delay(step=1), phonemes=3, frames=5), utterance(2, Delay(step=1), phonemes=6, frames=13)]
    alone, together = [model.loss(Batch.of([one]))[1] for one in utterances], model.loss(Batch.of(utterances))[1]
    for key, weights in {"codes": [15.0, 39.0], "ends": [1.0, 1.0], "phonemes": [5.0, 13.0], "moves": [5.0, 13.0]}.items():
        weights_B = torch.tensor(weights)
        expected = (torch.stack([one[key] for one in alone]) * weights_B).sum() / weights_B.sum()
        torch.testing.assert_close(together[key], expected, rtol=1e-5, atol=1e-5)


@every_layout
def test_stepping_gives_the_logits_of_the_whole_sequence_one_or_several_positions_at_a_time(transform):
    model, some = tiny(transform).eval(), batch(transform, (3, 8), (5, 11))
    model.longest_V.fill_(100)
    inputs, expected = taught(model, some)
    one, several = (model.begin(some.text, positions=inputs.shape[2], conditional=True) for _ in range(2))
    for n in range(inputs.shape[2]):
        assert_same_logits(one(inputs[..., n : n + 1]), [each[:, n : n + 1] for each in expected])
    for n in range(0, inputs.shape[2], 4):
        assert_same_logits(several(inputs[..., n : n + 4]), [each[:, n : n + 4] for each in expected])


def test_the_pointer_is_rewound_with_the_rest():
    model, some = tiny(Parallel()).eval(), batch(Parallel(), (3, 9), (6, 11))
    model.longest_V.fill_(100)
    inputs, expected = taught(model, some)
    step = model.begin(some.text, positions=12, conditional=True)
    step(inputs[..., :4])
    wrong = inputs[..., 4:7].clone()
    wrong[:, -1] = 1 - wrong[:, -1]
    step(wrong)
    step.rewind(torch.tensor([4, 3]))
    stepped = step(torch.stack([inputs[0, :, 4:7], inputs[1, :, 3:6]]))
    assert_same_logits(stepped, [torch.stack([each[0, 4:7], each[1, 3:6]]) for each in expected])


def test_the_pointer_of_an_utterance_put_into_a_row_goes_on_there():
    model, some = tiny(Parallel()).eval(), batch(Parallel(), (3, 9), (6, 11), (4, 9))
    model.longest_V.fill_(100)
    inputs, expected = taught(model, some)
    step, other = (model.begin(some.text.rows(rows), positions=12, conditional=True) for rows in ([0, 1], [2]))
    step(inputs[:2, :, :6])
    other(inputs[2:, :, :3])
    step.put(1, other)
    stepped = step(torch.stack([inputs[0, :, 6:8], inputs[2, :, 3:5]]))
    assert_same_logits(stepped, [torch.stack([each[0, 6:8], each[2, 3:5]]) for each in expected])


def test_an_utterance_that_is_longer_than_there_is_room_for_is_refused():
    model, text = tiny(Parallel()).eval(), text_of([1, 2, 3])
    with pytest.raises(ValueError, match="has no place"):
        model.begin(text, positions=5, conditional=True).put(0, model.begin(text, positions=6, conditional=True))


@settings(deadline=None, max_examples=8)
@given(
    seed=st.integers(0, 2**31),
    lines=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=6), min_size=1, max_size=3),
    bound=st.sampled_from([0, 1, 3]),
    scale=st.sampled_from([1.0, 30.0]),
)
@every_layout
def test_an_untrained_pointer_is_in_each_phoneme_once_in_order_and_stops(transform, seed, lines, bound, scale):
    model = tiny(transform, seed=seed).eval()
    with torch.no_grad():
        for weight in (model.phoneme.weight, model.phoneme.bias, model.move.weight, model.decoder.bias):
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) * scale)
    frames = transform.frames if isinstance(transform, Stack) else 1
    cells = len(transform.frame_index(2 * frames, SPEC)) - len(transform.frame_index(frames, SPEC))  # positions of a frame
    model.longest_V.fill_(bound * cells)
    longest = max(bound, 1) * frames * max(map(len, lines)) + 1
    said = spoken(model, text_of(*lines), transform, longest=longest, sampler=RANDOM, seeds=[seed + i for i in range(len(lines))])
    for phonemes, codes_KN in zip(lines, said):
        length = transform.invert(codes_KN[:-1], SPEC).shape[1]
        positions = int(transform.legal(length, SPEC)[0].sum())
        path_N = codes_KN[-1, :positions].cumsum(0)
        stays = torch.bincount(codes_KN[-1, : positions - 1].cumsum(0), minlength=len(phonemes))
        assert path_N[-1] == len(phonemes) and (path_N[:-1] < len(phonemes)).all()
        assert length < longest and len(stays) <= len(phonemes)


@every_layout
def test_a_text_that_is_not_over_within_the_limits_goes_on_to_the_last_position(transform):
    model = tiny(transform).eval()
    (codes_KN,) = spoken(model, text_of([1, 2, 3] * 5), transform, longest=6)
    assert codes_KN.shape[1] == len(transform.frame_index(6, SPEC)) + 1 and codes_KN[-1].sum() < 15


@pytest.mark.parametrize("transform", [Parallel(), Delay(step=1)], ids=name)
def test_a_learnt_utterance_is_said_along_its_alignment_even_where_a_phoneme_comes_twice(transform):
    model = tiny(transform, **PLAIN)
    first, second = utterance(1, transform, phonemes=4, frames=9), utterance(2, transform, phonemes=6, frames=12)
    twice = AlignedUtterance("twice", Line([4, 4, 4, 2], [0] * 4, 0, 0), first.durations_P, first.path, first.codes_KN)
    some = Batch.of([twice, second])
    descend(model, some, steps=80, rate=1e-2)
    said = spoken(model.eval(), some.text, transform, longest=20, seeds=[0, 1])
    inputs, _ = taught(model, some)
    for codes_KN, wanted_KN, moves_N in zip(said, some.codes_BKN, inputs[:, -1, 1:]):
        wanted_KN = original(wanted_KN, transform)
        assert torch.equal(transform.invert(codes_KN[:-1], SPEC), wanted_KN)
        assert torch.equal(codes_KN[-1, : wanted_KN.shape[1]], moves_N[: wanted_KN.shape[1]])


def test_a_given_path_is_followed():
    model, text = tiny(Delay(step=1)).eval(), text_of([1, 2, 2, 3])
    path_N = torch.tensor([0, 0, 0, 1, 2, 2, 2, 3, 3])
    forced_KN = forced_moves(path_N, 4, codebook_sizes=model.codebook_sizes)
    (codes_KN,) = spoken(model, text, Delay(step=1), longest=30, sampler=RANDOM, seeds=[5], forced_BKN=forced_KN[None])
    assert Delay(step=1).invert(codes_KN[:-1], SPEC).shape[1] == len(path_N)
    assert [0, *codes_KN[-1, :8].cumsum(0).tolist()] == path_N.tolist()


@pytest.mark.parametrize("transform", [Parallel(), Delay(step=1)], ids=name)
def test_the_engine_says_with_two_rows_what_the_slow_loop_says_of_each_alone_and_follows_a_path_that_is_given(transform):
    model, text = tiny(transform).eval(), text_of([1, 2, 2, 3], [3, 1], [4, 4, 4, 1, 2, 2])
    model.longest_V.fill_(4)
    positions, sizes = len(transform.frame_index(25, SPEC)), model.codebook_sizes
    path = forced_moves(torch.tensor([0, 0, 0, 1, 2, 2, 2, 3, 3]), 4, codebook_sizes=sizes)
    jobs = [Job(seed=seed, max_positions=positions, forced_KN=path if seed == 0 else None) for seed in range(3)]
    options = {"sampler": RANDOM, "codebook_sizes": sizes, "end": model.end, "device": "cpu"}
    for each in generate(lambda rows: begun(model, text.rows(rows), transform, longest=25), jobs, rows=2, **options):
        forced_BKN = path[None] if each.job == 0 else None
        alone = {"longest": 25, "sampler": RANDOM, "seeds": [each.job], "forced_BKN": forced_BKN}
        assert torch.equal(each.codes_KN, spoken(model, text.rows([each.job]), transform, **alone)[0])
        assert each.codes_KN[-1].sum() == text.lengths_B[each.job]


def test_no_phoneme_lasts_longer_than_it_did_in_training():
    model, some = tiny(Parallel()), batch(Parallel(), (3, 9), (5, 11))
    model.train().loss(some)
    longest = model.longest_V.clone()
    path = Pointer.of(visits(some.path.phoneme_BN, some.text.lengths_B, torch.tensor([9, 11])))
    for row, length in enumerate([3, 5]):
        for index in range(length):
            stay = int((path.phoneme_BN[row] == index).sum())
            assert longest[some.text.phonemes_BP[row, index]] >= stay > 0
    assert longest.max() == max(int((path.phoneme_BN[r] == i).sum()) for r, p in ((0, 3), (1, 5)) for i in range(p))
    model.eval().loss(some)
    assert torch.equal(model.longest_V, longest) and "longest_V" in model.state_dict()


def test_a_guided_model_moves_one_pointer():
    model, text = tiny(Parallel()).eval(), text_of([1, 2, 2, 3], [3, 1])
    model.longest_V.fill_(3)
    both = (model.begin(text, positions=14, conditional=conditional) for conditional in (True, False))
    step = Limited(Guided(*both, scale=3.0), with_moves(limits(Parallel(), SPEC, max_frames=13)), rows=2)
    said = say(step, sizes=model.codebook_sizes, end=model.end, positions=14, sampler=RANDOM, seeds=[0, 1])
    assert [int(codes_KN[-1].sum()) for codes_KN in said] == [4, 2]


def test_losses_and_gradients_are_finite_in_bfloat16():
    model = tiny(Delay(step=1)).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = model.loss(batch(Delay(step=1), (3, 6), (5, 9)))
    loss.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters()) and loss.isfinite()
