"""One decoder that speaks and writes: two vocabularies, two losses, masked spans, and that stepping gives what training computes."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from learning import descend
from speaking import LAYOUTS, PLAIN, RANDOM, SIZES, SPEC, SPOILING, heard, name, say, utterance
from torch.nn import functional as F

from audiotok.data.letters import Alphabet
from audiotok.models.code_decoder import CodeDecoder, closed
from audiotok.models.speech_text import SpeechText, lengths, spans
from audiotok.models.text import Batch
from audiotok.transforms.patterns import Delay, Parallel

LETTERS = " 'abc"
TEXTS = ("A b, cab!", "b", "abba a")
WHOLE = {"masked_history": 0.0, "masked_speech": 0.0, "blank_letters": 0.0}
MASKED = {"masked_history": 0.5, "masked_speech": 0.5, "blank_letters": 0.5}

every_layout = pytest.mark.parametrize("transform", LAYOUTS, ids=name)


def tiny(transform, *, spoiling=PLAIN, masks=WHOLE, alphabet=LETTERS, span=3, seed=0):
    torch.manual_seed(seed)
    return SpeechText(
        transform.out_spec(SPEC),
        num_phonemes=9,
        num_speakers=2,
        num_languages=2,
        vectors=list,
        decoder=partial(CodeDecoder, from_vectors=False, **SIZES, **spoiling),
        alphabet=alphabet,
        letter_weight=0.5,
        end_weight=0.25,
        span=span,
        **masks,
    )


def spoken(transform, texts=TEXTS):
    shapes = [(3, 6), (5, 11), (4, 9)]
    return [replace(utterance(i, transform, phonemes=p, frames=n), text=text) for i, ((p, n), text) in enumerate(zip(shapes, texts), 1)]


def begun(model, codes_BKN, *, letters=12):
    return model.begin_reading(codes_BKN, positions=codes_BKN.shape[2] + letters)


def write(model, codes_BKN, *, letters=12, **told):
    said = say(begun(model, codes_BKN, letters=letters), sizes=model.letter_sizes, end=model.letter_end, positions=letters, **told)
    return [model.alphabet.decode(each[0].tolist()) for each in said]


def slow_letters(model, one):
    """Nats of each letter of one utterance and of its end, one pass over the whole row for each: frames, w, the letters before it."""
    codes_1KN, ids = one.codes_KN[None], [*model.alphabet.encode(one.text), model.letter_end]
    frames_1ND = model.decoder.embed(codes_1KN)
    nats = []
    for n, id in enumerate(ids):
        before = [model.letters.weight[other] for other in ids[:n]]
        row_1SD = torch.cat([frames_1ND, torch.stack([model.write, *before])[None]], 1)
        logits_V = F.linear(model.decoder.transformer(row_1SD)[0, -1], model.letter_head.weight, model.letter_head.bias)
        nats.append(-logits_V.log_softmax(-1)[id])
    return nats


def slow_stops(model, one):
    """Nats, at each position up to the end of codebook 0, of whether it is there."""
    some = Batch.of([one])
    given = closed(some.codes_BKN, model.codebook_sizes)
    text_BPD, lengths_B = model.decoder.encode(some.text, told_B=model.decoder.told(1))
    hidden_1ND = model.decoder.hidden(text_BPD, lengths_B, model.decoder.history(given.codes_BKN))
    end_N = model.decoder.logits(hidden_1ND)[0][0].softmax(-1)[:, model.end]
    return [-torch.log(end if n == int(given.ends_B) else 1 - end) for n, end in enumerate(end_N[: int(given.ends_B) + 1])]


@every_layout
def test_the_loss_is_that_of_a_slow_loop_over_the_two_tasks(transform):
    model, some = tiny(transform).eval(), spoken(transform)
    loss, values = model.loss(Batch.of(some))
    letters = [nats for one in some for nats in slow_letters(model, one)]
    assert len(letters) == sum(len(text) + 1 for text in ("a b cab", "b", "abba a"))
    codes = model.decoder.loss(Batch.of(some))[0] + 0.25 * torch.stack([nats for one in some for nats in slow_stops(model, one)]).mean()
    torch.testing.assert_close(values["letters"], torch.stack(letters).mean(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss, codes + 0.5 * torch.stack(letters).mean(), rtol=1e-4, atol=1e-4)
    assert set(values) == {"codes", "ends", "stopping", "letters"}


def test_a_batch_of_texts_leaves_what_other_models_compute_as_it_was():
    torch.manual_seed(0)
    model = CodeDecoder(SPEC, num_phonemes=9, num_speakers=2, num_languages=2, vectors=list, from_vectors=False, **SIZES, **PLAIN)
    with_texts, without = spoken(Parallel()), [replace(one, text=None) for one in spoken(Parallel())]
    assert torch.equal(model.loss(Batch.of(with_texts))[0], model.loss(Batch.of(without))[0])
    assert Batch.of(with_texts).to("cpu").texts == TEXTS


def test_letters_and_codes_share_no_id_and_each_task_has_its_own_end():
    model, some = tiny(Parallel()), Batch.of(spoken(Parallel()))
    for task, own, others in (
        (model.writing_loss(some), (model.letters, model.letter_head), (model.decoder.heads, model.decoder.text)),
        (model.speaking_loss(some)[0], (model.decoder.heads, model.decoder.text), (model.letters, model.letter_head)),
    ):
        model.zero_grad(set_to_none=True)
        task.backward()
        assert all(weight.grad is not None for part in own for weight in part.parameters())
        assert all(weight.grad is None for part in others for weight in part.parameters())
        assert model.decoder.transformer.norm.weight.grad is not None, "both pass through one transformer"
    assert (model.letter_sizes, model.letter_end, model.codebook_sizes, model.end) == ((6,), 5, (8, 7, 5), 7)


@every_layout
def test_stepping_gives_the_logits_of_the_teacher_forced_pass_one_or_several_letters_at_a_time(transform):
    model, some = tiny(transform).eval(), Batch.of(spoken(transform))
    letters_BL = model.spelt(some.texts)
    inputs_B1L = heard(letters_BL[:, None])
    frames_BND, lengths_B = model.decoder.embed(some.codes_BKN), lengths(some.codes_BKN)
    for row in range(3):
        known = letters_BL[row, letters_BL[row] >= 0]
        written_1LD = model.written(known[None], blank_BL=torch.zeros_like(known[None], dtype=torch.bool))
        row_1SD = torch.cat([frames_BND[row : row + 1, : lengths_B[row]], written_1LD], 1)
        expected_LV = model.letter_head(model.decoder.transformer(row_1SD))[0, int(lengths_B[row]) :]
        one, several = begun(model, some.codes_BKN), begun(model, some.codes_BKN)
        single = torch.cat([one(inputs_B1L[..., n : n + 1])[0] for n in range(len(known))], 1)
        double = torch.cat([several(inputs_B1L[..., n : n + 2])[0] for n in range(0, len(known), 2)], 1)
        torch.testing.assert_close(single[row], expected_LV, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(double[row, : len(known)], expected_LV, rtol=1e-4, atol=1e-4)


def test_a_rewound_row_goes_on_as_if_it_had_never_written_the_rest_and_another_may_take_its_place():
    model, some = tiny(Delay(step=1)).eval(), Batch.of(spoken(Delay(step=1)))
    inputs_B1L = heard(model.spelt(some.texts)[:, None])
    (expected_BLV,) = begun(model, some.codes_BKN)(inputs_B1L)
    step = begun(model, some.codes_BKN)
    step(inputs_B1L[..., :4].flip(-1))
    step.rewind(torch.tensor([0, 0, 0]))
    step(inputs_B1L[..., :4])
    step.rewind(torch.tensor([4, 2, 3]))
    other = begun(model, some.codes_BKN[2:, :, : int(lengths(some.codes_BKN)[2])], letters=3)
    other(inputs_B1L[2:, :, :1])
    step.put(1, other)
    rows = torch.stack([inputs_B1L[0, :, 4:6], inputs_B1L[2, :, 1:3], inputs_B1L[2, :, 3:5]])
    (stepped_BLV,) = step(rows)
    for row, (whole, place) in enumerate([(0, 4), (2, 1), (2, 3)]):
        torch.testing.assert_close(stepped_BLV[row], expected_BLV[whole, place : place + 2], rtol=1e-4, atol=1e-4)


def test_what_is_written_depends_on_what_is_heard_alone():
    model, some = tiny(Parallel()).eval(), Batch.of(spoken(Parallel()))
    first, second = (write(model, some.codes_BKN[row : row + 1], sampler=RANDOM) for row in (0, 1))
    longer = F.pad(some.codes_BKN[:1], (0, 9), value=-1)
    assert write(model, longer, sampler=RANDOM) == first
    (logits,), (others,) = (begun(model, some.codes_BKN[row : row + 1])(torch.full((1, 1, 1), -1)) for row in (0, 1))
    assert not torch.allclose(logits, others) and isinstance(second[0], str)


def test_masked_spans_are_as_many_and_as_long_as_said():
    torch.manual_seed(0)
    masked_BN = spans(400, 300, share=0.3, span=8, device="cpu")
    assert abs(masked_BN.float().mean() - 0.3) < 0.01
    assert (masked_BN.float().mean(0) - 0.3).abs().max() < 0.1, "everywhere alike"
    edges_BN = F.pad(masked_BN.int(), (1, 1)).diff(dim=1)
    for row in edges_BN:
        begins, ends = (row == 1).nonzero().flatten(), (row == -1).nonzero().flatten()
        inner = [(int(b), int(e)) for b, e in zip(begins, ends) if b > 0 and e < 300]
        assert all((end - begin) % 8 == 0 for begin, end in inner)
    assert spans(3, 7, share=1.0, span=50, device="cpu").all() and not spans(3, 7, share=0.0, span=1, device="cpu").any()


def test_frames_are_masked_in_training_only_and_change_what_is_foretold():
    model, some = tiny(Parallel(), masks=MASKED), Batch.of(spoken(Parallel()))
    plain = tiny(Parallel())
    torch.manual_seed(1)
    assert model.train().masked(some.codes_BKN, 0.5).any() and not model.eval().masked(some.codes_BKN, 0.5).any()
    assert torch.equal(model.eval().loss(some)[0], plain.eval().loss(some)[0])
    for task in (SpeechText.writing_loss, lambda model, batch: model.speaking_loss(batch)[0]):
        torch.manual_seed(1)
        assert not torch.allclose(task(model.train(), some), task(plain.train(), some))


def test_with_all_of_its_history_masked_what_it_says_does_not_depend_on_it():
    model, some = tiny(Parallel(), masks=WHOLE | {"masked_history": 1.0}).train(), Batch.of(spoken(Parallel())[:1])
    given = closed(some.codes_BKN, model.codebook_sizes)
    text_BPD, lengths_B = model.decoder.encode(some.text, told_B=model.decoder.told(1))
    inputs_BND = model.decoder.history(given.codes_BKN.masked_fill(model.masked(given.codes_BKN, 1.0), -1))
    expected = model.decoder.code_loss(model.decoder.hidden(text_BPD, lengths_B, inputs_BND), given)[1]["codes"]
    assert (inputs_BND[:, 1:] == 0).all() and torch.equal(model.speaking_loss(some)[1]["codes"], expected)


@pytest.mark.parametrize("transform", [Parallel(), Delay(step=1)], ids=name)
def test_it_learns_to_write_what_was_said_to_the_letter(transform):
    model, some = tiny(transform), Batch.of(spoken(transform))
    descend(model, some, steps=60, rate=1e-2)
    assert write(model.eval(), some.codes_BKN, seeds=[0, 1, 2]) == ["a b cab", "b", "abba a"]


def test_losses_and_gradients_are_finite_in_bfloat16():
    model = tiny(Delay(step=1), spoiling=SPOILING, masks=MASKED).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = model.loss(Batch.of(spoken(Delay(step=1))))
    loss.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters()) and loss.isfinite()


def test_an_utterance_without_a_text_or_with_letters_unknown_is_refused():
    model = tiny(Parallel())
    with pytest.raises(ValueError, match="utterance 1 of a batch has no text, and this model learns to write; choose model=code_decoder"):
        model.loss(Batch.of(spoken(Parallel(), texts=("a", None, "b"))))
    with pytest.raises(ValueError, match=r"'a dzd' is written with 'dz' too; add it to model\.alphabet"):
        model.loss(Batch.of(spoken(Parallel(), texts=("a", "a dzd", "b"))))
    with pytest.raises(ValueError, match=r"model\.span is 0, wanted 1 frame or more"):
        tiny(Parallel(), span=0)


@pytest.mark.parametrize("letters", ["abc", "a bb"])
def test_an_alphabet_without_a_space_or_with_a_letter_twice_is_refused(letters):
    with pytest.raises(ValueError, match=r"has a space, and each letter once; got model\.alphabet="):
        tiny(Parallel(), alphabet=letters)


def test_a_text_is_spelt_in_lower_case_with_single_spaces_for_whatever_else_there_is():
    alphabet = Alphabet(" '2abcé")
    assert alphabet.decode(alphabet.encode("  A-b,  «C’é»... 2!")) == "a b c'é 2"
    assert alphabet.encode("Cafe\u0301".replace("f", "b")) == alphabet.encode("cabé") and alphabet.encode("?!") == []
