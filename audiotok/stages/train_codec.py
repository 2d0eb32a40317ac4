"""Audio -> a codec.

Reads: EXP_ROOT/data/NAME-FP/ (what prepare writes), the train and dev splits and their audio; with train.start_from the weights to
begin with, of a checkpoint.
Writes: EXP_DIR/codec/ with config.json and model.safetensors (the averaged weights), which `tokenizer=codec tokenizer.path=FOLDER` takes,
and beside them step_00001000/, log.jsonl and TensorBoard files. Until the last step the folder is named codec.partial. A run that was
killed at any moment goes on from its last checkpoint and ends with the same weights, bit for bit.
Told by: model, encoder, quantiser and their keys, everything under crops and train, seed, device; data and prepare as for prepare.
"""

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from audiotok import distributed
from audiotok.data.batching import Share
from audiotok.data.crops import RandomCrops
from audiotok.data.manifests import load_cuts
from audiotok.models.codec import Crops
from audiotok.stages import learning, paths
from audiotok.training import checkpoint

SECTIONS: tuple[str, ...] = ("data", "prepare", "model", "encoder", "quantiser", "crops", "train")


def run(cfg: DictConfig) -> None:
    console, folder = Console(), paths.codec(cfg)
    made_of = paths.settings(cfg, "model", "crops", "seed")
    settings = {"manifests": paths.manifests_fingerprint(cfg), **made_of, **learning.settings(cfg)}
    learning.build(folder, settings, lambda partial: _train(cfg, partial, console), overwrite=cfg.overwrite, console=console)


def _train(cfg: DictConfig, folder: Path, console: Console) -> None:
    torch.manual_seed(cfg.seed)
    model = instantiate(cfg.model)
    console.print(f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.2f} M parameters")
    train, dev = _crops(cfg, model, "train"), _crops(cfg, model, "dev")
    last = learning.learn(
        cfg,
        model,
        lambda step: map(Crops, train.from_step(step, share=Share.here(cfg.train.accumulate))),
        dev=[Crops(dev.batch(number)) for number in range(cfg.crops.dev_batches)],
        records={"config": OmegaConf.to_container(cfg, resolve=True)},
        folder=folder,
        console=console,
    )
    if distributed.is_main():
        averaged = instantiate(cfg.model)
        checkpoint.load_weights(last / "ema.safetensors", averaged)
        averaged.export(folder)


def _crops(cfg: DictConfig, model: Any, split: str) -> RandomCrops:
    options = paths.settings(cfg, "crops")["crops"]
    del options["dev_batches"]
    if split == "dev":  # as the recordings are
        options |= {"speeds": [1.0], "balance": 1.0}
    return RandomCrops(list(load_cuts(paths.manifests(cfg), split)), model.sample_rate, seed=cfg.seed, **options)
