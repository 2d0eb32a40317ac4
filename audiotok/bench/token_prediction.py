"""Axis 3: enhancement and separation by predicting clean tokens, decoded by the codec itself (DASB, arXiv 2406.14294)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from audiotok.bench.examples import starting_vectors
from audiotok.bench.mixtures import Mixture
from audiotok.bench.reconstruction import scored
from audiotok.bench.scores import percent
from audiotok.bench.subject import Selection, Subject, described
from audiotok.bench.task import Axis, Outcome, Score
from audiotok.evaluation import scoring, sources
from audiotok.evaluation.metric import Metric, MetricFailure, NotApplicable
from audiotok.evaluation.probes.inputs import Labelled, ProbeInput
from audiotok.evaluation.probes.token_prediction import PredictorSettings, commonest, predict_tokens
from audiotok.evaluation.reconstruction import si_sdr

Mixtures = Callable[[Subject, int], Iterator[Mixture]]


class TokenPrediction:
    """A head hears the codes of a mixture and predicts those of the clean speech (of each speaker, whichever order fits best).

    The token error rate needs no way back to sound; where there is one, the predicted speech is scored by `metrics` against the clean
    recording, and so are the clean tokens decoded ("ceiling"): what the codec alone loses.
    """

    axis: Axis = "downstream"
    seeded = True

    def __init__(
        self, *, train: Mixtures, test: Mixtures, dev: Mixtures | float, settings: PredictorSettings, metrics: Mapping[str, Metric],
        primary: Sequence[str], from_codec: bool,
    ) -> None:  # fmt: skip
        self.train, self.test = train, test
        self.selections: tuple[Selection, ...] = ()
        self.dev = dev
        self.settings = settings
        self.metrics = metrics
        self.primary = primary
        self.from_codec = from_codec

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        spec = subject.spec
        train = [self._labelled(subject, one) for one in self.train(subject, spec.sample_rate)]
        mixtures = {one.id: one for one in self.test(subject, spec.sample_rate)}
        test = [self._labelled(subject, one) for one in mixtures.values()]
        train, dev = self._held_out(subject, train)
        vectors = starting_vectors(subject) if self.from_codec else None
        told: dict[str, Any] = {
            "codebook_sizes": spec.codebook_sizes,
            "settings": self.settings,
            "seed": seed,
            "device": subject.device,
            "vectors": vectors,
        }
        found = predict_tokens(train, test, dev=dev, **told)
        chance = commonest(train, test, codebook_sizes=spec.codebook_sizes)
        error = percent("token_errors", "Token error rate", found.tokens, "lower", primary=True, chance=chance.token_error_rate)
        detail: dict[str, Any] = {"codebooks": found.codebooks, "train": len(train), "test": len(test)}
        if not subject.tokenizer.decodes:
            return Outcome((error,), detail)
        clean = {one.id: _speakers(one) for one in test}
        scores = self._heard(subject, mixtures, found.codes, prefix="", label="")
        scores += self._heard(subject, mixtures, clean, prefix="ceiling_", label="Ceiling: ")
        return Outcome((error, *scores), detail, judges={name: metric.judge for name, metric in self.metrics.items()})

    def _held_out(self, subject: Subject, train: list[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
        """(train, dev)."""
        if not isinstance(self.dev, float):
            return train, [self._labelled(subject, one) for one in self.dev(subject, subject.spec.sample_rate)]
        held = max(1, round(self.dev * len(train)))
        return train[held:], train[:held]

    def _labelled(self, subject: Subject, one: Mixture) -> Labelled:
        spec = subject.spec
        wanted = torch.stack([subject.encode(wav_T) for wav_T in one.wanted])
        heard = ProbeInput(subject.encode(one.heard_T).long(), spec.frame_rate, spec.codebook_sizes)
        return Labelled(one.id, heard, wanted.long() if len(wanted) > 1 else wanted[0].long())

    def _heard(
        self, subject: Subject, mixtures: Mapping[str, Mixture], codes: Mapping[str, Tensor], *, prefix: str, label: str
    ) -> list[Score]:
        rows = []
        for id, mixture in mixtures.items():
            estimates = [subject.decode(codes_KN, len(mixture.heard_T)) for codes_KN in codes[id]]
            for number, (wanted_T, estimate_T) in enumerate(_matched(mixture.wanted, estimates)):
                rate = subject.spec.sample_rate
                pair = (described(mixture.cut, wav_T, rate) for wav_T in (wanted_T, estimate_T))
                rows.append(scoring.score(self.metrics, *sources.pair(*pair)) | {"id": f"{id}/{number}"})
        return scored(self.metrics, rows, primary=() if prefix else self.primary, prefix=prefix, label=label)


def _speakers(example: Labelled) -> Tensor:
    target = example.target
    assert isinstance(target, Tensor)
    return target if target.dim() == 3 else target[None]


def _matched(wanted: Sequence[Tensor], estimates: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Each wanted signal with its estimate, in the order of the estimates that has the best scale-invariant ratio."""
    if len(wanted) == 1:
        return [(wanted[0], estimates[0])]
    orders = list(permutations(range(len(estimates))))
    best = max(orders, key=lambda order: sum(_ratio(wanted_T, estimates[place]) for wanted_T, place in zip(wanted, order)))
    return [(wanted_T, estimates[place]) for wanted_T, place in zip(wanted, best)]


def _ratio(wanted_T: Tensor, estimate_T: Tensor) -> float:
    try:
        return si_sdr(wanted_T.numpy(), estimate_T.numpy()[: len(wanted_T)]) if estimate_T.abs().max() > 0 else -100.0
    except (NotApplicable, MetricFailure):
        return 100.0  # an exact copy
