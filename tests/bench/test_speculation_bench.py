"""Speaking ahead against speaking plainly: what is counted, compared and drawn."""

import json
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from audiotok.bench import speculation_page
from audiotok.bench.speculation import PLAIN, Speaker, Trial, Way, compared, trials
from audiotok.data.aligned import FrontEnd
from audiotok.data.phonemes import PhonemeVocabulary, phonemize
from audiotok.decoding.acceptance import Exact
from audiotok.decoding.drafts import Fixed
from audiotok.decoding.samplers import Sampler
from audiotok.evaluation.metric import Column, Utterance
from audiotok.evaluation.visits import visits, walked
from audiotok.models.ar_tts import ArTts
from audiotok.models.code_decoder import CodeDecoder
from audiotok.models.valle_r import ValleR
from audiotok.synthesis.drafting import Nobody, Repetition, SmallModel
from audiotok.synthesis.scripts import Manner
from audiotok.synthesis.speech import speak
from audiotok.synthesis.voice import Failed, Request, Spoken, Voice
from audiotok.synthesis.watching import Watched
from audiotok.transforms.patterns import Delay
from audiotok.types import TokenSpec

pytest.importorskip("gruut", reason="needs the tts extra")
TEXTS = ["Press one.", "Please enter your number.", "Goodbye, and thank you!"]
SETTINGS = {"resamplings": 500, "seed": 3}
SIZES = {"width": 32, "layers": 2, "heads": 2, "feed_forward": 48, "dropout": 0.0, "text_layers": 1, "from_vectors": False}
SPOILING = {"replace_codes": 0.0, "blank_frames": 0.0, "own_history": 0.0, "anonymous": 0.0, "unconditional": 0.0}
DECODER = partial(CodeDecoder, **SIZES, **SPOILING)
MODELS = {
    "told": partial(ArTts, duration_weight=1.0, **SIZES, **SPOILING),
    "pointer": partial(ValleR, decoder=DECODER, phoneme_weight=1.0, move_weight=1.0),
}
SAMPLER = Sampler(0.9, None, None, None, None, None, ">")


class Hold:
    """A decoder for tests: each code is held for a frame, so that audio shows codes."""

    spec = TokenSpec(400, Fraction(50), (7, 7, 5), "hold")

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        return (codes_BKN.sum(1) / 16).repeat_interleave(8, dim=1), lengths_B * 8


def voice(kind: str = "told") -> Voice:
    phonemes = [phoneme for text in TEXTS for word in phonemize(text, "en") for phoneme in word]
    front_end = FrontEnd(PhonemeVocabulary.of([phonemes]), ("allison",), ("en",))
    torch.manual_seed(0)
    spec = Delay(step=1).out_spec(Hold.spec)
    model = MODELS[kind](spec, num_phonemes=len(front_end.vocabulary), num_speakers=1, num_languages=1, vectors=list)
    if kind == "pointer":
        model.longest_V.fill_(3)
    return Voice(model.eval(), front_end, Delay(step=1), Hold())


def requests() -> list[Request]:
    return [Request(f"line{i}", text, "allison", "en") for i, text in enumerate(TEXTS)]


def speaker(kind: str = "told") -> Speaker:
    return Speaker(voice(kind), SAMPLER, Manner(30.0, SAMPLER.temperature, None, 1, torch.device("cpu")), seed=1)


class Loud:
    """A metric for tests: the mean of the samples, and as a ratio how many are above a half."""

    columns = (
        Column("level", "Level", "mean", "higher"),
        Column("high", "High", "ratio", "lower", unit="%", scale=100),
        Column("note", "", "text"),
    )
    judge = "arithmetic"

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict:
        raise NotImplementedError


def row(level: float, high: float, samples: float) -> dict:
    return {"level": level, "high": high / samples, "high_numerator": high, "high_denominator": samples}


def trial(way: str, round: int, id: str, *, cpu: float, positions: int = 10, steps: int = 10, drafted: int = 0, accepted: int = 0) -> Trial:
    asked = Request(id, id, "", "en")
    return Trial(way, round, Spoken(asked, torch.zeros(1, 1), torch.zeros(80), 400, ()), cpu, 2 * cpu, positions, steps, drafted, accepted)


