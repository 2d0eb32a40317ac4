"""Axis 3: what can be learnt from the codes, by probes after DASB (arXiv 2406.14294). One task type for all that is a label.

A probe hears a tokenizer's codes, or the features of a continuous reference, through the same heads. What knows nothing is scored too: it
is each score's `chance`, and a score within two standard deviations of it is flagged as not converged. `dev` is a selection of its own, or
a share of the training recordings; `from_codec` starts the probe's table from the codec's own vectors.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from audiotok.bench.examples import balanced_trials, held_out, listed_trials, pieces, probe_input, starting_vectors, with_dev
from audiotok.bench.scores import mean, percent, score
from audiotok.bench.subject import Heard, Selection, Subject
from audiotok.bench.task import Axis, Outcome, Score
from audiotok.evaluation.probes.classification import Classified, ClassifierSettings, classify, majority
from audiotok.evaluation.probes.inputs import Labelled
from audiotok.evaluation.probes.transcription import Transcribed, TranscriberSettings, transcribe
from audiotok.evaluation.probes.verification import verify
from audiotok.evaluation.text import normalise


class Classification:
    """The label that a field gives of an utterance: a keyword, a digit, a speaker, an emotion, an intent; or the slots of an order.

    `slots` are the keys of a field that holds JSON; a slot that an utterance does not mention is "none". Each of `heads` is a probe of its
    own, all on the same utterances; the best ranks, as in DASB.
    """

    axis: Axis = "downstream"
    seeded = True

    def __init__(
        self,
        *,
        train: Selection,
        test: Selection,
        dev: Selection | float,
        target: str,
        slots: Sequence[str] | None,
        piece_seconds: float | None,
        heads: Mapping[str, ClassifierSettings],
        from_codec: bool,
        per_codebook: str | None,
    ) -> None:
        """`piece_seconds`: training recordings are cut into pieces of that length.

        `per_codebook`: the head that is also fitted to each of the first codebooks alone, where there are several; None for none.
        """
        self.selections = with_dev(train, test, dev)
        self.dev = dev
        self.target = target
        self.slots = slots
        self.piece_seconds = piece_seconds
        self.heads = heads
        self.from_codec = from_codec
        self.per_codebook = per_codebook

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        train, test, *own = ([self._labelled(subject, heard) for heard in subject.heard(part)] for part in self.selections)
        train, dev = held_out(train, self.dev, *own)
        if self.piece_seconds is not None:
            train = [piece for one in train for piece in pieces(one, self.piece_seconds)]
        told: dict[str, Any] = {"dev": dev, "seed": seed, "device": subject.device}
        told["vectors"] = starting_vectors(subject) if self.from_codec else None
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
        detail["per_codebook"] = self._each(train, test, told)
        return Outcome(tuple(scores), detail)

    def _score(self, suffix: str, label: str, found: Classified, chance: Classified, *, primary: bool = False) -> Score:
        return percent(f"accuracy{suffix}", label, found.right, "higher", primary=primary, chance=chance.accuracy)

    def _labelled(self, subject: Subject, heard: Heard) -> Labelled:
        value = heard.value(self.target)
        if self.slots:
            order = json.loads(value)
            return Labelled(heard.id, probe_input(subject, heard), tuple(str(order.get(slot, "none")) for slot in self.slots))
        return Labelled(heard.id, probe_input(subject, heard), value)

    def _each(self, train: Sequence[Labelled], test: Sequence[Labelled], told: Mapping[str, Any]) -> dict[str, float]:
        """Accuracy of the first eight codebooks, each alone: which one carries what."""
        sizes = train[0].input.codebook_sizes
        if self.per_codebook is None or sizes is None or len(sizes) == 1:
            return {}
        settings = self.heads[self.per_codebook]
        alone = {}
        for codebook in range(min(len(sizes), 8)):
            narrow = replace(settings, embedding=replace(settings.embedding, codebooks=(codebook,)))
            alone[str(codebook)] = classify(train, test, settings=narrow, **told).accuracy
        return alone


class Verification:
    """Equal error rate of same or different speaker, over pairs of people that the probe has not heard.

    A classifier of the training speakers, each recording cut into pieces of `piece_seconds`, embeds the test utterances; a pair's score is
    the cosine. Pairs are those that the corpus lists (fields "same" and "different" of an utterance: lists of ids); where
    it lists none, all of one speaker, and as many of two, drawn by the SHA-256 of their ids.
    """

    axis: Axis = "downstream"
    seeded = True

    def __init__(
        self,
        *,
        train: Selection,
        test: Selection,
        dev: Selection | float,
        piece_seconds: float,
        heads: Mapping[str, ClassifierSettings],
        target_prior: float,
        from_codec: bool,
    ) -> None:
        self.selections = with_dev(train, test, dev)
        self.dev = dev
        self.piece_seconds = piece_seconds
        self.heads = heads
        self.target_prior = target_prior
        self.from_codec = from_codec

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        heard = subject.heard(self.selections[1])
        test = [self._spoken(subject, one) for one in heard]
        train, *own = (
            [piece for one in subject.heard(part) for piece in pieces(self._spoken(subject, one), self.piece_seconds)]
            for part in (self.selections[0], *self.selections[2:])
        )
        train, dev = held_out(train, self.dev, *own)
        trials = listed_trials(heard) or balanced_trials(test)
        told: dict[str, Any] = {"target_prior": self.target_prior, "seed": seed, "device": subject.device, "dev": dev}
        told["vectors"] = starting_vectors(subject) if self.from_codec else None
        found = {name: verify(train, test, trials, settings=settings, **told) for name, settings in self.heads.items()}
        best = min(found, key=lambda name: found[name].eer)
        scores = [
            percent("eer", "Equal error rate", found[best].eer, "lower", primary=True, chance=0.5),
            score("min_dcf", "minDCF", found[best].min_dcf, "lower", digits=3),
        ]
        scores += [percent(f"eer_{name}", f"of {name}", one.eer, "lower", chance=0.5) for name, one in found.items()]
        return Outcome(tuple(scores), {"best": best, "trials": len(trials), "speakers": len({one.target for one in train})})

    def _spoken(self, subject: Subject, heard: Heard) -> Labelled:
        return Labelled(heard.id, probe_input(subject, heard), heard.value("speaker"))


class Transcription:
    """Character and word error rate of a CTC probe. Texts are normalised as all error rates are here.

    The first of `tests` ranks, by `primary`; the scores of the others bear their names.
    """

    axis: Axis = "downstream"
    seeded = True

    def __init__(
        self,
        *,
        train: Selection,
        tests: Mapping[str, Selection],
        dev: Selection | float,
        language: str,
        heads: Mapping[str, TranscriberSettings],
        primary: Literal["cer", "wer"],
        from_codec: bool,
    ) -> None:
        self.train, self.tests = train, dict(tests)
        self.selections = (train, *tests.values(), *([dev] if isinstance(dev, Selection) else []))
        self.dev = dev
        self.language = language
        self.heads = heads
        self.primary = primary
        self.from_codec = from_codec

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        own = [self._part(subject, self.dev)] if isinstance(self.dev, Selection) else []
        train, dev = held_out(self._part(subject, self.train), self.dev, *own)
        parts = {name: self._part(subject, selection) for name, selection in self.tests.items()}
        test = [one for part in parts.values() for one in part]
        told: dict[str, Any] = {"dev": dev, "seed": seed, "device": subject.device}
        told["vectors"] = starting_vectors(subject) if self.from_codec else None
        found = {name: transcribe(train, test, settings=settings, **told) for name, settings in self.heads.items()}
        first = {one.id for one in next(iter(parts.values()))}
        errors = {name: mean({id: ratio for id, ratio in one.characters.items() if id in first}) for name, one in found.items()}
        best = min(errors, key=lambda name: errors[name] or 0.0)
        scores: list[Score] = []
        for place, (name, part) in enumerate(parts.items()):
            scores += self._scores(found[best], {one.id for one in part}, suffix=f"_{name}" if place else "", ranks=not place)
        scores += [percent(f"cer_of_{name}", f"CER of {name}", value, "lower", chance=1.0) for name, value in errors.items()]
        heard = dict(list(found[best].heard.items())[:20])
        return Outcome(tuple(scores), {"best": best, "heard": heard, "train": len(train), "test": len(test)})

    def _scores(self, found: Transcribed, ids: set[str], *, suffix: str, ranks: bool) -> list[Score]:
        kinds = {"cer": ("CER", found.characters), "wer": ("WER", found.words)}
        return [
            percent(
                f"{kind}{suffix}",
                f"{label}{suffix.replace('_', ' ')}",
                {id: ratio for id, ratio in ratios.items() if id in ids},
                "lower",
                primary=ranks and kind == self.primary,
                chance=1.0,
            )
            for kind, (label, ratios) in kinds.items()
        ]

    def _part(self, subject: Subject, selection: Selection) -> list[Labelled]:
        """The utterances whose text has words."""
        labelled = (
            Labelled(heard.id, probe_input(subject, heard), normalise(heard.value("text"), language=self.language))
            for heard in subject.heard(selection)
        )
        return [one for one in labelled if one.target]


def _convergence(found: Any) -> dict[str, Any] | None:
    one = found.convergence
    return None if one is None else {name: _plain(value) for name, value in vars(one).items()} | {"epochs": len(found.history.epochs)}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic | Tensor) else value
