"""Drafters made of a model: stepping gives what training computes, distillation brings their laws nearer, what does not fit is refused."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from learning import descend
from speaking import LAYOUTS, PLAIN, SIZES, SPEC, batch, heard, name, tiny_decoder
from torch import Tensor, nn

from audiotok.models.ar_tts import ArTts
from audiotok.models.distillation import Alone, Distilled, compared, learnable
from audiotok.models.early_exit import EarlyExit
from audiotok.models.foretelling import Heads
from audiotok.models.lesson import states
from audiotok.models.text import Batch
from audiotok.nn.inference import quickened
from audiotok.nn.ranked import LEFT_OUT, frequencies, head, most_frequent
from audiotok.transforms.patterns import Delay, Parallel

WIDTH = int(SIZES["width"])
QUIET = PLAIN | {"duration_weight": 1.0}


def told(transform: Any, *, seed: int = 0, **changes: Any) -> ArTts:
    torch.manual_seed(seed)
    options: dict[str, Any] = SIZES | QUIET | {"vectors": list, "from_vectors": False} | changes
    return ArTts(transform.out_spec(SPEC), num_phonemes=9, num_speakers=2, num_languages=2, **options)


def model(kind: str, transform: Any, *, seed: int = 0, **changes: Any) -> Any:
    made = told(transform, seed=seed, **changes) if kind == "told" else tiny_decoder(transform, seed=seed, **PLAIN, **changes)
    return sharpened(made).eval()


def sharpened(made: Any) -> Any:
    """With laws far from even, and layers that do something, as those of a trained model."""
    with torch.no_grad():
        made.heads.own.mul_(6)
        for weight in made.transformer.parameters():
            if weight.ndim == 2:
                weight.mul_(6)
    return made


def spoiled(drafter: nn.Module) -> nn.Module:
    """With random weights in place of those that a drafter begins with, which say what the model says."""
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in drafter.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return drafter


def begun(made: Any, of: Batch, *, positions: int) -> Any:
    if hasattr(made, "end") or hasattr(getattr(made, "model", None), "end"):
        return made.begin(of.text, positions=positions, conditional=True)
    return made.begin(of.text, of.path, positions=positions)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("kind", ["told", "plain"])
@pytest.mark.parametrize("transform", LAYOUTS[:4], ids=name)
def test_stepping_through_an_early_exit_gives_what_it_foretells_of_the_whole_sequence(transform: Any, kind: str, fast: bool) -> None:
    target, of = model(kind, transform), batch(transform, (3, 9), (6, 14))
    drafter = EarlyExit(SPEC, width=WIDTH, layers=1)
    drafter.meet(target)
    spoiled(drafter)
    lesson = target.lesson(of)
    (wanted,) = drafter.foretell(target, lesson, of)
    twin = drafter.of(quickened(target, "fp32") if fast else target)
    step = begun(twin, of, positions=lesson.codes_BKN.shape[2])
    inputs_BKN = heard(lesson.codes_BKN)
    parts = [step(inputs_BKN[..., start : start + 3]) for start in range(0, inputs_BKN.shape[2], 3)]
    assert_same_where_codes_stand([torch.cat(each, 1) for each in zip(*parts)], wanted, lesson.codes_BKN)


def assert_same_where_codes_stand(got: Sequence[Tensor], wanted: Sequence[Tensor], codes_BKN: Tensor) -> None:
    within_BN = (codes_BKN >= 0).any(1)
    for one_BNV, other_BNV in zip(got, wanted, strict=True):
        torch.testing.assert_close(one_BNV[within_BN], other_BNV[within_BN], rtol=1e-4, atol=1e-4)


def test_an_exit_costs_no_memory_and_leaves_the_model_as_it_is() -> None:
    target, of = model("told", Parallel()), batch(Parallel(), (3, 9))
    before = target.logits(states(target.transformer, target.lesson(of)))
    drafter = EarlyExit(SPEC, width=WIDTH, layers=1)
    drafter.meet(target)
    twin = drafter.of(target)
    assert twin.transformer.blocks[0] is target.transformer.blocks[0] and len(target.transformer.blocks) == 2
    after = target.logits(states(target.transformer, target.lesson(of)))
    assert all(torch.equal(one, other) for one, other in zip(before, after))


@pytest.mark.parametrize("kind", ["told", "plain"])
@pytest.mark.parametrize("transform", [Parallel(), Delay(step=1)], ids=name)
def test_heads_draft_from_any_place_what_they_foretell_of_the_whole_sequence(transform: Any, kind: str) -> None:
    target, of, count = model(kind, transform), batch(transform, (3, 9), (6, 9)), 3
    heads = Heads(SPEC, width=WIDTH, count=count, hidden=16)
    heads.meet(target)
    spoiled(heads)
    lesson = target.lesson(of)
    wanted, length = heads.foretell(target, lesson, of), lesson.codes_BKN.shape[2]
    overheard, drafter = heads.of(target, kept_R=None, weights="fp32")
    step, ahead = begun(overheard, of, positions=length + 1), begun_drafter(drafter)
    inputs_BKN = heard(lesson.codes_BKN)
    for place in range(length - count + 1):
        ahead.rewind(torch.tensor([place, place]))
        for number in range(count):
            got = ahead(inputs_BKN[..., place + number : place + number + 1])
            whole = [each[:, place + number : place + number + 1] for each in wanted[number]]
            assert_same_where_codes_stand(got, whole, lesson.codes_BKN[..., place + number : place + number + 1])
        again = max(0, place - 1)  # the drafter that catches up hears two inputs at once, of which the model knows both
        ahead.rewind(torch.tensor([again, again]))
        twice = ahead(inputs_BKN[..., again : again + 2])
        first = [each[:, place : place + 1] for each in wanted[0]]
        column = slice(place - again, place - again + 1)
        assert_same_where_codes_stand([each[:, column] for each in twice], first, lesson.codes_BKN[..., place : place + 1])
        step(inputs_BKN[..., place : place + 2])
        step.rewind(torch.tensor([place + 1, place + 1]))


def begun_drafter(drafter: Any) -> Any:
    return drafter.begin(positions=0)


def test_a_ranked_head_is_the_full_head_on_the_codes_that_it_keeps_and_says_no_other() -> None:
    generator = torch.Generator().manual_seed(0)
    weight_VD, hidden_BND = torch.randn(11, 16, generator=generator), torch.randn(2, 3, 16, generator=generator)
    kept_R = torch.tensor([0, 3, 4, 10])
    whole, part = (head(nn.Identity(), weight_VD, kept_R=rows)(hidden_BND) for rows in (None, kept_R))
    torch.testing.assert_close(part[..., kept_R], whole[..., kept_R])
    others = torch.ones(11, dtype=torch.bool).index_fill(0, kept_R, False)
    assert (part[..., others] == LEFT_OUT).all() and (part.double().softmax(-1)[..., others] == 0).all()


def test_the_most_frequent_codes_of_each_codebook_are_counted_and_holes_are_not() -> None:
    codes_BKN = torch.tensor([[[2, 2, 0, -1], [1, 1, 1, 0]], [[2, 1, 1, -1], [3, 3, -1, -1]]])
    ranks = frequencies([codes_BKN, codes_BKN[:1]], [4, 5])
    assert ranks == [[2, 0, 1, 3], [1, 0, 3, 2, 4]]
    assert most_frequent(ranks, 2).tolist() == [0, 2, 4, 5]
    assert most_frequent(ranks, 9).tolist() == list(range(9))
    with pytest.raises(ValueError, match=r"at least one code of each codebook; got drafting\.kept=0"):
        most_frequent(ranks, 0)


@pytest.mark.parametrize("kind", ["told", "plain"])
def test_a_model_with_a_ranked_head_says_of_what_it_keeps_what_it_said(kind: str) -> None:
    target, of = model(kind, Parallel()), batch(Parallel(), (3, 9))
    lesson, kept_R = target.lesson(of), most_frequent([list(range(size)) for size in target.codebook_sizes], 2)
    twin = copy.copy(target)
    twin.kept_R = kept_R
    inputs_BKN = heard(lesson.codes_BKN)
    whole, part = (torch.cat(begun(each, of, positions=12)(inputs_BKN), -1) for each in (target, twin))
    torch.testing.assert_close(part[..., kept_R], whole[..., kept_R])
    others = torch.ones(whole.shape[-1], dtype=torch.bool).index_fill(0, kept_R, False)
    assert (part[..., others] < LEFT_OUT / 2).all()


def test_the_learnable_codes_are_those_with_the_largest_gaps() -> None:
    gap_BKN = torch.tensor([[[0.5, 3.0, -1.0, 0.2], [9.0, 0.1, 0.7, 9.0]]])
    real_BKN = torch.tensor([[[True, True, True, True], [False, True, True, False]]])
    assert learnable(gap_BKN, real_BKN, share=0.5).tolist() == [[[True, True, False, False], [False, False, True, False]]]
    assert torch.equal(learnable(gap_BKN, real_BKN, share=1.0), real_BKN)
    assert not learnable(gap_BKN, torch.zeros_like(real_BKN), share=0.5).any()


def test_laws_are_compared_as_written_out() -> None:
    generator = torch.Generator().manual_seed(3)
    own, wanted = ([torch.randn(1, 2, size, generator=generator) for size in (3, 4)] for _ in range(2))
    codes_BKN = torch.tensor([[[1, 0], [3, -1]]])
    found = compared(own, wanted, codes_BKN)
    for k, n in ((0, 0), (0, 1), (1, 0), (1, 1)):
        q, p = ([float(x) for x in each[k][0, n].exp() / each[k][0, n].exp().sum()] for each in (own, wanted))
        divergence = sum(a * torch.tensor(a / b).log().item() for a, b in zip(p, q))
        assert found.divergence[0, k, n].item() == pytest.approx(divergence, abs=1e-5)
        assert found.distance[0, k, n].item() == pytest.approx(sum(abs(a - b) for a, b in zip(p, q)) / 2, abs=1e-5)
        if codes_BKN[0, k, n] >= 0:
            assert found.codes[0, k, n].item() == pytest.approx(-torch.tensor(q[int(codes_BKN[0, k, n])]).log().item(), abs=1e-5)


DRAFTERS: dict[str, Callable[[str], nn.Module]] = {
    "early_exit": lambda kind: EarlyExit(SPEC, width=WIDTH, layers=1),
    "heads": lambda kind: Heads(SPEC, width=WIDTH, count=2, hidden=32),
    "small": lambda kind: Alone(SPEC, model=lambda spec: model(kind, Parallel(), seed=9, layers=1)),
}


@pytest.mark.parametrize("kind", ["told", "plain"])
@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("selected", [1.0, 0.5])
def test_distillation_brings_a_drafter_nearer_to_the_model_on_what_it_has_not_heard(drafter: str, kind: str, selected: float) -> None:
    target, reference = model(kind, Parallel()), None
    seen, unseen = batch(Parallel(), *[(4, 12)] * 16), batch(Parallel(), *[(5, 13)] * 24)
    if selected < 1:
        first = Distilled(DRAFTERS[drafter](kind), target, reference=None, divergence=1.0, selected=1.0)
        descend(first, seen, steps=40, rate=5e-3)
        reference = first.drafter
    distilled = Distilled(DRAFTERS[drafter](kind), target, reference=reference, divergence=1.0, selected=selected)
    before = float(distilled.eval().loss(unseen)[1]["distance"])
    weights = {key: value.clone() for key, value in target.state_dict().items()}
    descend(distilled, seen, steps=80, rate=5e-3)
    after = float(distilled.eval().loss(unseen)[1]["distance"])
    assert after < before - 0.03, (before, after)
    assert all(torch.equal(value, weights[key]) for key, value in target.state_dict().items())


@torch.no_grad()
def test_only_what_a_drafter_lags_behind_a_reference_at_counts() -> None:
    target, of = model("told", Parallel()), batch(Parallel(), (4, 12), (5, 13))
    drafters = [Alone(SPEC, model=lambda spec, seed=seed: model("told", Parallel(), seed=seed, layers=1)) for seed in (3, 4)]
    distilled = Distilled(drafters[0], target, reference=drafters[1], divergence=0.25, selected=0.3)
    lesson = target.lesson(of)
    laws = target.logits(states(target.transformer, lesson))
    own, other = (compared(distilled_by.foretell(target, lesson, of)[0], laws, lesson.codes_BKN) for distilled_by in drafters)
    gaps = sorted(
        (
            (float(own.divergence[place] - other.divergence[place]), float(0.75 * own.codes[place] + 0.25 * own.divergence[place]))
            for place in map(tuple, (lesson.codes_BKN >= 0).nonzero().tolist())
        ),
        reverse=True,
    )
    chosen = [nats for _, nats in gaps[: -(-len(gaps) * 3 // 10)]]
    assert float(distilled.eval().loss(of)[0]) == pytest.approx(sum(chosen) / len(chosen), rel=1e-4)


def test_a_checkpoint_holds_the_drafter_alone_under_the_names_it_is_loaded_by() -> None:
    target, student = model("told", Parallel()), model("told", Parallel(), seed=2, layers=1)
    distilled = Distilled(Alone(SPEC, model=lambda spec: student), target, reference=None, divergence=0.5, selected=1.0)
    assert distilled.state_dict().keys() == student.state_dict().keys()
    assert copy.deepcopy(distilled).target is distilled.target
    assert not {id(weight) for weight in distilled.parameters()} & {id(weight) for weight in target.parameters()}


@pytest.mark.parametrize("drafter", ["early_exit", "heads"])
def test_a_drafter_of_other_weights_is_refused(drafter: str) -> None:
    made: Any = DRAFTERS[drafter]("told")
    made.meet(model("told", Parallel(), seed=1))
    other = model("told", Parallel(), seed=2)
    with torch.no_grad():
        other.bias.add_(0.1)
    with pytest.raises(ValueError, match="distilled for other weights"):
        made.of(other, **({"kept_R": None, "weights": "fp32"} if drafter == "heads" else {}))


def distil(drafter: nn.Module, target: Any, *, divergence: float = 0.5, selected: float = 1.0) -> Distilled:
    return Distilled(drafter, target, reference=None, divergence=divergence, selected=selected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda target: distil(EarlyExit(SPEC, width=WIDTH, layers=2), target), "an exit after 2 of 2 layers; choose one of 1 to 1"),
        (lambda target: distil(EarlyExit(SPEC, width=WIDTH + 2, layers=1), target), "a drafter 34 wide for a model of 32"),
        (lambda target: distil(Heads(SPEC, width=WIDTH + 2, count=1, hidden=4), target), "a drafter 34 wide for a model of 32"),
        (lambda target: Heads(SPEC, width=WIDTH, count=0, hidden=4), r"drafter\.count is at least 1; got 0"),
        (lambda target: distil(EarlyExit(SPEC, width=WIDTH, layers=1), nn.Linear(2, 2)), "is made of an ArTts or a CodeDecoder"),
        (lambda target: distil(Alone(SPEC, model=lambda spec: model("plain", Parallel())), target), r"codebooks of \(8, 7, 5\) for"),
        (lambda target: distil(EarlyExit(SPEC, width=WIDTH, layers=1), target, selected=0.0), r"distil\.selected is above 0"),
        (lambda target: distil(EarlyExit(SPEC, width=WIDTH, layers=1), target, divergence=1.5), r"distil\.divergence 0 to 1; got"),
    ],
)  # fmt: skip
def test_what_cannot_be_distilled_is_refused(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(model("told", Parallel()))
