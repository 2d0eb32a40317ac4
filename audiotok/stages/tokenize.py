"""Manifests -> token store.

Reads: EXP_ROOT/data/NAME-FP/ (what prepare writes) and its audio.
Writes: EXP_ROOT/tokens/NAME-FP/TOKENIZER-FP/ with a folder of Parquet shards for each split (id, num_frames, num_samples, text, speaker,
language, duration, and a list column for each codebook) and failed.jsonl (what could not be tokenised, with the reason). A killed run goes
on behind its last whole shard, and the bytes do not depend on the number of processes. A classical codec (opus_6k, codec2_3200) has no
codes: the stage says so and returns.
Told by: tokenizer (tokenizer=lyra), tokenize.workers, tokenize.batch_seconds, tokenize.shard_utterances, tokenize.resample, device; engine
(engine=ray for a Ray cluster) and its keys; data and prepare as for prepare.
"""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.progress import MofNCompleteColumn, Progress

from audiotok import distributed, files
from audiotok.data.rates import check_rates
from audiotok.data.tokenization import FAILED, bound_kernel_cache, encoder, num_utterances, tokenize_corpus
from audiotok.data.workers import Pool
from audiotok.stages import paths
from audiotok.tokenizers.base import WaveformCodec

SECTIONS: tuple[str, ...] = ("data", "prepare", "tokenizer", "tokenize", "engine")
WORTH_WORKERS = 1.0  # seconds: starting a process costs two, but where there is nothing left to do they are not waited for


def run(cfg: DictConfig) -> None:
    bound_kernel_cache()
    manifests = paths.manifests(cfg)
    prepared = paths.manifests_fingerprint(cfg)
    tokenizer = instantiate(cfg.tokenizer)
    if isinstance(tokenizer, WaveformCodec):
        print(f"tokenizer={cfg.choices.tokenizer} has no codes to store; go on with `audiotok decode {cfg.recipe}`")
        return
    check_rates(manifests, tokenizer.spec.sample_rate, resample=cfg.tokenize.resample)
    folder = paths.tokens(cfg, tokenizer.spec.fingerprint)

    def work(partial: Path) -> None:
        columns = *Progress.get_default_columns(), MofNCompleteColumn()
        with Progress(*columns) as progress, _workers(cfg) as workers:
            task = progress.add_task(f"tokenizing with {cfg.choices.tokenizer}", total=num_utterances(manifests))
            tokenize_corpus(
                manifests,
                tokenizer,
                partial,
                batch_seconds=cfg.tokenize.batch_seconds,
                shard_utterances=cfg.tokenize.shard_utterances,
                device=distributed.device(cfg.device),
                workers=workers,
                progress=lambda more: progress.advance(task, more),
            )

    spec = json.loads(tokenizer.spec.to_json())
    settings = {"manifests": prepared, "tokenizer": cfg.choices.tokenizer, "spec": spec, "shard_utterances": cfg.tokenize.shard_utterances}
    made = files.build(folder, settings, work, overwrite=cfg.overwrite, resumable="*/shard-*.parquet")
    failed = sum(1 for _ in files.read_jsonl(folder / FAILED))
    print(f"{folder} is there already" if made == "present" else f"{folder} is written")
    if failed:
        print(f"could not be tokenised: {failed}; the reasons are in {folder / FAILED}")


def _workers(cfg: DictConfig) -> AbstractContextManager[Pool | None]:
    """The workers that tokenize.workers asks for; None where this process is enough."""
    settings = OmegaConf.to_container(cfg.tokenizer, resolve=True)
    return instantiate(cfg.engine).workers(
        partial(_encoder, settings, cfg.device),
        asked=cfg.tokenize.workers,
        setting="tokenize.workers",
        after=WORTH_WORKERS,
        gpu=distributed.device(cfg.device).type != "cpu",
    )


def _encoder(tokenizer: Any, device: str) -> Callable[[Any], Any]:
    """What a worker does, on the device that is its own."""
    bound_kernel_cache()
    return encoder(partial(instantiate, tokenizer), distributed.device(device))
