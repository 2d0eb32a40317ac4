"""What a probe's answers are worth: against the truth, against chance, against what it was trained to."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np


@dataclass(frozen=True)
class Convergence:
    """What tells a probe that learned from one that did not: training failures have been published as scores of tokenizers.

    `train_loss` near `uniform_loss`, that of equal probabilities, is a probe that was not fitted; `near_chance` one whose score says
    nothing of its input.
    """

    train_loss: float
    uniform_loss: float
    near_chance: bool


@dataclass(frozen=True)
class LabelScores:
    """Answers of one label. `items` are 1 where the answer is right, by id; `unseen` counts truths that no training example has."""

    classes: tuple[str, ...]  # of the train part, in order
    accuracy: float
    macro_f1: float
    largest_share: float  # of the test part: the best that an answer which is always the same can score
    uniform: float  # 1 / classes
    items: Mapping[str, int]
    confusion: Mapping[str, Mapping[str, int]]  # truth -> answer -> count
    unseen: int

    @property
    def chance(self) -> float:
        return max(self.largest_share, self.uniform)


def label_scores(ids: Sequence[str], truth: Sequence[str], answers: Sequence[str], *, classes: Sequence[str]) -> LabelScores:
    """Scores of the answers to one label."""
    right = [int(true == answer) for true, answer in zip(truth, answers, strict=True)]
    counts = Counter(zip(truth, answers))
    return LabelScores(
        tuple(classes),
        accuracy=sum(right) / len(right),
        macro_f1=macro_f1(truth, answers),
        largest_share=max(Counter(truth).values()) / len(truth),
        uniform=1 / len(classes),
        items=dict(zip(ids, right, strict=True)),
        confusion={true: {answer: counts[true, answer] for t, answer in sorted(counts) if t == true} for true in sorted(set(truth))},
        unseen=sum(true not in set(classes) for true in truth),
    )


def macro_f1(truth: Sequence[str], answers: Sequence[str]) -> float:
    """The mean of F1 over the classes that are true or answered somewhere."""
    true, answered = Counter(truth), Counter(answers)
    right = Counter(true for true, answer in zip(truth, answers, strict=True) if true == answer)
    classes = true.keys() | answered.keys()
    return sum(2 * right[name] / (true[name] + answered[name]) for name in classes) / len(classes)


def near_chance(score: float, *, chance: float, count: int, deviations: float = 2.0) -> bool:
    """Whether a share of right answers is no more than `deviations` standard deviations above `chance`, of `count` guesses.

    The guesses are taken to be independent. Utterances that are alike (takes of one word by one speaker) tend to get one answer, and chance
    then reaches further than this says.
    """
    return score <= chance + deviations * sqrt(chance * (1 - chance) / count)


def equal_error_rate(scores: np.ndarray, same: np.ndarray) -> tuple[float, float]:
    """(EER, its threshold): where as many strangers are let in as speakers are turned away, in shares.

    Between two thresholds of the data the curve is taken to be straight. Raises ValueError for trials of one kind alone.
    """
    misses, false_alarms, thresholds = error_curve(scores, same)
    after = int(np.argmax(false_alarms >= misses))  # the first: misses fall, false alarms rise
    if after == 0:
        return float(misses[0]), float(thresholds[0])
    gap_before, gap_after = misses[after - 1] - false_alarms[after - 1], false_alarms[after] - misses[after]
    share = gap_before / (gap_before + gap_after)
    rate = misses[after - 1] + share * (misses[after] - misses[after - 1])
    return float(rate), float(thresholds[after])


def min_dcf(scores: np.ndarray, same: np.ndarray, *, target_prior: float, miss_cost: float = 1.0, false_alarm_cost: float = 1.0) -> float:
    """The least detection cost over thresholds, over that of the better constant answer (NIST's normalised minimum DCF)."""
    misses, false_alarms, _ = error_curve(scores, same)
    costs = miss_cost * target_prior * misses + false_alarm_cost * (1 - target_prior) * false_alarms
    return float(costs.min() / min(miss_cost * target_prior, false_alarm_cost * (1 - target_prior)))


def error_curve(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(misses, false alarms, thresholds), thresholds falling from infinity; a trial is accepted from the threshold on."""
    scores, same = np.asarray(scores, dtype=np.float64), np.asarray(same, dtype=bool)
    if same.all() or not same.any():
        raise ValueError(f"verification needs trials of the same speaker and of two; got {int(same.sum())} and {int((~same).sum())}")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} trials have no finite score")
    order = np.argsort(-scores, kind="stable")
    scores, same = scores[order], same[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # equal scores fall on one side together
    hits, alarms = np.cumsum(same)[ends], np.cumsum(~same)[ends]
    misses = np.append(1.0, 1 - hits / hits[-1])
    return misses, np.append(0.0, alarms / alarms[-1]), np.append(np.inf, scores[ends])
