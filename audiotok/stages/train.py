"""Tokens and alignments -> checkpoints.

Reads: the token store of tokenize, EXP_ROOT/alignments/ of align.
Writes: EXP_DIR/train/ with step_00001000/ (weights, their running average, what training needs to go on, and spec.json, front_end.json,
config.json), log.jsonl and TensorBoard files. Until the last step the folder is named train.partial. A run that was killed at any moment
goes on from its last checkpoint and ends with the same weights, bit for bit.
Told by: model and its keys, transform, everything under train, seed, device.
"""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from audiotok import files
from audiotok.data.aligned import AlignedCorpus, FrontEnd
from audiotok.data.batching import BucketedBatches
from audiotok.data.code_vectors import code_vectors
from audiotok.models.text import Batch
from audiotok.stages import paths
from audiotok.stages.learning import learn
from audiotok.store.reader import TokenStore
from audiotok.transforms.base import as_layout

SECTIONS: tuple[str, ...] = ("data", "prepare", "tokenizer", "transform", "align", "model", "train")


def run(cfg: DictConfig) -> None:
    console = Console()
    tokenizer = instantiate(cfg.tokenizer)
    tokens = paths.tokens(cfg, tokenizer.spec.fingerprint)
    settings = {
        "tokens": files.fingerprint_of(tokens, made_by=f"tokenize {cfg.recipe}"),
        "alignments": files.fingerprint_of(paths.alignments(cfg), made_by=f"align {cfg.recipe}"),
        **paths.settings(cfg, "transform", "model", "train", "seed"),
    }
    made = files.build(
        paths.train(cfg),
        settings,
        lambda partial: _train(cfg, tokens, partial, console, tokenizer=tokenizer),
        overwrite=cfg.overwrite,
        resumable="step_????????",
    )
    console.print(f"{paths.train(cfg)} is {'there already' if made == 'present' else 'written'}")


def _train(cfg: DictConfig, tokens: Path, folder: Path, console: Console, *, tokenizer: Any) -> None:
    alignments = {row["id"]: row for row in files.read_jsonl(paths.alignments(cfg) / "alignments.jsonl")}
    transform, store = as_layout(instantiate(cfg.transform)), TokenStore(tokens / "train")
    about = [row for row in store.about().to_pylist() if row["id"] in alignments]
    front_end = FrontEnd.of((alignments[row["id"]] for row in about), about)
    train, *dev = (
        AlignedCorpus(TokenStore(tokens / split), alignments, transform=transform, front_end=front_end)
        for split in ("train", "dev")
        if (tokens / split).is_dir()
    )
    if not len(train):
        raise ValueError(f"no utterance of {tokens / 'train'} is aligned; run `audiotok align {cfg.recipe}` with the same settings first")
    torch.manual_seed(cfg.seed)
    model = instantiate(cfg.model, _partial_=True)(  # OmegaConf would make a config of the spec
        spec=transform.out_spec(store.spec),
        num_phonemes=len(front_end.vocabulary),
        num_speakers=len(front_end.speakers),
        num_languages=len(front_end.languages),
        vectors=functools.partial(code_vectors, tokenizer, transform),
    )
    console.print(f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.2f} M parameters, {len(train)} utterances to learn from")
    learn(
        cfg,
        model,
        lambda step: _batches(train, cfg.train.batch_frames, seed=cfg.seed, step=step),
        dev=[batch for corpus in dev for batch in _fixed_batches(corpus, cfg.train.batch_frames)],
        records={
            "spec": json.loads(store.spec.to_json()),
            "front_end": front_end.to_dict(),
            "config": OmegaConf.to_container(cfg, resolve=True),
        },
        folder=folder,
        console=console,
    )


def _batches(corpus: AlignedCorpus, batch_frames: int, *, seed: int, step: int) -> Iterator[Batch]:
    for items in BucketedBatches(corpus.lengths, batch_frames, seed).from_step(step):
        yield Batch.of([corpus[item] for item in items])


def _fixed_batches(corpus: AlignedCorpus, batch_frames: int) -> list[Batch]:
    plan = BucketedBatches(corpus.lengths, batch_frames, 0).epoch(0) if len(corpus) else []
    return [Batch.of([corpus[item] for item in items]) for items in plan]
