"""Speaking with several candidates a position, end to end."""

from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from test_synthesis import GREEDY, requests, spoken, voice

from audiotok import cli
from audiotok.decoding.acceptance import Coarse, Exact, Tolerance
from audiotok.decoding.kernels import Hard
from audiotok.decoding.tree_verification import CoarseRecursive, KSequential, Recursive
from audiotok.decoding.trees import Best, Chains, Levels
from audiotok.models.ar_tts import ArTts
from audiotok.synthesis.tree_drafting import Several, verifier_of
from audiotok.synthesis.voice import Spoken
from audiotok.transforms.patterns import Delay, Parallel

pytest.importorskip("gruut", reason="needs the tts extra")


def several(shape, verifier, model) -> Several:
    return Several(model=ArTts, checkpoint="", shape=shape, verifier=verifier).prepare(lambda make, folder: model)


@pytest.mark.parametrize("transform", [Parallel(), Delay(step=1)], ids=str)
def test_candidates_change_nothing_of_what_is_certain(transform) -> None:
    speaker, other = voice(transform), voice(transform, seed=1)
    greedy = partial(spoken, requests(), speaker, batch_size=2, sampler=GREEDY)
    for shape, verifier in ((Chains(2, 2), KSequential()), (Levels([2, 2]), Recursive()), (Best(5, 3, 0.3), Recursive())):
        for one, two in zip(greedy(), greedy(drafting=several(shape, verifier, other.model)), strict=True):
            assert isinstance(one, Spoken) and isinstance(two, Spoken)
            assert torch.equal(one.codes_KN, two.codes_KN) and two.rounds and all(made.drafted == shape.nodes for made in two.rounds)


def test_a_sentence_is_spoken_the_same_in_any_batch() -> None:
    speaker, other = voice(Parallel()), voice(Parallel(), seed=1)
    for drafting in (several(Chains(2, 2), Recursive(), other.model), several(Best(5, 3, 0.3), Recursive(), other.model)):
        alone = [spoken([request], speaker, drafting=drafting)[0] for request in requests()]
        for one, two in zip(alone, spoken(requests(), speaker, drafting=drafting, batch_size=3), strict=True):
            assert isinstance(one, Spoken) and torch.equal(one.codes_KN, two.codes_KN)


def test_the_coarse_rule_speaks_with_independent_candidates() -> None:
    speaker = voice(Parallel())
    rule = Coarse(Hard(0.1)).bind([torch.randn(size, 4) for size in (7, 7, 5)])
    made = spoken(requests(), speaker, drafting=several(Chains(2, 2), Recursive(), speaker.model), rule=rule)
    assert all(isinstance(one, Spoken) and all(each.accepted == 2 for each in one.rounds[:-1]) for one in made)


def test_rules_without_a_form_for_several_candidates_are_refused() -> None:
    assert verifier_of(Exact(), KSequential()) == KSequential()
    assert isinstance(verifier_of(Coarse(Hard(0.1)), Recursive()), CoarseRecursive)
    with pytest.raises(ValueError, match=r"Tolerance is a rule for a single draft.*acceptance=exact or coarse"):
        verifier_of(Tolerance(0.1), Recursive())


def test_a_model_whose_step_does_not_branch_is_refused() -> None:
    speaker = voice(Parallel(), "pointer")
    with pytest.raises(ValueError, match="hears positions in a line only"):
        spoken(requests(), speaker, max_seconds=0.3, drafting=several(Chains(2, 2), Recursive(), speaker.model))


@pytest.mark.parametrize("name", ["candidates", "tree"])
def test_the_choices_of_the_command_line_are_what_they_say(name: str) -> None:
    made = instantiate(cli.load("prompts/tts", [f"drafting={name}", "drafting.checkpoint=somewhere"]).drafting)
    assert isinstance(made, Several) and made.checkpoint == Path("somewhere") and made.shape.nodes >= 4
