"""The one training loop. What differs between models is in `model.loss(batch) -> (loss, values)`, what differs between data in `batches`.

A step is a pure function of the state before it, the seed and the step's number: its batches are `batches(step)`'s first, and their
random numbers (dropout, noise) are seeded by it and by their number in the step. So a run that was killed at any moment and goes on from
its newest checkpoint ends bit for bit where an undisturbed one does, on the same hardware, number of threads and PyTorch.

Under torchrun the batches of a step are dealt to the ranks (`audiotok.data.batching.Share`): a step is made of the same batches on any
number of them, and two runs differ by how sums round.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from audiotok import distributed
from audiotok.data.batching import Share
from audiotok.nn.transformer import Block
from audiotok.training import checkpoint, optim
from audiotok.training.checkpoint import TrainState
from audiotok.training.ema import EMA
from audiotok.training.logging import Log
from audiotok.training.precision import Precision, autocast

Sharding = Literal["none", "fsdp"]


class Batch(Protocol):
    """What a model's loss takes."""

    def to(self, device: torch.device) -> "Batch": ...


@dataclass(frozen=True)
class TrainSettings:
    """How to train; the keys of the `train` section that are not the data's."""

    steps: int
    learning_rate: float  # at its peak
    warmup_steps: int
    weight_decay: float
    max_norm: float  # of each learner's gradient
    ema_decay: float
    precision: Precision
    log_every: int
    save_every: int
    validate_every: int
    keep: int  # checkpoints, newest first
    accumulate: int = 1  # batches of a step, over all ranks
    sharding: Sharding = "none"  # of weights, gradients and optimizer among the ranks

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "save_every", "validate_every", "keep", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} is at least 1; got {getattr(self, name)}")
        if self.sharding not in get_args(Sharding):
            raise ValueError(f"train.sharding is {', '.join(get_args(Sharding))}; got {self.sharding!r}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"train.precision is {', '.join(get_args(Precision))}; got {self.precision!r}")


def fit(
    model: nn.Module,
    batches: Callable[[int], Iterator[Batch]],
    *,
    folder: Path,
    settings: TrainSettings,
    seed: int,
    device: torch.device,
    dev: Sequence[Batch],
    records: Mapping[str, Any],
    progress: Callable[[int, Mapping[str, float]], None] | None = None,
) -> Path:
    """Train the model until `settings.steps`, going on from the newest checkpoint in `folder`; returns the last checkpoint.

    `batches(step)` yields this rank's batches from step `step` (counted from 0) on. `dev` batches are scored with the averaged weights, one
    and all counting the same. `records` are written beside the weights of every checkpoint as NAME.json. `progress(step, values)` hears of
    every step.
    Raises ValueError where the batches of a step cannot be shared out, and FloatingPointError where the loss or its gradient stops being
    finite: nothing is saved from then on.
    """
    share = Share.here(settings.accumulate)
    state = start(model, settings=settings, device=device)
    last = checkpoint.latest(folder)
    if last is not None:
        checkpoint.restore(last, state)
    if state.step >= settings.steps and last is not None:
        return last
    with Log(folder, step=state.step) as log:
        stream = batches(state.step)
        while state.step < settings.steps:
            values = train_step(state, *islice(stream, share.num), settings=settings, seed=seed, last=last)
            _log_means(state, values, log=log, every=settings.log_every)
            if state.step % settings.validate_every == 0 and dev:
                log.write(state.step, "dev", values=validate(state.ema.model, dev, settings=settings, seed=seed))
            if state.step % settings.save_every == 0 or state.step == settings.steps:
                last = checkpoint.save(folder, state, records=records, keep=settings.keep)
            if progress is not None:
                progress(state.step, {"loss": values["loss"].item()})
    assert last is not None
    return last


def start(model: nn.Module, *, settings: TrainSettings, device: torch.device) -> TrainState:
    """The state before the first step, rank 0's weights on every rank."""
    model.to(device)
    distributed.share(model.state_dict().values())
    ema = EMA(model, decay=settings.ema_decay)
    if settings.sharding == "fsdp":
        for whole in (model, ema.model):
            distributed.shard(whole, parts=[module for module in whole.modules() if isinstance(module, Block)])
    optimizer = optim.adamw(model, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay)
    return TrainState(model, ema, optimizer)


def train_step(state: TrainState, *batches: Batch, settings: TrainSettings, seed: int, last: Path | None) -> dict[str, Tensor]:
    """Make one step of this rank's batches, in place; returns the model's values with `loss`, `grad_norm` and `learning_rate`, detached.

    Values are means over the batches of all ranks.
    """
    step, device = state.step + 1, next(state.model.parameters()).device
    values = distributed.average(_accumulated(state.model, batches, settings=settings, seed=seed, step=step))
    distributed.average_gradients(state.model.parameters())
    if distributed.world_size() > 1:
        distributed.share(_statistics(state.model))
    loss, grad_norm = values["loss"], optim.clip_gradients(state.model, settings.max_norm)
    if not (torch.isfinite(loss) & torch.isfinite(grad_norm)):
        raise FloatingPointError(
            f"loss {loss.item()}, gradient norm {grad_norm.item()} at step {step}; last checkpoint: {last}; "
            "lower train.learning_rate or train.max_norm, or set train.precision=fp32"
        )
    rate = optim.learning_rate(step, peak=settings.learning_rate, warmup_steps=settings.warmup_steps, steps=settings.steps)
    optim.set_learning_rate(state.optimizer, rate)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step = step
    state.ema.update(state.model, step=step)
    return values | {"grad_norm": grad_norm.detach().float(), "learning_rate": torch.tensor(rate, device=device)}


def _accumulated(model: nn.Module, batches: Sequence[Batch], *, settings: TrainSettings, seed: int, step: int) -> dict[str, Tensor]:
    """The means of the loss and the model's values over the batches, whose mean gradient is the model's then."""
    device, sums = next(model.parameters()).device, dict[str, Tensor]()
    model.train()
    for number, batch in zip(Share.here(settings.accumulate).numbers, batches, strict=True):
        torch.manual_seed(step_seed(seed, step, rank=number))
        with autocast(settings.precision, device=device):
            loss, values = model.loss(batch.to(device))  # type: ignore[operator]
        (loss / len(batches)).backward()
        for name, value in {**values, "loss": loss}.items():
            sums[name] = sums.get(name, 0.0) + value.detach().float()
    return {name: total / len(batches) for name, total in sums.items()}


def _statistics(model: nn.Module) -> list[Tensor]:
    """What a model keeps of its batches besides weights, such as moving averages: each rank has seen others."""
    weights = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return [tensor for name, tensor in model.state_dict().items() if name not in weights]


@torch.no_grad()
def validate(model: nn.Module, batches: Sequence[Batch], *, settings: TrainSettings, seed: int) -> dict[str, float]:
    """The mean over batches of the loss and of the model's values; the same random numbers each time. Changes nothing."""
    device, training, sums = next(model.parameters()).device, model.training, dict[str, float]()
    torch.manual_seed(step_seed(seed, 0, rank=0))
    model.eval()
    for batch in batches:
        with autocast(settings.precision, device=device):
            loss, values = model.loss(batch.to(device))  # type: ignore[operator]
        for name, value in {"loss": loss, **values}.items():
            sums[name] = sums.get(name, 0.0) + value.item()
    model.train(training)
    return {name: total / len(batches) for name, total in sums.items()}


def step_seed(seed: int, step: int, *, rank: int) -> int:
    """The seed of the random numbers of one batch of a step, by its number: on as many ranks as batches, the rank's."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()) >> 1


def _log_means(state: TrainState, values: Mapping[str, Tensor], *, log: Log, every: int) -> None:
    for name, value in values.items():
        state.sums[name] = state.sums.get(name, torch.zeros_like(value)) + value
    state.count += 1
    if state.step % every == 0:
        log.write(state.step, "train", values={name: (total / state.count).item() for name, total in state.sums.items()})
        state.sums, state.count = {}, 0
