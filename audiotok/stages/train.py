"""Tokens and alignments -> checkpoints.

Reads: the token store of tokenize, EXP_ROOT/alignments/ of align; with train.start_from the weights to begin with, of a checkpoint.
Writes: EXP_DIR/train/ with step_00001000/ (weights, their running average, what training needs to go on, and spec.json, front_end.json,
config.json), log.jsonl and TensorBoard files. Until the last step the folder is named train.partial. A run that was killed at any moment
goes on from its last checkpoint and ends with the same weights, bit for bit. Under torchrun its processes share the batches of a step
(train.accumulate), and with train.sharding=fsdp the weights; another number of them may go on. With train.window=4 an epoch goes through
the shards in a random order, four at a time: of a token store in an object store no more than those is held, in memory.
Told by: model and its keys, transform, everything under train, seed, device.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from audiotok import files
from audiotok.data.aligned import AlignedCorpus, FrontEnd
from audiotok.data.batching import BucketedBatches, Share
from audiotok.data.code_vectors import code_vectors
from audiotok.data.rows import Rows
from audiotok.models.text import Batch
from audiotok.stages import learning, paths
from audiotok.store.reader import TokenStore
from audiotok.transforms.base import Layout, as_layout
from audiotok.types import TokenSpec

SECTIONS: tuple[str, ...] = ("data", "prepare", "tokenizer", "transform", "align", "model", "train")


def run(cfg: DictConfig) -> None:
    console = Console()
    tokenizer = instantiate(cfg.tokenizer)
    tokens = paths.tokens(cfg, tokenizer.spec.fingerprint)
    settings = {
        "tokens": files.fingerprint_of(tokens, made_by=f"tokenize {cfg.recipe}"),
        "alignments": files.fingerprint_of(paths.alignments(cfg), made_by=f"align {cfg.recipe}"),
        **paths.settings(cfg, "transform", "model", "seed"),
        **learning.settings(cfg),
    }

    def work(partial: Path) -> None:
        _train(cfg, tokens, partial, console, tokenizer=tokenizer)

    learning.build(paths.train(cfg), settings, work, overwrite=cfg.overwrite, console=console)


@dataclass(frozen=True)
class Material:
    """What there is to learn from, in the tokens and alignments of a recipe."""

    transform: Layout
    spec: TokenSpec  # of the tokens as they are stored
    front_end: FrontEnd
    train: AlignedCorpus
    dev: list[AlignedCorpus]  # none or one

    @classmethod
    def of(cls, cfg: DictConfig, tokens: Path) -> "Material":
        alignments = Rows(paths.alignments(cfg) / "alignments.jsonl")
        transform, store = as_layout(instantiate(cfg.transform)), TokenStore(tokens / "train", window=cfg.train.window)
        front_end = FrontEnd.of(*(map(itemgetter(part), _aligned(store, alignments)) for part in (0, 1)))
        train, *dev = (
            AlignedCorpus(TokenStore(tokens / split, window=cfg.train.window), alignments, transform=transform, front_end=front_end)
            for split in ("train", "dev")
            if (tokens / split).is_dir()
        )
        if not len(train):
            raise ValueError(
                f"no utterance of {tokens / 'train'} is aligned; run `audiotok align {cfg.recipe}` with the same settings first"
            )
        return cls(transform, store.spec, front_end, train, dev)

    def model(self, make: Callable[..., Any], tokenizer: Any) -> Any:
        """A model of these codes and texts."""
        return make(  # by a partial, as OmegaConf would make a config of the spec
            spec=self.transform.out_spec(self.spec),
            num_phonemes=len(self.front_end.vocabulary),
            num_speakers=len(self.front_end.speakers),
            num_languages=len(self.front_end.languages),
            vectors=functools.partial(code_vectors, tokenizer, self.transform),
        )

    def learn(self, cfg: DictConfig, model: Any, *, records: Mapping[str, Any], folder: Path, console: Console) -> Path:
        """Train as the `train` section says; `records` are kept beside the weights, with what tells these codes and texts from others."""
        parameters = sum(weight.numel() for weight in model.parameters()) / 1e6
        console.print(f"{parameters:.2f} M parameters, {len(self.train)} utterances to learn from")
        return learning.learn(
            cfg,
            model,
            lambda step: _batches(self.train, cfg, step=step),
            dev=[batch for corpus in self.dev for batch in fixed_batches(corpus, cfg.train.batch_frames)],
            records={
                "spec": json.loads(self.spec.to_json()),
                "front_end": self.front_end.to_dict(),
                "config": OmegaConf.to_container(cfg, resolve=True),
                **records,
            },
            folder=folder,
            console=console,
        )


def _aligned(store: TokenStore, alignments: Mapping[str, dict]) -> Iterator[tuple[dict, dict]]:
    """Each alignment of a row of the store, and what the store says of it, one pair in memory at a time."""
    return ((found, row) for row in store.described() if (found := alignments.get(row["id"])) is not None)


def _train(cfg: DictConfig, tokens: Path, folder: Path, console: Console, *, tokenizer: Any) -> None:
    material = Material.of(cfg, tokens)
    torch.manual_seed(cfg.seed)
    model = material.model(instantiate(cfg.model, _partial_=True), tokenizer)
    material.learn(cfg, model, records={}, folder=folder, console=console)


def _batches(corpus: AlignedCorpus, cfg: DictConfig, *, step: int) -> Iterator[Batch]:
    share = Share.here(cfg.train.accumulate)
    plan = BucketedBatches(corpus.lengths, cfg.train.batch_frames, cfg.seed, shards=corpus.shards, window=cfg.train.window)
    for items in plan.from_step(step, share=share):
        yield Batch.of([corpus[item] for item in items])


def fixed_batches(corpus: AlignedCorpus, batch_frames: int) -> list[Batch]:
    plan = BucketedBatches(corpus.lengths, batch_frames, 0).epoch(0) if len(corpus) else []
    return [Batch.of([corpus[item] for item in items]) for items in plan]
