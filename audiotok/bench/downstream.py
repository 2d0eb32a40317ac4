"""Axis 3: what can be learnt from the codes, by probes after DASB (arXiv 2406.14294). One task type for all that is a label.

A probe hears a tokenizer's codes, or the features of a continuous reference, through the same heads. What knows nothing is scored too: it
is each score's `chance`, and a score within two standard deviations of it is flagged as not converged.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import combinations
from typing import Any

import numpy as np
from torch import Tensor

from audiotok.bench.scores import percent, score
from audiotok.bench.subject import Heard, Selection, Subject
from audiotok.bench.task import Axis, Outcome, Score
from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.probes.classification import Classified, ClassifierSettings, classify, majority
from audiotok.evaluation.probes.embedding import codec_vectors
from audiotok.evaluation.probes.inputs import Labelled, ProbeInput
from audiotok.evaluation.probes.transcription import TranscriberSettings, transcribe
from audiotok.evaluation.probes.verification import Trial, verify
from audiotok.evaluation.text import normalise


class Classification:
    """The label that a field gives of an utterance: a keyword, a digit, a speaker, an emotion, an intent; or the slots of an order.

    `slots` are the keys of a field that holds JSON; a slot that an utterance does not mention is "none". Each of `heads` is a probe of its
    own, all on the same utterances; the best ranks, as in DASB. `from_codec` starts the table from the codec's own vectors.
    """

    axis: Axis = "downstream"
    seeded = True

    def __init__(
        self, *, train: Selection, test: Selection, target: str, slots: Sequence[str] | None, dev_share: float,
        heads: Mapping[str, ClassifierSettings], from_codec: bool, per_codebook: str | None,
    ) -> None:  # fmt: skip
        """`per_codebook`: the head that is also fitted to each of the first codebooks alone, where there are several; None for none."""
        self.selections = (train, test)
        self.target = target
        self.slots = slots
        self.dev_share = dev_share
        self.heads = heads
        self.from_codec = from_codec
        self.per_codebook = per_codebook

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        train, test = ([self._labelled(subject, heard) for heard in subject.heard(part)] for part in self.selections)
        train, dev = held_out(train, self.dev_share)
        vectors = codec_vectors(subject.tokenizer.wrapped) if self.from_codec and is_embedded(subject) else None
        told: dict[str, Any] = {"dev": dev, "seed": seed, "device": subject.device, "vectors": vectors}
        found = {name: classify(train, test, settings=settings, **told) for name, settings in self.heads.items()}
        chance = majority(train, test)
        best = max(found, key=lambda name: found[name].accuracy)
        scores = [self._score("", "Accuracy", found[best], chance, primary=True)]
        scores += [self._score(f"_{name}", f"of {name}", one, chance) for name, one in found.items()]
        if self.slots:
            exact = {id: float(value) for id, value in found[best].exact.items()}
            scores.append(percent("exact", "All slots right", exact, "higher", chance=chance.exact_match))
        else:
            scores.append(percent("macro_f1", "Macro F1", found[best].slots[0].macro_f1, "higher"))
        detail: dict[str, Any] = {"best": best, "train": len(train), "dev": len(dev), "test": len(test)}
        detail["convergence"] = {name: _convergence(one) for name, one in found.items()}
        detail["per_codebook"] = self._each(subject, train, test, told)
        return Outcome(tuple(scores), detail)

    def _score(self, suffix: str, label: str, found: Classified, chance: Classified, *, primary: bool = False) -> Score:
        return percent(f"accuracy{suffix}", label, found.right, "higher", primary=primary, chance=chance.accuracy)

    def _labelled(self, subject: Subject, heard: Heard) -> Labelled:
        value = heard.value(self.target)
        if self.slots:
            order = json.loads(value)
            return Labelled(heard.id, probe_input(subject, heard), tuple(str(order.get(slot, "none")) for slot in self.slots))
        return Labelled(heard.id, probe_input(subject, heard), value)

    def _each(self, subject: Subject, train: Sequence[Labelled], test: Sequence[Labelled], told: Mapping[str, Any]) -> dict[str, float]:
        """Accuracy of the first codebooks, each alone: which one carries what."""
        if self.per_codebook is None or train[0].input.codebook_sizes is None or len(train[0].input.codebook_sizes) == 1:
            return {}
        settings = self.heads[self.per_codebook]
        alone = {}
        for codebook in range(min(len(train[0].input.codebook_sizes), 8)):
            narrow = replace(settings, embedding=replace(settings.embedding, codebooks=(codebook,)))
            alone[str(codebook)] = classify(train, test, settings=narrow, **told).accuracy
        return alone


class Verification:
    """Equal error rate of same or different speaker, over pairs of people that the probe has not heard.

    A classifier of the training speakers, each recording cut into pieces of `piece_seconds`, embeds the test utterances; a pair's score is
    the cosine. Pairs: all of one speaker, and as many of two, drawn by the SHA-256 of their ids.
    """

    axis: Axis = "downstream"
    seeded = True

    def __init__(
        self, *, train: Selection, test: Selection, piece_seconds: float, dev_share: float, heads: Mapping[str, ClassifierSettings],
        target_prior: float, from_codec: bool,
    ) -> None:  # fmt: skip
        self.selections = (train, test)
        self.piece_seconds = piece_seconds
        self.dev_share = dev_share
        self.heads = heads
        self.target_prior = target_prior
        self.from_codec = from_codec

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        pieces = [piece for heard in subject.heard(self.selections[0]) for piece in self._pieces(subject, heard)]
        train, dev = held_out(pieces, self.dev_share)
        test = [Labelled(heard.id, probe_input(subject, heard), heard.value("speaker")) for heard in subject.heard(self.selections[1])]
        trials = balanced_trials(test)
        vectors = codec_vectors(subject.tokenizer.wrapped) if self.from_codec and is_embedded(subject) else None
        told: dict[str, Any] = {"target_prior": self.target_prior, "seed": seed, "device": subject.device, "vectors": vectors, "dev": dev}
        found = {name: verify(train, test, trials, settings=settings, **told) for name, settings in self.heads.items()}
        best = min(found, key=lambda name: found[name].eer)
        scores = [
            percent("eer", "Equal error rate", found[best].eer, "lower", primary=True, chance=0.5),
            score("min_dcf", "minDCF", found[best].min_dcf, "lower", digits=3),
        ]
        scores += [percent(f"eer_{name}", f"of {name}", one.eer, "lower", chance=0.5) for name, one in found.items()]
        return Outcome(tuple(scores), {"best": best, "trials": len(trials), "speakers": len({one.target for one in train})})

    def _pieces(self, subject: Subject, heard: Heard) -> Iterable[Labelled]:
        whole = probe_input(subject, heard)
        size = max(1, round(float(whole.frame_rate) * self.piece_seconds))
        dim = 1 if whole.codebook_sizes else 0
        for number, frames in enumerate(whole.frames.split(size, dim=dim)):
            if frames.shape[dim] >= size // 2:
                yield Labelled(f"{heard.id}/{number}", replace(whole, frames=frames), heard.value("speaker"))


class Transcription:
    """Character and word error rate of a CTC probe. Texts are normalised as all error rates are here."""

    axis: Axis = "downstream"
    seeded = True

    def __init__(
        self,
        *,
        train: Selection,
        test: Selection,
        language: str,
        dev_share: float,
        heads: Mapping[str, TranscriberSettings],
        from_codec: bool,
    ) -> None:
        self.selections = (train, test)
        self.language = language
        self.dev_share = dev_share
        self.heads = heads
        self.from_codec = from_codec

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        train, test = ([self._labelled(subject, heard) for heard in subject.heard(part)] for part in self.selections)
        train, test = ([one for one in part if one.target] for part in (train, test))
        train, dev = held_out(train, self.dev_share)
        vectors = codec_vectors(subject.tokenizer.wrapped) if self.from_codec and is_embedded(subject) else None
        told: dict[str, Any] = {"dev": dev, "seed": seed, "device": subject.device, "vectors": vectors}
        found = {name: transcribe(train, test, settings=settings, **told) for name, settings in self.heads.items()}
        best = min(found, key=lambda name: found[name].cer)
        scores = [
            percent("cer", "CER", found[best].characters, "lower", primary=True, chance=1.0),
            percent("wer", "WER", found[best].words, "lower", chance=1.0),
        ]
        for name, one in found.items():
            scores += [percent(f"cer_{name}", f"CER of {name}", one.cer, "lower", chance=1.0)]
        heard = dict(list(found[best].heard.items())[:20])
        return Outcome(tuple(scores), {"best": best, "heard": heard, "train": len(train), "test": len(test)})

    def _labelled(self, subject: Subject, heard: Heard) -> Labelled:
        return Labelled(heard.id, probe_input(subject, heard), normalise(heard.value("text"), language=self.language))


def probe_input(subject: Subject, heard: Heard) -> ProbeInput:
    """What a probe hears of an utterance: its codes, or features."""
    if heard.features_ND is not None:
        return ProbeInput(heard.features_ND, subject.system.sample_rate / subject.system.hop)
    assert heard.codes_KN is not None
    return ProbeInput(heard.codes_KN.long(), subject.spec.frame_rate, subject.spec.codebook_sizes)


def is_embedded(subject: Subject) -> bool:
    return bool(getattr(subject.system, "embeds", False))


def held_out(examples: Sequence[Labelled], share: float) -> tuple[list[Labelled], list[Labelled]]:
    """(train, dev): of each label about `share` by the SHA-256 of the ids, so that every label stays in train."""
    by_label: dict[Any, list[Labelled]] = defaultdict(list)
    for example in examples:
        by_label[example.target if isinstance(example.target, str) and share_by_label(examples) else ""].append(example)
    train: list[Labelled] = []
    dev: list[Labelled] = []
    for members in by_label.values():
        ordered = sorted(members, key=lambda one: sha256(one.id.encode()).hexdigest())
        count = min(round(share * len(ordered)), len(ordered) - 1)
        dev += ordered[:count]
        train += ordered[count:]
    if not train:
        raise NotApplicable("no utterance of the selection could be encoded")
    return sorted(train, key=lambda one: one.id), sorted(dev, key=lambda one: one.id)


def share_by_label(examples: Sequence[Labelled]) -> bool:
    """Whether labels come again: texts do not."""
    return len({one.target for one in examples if isinstance(one.target, str)}) <= len(examples) / 2


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


def _convergence(found: Any) -> dict[str, Any] | None:
    one = found.convergence
    return None if one is None else {name: _plain(value) for name, value in vars(one).items()} | {"epochs": len(found.history.epochs)}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, (np.generic, Tensor)) else value
