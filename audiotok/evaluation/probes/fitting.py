"""The one training loop of all probes: seconds to minutes, so there are no checkpoints.

Fitting is a pure function of the seed, the examples and the settings on one machine (unless `max_seconds` cuts it short; on CUDA, as far as
the kernels of its LSTM and its CTC loss repeat themselves). The dev part, where there is one, says which epoch's weights are kept.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from math import ceil
from time import monotonic
from typing import Literal, Protocol, TypeVar, get_args

import torch
from torch import Tensor, nn

from audiotok.evaluation.probes.inputs import Inputs, Labelled
from audiotok.training.optim import learning_rate
from audiotok.training.precision import Precision, autocast

Schedule = Literal["constant", "cosine", "newbob"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples side by side, as a probe collates them."""

    inputs: Inputs
    targets: tuple[Tensor, ...]

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.inputs.to(device), tuple(target.to(device) for target in self.targets))


class Probe(Protocol):
    """An nn.Module that can be fitted. `errors` is (wrong, of how many), whatever the probe counts."""

    masks_padding: bool

    def collate(self, examples: Sequence[Labelled]) -> Batch: ...
    def __call__(self, inputs: Inputs) -> Tensor: ...
    def loss(self, outputs: Tensor, batch: Batch) -> Tensor: ...
    def errors(self, outputs: Tensor, batch: Batch) -> tuple[float, float]: ...


P = TypeVar("P", bound=nn.Module)


