"""Drafters made of the model, in the engine: the same codes where nothing is left to chance, the same probabilities where it is."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from speaking import SPEC
from torch import nn

from audiotok import files
from audiotok.data.aligned import Line
from audiotok.decoding.acceptance import Exact
from audiotok.decoding.drafts import Fixed, Lengths, Thompson
from audiotok.decoding.samplers import Sampler
from audiotok.decoding.speculative import Speculated
from audiotok.models.ar_tts import ArTts
from audiotok.models.code_decoder import CodeDecoder
from audiotok.models.early_exit import EarlyExit
from audiotok.models.foretelling import Heads
from audiotok.nn.inference import quickened
from audiotok.synthesis.drafting import Drafting, FirstLayers, Foretold, Nobody, SmallModel, kept_rows
from audiotok.synthesis.scripts import Manner, Script, script
from audiotok.transforms.base import Layout
from audiotok.transforms.patterns import Delay, Flatten, Parallel

SIZES: dict[str, Any] = {"width": 32, "layers": 3, "heads": 2, "feed_forward": 48, "dropout": 0.0, "text_layers": 1, "from_vectors": False}
NEVER = {"replace_codes": 0.0, "blank_frames": 0.0, "own_history": 0.0, "anonymous": 0.0, "unconditional": 0.1}
PLAIN = Sampler(1.0, None, None, None, None, None, ">")
GREEDY = replace(PLAIN, temperature=0)


def model(kind: str, transform: Layout) -> Any:
    """Random weights whose laws are far from even."""
    torch.manual_seed(0)
    make: Any = partial(ArTts, duration_weight=1.0) if kind == "told" else CodeDecoder
    made = make(transform.out_spec(SPEC), num_phonemes=9, num_speakers=1, num_languages=1, vectors=list, **SIZES, **NEVER)
    with torch.no_grad():
        for weight in (made.heads.own, *(each for each in made.transformer.parameters() if each.ndim == 2)):
            weight.mul_(4)
    return made.eval()


def spoiled(drafter: Any, target: Any) -> Any:
    """A drafter with random weights in place of those that it begins with, which say what the model says."""
    drafter.meet(target)
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in drafter.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return drafter.eval()


def ranked_checkpoint(folder: Path, target: Any) -> Path:
    files.write_json(folder / "ranks.json", [list(range(size)) for size in target.codebook_sizes])
    return folder


def given(drafter: Any) -> Any:
    return lambda make, folder: drafter


def ways(target: Any, folder: Path, *, lengths: Lengths, kept: int | None) -> dict[str, Drafting]:
    told: dict[str, Any] = {"model": nn.Identity, "checkpoint": str(ranked_checkpoint(folder, target)), "lengths": lengths, "kept": kept}
    exit_, heads = EarlyExit(None, width=32, layers=1), Heads(None, width=32, count=4, hidden=16)
    return {
        "early_exit": FirstLayers(**told).prepare(given(spoiled(exit_, target))),
        "heads": Foretold(**told, weights="int8").prepare(given(spoiled(heads, target))),
        "small": SmallModel(**told).prepare(given(target)),
    }


def plan(
    target: Any, transform: Layout, *, seeds: Sequence[int], guidance: float | None = None, lines: int = 3, seconds: float = 0.3
) -> Script:
    said = [Line([1, 2, 3], [0, 0, 0], 0, 0), Line([4, 5, 6, 7, 8], [0] * 5, 0, 0), Line([2, 4], [0, 0], 0, 0)]
    manner = Manner(seconds, 1.0, guidance, 4, torch.device("cpu"))
    return script(target, [said[i % lines] for i in range(len(seeds))], seeds=seeds, layout=transform, spec=SPEC, manner=manner)


def said(drafting: Drafting, script: Script, target: Any, *, sampler: Sampler, rows: int) -> list[Any]:
    made = drafting.speak(script, target, rule=Exact(), rows=rows, sampler=sampler, device=torch.device("cpu"))
    return sorted(made, key=lambda one: one.job)


@pytest.mark.parametrize("kept", [None, 3])
@pytest.mark.parametrize("kind", ["told", "plain"])
@pytest.mark.parametrize("transform", [Parallel(), Delay(step=1), Flatten()], ids=repr)
def test_greedy_codes_are_those_of_the_plain_engine(tmp_path: Path, transform: Layout, kind: str, kept: int | None) -> None:
    target = model(kind, transform)
    script = plan(target, transform, seeds=range(6))
    plain = said(Nobody(), script, target, sampler=GREEDY, rows=2)
    assert len(plain) == len(script.jobs) > 0
    for name, drafting in ways(target, tmp_path, lengths=Fixed(3), kept=kept).items():
        for one, other in zip(plain, said(drafting, script, target, sampler=GREEDY, rows=2), strict=True):
            assert torch.equal(one.codes_KN, other.codes_KN), name
            assert isinstance(other, Speculated) and all(made.drafted == 3 for made in other.rounds)


@pytest.mark.parametrize("lengths", [Fixed(2), Thompson(4, cost=0.2, seed=0)], ids=["fixed", "Thompson"])
@pytest.mark.parametrize("name", ["early_exit", "heads"])
@pytest.mark.parametrize("kind", ["told", "plain"])
def test_what_is_said_has_the_probabilities_of_the_plain_engine(tmp_path: Path, kind: str, name: str, lengths: Lengths) -> None:
    transform, count = Parallel(), 1200
    target = quickened(model(kind, transform), "fp32")
    drafting = ways(target, tmp_path, lengths=lengths, kept=4 if kind == "told" else None)[name]
    one, other = (
        said(way, plan(target, transform, seeds=range(first, first + count), lines=1, seconds=0.1), target, sampler=PLAIN, rows=400)
        for way, first in ((Nobody(), 10**6), (drafting, 0))
    )
    for start in (0, 2):  # a draft's first positions, and those behind them
        laws = [[tuple(made.codes_KN[0, start : start + 2].tolist()) for made in each] for each in (one, other)]
        assert p_value(*laws) > 1e-4


def p_value(one: Sequence[tuple], other: Sequence[tuple]) -> float:
    """Of both being drawn from one law; what is rare in both is counted together."""
    counts = Counter(one), Counter(other)
    common = [key for key in set(one) | set(other) if counts[0][key] + counts[1][key] >= 20]
    table = [[count[key] for key in common] + [1 + sum(count.values()) - sum(count[key] for key in common)] for count in counts]
    return float(stats.chi2_contingency(table).pvalue)


def test_a_guided_model_is_drafted_for_by_its_own_heads(tmp_path: Path) -> None:
    target = model("plain", Parallel())
    script = plan(target, Parallel(), seeds=range(5), guidance=2.0)
    plain = said(Nobody(), script, target, sampler=GREEDY, rows=2)
    for drafting in ways(target, tmp_path, lengths=Fixed(2), kept=None).values():
        for one, other in zip(plain, said(drafting, script, target, sampler=GREEDY, rows=2), strict=True):
            assert torch.equal(one.codes_KN, other.codes_KN)


def test_heads_that_say_what_the_model_says_are_believed_as_far_as_they_see(tmp_path: Path) -> None:
    target = model("told", Parallel())
    with torch.no_grad():  # one law for all places, which heads that change nothing foretell
        target.heads.own.zero_()
    heads = Heads(None, width=32, count=3, hidden=8)
    heads.meet(target)
    drafting = Foretold(model=nn.Identity, checkpoint="", lengths=Fixed(3), kept=None, weights="fp32").prepare(given(heads))
    for one in said(drafting, plan(target, Parallel(), seeds=range(4)), target, sampler=PLAIN, rows=2):
        assert all(made.accepted == 3 for made in one.rounds)


class Looking(Exact):
    """The exact rule, which keeps what it was given."""

    def __init__(self) -> None:
        self.drafted: list[torch.Tensor] = []
        self.laws: list[Sequence[torch.Tensor]] = []

    def verify(self, p: Any, q: Any, drafted_BKG: Any, uniforms: Any, *, active_B: Any = None) -> Any:
        self.drafted.append(drafted_BKG[active_B])
        self.laws.append([law_BGV[active_B] for law_BGV in q])
        return super().verify(p, q, drafted_BKG, uniforms, active_B=active_B)


def test_kept_codes_alone_are_drafted(tmp_path: Path) -> None:
    target = model("told", Parallel())
    script = plan(target, Parallel(), seeds=range(20))
    for drafting in ways(target, tmp_path, lengths=Fixed(2), kept=2).values():
        rule = Looking()
        list(drafting.speak(script, target, rule=rule, rows=4, sampler=PLAIN, device=torch.device("cpu")))
        drafted_BKG = torch.cat(rule.drafted)
        assert len(drafted_BKG) >= 20 and drafted_BKG.unique().tolist() == [0, 1]
        assert all((law_BGV[..., 2:] == 0).all() for laws in rule.laws for law_BGV in laws)


def test_drafts_longer_than_there_are_heads_are_refused() -> None:
    heads = Heads(None, width=32, count=2, hidden=8)
    with pytest.raises(ValueError, match=r"2 heads draft 2 positions at most; got drafts of up to 3, shorten drafting\.lengths"):
        Foretold(model=nn.Identity, checkpoint="", lengths=Fixed(3), kept=None, weights="fp32").prepare(given(heads))


def test_codes_cannot_be_ranked_without_their_frequencies(tmp_path: Path) -> None:
    assert kept_rows(tmp_path, None) is None
    with pytest.raises(ValueError, match=r"ranks\.json is not there, .* or set drafting\.kept=null"):
        kept_rows(tmp_path, 4)
    (tmp_path / "ranks.json").write_text(json.dumps([[1, 0], [0, 1, 2]]))
    rows = kept_rows(tmp_path, 1)
    assert rows is not None and rows.tolist() == [1, 2]
