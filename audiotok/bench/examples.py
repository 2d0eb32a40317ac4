"""What probes are given of a subject: inputs, parts, pieces, pairs."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import combinations
from typing import Any

from torch import Tensor

from audiotok.bench.subject import Heard, Selection, Subject
from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.probes.embedding import codec_vectors
from audiotok.evaluation.probes.inputs import Labelled, ProbeInput
from audiotok.evaluation.probes.verification import Trial


def probe_input(subject: Subject, heard: Heard) -> ProbeInput:
    """What a probe hears of an utterance: its codes, or features."""
    if heard.features_ND is not None:
        return ProbeInput(heard.features_ND, subject.system.sample_rate / subject.system.hop)
    assert heard.codes_KN is not None
    return ProbeInput(heard.codes_KN.long(), subject.spec.frame_rate, subject.spec.codebook_sizes)


def starting_vectors(subject: Subject) -> list[Tensor] | None:
    """The codec's own vectors of its codes; None of what has none."""
    return codec_vectors(subject.tokenizer.wrapped) if getattr(subject.system, "embeds", False) else None


def with_dev(train: Selection, test: Selection, dev: Selection | float) -> tuple[Selection, ...]:
    """What a task reads."""
    return (train, test, dev) if isinstance(dev, Selection) else (train, test)


def held_out(examples: Sequence[Labelled], dev: Selection | float, *own: list[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """(train, dev): `own` where dev is a selection; else a share of each label by the SHA-256 of the ids, so that all stay in train."""
    if isinstance(dev, Selection):
        return list(examples), own[0]
    repeated = len({one.target for one in examples if isinstance(one.target, str)}) <= len(examples) / 2  # labels are, texts are not
    by_label: dict[Any, list[Labelled]] = defaultdict(list)
    for example in examples:
        by_label[example.target if repeated and isinstance(example.target, str) else ""].append(example)
    train: list[Labelled] = []
    held: list[Labelled] = []
    for members in by_label.values():
        ordered = sorted(members, key=lambda one: sha256(one.id.encode()).hexdigest())
        count = min(round(dev * len(ordered)), len(ordered) - 1)
        held += ordered[:count]
        train += ordered[count:]
    if dev and not held and len(train) > 1:
        held.append(train.pop())  # of so few that the share of each label is less than one
    if not train:
        raise NotApplicable("no utterance of the selection could be encoded")
    return sorted(train, key=lambda one: one.id), sorted(held, key=lambda one: one.id)


def pieces(example: Labelled, seconds: float) -> Iterator[Labelled]:
    """The frames of an example in pieces of that length, the last one at least half of it; a shorter example as it is."""
    whole = example.input
    size, dim = max(1, round(float(whole.frame_rate) * seconds)), 1 if whole.codebook_sizes else 0
    for number, frames in enumerate(whole.frames.split(size, dim=dim)):
        if number == 0 or frames.shape[dim] >= size // 2:
            yield replace(example, id=f"{example.id}/{number}", input=replace(whole, frames=frames))


def listed_trials(heard: Sequence[Heard]) -> list[Trial]:
    """The pairs that the corpus lists; none where it lists none."""
    known = {one.id for one in heard}
    listed = [
        Trial(one.id, other, same)
        for one in heard
        for field, same in (("same", True), ("different", False))
        for other in (one.cut.custom or {}).get(field, ())
    ]
    if unknown := sorted({trial.right for trial in listed} - known):
        raise NotApplicable(f"{len(unknown)} recordings of the listed pairs are not encoded, such as {unknown[0]}")
    return listed


def balanced_trials(test: Sequence[Labelled]) -> list[Trial]:
    """All pairs of one speaker, and as many of two speakers."""
    same: list[Trial] = []
    different: list[Trial] = []
    for left, right in combinations(sorted(test, key=lambda one: one.id), 2):
        (same if left.target == right.target else different).append(Trial(left.id, right.id, left.target == right.target))
    different.sort(key=lambda trial: sha256(f"{trial.left}|{trial.right}".encode()).hexdigest())
    if not same or not different:
        raise NotApplicable(f"{len(same)} pairs of one speaker and {len(different)} of two: both are needed")
    return [*same, *different[: len(same)]]
