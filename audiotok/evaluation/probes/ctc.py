"""What a CTC model's probabilities spell (Graves et al. 2006): id 0 is the blank."""

from collections.abc import Iterable
from itertools import groupby

import numpy as np

BLANK = 0

Beam = dict[tuple[int, ...], tuple[float, float]]  # labels -> log probability of their paths that end in a blank, and in the last label


def collapsed(path: Iterable[int]) -> tuple[int, ...]:
    """The labels of a path: repeats joined, then blanks left out. 1 1 _ 1 2 2 _ -> 1 1 2"""
    return tuple(label for label, _ in groupby(path) if label != BLANK)


def frames_needed(labels: Iterable[int]) -> int:
    """The frames of the shortest path: one for each label, and a blank between two that are the same."""
    return sum(2 * len(list(run)) - 1 for _, run in groupby(labels))


def greedy(log_probs_NV: np.ndarray) -> tuple[int, ...]:
    """The labels of the likeliest path."""
    return collapsed(log_probs_NV.argmax(axis=1).tolist())


def prefix_beam(log_probs_NV: np.ndarray, *, width: int) -> tuple[int, ...]:
    """The likeliest labels, all their paths summed, of the `width` likeliest prefixes kept at each frame; no language model."""
    if width < 1:
        raise ValueError(f"a beam keeps at least one prefix; got width={width}")
    beam: Beam = {(): (0.0, -np.inf)}
    for log_probs_V in log_probs_NV:
        grown = _grown(beam, log_probs_V)
        beam = dict(sorted(grown.items(), key=lambda item: np.logaddexp(*item[1]), reverse=True)[:width])
    return next(iter(beam))


def _grown(beam: Beam, log_probs_V: np.ndarray) -> Beam:
    """Every prefix after one more frame: a blank, its last label again, or a new label."""
    grown: Beam = {}
    for prefix, (blank, label) in beam.items():
        either = np.logaddexp(blank, label)
        _add(grown, prefix, either + log_probs_V[BLANK], label + log_probs_V[prefix[-1]] if prefix else -np.inf)
        for new in range(1, len(log_probs_V)):
            before = blank if prefix and new == prefix[-1] else either  # only a blank parts a label from itself
            _add(grown, (*prefix, new), -np.inf, before + log_probs_V[new])
    return grown


def _add(beam: Beam, prefix: tuple[int, ...], blank: float, label: float) -> None:
    old_blank, old_label = beam.get(prefix, (-np.inf, -np.inf))
    beam[prefix] = float(np.logaddexp(old_blank, blank)), float(np.logaddexp(old_label, label))
