"""One label of an utterance, or several slots at once: speakers, keywords, emotions, digits, orders.

A slot's classes are the labels of the train part; a label that only the test part has is always answered wrongly, and counted.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.evaluation.metric import Ratio
from audiotok.evaluation.probes import inputs
from audiotok.evaluation.probes.embedding import EmbeddingSettings, embedding
from audiotok.evaluation.probes.fitting import Batch, FitSettings, History, fit, predictions
from audiotok.evaluation.probes.heads import HeadMaker
from audiotok.evaluation.probes.inputs import Inputs, Labelled, common_kind
from audiotok.evaluation.probes.scores import Convergence, LabelScores, label_scores, near_chance

UNKNOWN = -100  # the class of a label that training does not have; cross-entropy's own sign for "not counted"

OutputMaker = Callable[[int, int], nn.Module]  # width, classes -> what turns hidden_BD into scores_BV


@dataclass(frozen=True)
class ClassifierSettings:
    """A pooled head with the way into it and out of it. `output`: torch.nn.Linear, or DASB's (speechbrain_heads)."""

    embedding: EmbeddingSettings
    head: HeadMaker
    output: OutputMaker
    fit: FitSettings


@dataclass(frozen=True)
class Classified:
    """What a classification probe found out. `right` is slots right over slots by id, `exact` 1 where every slot is right."""

    slots: tuple[LabelScores, ...]
    right: Mapping[str, Ratio]
    exact: Mapping[str, int]
    convergence: Convergence | None  # None: nothing was fitted
    history: History | None

    @property
    def accuracy(self) -> float:
        """Of all slots together."""
        return sum(ratio.numerator for ratio in self.right.values()) / sum(ratio.denominator for ratio in self.right.values())

    @property
    def exact_match(self) -> float:
        return sum(self.exact.values()) / len(self.exact)


