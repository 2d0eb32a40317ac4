"""VALL-E: the first codebook one code after another, the others in one go, and what each stage may see."""

from functools import partial

import pytest
import torch
from learning import descend
from speaking import PLAIN, SIZES, SPEC, SPOILING, batch, heard, say, utterance

from audiotok.decoding.ending import Limited, limits
from audiotok.models.code_decoder import CodeDecoder
from audiotok.models.text import Batch
from audiotok.models.valle import Valle
from audiotok.transforms.patterns import Delay, Parallel
from audiotok.types import TokenSpec

OTHERS = {"from_vectors": False, "layers": 2, "heads": 2, "feed_forward": 48, "dropout": 0.0}


def tiny(*, prompt=0.5, spec=SPEC, **changes):
    torch.manual_seed(0)
    first = partial(CodeDecoder, from_vectors=False, **(SIZES | SPOILING | changes))
    shape = {"num_phonemes": 9, "num_speakers": 2, "num_languages": 2, "vectors": list}
    return Valle(spec, first=first, prompt=prompt, **OTHERS, **shape)


def logits(model, some, codes_BKN, *, stage, prompt=0):
    text_BPD, lengths_B = model.first.encode(some.text, told_B=torch.ones(len(codes_BKN), dtype=torch.bool))
    prompt_BN = (torch.arange(codes_BKN.shape[2]) < prompt).expand(len(codes_BKN), -1)
    return model.others(text_BPD, lengths_B, codes_BKN, prompt_BN, stage=stage)


def test_the_losses_fall():
    seen = descend(tiny(), batch(Parallel(), (3, 6), (4, 9)), steps=40, rate=1e-2)
    for part in ("codes", "ends", "others"):
        assert sum(each[part] for each in seen[-8:]) < 0.9 * sum(each[part] for each in seen[:8])


def test_a_row_of_a_batch_has_the_loss_it_has_alone():
    model = tiny().eval()
    utterances = [utterance(1, Parallel(), phonemes=3, frames=5), utterance(2, Parallel(), phonemes=6, frames=13)]
    alone, together = [model.loss(Batch.of([one]))[1] for one in utterances], model.loss(Batch.of(utterances))[1]
    for key, weights in {"codes": [5.0, 13.0], "ends": [1.0, 1.0], "others": [5.0, 13.0]}.items():
        expected = sum(one[key] * weight for one, weight in zip(alone, weights)) / sum(weights)
        torch.testing.assert_close(together[key], expected, rtol=1e-5, atol=1e-5)


def test_a_stage_sees_the_codebooks_before_it_and_all_of_the_prompt_in_both_directions():
    model, some = tiny().eval(), batch(Parallel(), (4, 8))
    before = logits(model, some, some.codes_BKN, stage=1, prompt=2)
    for codebook, frame, seen in ((0, 7, True), (1, 7, False), (2, 7, False), (1, 1, True), (2, 1, True), (2, 2, False)):
        changed_BKN = some.codes_BKN.clone()
        changed_BKN[0, codebook, frame] = (changed_BKN[0, codebook, frame] + 1) % 5
        after = logits(model, some, changed_BKN, stage=1, prompt=2)
        assert torch.equal(before[0, 4], after[0, 4]) != seen


def test_each_stage_has_norms_and_a_head_of_its_own():
    model, some = tiny().eval(), batch(Parallel(), (4, 8))
    with torch.no_grad():
        for norm in (module for module in model.others.modules() if type(module).__name__ == "StageNorm"):
            norm.scale[1] = 2.0
    hidden = [model.others.norm(torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(0)), stage=stage) for stage in (0, 1)]
    torch.testing.assert_close(2 * hidden[0], hidden[1])
    unknown_BKN = some.codes_BKN.clone()
    unknown_BKN[:, 1:] = -1
    assert logits(model, some, unknown_BKN, stage=1).shape[-1] == 7 and logits(model, some, unknown_BKN, stage=2).shape[-1] == 5


def test_stepping_gives_the_logits_of_the_whole_sequence_of_the_first_codebook():
    model, some = tiny().eval(), batch(Parallel(), (3, 7), (6, 7))
    first_BKN = some.codes_BKN[:, :1]
    text_BPD, lengths_B = model.first.encode(some.text, told_B=torch.ones(2, dtype=torch.bool))
    (expected,) = model.first.logits(model.first.hidden(text_BPD, lengths_B, model.first.history(first_BKN)))
    (stepped,) = model.begin(some.text, positions=7, conditional=True)(heard(first_BKN))
    torch.testing.assert_close(stepped, expected, rtol=1e-4, atol=1e-4)


def test_a_learnt_utterance_is_said_with_its_length_exactly_and_all_its_codebooks():
    model, some = tiny(prompt=0.0, **PLAIN), batch(Parallel(), (3, 6), (4, 9))
    descend(model, some, steps=120, rate=1e-2)
    known = limits(Parallel(), model.eval().first_spec, max_frames=20)
    step = Limited(model.begin(some.text, positions=21, conditional=True), known, rows=2)
    said = say(step, sizes=model.codebook_sizes, end=model.end, positions=20, seeds=[0, 1])
    codes_BKN = torch.full((2, 3, max(row.shape[1] for row in said)), -1)
    for row, codes_1N in enumerate(said):
        codes_BKN[row, 0, : codes_1N.shape[1]] = codes_1N[0]
    assert torch.equal(model.refine(some.text, codes_BKN), some.codes_BKN)


def test_a_prompt_is_kept_and_others_do_not_change_a_row():
    model, some = tiny().eval(), batch(Parallel(), (3, 6), (5, 9))
    asked_BKN = some.codes_BKN.clone()
    asked_BKN[:, 1:, 2:] = -1
    both_BKN = model.refine(some.text, asked_BKN)
    assert torch.equal(both_BKN[..., :2], some.codes_BKN[..., :2]) and torch.equal(both_BKN[:, 0], some.codes_BKN[:, 0])
    assert torch.equal(both_BKN >= 0, some.codes_BKN >= 0)
    assert torch.equal(model.refine(some.text.rows([0]), asked_BKN[:1, :, :6]), both_BKN[:1, :, :6])


def test_a_share_of_each_utterance_is_its_prompt_in_training_and_never_all_of_it():
    model, inside_BN = tiny(prompt=0.5), torch.arange(40) < torch.tensor([[40]] * 30 + [[1]])
    prompt_BN = model.train()._prompt(inside_BN)
    assert prompt_BN[:30].sum(-1).max() <= 20 and 5 < prompt_BN[:30].sum(-1).float().mean() < 15
    assert not prompt_BN[30].any() and not model.eval()._prompt(inside_BN).any()


def test_what_it_cannot_be_used_with_is_refused():
    with pytest.raises(ValueError, match="choose transform=parallel"):
        tiny().loss(batch(Delay(step=1), (3, 6)))
    with pytest.raises(ValueError, match="choose model=code_decoder"):
        tiny(spec=TokenSpec(16000, 50, (7,), "one"))
    with pytest.raises(ValueError, match=r"model\.prompt is 1\.0"):
        tiny(prompt=1.0)


def test_losses_and_gradients_are_finite_in_bfloat16():
    model = tiny().train()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = model.loss(batch(Parallel(), (3, 6), (5, 9)))
    loss.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters()) and loss.isfinite()
