"""Token store -> shorter token store.

Reads: EXP_ROOT/tokens/NAME-FP/TOKENIZER-FP/ (what tokenize writes).
Writes: a transform that learns (bpe1024, compressor2) first learns from the train split: EXP_ROOT/transforms/TRANSFORM-FP/. Then
EXP_ROOT/reduced/NAME-FP/TOKENIZER-FP/TRANSFORM-FP/ with a token store for each split, whose spec is that of the transformed codes, and
prints how many positions and bits a second of speech takes before and after. A killed run goes on behind its last whole shard; memory holds
one shard, with worker processes one for each. Nothing has to be stored: train and account apply the transform as they read.
Told by: transform (transform=bpe1024, or several in their order: transform=[merge2,bpe1024]) and its keys; reduce.workers; engine
(engine=ray for a Ray cluster) and its keys; tokenizer, data and prepare as for tokenize.
"""

import functools
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import Progress

from audiotok import files
from audiotok.data.reduction import Corpus, reduce_split, reducer
from audiotok.data.splits import SPLITS
from audiotok.data.workers import Pool
from audiotok.stages import paths
from audiotok.store import TokenStore
from audiotok.transforms.base import Transform

OWN = "${fitted_transform:}"  # the folder that this stage fills
SECTIONS: tuple[str, ...] = ("data", "prepare", "tokenizer", "transform", "reduce", "engine")
WORTH_WORKERS = 5.0  # seconds: what takes no longer is done before worker processes have started


def run(cfg: DictConfig) -> None:
    console = Console()
    tokens = paths.tokens(cfg, instantiate(cfg.tokenizer).spec.fingerprint)
    made_from = files.fingerprint_of(tokens, made_by=f"tokenize {cfg.recipe} tokenizer={cfg.choices.tokenizer}")
    transform = learnt(cfg, tokens, made_from, console)
    splits = [split for split in SPLITS if (tokens / split).is_dir()]
    folder = paths.reduced(cfg, TokenStore(tokens / splits[0]).spec.fingerprint)

    def work(partial: Path) -> None:
        with Progress(console=console) as progress, _workers(cfg) as workers:
            for split in splits:
                store = TokenStore(tokens / split)
                task = progress.add_task(f"{cfg.choices.transform}: {split}", total=len(store))
                reduce_split(store, transform, partial / split, workers=workers, progress=functools.partial(progress.advance, task))

    settings = {"tokens": made_from, "transform": repr(transform)}
    made = files.build(folder, settings, work, overwrite=cfg.overwrite, resumable="*/shard-*.parquet")
    for split in splits:
        console.print(f"{split}: {_told(TokenStore(tokens / split), TokenStore(folder / split))}", soft_wrap=True, highlight=False)
    console.print(f"{folder} is {'there already' if made == 'present' else 'written'}", soft_wrap=True, highlight=False)


def learnt(cfg: DictConfig, tokens: Path, made_from: str, console: Console) -> Transform:
    """The transform of the config; one that learns has learnt from the train split, now or before, or in the folder that it names."""
    if OWN not in _places(OmegaConf.to_container(cfg.transform, resolve=False)):
        return instantiate(cfg.transform)
    fresh = instantiate(paths.unfitted(cfg))
    folder = paths.fitted_transform(cfg)

    def work(partial: Path) -> None:
        store = TokenStore(tokens / "train")
        with console.status(f"{cfg.choices.transform} learns from {len(store)} utterances"):
            torch.manual_seed(cfg.seed)
            fresh.fit(Corpus(store), store.spec)
        fresh.save(partial)

    settings: dict[str, Any] = {"tokens": made_from, "seed": cfg.seed, "transform": paths.unfitted(cfg)}
    made = files.build(folder, settings, work, overwrite=cfg.overwrite)
    console.print(f"{folder} is {'there already' if made == 'present' else 'written'}", soft_wrap=True, highlight=False)
    return instantiate(cfg.transform)


def _workers(cfg: DictConfig) -> AbstractContextManager[Pool | None]:
    """The workers that reduce.workers asks for; None where this process is enough."""
    make = functools.partial(instantiate, OmegaConf.to_container(cfg.transform, resolve=True))
    return instantiate(cfg.engine).workers(
        functools.partial(reducer, make), asked=cfg.reduce.workers, setting="reduce.workers", after=WORTH_WORKERS, gpu=False
    )


def _places(settings: Any) -> list[Any]:
    """What the settings of a transform, or of the steps of a chain, say of where something learnt lies; the tokenizer's own left out."""
    if not isinstance(settings, dict):
        return []
    here = [settings["fitted"]] if "fitted" in settings else []
    return here + [place for key, value in settings.items() if key != "tokenizer" for place in _places(value)]


def _told(before: TokenStore, after: TokenStore) -> str:
    def rates(store: TokenStore) -> tuple[float, float]:
        rows = store.about().to_pylist()
        seconds = sum(row["num_samples"] for row in rows) / store.spec.sample_rate
        positions = sum(row["num_frames"] for row in rows) / max(seconds, 1e-9)
        return positions, positions * store.spec.bits_per_second / float(store.spec.frame_rate)

    (old, old_bits), (new, new_bits) = rates(before), rates(after)
    return (
        f"{old:.1f} positions/s of {before.spec.num_codebooks} codes, {old_bits:.0f} bit/s -> "
        f"{new:.1f} positions/s of {after.spec.num_codebooks}, {new_bits:.0f} bit/s"
    )
