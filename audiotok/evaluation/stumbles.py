"""Where speech stumbles over its text: words skipped, words said again, words that nobody wrote.

Told from an alignment of the words heard with the words meant, with the weights of NIST's sclite: the plain edit distance of a word error
rate may as well write two wrong words for one that was skipped and one that was said twice. A stretch is what lies between two words that
were heard as they were meant:

    meant   please hold on  the line   to here  this   press five         goodbye
    heard   please hold on             to hear  this   press press five   goodbye mama
                            skip       misheard              repeat               babble

A stretch with fewer words than meant is a skip, one with more a repeat if what was added stands beside it once more, else babble. Where
other words were heard in about as many letters, the sounds were there and the recogniser wrote them otherwise: no stumble. So a stretch of
gibberish as long as what was meant counts as wrong words, in the word error rate alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np

from audiotok.evaluation.metric import Column, NotApplicable, Utterance, Value
from audiotok.evaluation.statistics import bootstrap_interval
from audiotok.evaluation.text import normalise, recogniser

NEVER_ENDED = "did not end within"  # of the reasons in failed.jsonl

Kind = Literal["skip", "repeat", "babble"]


SKIPPED, ADDED, WRONG = 3, 3, 4  # weights of sclite


@dataclass(frozen=True)
class Step:
    """One step of an alignment, with the places of its words in what was meant and in what was heard."""

    kind: Literal["right", "wrong", "skipped", "added"]
    meant: int
    heard: int


@dataclass(frozen=True)
class Stumble:
    """One stumble, and its words: those that were skipped, or those that were added."""

    kind: Kind
    words: str


def stumbles(meant: str, heard: str, *, tolerance: float, reach: int) -> list[Stumble]:
    """The stumbles of two normalised texts in order, one a stretch.

    `tolerance` is the share of a stretch's letters that may be missing, or be there too many, where other words were heard. A repeat
    stands with at most `reach` words between itself and what it repeats.
    """
    words_meant, words_heard = meant.split(), heard.split()
    found = (
        _stumble(stretch, words_meant, words_heard, tolerance=tolerance, reach=reach)
        for stretch in _stretches(alignment(words_meant, words_heard))
    )
    return [one for one in found if one is not None]


def alignment(meant: Sequence[str], heard: Sequence[str]) -> list[Step]:
    """The steps of least weight from one to the other, a word of either or both at a time."""
    costs = [[ADDED * j for j in range(len(heard) + 1)]]
    for i, word in enumerate(meant, 1):
        row = [SKIPPED * i]
        for j, other in enumerate(heard, 1):
            row.append(min(costs[-1][j - 1] + WRONG * (word != other), costs[-1][j] + SKIPPED, row[-1] + ADDED))
        costs.append(row)
    return _traced(costs, meant, heard)


def _traced(costs: list[list[int]], meant: Sequence[str], heard: Sequence[str]) -> list[Step]:
    i, j, steps = len(meant), len(heard), []
    while i or j:
        same = i > 0 and j > 0 and meant[i - 1] == heard[j - 1]
        if i and j and costs[i][j] == costs[i - 1][j - 1] + WRONG * (not same):
            i, j = i - 1, j - 1
            steps.append(Step("right" if same else "wrong", i, j))
        elif i and costs[i][j] == costs[i - 1][j] + SKIPPED:
            i -= 1
            steps.append(Step("skipped", i, j))
        else:
            j -= 1
            steps.append(Step("added", i, j))
    return steps[::-1]


def _stretches(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """Between words that are right. None has both skipped and added words: a wrong word weighs less than the two."""
    for right, stretch in groupby(steps, key=lambda step: step.kind == "right"):
        if not right:
            yield list(stretch)


def _stumble(stretch: Sequence[Step], meant: Sequence[str], heard: Sequence[str], *, tolerance: float, reach: int) -> Stumble | None:
    letters_meant = sum(len(meant[step.meant]) for step in stretch if step.kind != "added")
    letters_heard = sum(len(heard[step.heard]) for step in stretch if step.kind != "skipped")
    skipped = [meant[step.meant] for step in stretch if step.kind == "skipped"]
    added = [step.heard for step in stretch if step.kind == "added"]
    if skipped and letters_heard < (1 - tolerance) * letters_meant:
        return Stumble("skip", " ".join(skipped))
    if added and letters_meant < (1 - tolerance) * letters_heard:
        again = all(_said_again(heard, start, end, reach) for start, end in _runs(added))
        return Stumble("repeat" if again else "babble", " ".join(heard[place] for place in added))
    return None


def _runs(places: Sequence[int]) -> list[tuple[int, int]]:
    """(first, behind the last) of each run of neighbours."""
    starts = [place for place in places if place - 1 not in places]
    return list(zip(starts, [place + 1 for place in places if place + 1 not in places]))


def _said_again(heard: Sequence[str], start: int, end: int, reach: int) -> bool:
    """Whether these words stand before or behind them too, with at most `reach` words between; "no no no" is one word again and again."""
    return any(
        heard[start:end] == heard[start + shift : end + shift]
        for distance in range(1, end - start + reach + 1)
        for shift in (-distance, distance)
        if start + shift >= 0 and end + shift <= len(heard)
    )


class Stumbles:
    """Stumbles in what a `Recogniser` hears, by kind, for 100 sentences; the recordings' own are the recogniser's."""

    columns = (
        Column("skips", "Skips", "mean", "lower", unit="per 100", scale=100, digits=1),
        Column("repeats", "Repeats", "mean", "lower", unit="per 100", scale=100, digits=1),
        Column("babble", "Babble", "mean", "lower", unit="per 100", scale=100, digits=1),
        Column("stumbling", "Sentences with any", "mean", "lower", unit="%", scale=100, digits=1),
        Column("skipped_words", "skipped words", "text"),
        Column("repeated_words", "repeated words", "text"),
        Column("babbled_words", "babbled words", "text"),
    )

    def __init__(
        self, model: str, *, device: str, compute_type: str, threads: int, tokens_per_second: float, tolerance: float, reach: int
    ) -> None:
        self.recogniser = recogniser(model, device, compute_type, threads, tokens_per_second)
        self.judge = f"{self.recogniser.judge}; letters within {tolerance:g}, repeats within {reach} words"
        self.tolerance, self.reach = tolerance, reach

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict[str, Value]:
        if not reference.text:
            raise NotApplicable("the utterance has no text")
        language = self.recogniser.check(reference.language)
        meant = normalise(reference.text, language=language)
        if not meant:
            raise NotApplicable("the text has no words")
        heard = normalise(self.recogniser.transcript(estimate, language=language), language=language)
        return counts(stumbles(meant, heard, tolerance=self.tolerance, reach=self.reach))


def counts(found: Iterable[Stumble]) -> dict[str, Value]:
    """The columns of `Stumbles`."""
    words: dict[Kind, list[str]] = {"skip": [], "repeat": [], "babble": []}
    for one in found:
        words[one.kind].append(one.words)
    return {
        "skips": float(len(words["skip"])),
        "repeats": float(len(words["repeat"])),
        "babble": float(len(words["babble"])),
        "stumbling": float(any(words.values())),
        "skipped_words": " | ".join(words["skip"]),
        "repeated_words": " | ".join(words["repeat"]),
        "babbled_words": " | ".join(words["babble"]),
    }


def non_stops(*, spoken: int, reasons: Iterable[str], resamplings: int, seed: int) -> dict[str, Any]:
    """The column of a summary for sentences that never came to an end, of those that were tried; `reasons` are of failed.jsonl.

    What a model could not try, such as sounds that it has never seen, is not among them.
    """
    never = sum(NEVER_ENDED in reason for reason in reasons)
    tried = np.repeat([0.0, 1.0], [spoken, never])
    low, high = bootstrap_interval(tried, np.ones(len(tried)), resamplings=resamplings, seed=seed) or (None, None)
    column = Column("non_stops", "Non-stops", "mean", "lower", unit="per 100", scale=100, digits=1)
    value = float(tried.mean()) if len(tried) else None
    return {**asdict(column), "metric": "stumbles", "failed": 0, "skipped": 0, "value": value, "low": low, "high": high, "n": len(tried)}
