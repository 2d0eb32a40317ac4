"""What the stages that train have in common: settings, progress, checkpoints."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn
from torch import nn

from audiotok import checksums, distributed, files, publishing, storage
from audiotok.stages import paths, trained
from audiotok.tokenizers import weights as shipped
from audiotok.training import checkpoint
from audiotok.training.loop import Batch, TrainSettings, fit
from audiotok.training.memory import keep_freed_memory

NOT_THE_LOOPS = ("batch_frames", "window", "start_from")  # of the `train` section: of the data, and of what is trained

BEFORE = {"accumulate": 1, "window": None, "start_from": None}  # what was so before there was a choice


def settings(cfg: DictConfig) -> dict:
    """The `train` section, as what a model is made with: not how it was shared out among processes, nor where the first weights lie.

    Raises ValueError where training is to start from weights that are not there.
    """
    told = paths.settings(cfg, "train")["train"]
    del told["sharding"]
    if (start := _start(cfg)) is not None:
        told["start_from"] = checksums.file_digest(trained.weights_file(start))
    for key, value in BEFORE.items():
        if told[key] == value:
            del told[key]
    return {"train": told}


def _start(cfg: DictConfig) -> Path | None:
    """The checkpoint whose averaged weights training begins with; None: it begins from nothing."""
    if cfg.train.start_from is None:
        return None
    place = storage.located(cfg.train.start_from)
    publishing.bring(place.parent if checkpoint.NAME.fullmatch(place.name) else place)
    try:
        folder = shipped.located(place if place.is_dir() else cfg.train.start_from)
    except ValueError as error:
        raise ValueError(f"train.start_from: {error}; what it is to start from is trained first") from None
    start = checkpoint.latest(folder) or folder
    if not trained.weights_file(start).exists():
        raise ValueError(f"train.start_from: {folder} holds no weights; give a train folder, a step_* folder in it, or a shipped model")
    return start


def _begin(start: Path, model: nn.Module, records: Mapping[str, Any]) -> None:
    """Fill a model with the weights it starts from. Raises ValueError for those of another model, or of other tokens or texts.

    Weights of one shape may mean other things, as in `audiotok.stages.enhance`.
    """
    for name, what in (("spec", "tokens"), ("front_end", "phonemes, speakers or languages")):
        if name in records and (start / f"{name}.json").exists() and files.read_json(start / f"{name}.json") != records[name]:
            raise ValueError(f"train.start_from: {start} was trained on other {what} than these; give the same, tokenizer included")
    trained.load(start, model)


def build(folder: Path, made_with: Mapping[str, Any], work: Callable[[Path], Any], *, overwrite: bool, console: Console) -> None:
    """`files.build` of a folder of checkpoints, by one process or by all of torchrun: the first fills it, the others work along.

    Says what came of it. Raises ValueError as `files.build` does.
    """
    distributed.start()
    console.quiet = not distributed.is_main()
    if distributed.is_main():

        def together(partial: Path) -> None:
            work(distributed.told(partial))

        made = files.build(folder, made_with, together, overwrite=overwrite, resumable="step_????????")
        if made == "present":
            distributed.told(None)
        console.print(f"{folder} is {'there already' if made == 'present' else 'written'}", soft_wrap=True)
    elif (partial := distributed.told(None)) is not None:
        work(partial)
    distributed.barrier()


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
    """Train as the `train` section says, with progress on the console; returns the last checkpoint.

    Raises ValueError where it is to start from weights of another model, or of other tokens.
    """
    keep_freed_memory()
    if (start := _start(cfg)) is not None:
        _begin(start, model, records)
    options = {key: value for key, value in paths.settings(cfg, "train")["train"].items() if key not in NOT_THE_LOOPS}
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
