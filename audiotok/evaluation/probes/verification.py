"""Are two utterances of one person: cosines of what a head that was fitted to tell speakers apart makes of them.

The speakers of the trials are others than those of the train part; which pairs are tried is the caller's to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from audiotok.evaluation.probes.classification import Classifier, ClassifierSettings, fit_classifier
from audiotok.evaluation.probes.fitting import History, predictions
from audiotok.evaluation.probes.inputs import Labelled
from audiotok.evaluation.probes.scores import Convergence, equal_error_rate, min_dcf, near_chance

CHANCE = 0.5  # the EER of scores that say nothing


@dataclass(frozen=True)
class Trial:
    """Two utterances by id, and whether one person speaks both."""

    left: str
    right: str
    same: bool


@dataclass(frozen=True)
class Verified:
    """What a verification probe found out; `scores` are the cosines of the trials, in their order."""

    eer: float
    threshold: float
    min_dcf: float
    scores: tuple[float, ...]
    convergence: Convergence | None
    history: History | None


def verify(
    train: Sequence[Labelled],
    test: Sequence[Labelled],
    trials: Sequence[Trial],
    *,
    dev: Sequence[Labelled],
    settings: ClassifierSettings,
    target_prior: float,
    seed: int,
    device: torch.device,
    vectors: Sequence[Tensor] | None = None,
) -> Verified:
    """Fit a classifier to the speakers (targets) of `train`, and score the trials between utterances of `test`."""
    classifier, history = fit_classifier(train, dev=dev, settings=settings, seed=seed, device=device, vectors=vectors)
    embeddings = embed(classifier, test, batch_size=settings.fit.batch_size)
    scores = np.array([float(embeddings[trial.left] @ embeddings[trial.right]) for trial in checked(trials, embeddings)])
    same = np.array([trial.same for trial in trials])
    eer, threshold = equal_error_rate(scores, same)
    fewer = int(min(same.sum(), (~same).sum()))
    convergence = Convergence(
        history.train_loss, float(np.log(len(classifier.classes[0]))), near_chance(1 - eer, chance=1 - CHANCE, count=fewer)
    )
    return Verified(eer, threshold, min_dcf(scores, same, target_prior=target_prior), tuple(scores.tolist()), convergence, history)


def embed(classifier: Classifier, examples: Sequence[Labelled], *, batch_size: int) -> dict[str, Tensor]:
    """What the head makes of each utterance, by id, of length 1."""
    found: dict[str, Tensor] = {}
    for chosen, _, hidden_BD in predictions(classifier, examples, batch_size=batch_size, say=classifier.embed):
        found |= {example.id: hidden_D for example, hidden_D in zip(chosen, F.normalize(hidden_BD.double(), dim=1).cpu())}
    return found


def checked(trials: Sequence[Trial], known: dict[str, Tensor]) -> Sequence[Trial]:
    """The trials. Raises ValueError for none, and for an utterance that is not in the test part."""
    missing = sorted({id for trial in trials for id in (trial.left, trial.right)} - known.keys())
    if missing or not trials:
        raise ValueError(f"{len(trials)} trials; {len(missing)} of their utterances are not in the test part: {', '.join(missing[:3])}")
    return trials
