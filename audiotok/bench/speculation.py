"""Speaking ahead against speaking plainly: how much sooner a sentence is generated, and what that does to how it sounds.

Every way says the same sentences from the same seeds. They take turns sentence by sentence, so that what else the machine does falls on all
alike, and every comparison is of the same sentence in the same round.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from audiotok.bench.comparison import Measured, difference, interval
from audiotok.decoding.acceptance import Rule
from audiotok.decoding.samplers import Sampler
from audiotok.evaluation.metric import Column, Metric, Ratio
from audiotok.evaluation.scoring import Row
from audiotok.synthesis.drafting import Drafting
from audiotok.synthesis.scripts import Manner
from audiotok.synthesis.speech import speak
from audiotok.synthesis.voice import Failed, Request, Spoken, Voice
from audiotok.synthesis.watching import Watched

PLAIN = "plain"  # the way of the model by itself
CLOCKS = ("cpu", "wall")

Key = tuple[int, str]  # round, id of the sentence


@dataclass(frozen=True)
class Way:
    """How sentences are spoken; `name` is what it is called in figures."""

    name: str
    drafting: Drafting
    rule: Rule


@dataclass(frozen=True)
class Trial:
    """One sentence said in one way in one round; seconds of generation alone, `steps` of the model, `positions` that it said."""

    way: str
    round: int
    result: Spoken | Failed
    cpu_seconds: float
    wall_seconds: float
    positions: int
    steps: int
    drafted: int
    accepted: int

    @property
    def key(self) -> Key:
        return self.round, self.result.request.id


@dataclass(frozen=True)
class Speaker:
    """What all ways have in common."""

    voice: Voice
    sampler: Sampler
    manner: Manner
    seed: int

    def say(self, way: Way, request: Request, *, round: int) -> Trial:
        """Alone, since times are a sentence's own. The plain way hears each position in a step of its own."""
        watched = Watched(way.drafting)
        told = {"sampler": self.sampler, "seed": self.seed + round, "manner": self.manner, "drafting": watched, "rule": way.rule}
        (result,) = speak([request], self.voice, **told)  # type: ignore[arg-type]
        positions = sum(one.codes_KN.shape[1] for one in watched.generated.values())
        rounds = [made for one in watched.generated.values() for made in getattr(one, "rounds", ())]
        return Trial(
            way.name,
            round,
            result,
            watched.cpu_seconds,
            watched.wall_seconds,
            positions,
            steps=len(rounds) or positions,
            drafted=sum(made.drafted for made in rounds),
            accepted=sum(made.accepted for made in rounds),
        )


def trials(
    ways: Sequence[Way], requests: Sequence[Request], speaker: Speaker, *, rounds: int, progress: Callable[[int], None] = lambda done: None
) -> Iterator[Trial]:
    """Each sentence in each way, in each round; every way says one before, not told of, in which all is made that is made at first use."""
    for way in ways:
        speaker.say(way, requests[0], round=0)
    for round in range(rounds):
        for request in requests:
            for way in ways:
                yield speaker.say(way, request, round=round)
                progress(1)


def compared(
    found: Sequence[Trial], rows: Sequence[Row | None], metrics: Mapping[str, Metric], *, resamplings: int, seed: int
) -> dict[str, Any]:
    """{"columns", "ways": {name: figures}} of trials and their rows of scores, None where nothing was spoken.

    Of each way its times, its speed-up (plain seconds over its own), positions a step, share of drafts that stand, means of the scores,
    and each mean's difference to the plain way's, by paired bootstrap over sentences.
    """
    columns = [column for metric in metrics.values() for column in metric.columns if column.kind != "text"]
    names = list(dict.fromkeys(one.way for one in found))
    if PLAIN not in names:
        raise ValueError(f"nothing to compare with: one of the ways must be called {PLAIN!r}; there are {', '.join(names)}")
    settings = {"resamplings": resamplings, "seed": seed}

    def figures(name: str) -> dict[str, Any]:
        scores = {column: _scores(name, column, found, rows) for column in columns}
        return {
            **_work([one for one in found if one.way == name]),
            "speed_up": {clock: _speed_up(name, clock, found, settings) for clock in CLOCKS},
            "scores": {column.name: _measured(name, column, own).mean for column, own in scores.items()},
            "differences": {
                column.name: _difference(column, own, _scores(PLAIN, column, found, rows), settings) for column, own in scores.items()
            },
        }

    return {"columns": [asdict(column) for column in columns], "ways": {name: figures(name) for name in names}}


def _work(found: Sequence[Trial]) -> dict[str, Any]:
    total = {
        key: sum(getattr(one, key) for one in found) for key in ("cpu_seconds", "wall_seconds", "positions", "steps", "drafted", "accepted")
    }
    return {
        **total,
        "positions_per_step": total["positions"] / total["steps"] if total["steps"] else None,
        "accepted_share": total["accepted"] / total["drafted"] if total["drafted"] else None,
        "not_spoken": dict(Counter(one.result.reason for one in found if isinstance(one.result, Failed))),
    }


def _speed_up(name: str, clock: str, found: Sequence[Trial], settings: Mapping[str, int]) -> dict[str, float | None]:
    """Plain seconds over this way's, with the interval over sentences; every sentence said counts, ended or not."""
    seconds = {(one.way, one.key): getattr(one, f"{clock}_seconds") for one in found}
    pairs = {key: Ratio(seconds[PLAIN, key], spent) for (way, key), spent in seconds.items() if way == name}
    ratio = _measured(name, Column("speed_up", "Speed-up", "ratio", "higher"), pairs)
    low, high = interval(ratio, **settings) or (None, None)
    return {"value": ratio.mean, "low": low, "high": high}


def _scores(name: str, column: Column, found: Sequence[Trial], rows: Sequence[Row | None]) -> dict[Key, Ratio]:
    pairs = zip(found, rows, strict=True)
    return {one.key: _ratio(row, column) for one, row in pairs if one.way == name and row and row.get(column.name) is not None}


def _ratio(row: Row, column: Column) -> Ratio:
    if column.kind == "ratio":
        return Ratio(row[f"{column.name}_numerator"], row[f"{column.name}_denominator"])
    return Ratio(row[column.name], 1.0)


def _measured(name: str, column: Column, scores: Mapping[Key, Ratio]) -> Measured:
    """A sentence is one item, whatever it was in each round: rounds of one sentence are alike, and no further sample of the sentences."""
    items: dict[str, Ratio] = {}
    for (_, id), more in scores.items():
        sofar = items.get(id, Ratio(0.0, 0.0))
        items[id] = Ratio(sofar.numerator + more.numerator, sofar.denominator + more.denominator)
    totals = [sum(getattr(item, part) for item in items.values()) for part in ("numerator", "denominator")]
    values = {0: totals[0] / totals[1]} if totals[1] else {}
    return Measured(name, "speculation", "cost", column, primary=False, chance=None, values=values, items={0: items}, failures={})


def _difference(column: Column, own: Mapping[Key, Ratio], plain: Mapping[Key, Ratio], settings: Mapping[str, int]) -> dict[str, Any] | None:
    """This way's mean minus the plain way's, of what both spoke and the judge could score."""
    left, right = (
        _measured(name, column, {key: scores[key] for key in own if key in plain}) for name, scores in (("", own), (PLAIN, plain))
    )
    found = difference(left, right, **settings)
    return None if found is None else asdict(found)
