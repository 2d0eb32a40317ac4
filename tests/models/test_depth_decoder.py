"""The two transformers: that a frame's codes are said in turn, as slowly worked out, and that stepping gives what training computes."""

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning import descend
from scipy import stats
from speaking import GREEDY, RANDOM, SIZES, SPEC, Vectors, batch, heard, utterance
from torch.nn import functional as F

from audiotok.data.aligned import Line
from audiotok.data.code_vectors import code_vectors
from audiotok.decoding.acceptance import Exact
from audiotok.decoding.drafts import Fixed
from audiotok.models.ar_tts import ArTts
from audiotok.models.depth_decoder import DepthDecoder, by_frame
from audiotok.models.text import Batch
from audiotok.nn.inference import quickened
from audiotok.synthesis.drafting import Nobody, Repetition, SmallModel
from audiotok.synthesis.scripts import Manner, script
from audiotok.transforms.patterns import Parallel
from audiotok.transforms.unrolled import Unroll, rolled

UNROLL = Unroll()
SPOILED = {"replace_codes": 0.2, "blank_frames": 0.2, "own_history": 0.5, "anonymous": 0.1, "unconditional": 0.0}
EXACT_HISTORY = dict.fromkeys(SPOILED, 0.0)
DEPTH: dict[str, Any] = {"layers": 2, "heads": 2, "feed_forward": 48, "dropout": 0.0}


def tiny(*, seed=0, spec=SPEC, from_vectors=False, sharp=1.0, slow=0.0, **changes) -> Any:
    """`sharp` scales weights, so that laws are far from even; `slow` is the log of about how many frames a phoneme has."""
    torch.manual_seed(seed)
    told = partial(ArTts, from_vectors=from_vectors, duration_weight=0.5, **(SIZES | SPOILED | changes))
    vectors = partial(code_vectors, Vectors(), UNROLL)
    model: Any = DepthDecoder(UNROLL.out_spec(spec), num_phonemes=9, num_speakers=2, num_languages=2, vectors=vectors, told=told, **DEPTH)
    with torch.no_grad():
        for part in (model.told.transformer, model.depth, model.told.heads):
            for weight in (each for each in part.parameters() if each.ndim == 2):
                weight.mul_(sharp)
        model.told.duration[-1].bias.fill_(slow)
    return model


def taught(model, some):
    """The training pass's logits, those of a codebook [B, N, V_k]."""
    codes_BKN = rolled(some.codes_BKN)
    text_BPD = model.told.encode_text(some.text)
    path_BND = model.told.embed_path(text_BPD, by_frame(some.path, 3))
    hidden_BND = model.told.hidden(text_BPD, some.text.lengths_B, path_BND, codes_BKN)
    return model.logits(hidden_BND, codes_BKN), hidden_BND, codes_BKN


def unrolled(logits):
    """The logits of a frame's codebooks at their positions, zeros elsewhere: of each codebook [B, N * K, V_k]."""
    placed = []
    for k, logits_BNV in enumerate(logits):
        at_BNKV = torch.zeros(*logits_BNV.shape[:2], len(logits), logits_BNV.shape[2])
        at_BNKV[:, :, k] = logits_BNV
        placed.append(at_BNKV.flatten(1, 2))
    return placed


def assert_same(stepped, expected):
    for stepped_BNV, expected_BNV in zip(stepped, expected, strict=True):
        torch.testing.assert_close(stepped_BNV, expected_BNV, rtol=1e-4, atol=1e-4)


def part(each, first, end):
    return [logits_BNV[:, first:end] for logits_BNV in each]


