"""Clean speech and noise -> an enhancer.

Reads: EXP_ROOT/data/NAME-FP/ (what prepare writes), the train and dev splits and their audio, mixed as they are read.
Writes: EXP_DIR/train/ with step_00001000/ (weights, their running average, spec.json and config.json), log.jsonl and TensorBoard files,
which `enhance` takes. Until the last step the folder is named train.partial. A run that was killed at any moment goes on from its last
checkpoint and ends with the same weights, bit for bit.
Told by: enhancer and its keys, tokenizer, everything under noise, crops and train, seed, device; data and prepare as for prepare.
"""

import json
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lhotse import MonoCut
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from audiotok import distributed, files
from audiotok.data.crops import RandomCrops
from audiotok.data.manifests import load_cuts
from audiotok.data.noisy import NoisyCrops
from audiotok.stages import paths
from audiotok.stages.learning import learn

SECTIONS: tuple[str, ...] = ("data", "prepare", "tokenizer", "enhancer", "noise", "crops", "train")


def run(cfg: DictConfig) -> None:
    console, folder = Console(), paths.train(cfg)
    made_of = paths.settings(cfg, "tokenizer", "enhancer", "noise", "crops", "train", "seed")
    settings = {"manifests": paths.manifests_fingerprint(cfg), **made_of}
    made = files.build(folder, settings, lambda partial: _train(cfg, partial, console), overwrite=cfg.overwrite, resumable="step_????????")
    console.print(f"{folder} is {'there already' if made == 'present' else 'written'}", soft_wrap=True)


def _train(cfg: DictConfig, folder: Path, console: Console) -> None:
    torch.manual_seed(cfg.seed)
    codec = instantiate(cfg.tokenizer)
    model = instantiate(cfg.enhancer, _partial_=True)(codec)  # not by instantiate: OmegaConf would make a config of the codec
    console.print(f"{sum(weight.numel() for weight in model.parameters() if weight.requires_grad) / 1e6:.2f} M parameters that learn")
    train, dev = _crops(cfg, codec.spec.sample_rate, "train"), _crops(cfg, codec.spec.sample_rate, "dev")
    learn(
        cfg,
        model,
        lambda step: train.from_step(step, rank=distributed.rank()),
        dev=[dev.batch(number) for number in range(cfg.crops.dev_batches)],
        records={"spec": json.loads(codec.spec.to_json()), "config": OmegaConf.to_container(cfg, resolve=True)},
        folder=folder,
        console=console,
    )


def _crops(cfg: DictConfig, sample_rate: int, split: str) -> NoisyCrops:
    """Of a split's speech, in the noises of the training split: what is heard in the test is of neither."""
    options, noise = paths.settings(cfg, "crops")["crops"], paths.settings(cfg, "noise")["noise"]
    del options["dev_batches"]
    if split == "dev":  # as the recordings are
        options |= {"speeds": [1.0], "balance": 1.0}
    datasets, silent = noise.pop("datasets"), noise.pop("left_out")
    noises = [cut for cut in load_cuts(paths.manifests(cfg), "train") if _dataset(cut) in datasets]
    speech = [cut for cut in load_cuts(paths.manifests(cfg), split) if _dataset(cut) not in (*datasets, *silent)]
    return NoisyCrops(RandomCrops(speech, sample_rate, seed=cfg.seed, **options), noises, **noise)


def _dataset(cut: MonoCut) -> Any:
    return (cut.custom or {}).get("dataset")