@dataclass(frozen=True)
class FitSettings:
    """How to fit. DASB: Adam 2e-4 or 1e-3 with betas (0.9, 0.999) and newbob (0.0025, 0.8 or 0.9); token prediction AdamW 5e-4, betas (0.9,
    0.98), weight decay 0.01, newbob (0.0025, 0.9, patience 1), 16 batches of 1 in an update, gradients cut to 5."""

    optimizer: Literal["adam", "adamw"]
    learning_rate: float
    betas: tuple[float, float]
    weight_decay: float
    schedule: Schedule
    newbob_threshold: float  # the relative improvement of the dev loss below which the rate is cut
    newbob_factor: float
    newbob_patience: int  # epochs below the threshold that are let pass
    batch_size: int
    accumulate: int  # batches in an update
    max_norm: float | None  # of the gradient
    epochs: int
    max_seconds: float | None
    patience: int | None  # epochs without a better dev part after which to stop; None: never
    precision: Precision

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"fit.{name} is at least 1; got {getattr(self, name)}")
        if self.schedule not in get_args(Schedule) or self.optimizer not in ("adam", "adamw"):
            raise ValueError(
                f"fit: schedule is {', '.join(get_args(Schedule))} and optimizer adam or adamw; got {self.schedule}, {self.optimizer}"
            )


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to. `dev` is (share of errors, loss)."""

    number: int
    learning_rate: float
    train_loss: float  # mean over examples, as it was trained: with dropout and margins
    dev: tuple[float, float] | None


@dataclass(frozen=True)
class History:
    """How fitting went."""

    epochs: tuple[Epoch, ...]
    kept: int  # the number of the epoch whose weights the probe has
    updates: int
    seconds: float
    stopped: Literal["epochs", "patience", "seconds"]

    @property
    def train_loss(self) -> float:
        """Of the epoch that was kept."""
        return self.epochs[self.kept - 1].train_loss


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers of PyTorch from this seed inside, undisturbed outside."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def fit(
    build: Callable[[], P],
    train: Sequence[Labelled],
    *,
    dev: Sequence[Labelled],
    settings: FitSettings,
    seed: int,
    device: torch.device,
) -> tuple[P, History]:
    """(the probe that `build` makes, fitted; its history). Raises FloatingPointError where the loss stops being finite."""
    if not train:
        raise ValueError("a probe needs examples to be fitted to; the train part is empty")
    if not dev and (settings.schedule == "newbob" or settings.patience is not None):
        raise ValueError("newbob and patience go by a dev part; give one, or set fit.schedule=constant and fit.patience=null")
    with seeded(seed, device):
        probe = build().to(device)
        return probe, _Fit(probe, train, dev=dev, settings=settings, seed=seed).run()


class _Fit:
    """A fit under way."""

    def __init__(self, probe: nn.Module, train: Sequence[Labelled], *, dev: Sequence[Labelled], settings: FitSettings, seed: int) -> None:
        self.probe, self.train, self.dev, self.settings = probe, train, dev, settings
        self.device = next(probe.parameters()).device
        self.order = torch.Generator().manual_seed(seed)
        kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = kind(
            probe.parameters(), lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        self.newbob = NewBob(settings.newbob_threshold, settings.newbob_factor, settings.newbob_patience)
        self.rate = settings.learning_rate
        self.updates = 0
        self.cut = False  # whether time ran out within an epoch
        self.began = monotonic()

    @property
    def late(self) -> bool:
        return self.settings.max_seconds is not None and monotonic() - self.began > self.settings.max_seconds

    def run(self) -> History:
        epochs: list[Epoch] = []
        best: tuple[tuple[float, float], int, dict[str, Tensor]] | None = None
        while (stopped := self.stopped(epochs, best[1] if best else 0)) is None:
            epochs.append(self.epoch(len(epochs) + 1))
            dev = epochs[-1].dev
            if dev is not None and (best is None or dev < best[0]):
                best = dev, epochs[-1].number, copy.deepcopy(self.probe.state_dict())
        if best is not None:
            self.probe.load_state_dict(best[2])
        return History(tuple(epochs), best[1] if best else len(epochs), self.updates, monotonic() - self.began, stopped)

    def stopped(self, epochs: Sequence[Epoch], best: int) -> Literal["epochs", "patience", "seconds"] | None:
        patience = self.settings.patience
        if len(epochs) == self.settings.epochs and not self.cut:
            return "epochs"
        if epochs and patience is not None and len(epochs) - best >= patience and not self.cut:
            return "patience"
        return "seconds" if epochs and self.late else None

    def epoch(self, number: int) -> Epoch:
        self.probe.train()
        batches, losses, counts = self.batches(), list[Tensor](), list[int]()
        steps_in_epoch = ceil(len(batches) / self.settings.accumulate)
        for start in range(0, len(batches), self.settings.accumulate):
            chosen = batches[start : start + self.settings.accumulate]
            losses += self.update(chosen, steps=self.settings.epochs * steps_in_epoch)
            counts += [len(examples) for examples in chosen]
            if self.late and start + self.settings.accumulate < len(batches):
                self.cut = True
                break
        total = sum(loss.item() * count for loss, count in zip(losses, counts)) / sum(counts)
        dev = evaluate(self.probe, self.dev, batch_size=self.settings.batch_size) if self.dev else None
        told = Epoch(number, self.rate, total, dev)
        if self.settings.schedule == "newbob" and dev is not None:
            self.rate = self.newbob(self.rate, dev[1])
        return told

    def batches(self) -> list[list[Labelled]]:
        """Every example once, in a new order; sizes differ by one at most, as a batch norm cannot be trained on a last batch of one."""
        order = torch.randperm(len(self.train), generator=self.order)
        parts = order.tensor_split(ceil(len(order) / self.settings.batch_size))
        return [[self.train[index] for index in part.tolist()] for part in parts]

    def update(self, batches: Sequence[Sequence[Labelled]], *, steps: int) -> list[Tensor]:
        self.updates += 1
        if self.settings.schedule == "cosine":
            self.rate = learning_rate(self.updates, peak=self.settings.learning_rate, warmup_steps=0, steps=steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        losses = []
        for examples in batches:
            batch = self.probe.collate(examples).to(self.device)  # type: ignore[operator]
            with autocast(self.settings.precision, device=self.device):
                loss = self.probe.loss(self.probe(batch.inputs), batch)  # type: ignore[operator]
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the probe's loss is {loss.item()} at update {self.updates}; lower fit.learning_rate or set fit.max_norm"
                )
            (loss / len(batches)).backward()
            losses.append(loss.detach())
        if self.settings.max_norm is not None:
            nn.utils.clip_grad_norm_(self.probe.parameters(), self.settings.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return losses


@dataclass
class NewBob:
    """The rate is cut by `factor` after an epoch whose loss is less than `threshold` better than the one before, in relative terms.

    `patience` such epochs are let pass between two cuts.
    """

    threshold: float
    factor: float
    patience: int
    last: float | None = None
    passed: int = 0

    def __call__(self, rate: float, loss: float) -> float:
        """The rate of the next epoch."""
        last, self.last = self.last, loss
        if last is None or (last != 0 and (last - loss) / last >= self.threshold):
            return rate
        if self.passed < self.patience:
            self.passed += 1
            return rate
        self.passed = 0
        return rate * self.factor


def evaluate(probe: nn.Module, examples: Sequence[Labelled], *, batch_size: int) -> tuple[float, float]:
    """(share of errors, mean loss over examples)."""
    wrong = total = loss = 0.0
    for chosen, batch, outputs in predictions(probe, examples, batch_size=batch_size):
        errors, count = probe.errors(outputs, batch)  # type: ignore[operator]
        wrong, total = wrong + errors, total + count
        loss += probe.loss(outputs, batch).item() * len(chosen)  # type: ignore[operator]
    return wrong / max(total, 1), loss / len(examples)


def predictions(
    probe: nn.Module, examples: Sequence[Labelled], *, batch_size: int, say: Callable[[Inputs], Tensor] | None = None
) -> Iterator[tuple[list[Labelled], Batch, Tensor]]:
    """(examples, their batch, what the probe, or its method `say`, says of them), shortest first, in float32.

    Batches are of one length where the probe's head does not mask padding, so that no row's outputs depend on the rest of its batch.
    """
    device = next(probe.parameters()).device
    probe.eval()
    for chosen in scoring_batches(examples, batch_size=batch_size, mixed=bool(probe.masks_padding)):
        batch = probe.collate(chosen).to(device)  # type: ignore[operator]
        with torch.no_grad():
            outputs = (say or probe)(batch.inputs)
        yield chosen, batch, outputs


def scoring_batches(examples: Sequence[Labelled], *, batch_size: int, mixed: bool) -> Iterator[list[Labelled]]:
    """Batches in the order of their lengths; of one length each unless `mixed`."""
    by_length = sorted(examples, key=_frames)
    groups = [by_length] if mixed else [list(group) for _, group in groupby(by_length, key=_frames)]
    for group in groups:
        yield from (group[start : start + batch_size] for start in range(0, len(group), batch_size))


def _frames(example: Labelled) -> int:
    return example.input.num_frames


def relabelled(examples: Sequence[Labelled], targets: Sequence) -> list[Labelled]:
    """The same utterances with other targets: shuffled labels, to see what a probe makes of nothing."""
    return [replace(example, target=target) for example, target in zip(examples, targets, strict=True)]