@pytest.mark.parametrize("from_vectors", [False, True])
def test_the_logits_are_those_of_a_slow_loop_over_the_codebooks_of_each_frame(from_vectors):
    model, some = tiny(from_vectors=from_vectors, sharp=3.0).eval(), batch(UNROLL, (3, 5), (4, 5))
    logits, hidden_BND, codes_BKN = taught(model, some)
    tables = model.told.codes().split(model.codebook_sizes)
    heads, biases = model.told.heads().split(model.codebook_sizes), model.told.bias.split(model.codebook_sizes)
    for b, n, k in [(b, n, k) for b in range(2) for n in range(5) for k in range(3)]:
        inputs = [
            model.frame(hidden_BND[b, n]) + model.codebook_KD[i] + sum(tables[j][codes_BKN[b, j, n]] for j in range(i))
            for i in range(k + 1)
        ]
        state_D = model.depth(torch.stack(inputs)[None])[0, -1]
        torch.testing.assert_close(logits[k][b, n], heads[k] @ state_D + biases[k], rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_mean_over_the_codes_of_their_nats():
    model, some = tiny().eval(), batch(UNROLL, (3, 5), (4, 9))
    logits, _, codes_BKN = taught(model, some)
    nats = [
        -F.log_softmax(logits[k][b, n], -1)[codes_BKN[b, k, n]] for b, frames in enumerate((5, 9)) for n in range(frames) for k in range(3)
    ]
    loss, values = model.loss(some)
    torch.testing.assert_close(values["codes"], torch.stack(nats).mean(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss, values["codes"] + 0.5 * values["durations"], rtol=1e-5, atol=1e-6)


def test_a_row_of_a_batch_has_the_loss_it_has_alone():
    model = tiny().eval()
    utterances = [utterance(1, UNROLL, phonemes=3, frames=9), utterance(2, UNROLL, phonemes=6, frames=14)]
    alone = [model.loss(Batch.of([one]))[1]["codes"] for one in utterances]
    together = model.loss(Batch.of(utterances))[1]["codes"]
    torch.testing.assert_close(together, (9 * alone[0] + 14 * alone[1]) / 23, rtol=1e-5, atol=1e-5)


def test_a_code_is_said_knowing_those_before_it_in_its_frame_and_no_others():
    model, one = tiny(sharp=3.0).eval(), utterance(5, UNROLL, phonemes=4, frames=6)
    changed = replace(one, codes_KN=one.codes_KN.clone())
    changed.codes_KN[1, 3 * 2 + 1] = (changed.codes_KN[1, 3 * 2 + 1] + 1) % 7  # codebook 1 of frame 2
    first, second = (taught(model, Batch.of([each]))[0] for each in (one, changed))
    differs_KN = torch.stack([(a != b).any(-1)[0] for a, b in zip(first, second)])
    assert differs_KN.tolist() == [[False] * 3 + [True] * 3, [False] * 3 + [True] * 3, [False] * 2 + [True] * 4]


@pytest.mark.parametrize("from_vectors", [False, True])
def test_the_loss_falls_with_all_that_training_spoils(from_vectors):
    seen = descend(tiny(from_vectors=from_vectors), batch(UNROLL, (3, 8), (4, 9)), steps=40, rate=1e-2)
    assert sum(each["codes"] for each in seen[-5:]) < 0.8 * sum(each["codes"] for each in seen[:5])


def test_one_utterance_is_learnt_by_heart_and_said_again():
    model, some = tiny(**EXACT_HISTORY), batch(UNROLL, (5, 12))
    descend(model, some, steps=80, rate=1e-2)
    assert model.eval().loss(some)[1]["codes"] < 0.1
    step, said_BK1 = model.begin(some.text, some.path, positions=36), torch.full((1, 3, 1), -1)
    for place in range(36):
        codes_BK1 = torch.stack([each[:, :, :-1].argmax(-1) for each in step(said_BK1)], 1)
        said_BK1 = codes_BK1.where(torch.arange(3)[:, None] == place % 3, -1)
        assert torch.equal(said_BK1[0, :, 0], some.codes_BKN[0, :, place])


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=30), st.booleans())
def test_stepping_gives_the_logits_of_the_whole_sequence_however_many_positions_at_a_time(pieces, fast):
    model, some = tiny(sharp=3.0).eval(), batch(UNROLL, (3, 8), (6, 11))
    expected, inputs_BKP = unrolled(taught(model, some)[0]), heard(some.codes_BKN)
    step = (quickened(model, "fp32") if fast else model).begin(some.text, some.path, positions=inputs_BKP.shape[2])
    place = 0
    for count in [*pieces, 33]:
        end = min(place + count, 33)
        if end > place:
            assert_same(part(step(inputs_BKP[..., place:end]), 0, end - place), part(expected, place, end))
        place = end


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 8)), min_size=1, max_size=8))
def test_rows_go_on_from_wherever_each_is_rewound_to(moves):
    model, some = tiny(sharp=3.0).eval(), batch(UNROLL, (3, 9), (6, 9))
    expected, inputs_BKP = unrolled(taught(model, some)[0]), heard(some.codes_BKN)
    step, places = model.begin(some.text, some.path, positions=27), [0, 0]
    for back_0, back_1, count in moves:
        places = [max(0, place - back) for place, back in zip(places, (back_0, back_1))]
        step.rewind(torch.tensor(places))
        count = min(count, 27 - max(places))
        if count:
            wrong_BKN = torch.stack([inputs_BKP[b, :, place : place + count] for b, place in enumerate(places)])
            wrong_BKN = torch.where(wrong_BKN > 0, wrong_BKN - 1, wrong_BKN)
            step(wrong_BKN)  # a draft that does not stand
            step.rewind(torch.tensor(places))
            stepped = step(torch.stack([inputs_BKP[b, :, place : place + count] for b, place in enumerate(places)]))
            assert_same(stepped, [torch.stack([each[b, p : p + count] for b, p in enumerate(places)]) for each in expected])
            places = [place + count for place in places]


