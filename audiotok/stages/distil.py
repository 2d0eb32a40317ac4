"""Tokens, a trained model -> a drafter of it.

Reads: EXP_DIR/train/step_*/ (what train writes; synthesize.checkpoint=FOLDER for another, or the name of a voice that comes with the
package), the tokens and alignments that it learnt from.
Writes: EXP_DIR/drafters/DRAFTER/ with step_00001000/ as of train, and in it ranks.json: of each codebook its codes, most frequent first.
With distil.selected below 1 EXP_DIR/drafters/DRAFTER_reference/ comes first, a drafter of the same kind that has learnt from all codes; the
drafter itself learns only from the codes where it lags behind that one most. Both go on where they were after a kill, bit for bit.
`audiotok synthesize RECIPE drafting=small_model|early_exit|heads drafting.checkpoint=EXP_DIR/drafters/DRAFTER/step_*` speaks with it.
Told by: drafter (small, early_exit, heads) and its keys, everything under distil and train (but train.start_from, and
train.steps and train.learning_rate, which distil has of its own), seed, device.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from audiotok import distributed, files
from audiotok.data.aligned import FrontEnd
from audiotok.models.distillation import Distilled
from audiotok.models.lesson import sayer
from audiotok.nn.ranked import frequencies
from audiotok.stages import learning, paths, trained
from audiotok.stages.train import Material, fixed_batches
from audiotok.stages.voices import checkpoint_folder, made_by, refuse_other_settings
from audiotok.training import checkpoint

SECTIONS: tuple[str, ...] = ("data", "prepare", "tokenizer", "transform", "align", "model", "drafter", "distil", "train")


def run(cfg: DictConfig) -> None:
    console = Console()
    own = {key: cfg.distil[key] for key in ("steps", "learning_rate")} | {"start_from": None}
    cfg = OmegaConf.merge(cfg, {"train": own})  # type: ignore[assignment]
    tokenizer = instantiate(cfg.tokenizer)
    tokens = paths.tokens(cfg, tokenizer.spec.fingerprint)
    settings = {
        "trained": made_by(cfg),
        "weights": trained.digest(target := checkpoint_folder(cfg)),
        "tokens": files.fingerprint_of(tokens, made_by=f"tokenize {cfg.recipe}"),
        "alignments": files.fingerprint_of(paths.alignments(cfg), made_by=f"align {cfg.recipe}"),
        **paths.settings(cfg, "transform", "model", "drafter", "seed"),
        **learning.settings(cfg),
    }
    refuse_other_settings(target, cfg, tokenizer.spec)
    folder = paths.drafter(cfg)
    distil = functools.partial(_distil, cfg, target, tokens, console, tokenizer=tokenizer)
    reference = folder.with_name(f"{folder.name}_reference") if cfg.distil.selected < 1 else None
    if reference is not None:
        everything = {"distil": paths.settings(cfg, "distil")["distil"] | {"selected": 1.0}}
        _build(reference, settings | everything, functools.partial(distil, selected=1.0, reference=None), cfg, console)
    chosen = functools.partial(distil, selected=cfg.distil.selected, reference=reference)
    _build(folder, settings | paths.settings(cfg, "distil"), chosen, cfg, console)


def _build(folder: Path, settings: dict, work: Callable[[Path], None], cfg: DictConfig, console: Console) -> None:
    learning.build(folder, settings, work, overwrite=cfg.overwrite, console=console)


def _distil(
    cfg: DictConfig,
    target_folder: Path,
    tokens: Path,
    console: Console,
    folder: Path,
    *,
    tokenizer: Any,
    selected: float,
    reference: Path | None,
) -> None:
    material = Material.of(cfg, tokens)
    if FrontEnd.from_dict(files.read_json(target_folder / "front_end.json")) != material.front_end:
        raise ValueError(f"{target_folder} was trained with other texts or speakers than these; give the same data, prepare and align")
    device, make = distributed.device(cfg.device), instantiate(cfg.drafter, _partial_=True)
    target = material.model(instantiate(cfg.model, _partial_=True), tokenizer)
    trained.load(target_folder, target)
    teacher = None
    if reference is not None:
        teacher = material.model(make, tokenizer).to(device)
        checkpoint.load_weights(_last(reference) / "ema.safetensors", teacher)
    torch.manual_seed(cfg.seed)
    student = material.model(make, tokenizer)
    distilled = Distilled(student, target.to(device), reference=teacher, divergence=cfg.distil.divergence, selected=selected)
    records = {"ranks": _ranks(material, target, cfg.train.batch_frames)}
    material.learn(cfg, distilled, records=records, folder=folder, console=console)


def _last(folder: Path) -> Path:
    found = checkpoint.latest(folder)
    assert found is not None, "it was built just now"
    return found


@torch.no_grad()
def _ranks(material: Material, target: Any, batch_frames: int) -> list[list[int]]:
    device = target.start.device
    codes = [sayer(target).lesson(batch.to(device)).codes_BKN.cpu() for batch in fixed_batches(material.train, batch_frames)]
    return frequencies(codes, target.codebook_sizes)