def test_ways_take_turns_at_each_sentence_and_each_round_has_a_seed_of_its_own():
    ahead = Repetition(order=1, lengths=Fixed(2))
    ways = [Way(PLAIN, Nobody(), Exact()), Way("ahead", ahead, Exact())]
    done: list[int] = []
    found = list(trials(ways, requests(), speaker(), rounds=2, progress=done.append))
    told = [(one.round, one.result.request.id, one.way) for one in found]
    assert told == [(round, f"line{i}", way) for round in (0, 1) for i in range(3) for way in (PLAIN, "ahead")] and sum(done) == 12
    assert all(one.cpu_seconds > 0 and one.wall_seconds > 0 for one in found)
    plain = [one for one in found if one.way == PLAIN]
    assert all(one.steps == one.positions and not one.drafted for one in plain)
    (said,) = speak([requests()[1]], voice(), sampler=SAMPLER, seed=2, manner=speaker().manner, drafting=Nobody(), rule=Exact())
    assert torch.equal(plain[4].result.codes_KN, said.codes_KN)  # the second round's second sentence
    for one in (one for one in found if one.way == "ahead"):
        made = one.result.rounds
        assert (one.steps, one.drafted, one.accepted) == (len(made), sum(m.drafted for m in made), sum(m.accepted for m in made))
        assert (
            one.positions <= one.steps + one.accepted
            and one.positions == plain[told.index((one.round, one.result.request.id, "ahead")) // 2].positions
        )


def test_a_drafter_that_is_the_model_itself_saves_steps():
    same = SmallModel(model=list, checkpoint="", lengths=Fixed(3)).prepare(lambda make, folder: voice().model)
    ways = [Way(PLAIN, Nobody(), Exact()), Way("same", same, Exact())]
    found = list(trials(ways, requests(), speaker(), rounds=1))
    rows = [row(1.0, 1.0, 2.0)] * len(found)
    told = compared(found, rows, {"loud": Loud()}, **SETTINGS)["ways"]
    positions = [one.positions for one in found if one.way == "same"]
    assert told["same"]["accepted_share"] == 1.0
    assert told["same"]["positions_per_step"] == sum(positions) / sum(-(-count // 4) for count in positions)
    assert told[PLAIN]["positions_per_step"] == 1.0 and told[PLAIN]["accepted_share"] is None


def slow_interval(pairs: list[tuple[tuple[float, float], tuple[float, float]]]) -> tuple[float, float]:
    """Of the difference of two ratios over the same sentences, drawn one by one."""
    generator, draws = np.random.default_rng(SETTINGS["seed"]), []
    for _ in range(SETTINGS["resamplings"]):
        drawn = [pairs[i] for i in generator.integers(len(pairs), size=len(pairs))]
        left, right = (sum(pair[side][0] for pair in drawn) / sum(pair[side][1] for pair in drawn) for side in (0, 1))
        draws.append(left - right)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def test_differences_and_speed_ups_have_the_intervals_of_a_slow_paired_bootstrap():
    generator = np.random.default_rng(0)
    ids, found, rows, sums = [f"s{i}" for i in range(6)], [], [], {}
    for round in (0, 1):
        for id in ids:
            for way, lift in ((PLAIN, 0.0), ("ahead", 0.5)):
                level, high, samples, cpu = (
                    generator.normal() + lift,
                    generator.integers(5),
                    generator.integers(5, 9),
                    generator.uniform(1, 2),
                )
                found.append(trial(way, round, id, cpu=float(cpu)))
                rows.append(row(float(level), float(high), float(samples)))
                for key, pair in (("level", (level, 1.0)), ("high", (high, samples)), ("cpu", (cpu, 0.0))):
                    before = sums.get((key, way, id), (0.0, 0.0))
                    sums[key, way, id] = before[0] + pair[0], before[1] + pair[1]
    told = compared(found, rows, {"loud": Loud()}, **SETTINGS)["ways"]["ahead"]
    for name in ("level", "high"):
        pairs = [(sums[name, "ahead", id], sums[name, PLAIN, id]) for id in ids]
        difference = told["differences"][name]
        assert (difference["low"], difference["high"]) == pytest.approx(slow_interval(pairs), abs=1e-9)
        left, right = (sum(pair[side][0] for pair in pairs) / sum(pair[side][1] for pair in pairs) for side in (0, 1))
        assert difference["estimate"] == pytest.approx(left - right) and difference["n"] == 6
    nothing = (0.0, 1.0)
    pairs = [((sums["cpu", PLAIN, id][0], sums["cpu", "ahead", id][0]), nothing) for id in ids]
    speed = told["speed_up"]["cpu"]
    assert (speed["low"], speed["high"]) == pytest.approx(slow_interval(pairs), abs=1e-9)
    assert told["speed_up"]["wall"]["value"] == pytest.approx(speed["value"])


def test_a_sentence_that_one_of_both_did_not_speak_is_in_neither_mean_of_the_difference():
    found = [trial(way, 0, id, cpu=1.0) for id in "abc" for way in (PLAIN, "ahead")]
    rows: list = [row(level, 1.0, 2.0) for level in (1.0, 2.0, 5.0, 6.0, 100.0, 0.0)]
    found[5], rows[5] = replace(found[5], result=Failed(found[5].result.request, "did not end")), None
    told = compared(found, rows, {"loud": Loud()}, **SETTINGS)["ways"]["ahead"]
    assert told["differences"]["level"]["estimate"] == pytest.approx(1.0) and told["differences"]["level"]["n"] == 2
    assert told["not_spoken"] == {"did not end": 1} and told["speed_up"]["cpu"]["value"] == 1.0


def test_without_the_plain_way_there_is_nothing_to_compare_with():
    with pytest.raises(ValueError, match="one of the ways must be called 'plain'; there are ahead"):
        compared([trial("ahead", 0, "a", cpu=1.0)], [None], {"loud": Loud()}, **SETTINGS)


def test_a_pointer_is_watched_to_visit_each_phoneme_once_and_in_order():
    asked, watched, own = requests(), Watched(Nobody()), voice("pointer")
    said = list(speak(asked, own, sampler=SAMPLER, seed=0, manner=speaker().manner, drafting=watched, rule=Exact()))
    assert all(isinstance(one, Spoken) for one in said) and sorted(watched.generated) == [0, 1, 2]
    for place, request in enumerate(asked):
        phonemes = len(own.line(request).phonemes)
        found = visits(walked(watched.generated[place].codes_KN[-1], phonemes), phonemes)
        assert found.whole and found.longest <= 3


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    ways = {PLAIN: (1.0, 10, 0, 0), "small_model, exact": (2.0, 9, 20, 1), "repetition, top_k,k=5": (0.5, 4, 20, 8)}
    found = [
        trial(way, 0, id, cpu=cpu * (1 + 0.1 * i), steps=steps, drafted=drafted, accepted=accepted)
        for i, id in enumerate("abc")
        for way, (cpu, steps, drafted, accepted) in ways.items()
    ]
    rows = [row(float(i % 5), float(i % 3), 4.0) for i in range(len(found))]
    told = {"title": "a <recipe>", "facts": {"Seed": "1"}} | compared(found, rows, {"loud": Loud()}, **SETTINGS)
    return speculation_page.write(tmp_path_factory.mktemp("page"), told, found, listen=2)


def test_the_page_the_figure_and_the_data_say_the_same(page):
    told = json.loads((page.parent / speculation_page.DATA).read_text())
    assert list(told["ways"]) == [PLAIN, "small_model, exact", "repetition, top_k,k=5"]
    text, figure = page.read_text(), (page.parent / speculation_page.FIGURE).read_text()
    way = told["ways"]["repetition, top_k,k=5"]
    assert (
        speculation_page.speed_up(way["speed_up"]["cpu"]).startswith("2.00 (") and speculation_page.speed_up(way["speed_up"]["cpu"]) in text
    )
    assert "a &lt;recipe&gt;" in text and text.count("<audio") == 2 * 3
    assert "change of High (%) ↓" in figure and "repetition, top_k,k=5" in figure
    assert speculation_page.drawing(told) == figure  # the same bytes again, from the data alone


def test_what_could_not_be_scored_is_a_dash_and_no_point():
    column = {"name": "level", "label": "Level", "scale": 1.0, "digits": 2, "unit": "", "better": "higher"}
    assert speculation_page.score(None, column) == "–" and speculation_page.change(None, column) == ""
    assert speculation_page.speed_up({"value": 2.0, "low": None, "high": None}) == "2.00"
    found = [trial(way, 0, "a", cpu=1.0) for way in (PLAIN, "ahead")]
    told = compared(found, [None, None], {"loud": Loud()}, **SETTINGS)
    assert told["ways"]["ahead"]["scores"] == {"level": None, "high": None} and told["ways"]["ahead"]["differences"]["level"] is None
    assert "<svg" in speculation_page.drawing(told)


def test_a_browser_without_a_network_shows_the_page_without_complaint(browser, page):
    tab = browser.new_context(offline=True).new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(page.as_uri())
    assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert tab.locator("audio").count() == 6 and complaints == []
