"""A checkpoint is a folder `step_00001000/` with the weights and all that training needs to go on as if never stopped.

    step_00001000/
        model.safetensors     the weights
        ema.safetensors       their moving average: what speaks
        training.pt           the optimizer, the step, the running means of the log; tensors and numbers only
        NAME.json             what the caller wants beside them: the resolved config, the token spec
        audiotok.sha256       the digest of each of these; what is other than it says is not gone on from

A folder is whole or absent. No pickle is ever executed: weights are safetensors, and `training.pt` is read with `weights_only=True`.
There is no random state to save: every step seeds its own (see `audiotok.training.loop`).

What FSDP2 shares out among ranks is collected by rank 0, tensor by tensor, and written as that of one process: so any number of ranks,
sharded or not, goes on from any checkpoint, and what speaks reads it. The price is rank 0's main memory (16 bytes a parameter) and time;
where a model outgrows that, torch.distributed.checkpoint is to take the place of `training.pt`.
"""

import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from audiotok import distributed, files, publishing
from audiotok.tokenizers.checkpoints import UNREADABLE
from audiotok.training.ema import EMA

NAME = re.compile(r"step_\d{8,}")
TRAINING = {"step", "optimizer", "sums", "count"}  # in training.pt


@dataclass
class TrainState:
    """All that changes while training; a checkpoint is exactly this."""

    model: nn.Module
    ema: EMA
    optimizer: torch.optim.Optimizer
    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)  # of the values since the last line of the log
    count: int = 0  # of steps in `sums`


def save(folder: Path, state: TrainState, *, records: Mapping[str, Any], keep: int) -> Path:
    """The checkpoint, written by rank 0; of the older ones the newest `keep - 1` stay. `records` become NAME.json beside the weights."""
    path = folder / f"step_{state.step:08d}"
    weights = {name: _plain(model) for name, model in (("model", state.model), ("ema", state.ema.model))}
    training = {"step": state.step, "optimizer": state.optimizer.state_dict(), "sums": state.sums, "count": state.count}
    training = _canonical(training)  # every rank's part of both is wanted
    if distributed.is_main():
        _write(path, weights, training, records=records)
        _prune(folder, keep=keep)
    distributed.barrier()
    return path


def _write(path: Path, weights: Mapping[str, Mapping[str, Tensor]], training: Mapping[str, Any], *, records: Mapping[str, Any]) -> None:
    with files.whole_folder(path) as partial:
        with _refused_by_the_disk(path):
            for name, tensors in weights.items():
                save_file(dict(tensors), partial / f"{name}.safetensors")
                files.open_to_readers(partial / f"{name}.safetensors")
            with open(partial / "training.pt", "wb") as file:  # of a path PyTorch would not tell the system's reason
                torch.save(training, file)
        for name, value in records.items():
            files.write_json(partial / f"{name}.json", files.redacted(value))
        files.seal(partial)


@contextmanager
def _refused_by_the_disk(path: Path) -> Iterator[None]:
    """Errors of safetensors and PyTorch that cannot write, as the OSError that a full disk is anywhere else."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise OSError(f"{path} cannot be written ({str(reason).strip().partition(chr(10))[0]}); is the disk full?") from error


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    found = folder.iterdir() if folder.is_dir() else iter(())
    return sorted((path for path in found if NAME.fullmatch(path.name)), key=lambda path: int(path.name[5:]))


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    return next(reversed(checkpoints(folder)), None)


def restore(path: Path, state: TrainState) -> None:
    """Bring the state to where the checkpoint was written. Raises ValueError where the checkpoint is damaged or of another model."""
    load_weights(path / "model.safetensors", state.model)
    load_weights(path / "ema.safetensors", state.ema.model)
    device = next(state.model.parameters()).device
    training = _read_training(path / "training.pt", device=device)
    state.optimizer.load_state_dict(_shared_out(training["optimizer"], state.optimizer))
    state.step, state.sums, state.count = training["step"], training["sums"], training["count"]


def load_weights(path: Path, model: nn.Module) -> None:
    """Fill the model with the weights of one file, all of them and no others.

    Raises ValueError naming what is missing, unexpected or of another shape, and where the file is absent or damaged.
    """
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is not there; give a step_* folder of a training run") from None
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged, or no safetensors file ({error}), and pickles are never read; "
            "delete its folder to go on from the checkpoint before it"
        ) from error
    files.refuse_damaged(path)
    mismatches = list(_mismatches(model.state_dict(), weights))
    if mismatches:
        more = f" and {len(mismatches) - 8} more" if len(mismatches) > 8 else ""
        raise ValueError(f"{path} holds the weights of another model: {'; '.join(mismatches[:8])}{more}")
    model.load_state_dict({name: distributed.shared_out(weights[name], like=tensor) for name, tensor in model.state_dict().items()})


def _plain(model: nn.Module) -> dict[str, Tensor]:
    """The weights on rank 0, nothing of use on the others."""
    found = {name: distributed.collected(tensor.detach()) for name, tensor in model.state_dict().items()}
    # Clones, because safetensors refuses tensors that share memory (tied weights).
    return {name: tensor.cpu().contiguous().clone() for name, tensor in found.items()} if distributed.is_main() else {}


def _shared_out(told: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state dict with each tensor shared out as the weight is that it belongs to."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def placed(value: Any, weight: Tensor) -> Any:
        return distributed.shared_out(value, like=weight) if isinstance(value, Tensor) and value.shape == weight.shape else value

    state = {index: {name: placed(value, weights[index]) for name, value in entry.items()} for index, entry in told["state"].items()}
    return {**told, "state": state}


def _canonical(value: Any) -> Any:
    """The same value with every string one object and every container its own: pickle writes what is shared as a reference, so that a state
    that was loaded once would have other bytes than one that never was. Tensors that are shared out are collected."""
    if isinstance(value, dict):
        return {_canonical(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_canonical(item) for item in value)
    if isinstance(value, Tensor):
        return distributed.collected(value)
    return sys.intern(value) if isinstance(value, str) else value


def _mismatches(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Iterator[str]:
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            yield f"{name} is missing"
        elif name not in wanted:
            yield f"{name} is unexpected"
        elif wanted[name].shape != found[name].shape:
            yield f"{name} is {list(found[name].shape)}, the model's is {list(wanted[name].shape)}"


def _read_training(path: Path, *, device: torch.device) -> dict[str, Any]:
    try:
        training = torch.load(path, weights_only=True, map_location=device)
    except FileNotFoundError:
        raise ValueError(f"{path} is not there; the checkpoint is not one that training can go on from") from None
    except UNREADABLE as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{path} is damaged or unsafe to read ({reason}); only tensors and plain values are, and no pickled code is ever run; "
            "delete its folder to go on from the checkpoint before it"
        ) from error
    files.refuse_damaged(path)
    if not (isinstance(training, dict) and training.keys() == TRAINING):
        raise ValueError(
            f"{path} is damaged: it does not hold {', '.join(sorted(TRAINING))}; delete its folder to go on from the one before"
        )
    return training


def _prune(folder: Path, *, keep: int) -> None:
    for path in checkpoints(folder)[:-keep]:
        path.rename(path.with_name(f"{path.name}.partial"))  # so that a half-removed one never looks whole
        publishing.forget(path)
    for path in folder.glob("step_*.partial"):
        shutil.rmtree(path)