@pytest.mark.parametrize("heard_so_far", [(7, 0), (7, 4), (4, 6), (5, 5)])
def test_an_utterance_put_into_a_row_goes_on_there_at_any_place_in_a_frame(heard_so_far):
    model, some = tiny(sharp=3.0).eval(), batch(UNROLL, (3, 9), (6, 9), (4, 9))
    expected, inputs_BKP = unrolled(taught(model, some)[0]), heard(some.codes_BKN)
    whole = model.begin(some.text.rows([0, 1]), _rows(some.path, [0, 1]), positions=27)
    other = model.begin(some.text.rows([2]), _rows(some.path, [2]), positions=27)
    mine, others = heard_so_far
    whole(inputs_BKP[:2, :, :mine])
    if others:
        other(inputs_BKP[2:, :, :others])
    whole.put(1, other)
    stepped = whole(torch.stack([inputs_BKP[0, :, mine : mine + 5], inputs_BKP[2, :, others : others + 5]]))
    assert_same(stepped, [torch.stack([each[0, mine : mine + 5], each[2, others : others + 5]]) for each in expected])


def _rows(path, rows):
    return type(path)(path.phoneme_BN[rows], path.since_BN[rows], path.until_BN[rows])


def test_what_has_no_room_or_has_not_been_heard_is_refused():
    model, some = tiny().eval(), batch(UNROLL, (3, 2))
    step = model.begin(some.text, some.path, positions=6)
    step(heard(some.codes_BKN)[..., :4])
    with pytest.raises(ValueError, match="3 positions do not fit in a step of 6 whose rows hold 4 to 4"):
        step(heard(some.codes_BKN)[..., :3])
    with pytest.raises(ValueError, match=r"rows of \[4\] positions cannot be rewound to \[5\]"):
        step.rewind(torch.tensor([5]))
    with pytest.raises(ValueError, match="an utterance of 9 positions has no place in one of 6"):
        step.put(0, model.begin(some.text, some.path, positions=9))


def test_one_codebook_and_another_layout_are_refused():
    with pytest.raises(ValueError, match="choose transform=unroll for a tokenizer of several"):
        tiny(spec=replace(SPEC, codebook_sizes=(7,)))
    with pytest.raises(ValueError, match="do not take turns"):
        tiny().loss(batch(Parallel(), (3, 6)))


def plan(model, *, seeds, seconds=0.3):
    lines = [Line([1, 2, 3], [0] * 3, 0, 0), Line([4, 5, 6, 7, 8], [0] * 5, 0, 0), Line([2, 4], [0, 0], 0, 0)]
    chosen = [lines[seed % 3] for seed in seeds]
    return script(model, chosen, seeds=seeds, layout=UNROLL, spec=SPEC, manner=Manner(seconds, 1.0, None, 4, torch.device("cpu")))


def said(drafting, model, seeds, *, sampler, rows) -> list[Any]:
    written = plan(model, seeds=seeds)
    made = drafting.speak(written, model, rule=Exact(), rows=rows, sampler=sampler, device=torch.device("cpu"))
    return sorted(((one, written.codes(one.job, one.codes_KN)) for one in made), key=lambda pair: pair[0].job)


@pytest.mark.parametrize("fast", [False, True])
def test_an_utterance_is_said_the_same_in_any_batch(fast):
    model = tiny(sharp=3.0, slow=1.0).eval()
    model = quickened(model, "fp32") if fast else model
    alone = said(Nobody(), model, range(7), sampler=RANDOM, rows=1)
    assert len(alone) == 7 and len({codes_KN.shape[1] for _, codes_KN in alone}) > 1
    for rows in (2, 5):
        for (_, one_KN), (_, other_KN) in zip(alone, said(Nobody(), model, range(7), sampler=RANDOM, rows=rows), strict=True):
            assert torch.equal(one_KN, other_KN)


def drafters(model):
    small = SmallModel(model=DepthDecoder, checkpoint="step", lengths=Fixed(4), kept=None)
    return {
        "small": small.prepare(lambda make, folder: tiny(seed=1, sharp=2.0).eval()),
        "repetition": Repetition(order=1, lengths=Fixed(4)),
    }


@pytest.mark.parametrize("name", ["small", "repetition"])
def test_greedy_speculation_along_depth_says_the_codes_of_the_plain_engine(name):
    model = tiny(sharp=3.0, slow=1.0).eval()
    plain = said(Nobody(), model, range(6), sampler=GREEDY, rows=2)
    ahead = said(drafters(model)[name], model, range(6), sampler=GREEDY, rows=2)
    for (_, one_KN), (other, other_KN) in zip(plain, ahead, strict=True):
        assert torch.equal(one_KN, other_KN)
        assert all(made.drafted == 4 for made in other.rounds)
    assert sum(made.accepted for other, _ in ahead for made in other.rounds) > 0


def test_speculation_along_depth_has_the_probabilities_of_the_plain_engine():
    model, count = tiny(sharp=3.0).eval(), 900
    laws = []
    for drafting, first in ((Nobody(), 30_000), (drafters(model)["small"], 0)):
        made = said(drafting, model, range(first, first + 3 * count, 3), sampler=RANDOM, rows=count)
        laws.append(Counter(tuple(codes_KN[:, :1].flatten().tolist()) for _, codes_KN in made))
    common = [key for key in laws[0] | laws[1] if laws[0][key] + laws[1][key] >= 20]
    table = [[law[key] for key in common] + [count - sum(law[key] for key in common)] for law in laws]
    assert len(common) > 5 and stats.chi2_contingency(table).pvalue > 1e-4