class Classifier(nn.Module):
    """embedding -> pooled head -> one set of scores for all slots, side by side."""

    def __init__(self, way_in: nn.Module, head: HeadMaker, output: OutputMaker, *, classes: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.classes = [tuple(names) for names in classes]
        self.numbers = [{name: number for number, name in enumerate(names)} for names in classes]
        self.embedding = way_in
        self.head = head(way_in.width)  # type: ignore[arg-type]
        self.output = output(self.head.width, sum(map(len, classes)))  # type: ignore[arg-type]
        self.masks_padding: bool = self.head.masks_padding  # type: ignore[assignment]
        self.with_margin = getattr(self.output, "with_margin", None)
        if self.with_margin is not None and len(classes) > 1:
            raise ValueError(f"an output with a margin takes one label, got {len(classes)} slots; choose torch.nn.Linear")

    def collate(self, examples: Sequence[Labelled]) -> Batch:
        numbers = [[known.get(name, UNKNOWN) for known, name in zip(self.numbers, labels(example))] for example in examples]
        return Batch(inputs.collate([example.input for example in examples]), (torch.tensor(numbers),))

    def embed(self, batch: Inputs) -> Tensor:
        """hidden_BD: what the utterance is to the head."""
        return self.head(*self.embedding(batch))

    def forward(self, batch: Inputs) -> Tensor:
        return self.output(self.embed(batch))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The mean over utterances of the sum over slots of cross-entropy; an unknown label counts nothing."""
        numbers_BS = batch.targets[0]
        if self.with_margin is not None and self.training:
            outputs = self.with_margin(outputs, numbers_BS[:, 0])
        losses = [
            F.cross_entropy(scores.float(), numbers_B, ignore_index=UNKNOWN, reduction="sum")
            for scores, numbers_B in zip(self.slots(outputs), numbers_BS.T)
        ]
        return torch.stack(losses).sum() / len(numbers_BS)

    def errors(self, outputs: Tensor, batch: Batch) -> tuple[float, float]:
        """Slots answered wrongly, of all."""
        numbers_BS = batch.targets[0]
        return float((self.answers(outputs) != numbers_BS).sum()), numbers_BS.numel()

    def slots(self, outputs: Tensor) -> tuple[Tensor, ...]:
        return outputs.split([len(names) for names in self.classes], dim=1)

    def answers(self, outputs: Tensor) -> Tensor:
        """The number of the likeliest class, [B, slots]."""
        return torch.stack([scores.argmax(dim=1) for scores in self.slots(outputs)], dim=1)


def classify(
    train: Sequence[Labelled],
    test: Sequence[Labelled],
    *,
    dev: Sequence[Labelled],
    settings: ClassifierSettings,
    seed: int,
    device: torch.device,
    vectors: Sequence[Tensor] | None = None,
) -> Classified:
    """Fit a classifier to `train` and score it on `test`. Targets are a label, or a tuple of one label for each slot."""
    classifier, history = fit_classifier(train, dev=dev, settings=settings, seed=seed, device=device, vectors=vectors)
    answers: dict[str, tuple[str, ...]] = {}
    for chosen, _, outputs in predictions(classifier, test, batch_size=settings.fit.batch_size):
        for example, numbers in zip(chosen, classifier.answers(outputs).tolist()):
            answers[example.id] = tuple(names[number] for names, number in zip(classifier.classes, numbers))
    return _scored(test, answers, classes=classifier.classes, history=history)


def fit_classifier(
    train: Sequence[Labelled],
    *,
    dev: Sequence[Labelled],
    settings: ClassifierSettings,
    seed: int,
    device: torch.device,
    vectors: Sequence[Tensor] | None = None,
) -> tuple[Classifier, History]:
    """The classifier alone."""
    kind, classes = common_kind([example.input for example in train]), slot_classes(train)

    def build() -> Classifier:
        return Classifier(embedding(kind, settings.embedding, vectors=vectors), settings.head, settings.output, classes=classes)

    return fit(build, train, dev=dev, settings=settings.fit, seed=seed, device=device)


def majority(train: Sequence[Labelled], test: Sequence[Labelled]) -> Classified:
    """What knows nothing of its input scores: each slot's commonest label of the train part, the first by name of several."""
    classes = slot_classes(train)
    columns = [[labels(example)[slot] for example in train] for slot in range(len(classes))]
    answer = tuple(max(sorted(names), key=Counter(column).__getitem__) for names, column in zip(classes, columns))
    return _scored(test, {example.id: answer for example in test}, classes=classes, history=None)


def _scored(
    test: Sequence[Labelled], answers: Mapping[str, tuple[str, ...]], *, classes: Sequence[Sequence[str]], history: History | None
) -> Classified:
    if len(answers) < len(test) or not test:
        raise ValueError(f"{len(test)} test utterances have {len(answers)} ids; every one needs its own")
    ids, truth = [example.id for example in test], [labels(example) for example in test]
    slots = tuple(
        label_scores(ids, [true[slot] for true in truth], [answers[id][slot] for id in ids], classes=names)
        for slot, names in enumerate(classes)
    )
    right = {id: Ratio(sum(slot.items[id] for slot in slots), len(slots)) for id in ids}
    exact = {id: int(all(slot.items[id] for slot in slots)) for id in ids}
    return Classified(slots, right, exact, _convergence(slots, history), history)


def _convergence(slots: Sequence[LabelScores], history: History | None) -> Convergence | None:
    """Near chance where no slot is above it."""
    if history is None:
        return None
    near = [near_chance(slot.accuracy, chance=slot.chance, count=len(slot.items)) for slot in slots]
    return Convergence(history.train_loss, sum(log(len(slot.classes)) for slot in slots), all(near))


def slot_classes(examples: Sequence[Labelled]) -> list[tuple[str, ...]]:
    """The labels of each slot, in order. Raises ValueError where examples have different numbers of slots."""
    rows = [labels(example) for example in examples]
    if len({len(row) for row in rows}) != 1:
        raise ValueError(f"every example has a label for each slot; got {sorted({len(row) for row in rows}) or 'no'} labels")
    return [tuple(sorted(set(column))) for column in zip(*rows)]


def labels(example: Labelled) -> tuple[str, ...]:
    """The labels of an example, one for each slot."""
    if isinstance(example.target, str):
        return (example.target,)
    if isinstance(example.target, tuple):
        return example.target
    raise ValueError(f"{example.id}: a classification probe's target is a label or a tuple of labels; got {type(example.target).__name__}")
