"""What the stages that train have in common: settings, progress, checkpoints."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn
from torch import nn

from audiotok import distributed
from audiotok.stages import paths
from audiotok.training.loop import Batch, TrainSettings, fit
from audiotok.training.memory import keep_freed_memory

DATA_KEYS = ("batch_frames",)  # of the `train` section: the data's, not the loop's


def learn(
    cfg: DictConfig,
    model: nn.Module,
    batches: Callable[[int], Iterator[Batch]],
    *,
    dev: Sequence[Batch],
    records: Mapping[str, Any],
    folder: Path,
    console: Console,
) -> Path:
    """Train as the `train` section says, with progress on the console; returns the last checkpoint."""
    keep_freed_memory()
    options = {key: value for key, value in paths.settings(cfg, "train")["train"].items() if key not in DATA_KEYS}
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"), console=console) as progress:
        task = progress.add_task("training", total=cfg.train.steps, loss="")

        def tell(step: int, values: Mapping[str, float]) -> None:
            progress.update(task, completed=step, loss=f"loss {values['loss']:.3f}")
            if not console.is_terminal and step % cfg.train.validate_every == 0:  # a log file shows no bar
                minutes = (progress.tasks[0].time_remaining or 0) / 60
                console.print(f"step {step} of {cfg.train.steps}, loss {values['loss']:.3f}, {minutes:.1f} min left")

        return fit(
            model,
            batches,
            folder=folder,
            settings=TrainSettings(**options),
            seed=cfg.seed,
            device=distributed.device(cfg.device),
            dev=dev,
            records=records,
            progress=tell,
        )
