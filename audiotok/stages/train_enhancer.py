"""Clean speech and noise -> an enhancer.

Reads: EXP_ROOT/data/NAME-FP/ (what prepare writes), the train and dev splits and their audio, mixed as they are read; where noise.pairs
tells noisy recordings from their clean ones, these as they are; where noise.together says how many speak at once, no noise but others. With
train.start_from the weights to begin with, of a checkpoint.
Writes: EXP_DIR/train/ with step_00001000/ (weights, their running average, spec.json and config.json), log.jsonl and TensorBoard files,
which `enhance` takes. Until the last step the folder is named train.partial. A run that was killed at any moment goes on from its last
checkpoint and ends with the same weights, bit for bit.
Told by: enhancer and its keys, tokenizer, everything under noise, crops and train, seed, device; data and prepare as for prepare.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lhotse import MonoCut
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from audiotok.data.acoustics import Shaped
from audiotok.data.batching import Share
from audiotok.data.crops import RandomCrops
from audiotok.data.manifests import dataset_of, load_cuts, speaker_of
from audiotok.data.noisy import NoisyCrops
from audiotok.data.pairs import PairCrops, paired
from audiotok.data.rooms import Rooms, Shoeboxes
from audiotok.data.splits import hashed_split
from audiotok.data.together import Together, VoiceCrops
from audiotok.stages import learning, paths
from audiotok.synthesis.separating import Separator

SECTIONS: tuple[str, ...] = ("data", "prepare", "tokenizer", "enhancer", "noise", "crops", "train")


def run(cfg: DictConfig) -> None:
    console, folder = Console(), paths.train(cfg)
    made_of = paths.settings(cfg, "tokenizer", "enhancer", "crops", "seed") | {"noise": _noise(cfg)}
    if made_of["enhancer"].get("free_running") == 0:  # as was so before there was a choice
        del made_of["enhancer"]["free_running"]
    settings = {"manifests": paths.manifests_fingerprint(cfg), **made_of, **learning.settings(cfg)}
    learning.build(folder, settings, lambda partial: _train(cfg, partial, console), overwrite=cfg.overwrite, console=console)


def _train(cfg: DictConfig, folder: Path, console: Console) -> None:
    torch.manual_seed(cfg.seed)
    codec = instantiate(cfg.tokenizer)
    model = instantiate(cfg.enhancer, _partial_=True)(codec)  # not by instantiate: OmegaConf would make a config of the codec
    _refuse_other_batches(cfg, model)
    _refuse_parts_said_freely(cfg)
    console.print(f"{sum(weight.numel() for weight in model.parameters() if weight.requires_grad) / 1e6:.2f} M parameters that learn")
    train, dev = _crops(cfg, codec.spec.sample_rate, "train"), _crops(cfg, codec.spec.sample_rate, "dev")
    learning.learn(
        cfg,
        model,
        lambda step: train.from_step(step, share=Share.here(cfg.train.accumulate)),
        dev=[dev.batch(number) for number in range(cfg.crops.dev_batches)],
        records={"spec": json.loads(codec.spec.to_json()), "config": OmegaConf.to_container(cfg, resolve=True)},
        folder=folder,
        console=console,
    )


def _noise(cfg: DictConfig) -> dict[str, Any]:
    """Of the `noise` section, what the crops depend on."""
    noise: dict[str, Any] = paths.settings(cfg, "noise")["noise"]
    read = next((key for key in ("together", "pairs") if noise.get(key)), None)
    return noise if read is None else {key: noise[key] for key in ("datasets", "left_out", "dev_speakers", read)}


def _refuse_other_batches(cfg: DictConfig, model: Any) -> None:
    """Raise ValueError where what the model is to say is not what the crops hold."""
    several = "together" in cfg.noise
    if isinstance(model, Separator) != several:
        wanted = "several people speak at once: choose conformer_two or mask_two" if several else "one voice is wanted: see speech/separate"
        raise ValueError(f"enhancer={cfg.choices.enhancer} does not fit recipe {cfg.recipe}, in whose crops {wanted}")


def _refuse_parts_said_freely(cfg: DictConfig) -> None:
    """Raise ValueError where processes that hold a part of the weights each would say recordings each at its own pace."""
    if cfg.enhancer.get("free_running") and cfg.train.sharding != "none":
        raise ValueError(
            f"enhancer.free_running={cfg.enhancer.free_running} wants all weights in each process: set train.sharding=none, or it to 0"
        )


def _crops(cfg: DictConfig, sample_rate: int, split: str) -> NoisyCrops | PairCrops | VoiceCrops:
    """Of a split's speech, in the noises and rooms of the training split: what is heard in the test is of neither."""
    options, noise = paths.settings(cfg, "crops")["crops"], _noise(cfg)
    del options["dev_batches"]
    if split == "dev":  # as the recordings are
        options |= {"speeds": [1.0], "balance": 1.0}
    crops = partial(RandomCrops, sample_rate=sample_rate, seed=cfg.seed, **options)
    speech = _speech(cfg, split, left_out=(*noise["datasets"], *noise["left_out"]), dev_speakers=noise["dev_speakers"])
    if "together" in noise:  # only recipes of separation say it: what others were trained with is as it was
        return VoiceCrops(crops(cuts=speech), Together(**noise["together"]))
    if noise.get("pairs"):
        pairs = paired(speech, **noise["pairs"])
        return PairCrops(crops(cuts=[pair.clean for pair in pairs]), pairs)
    heard = list(load_cuts(paths.manifests(cfg), "train"))
    noises, responses = ([cut for cut in heard if dataset_of(cut) in names] for names in (noise["datasets"], noise["responses"]))
    shoeboxes = Shoeboxes(**noise["shoebox"])
    rooms = Rooms(noise["rooms"], responses, shoeboxes, sample_rate=sample_rate, seed=cfg.seed, setting="noise.rooms")
    options = {key: noise[key] for key in ("kinds", "snrs", "voices", "faster", "bend_db")}
    return NoisyCrops(crops(cuts=speech), noises, shaped=Shaped(**noise["shaped"]), rooms=rooms, **options)


def _speech(cfg: DictConfig, split: str, *, left_out: Sequence[str], dev_speakers: float) -> list[MonoCut]:
    """The speech of a split, those people of the training split who are kept for the dev split in the latter."""
    found = {name: [cut for cut in load_cuts(paths.manifests(cfg), name) if dataset_of(cut) not in left_out] for name in {split, "train"}}
    if not dev_speakers:
        return found[split]
    of = [hashed_split(speaker_of(cut), {"dev": dev_speakers}) for cut in found["train"]]
    return [*(found["dev"] if split == "dev" else []), *(cut for cut, kept_for in zip(found["train"], of) if kept_for == split)]
