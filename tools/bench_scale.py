#!/usr/bin/env python3
"""Time what more workers and more ranks bring; print one JSON object.

    tools/bench_scale.py --manifests exp/data/prompts_en-1a2b3c4d --tokenizer codec --workers 1 2 --ranks 1 2

Workers: some minutes of the corpus are tokenised twice by the same workers, by processes and by a Ray of this machine (or the cluster at
--address, or one of --nodes on loopback): the first time with their start counted, then warm. Ratios are to one process, warm; that the
stores are the same is said.

Ranks: a transformer of 4 blocks of 256 learns made-up codes under torchrun, a step of as many batches on any number of ranks, whole and
sharded by FSDP2: seconds a step, the median of --steps, each rank on one thread.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from hydra.utils import instantiate
from lhotse import MonoCut
from torch import Tensor, nn

from audiotok import cli, distributed, files
from audiotok.data.batching import Share
from audiotok.data.engines import Engine, Processes, Ray
from audiotok.data.manifests import load_cuts
from audiotok.data.tokenization import bound_kernel_cache, encoder, splits_of, tokenize_cuts
from audiotok.nn.transformer import Transformer
from audiotok.training.loop import TrainSettings, start, train_step

CODES, BATCH, POSITIONS = 1024, 4, 256
STORE_BYTES = 100 * 2**20  # of each node's object store
SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "warmup_steps": 10,
    "weight_decay": 0.01,
    "max_norm": 1.0,
    "ema_decay": 0.999,
    "precision": "auto",
    "log_every": 10,
    "save_every": 1000,
    "validate_every": 1000,
    "keep": 1,
}


def main() -> None:
    options = _options()
    if options.rank:
        _rank(options)
        return
    told: dict[str, Any] = {"cores": os.cpu_count(), "torch": torch.__version__}
    if options.manifests:
        with _cluster(options) as address:
            told["workers"] = _workers(options, address) | ({"nodes": options.nodes} if options.nodes else {})
    if options.ranks:
        told["ranks"] = _ranks(options)
    print(json.dumps(told, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifests", type=Path, help="a folder that `audiotok prepare` wrote; without it no workers are timed")
    parser.add_argument("--tokenizer", default="codec", help="a name in configs/tokenizer")
    parser.add_argument("--minutes", type=float, default=5.0, help="of audio")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    cluster = parser.add_mutually_exclusive_group()
    cluster.add_argument("--address", default="local", help="of a Ray cluster")
    cluster.add_argument("--nodes", type=int, help="of a Ray cluster that is made here for this, with one CPU each")
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--sharding", default="none", help=argparse.SUPPRESS)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)  # of torchrun
    options = parser.parse_args()
    if options.nodes is not None and not (options.manifests and max(options.workers) <= options.nodes):
        parser.error(f"--nodes {options.nodes} are for --workers of no more than as many, and --manifests to tokenise")
    return options


@contextmanager
def _cluster(options: argparse.Namespace) -> Iterator[str]:
    """The address of Ray: of nodes of our own for as long as this lasts, or the one given."""
    if not options.nodes:
        yield options.address
        return
    import ray  # noqa: PLC0415, optional
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_prestart_worker_first_driver": "0"}
    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_log_monitor": False, "no_monitor": True}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(options.nodes - 1):
            cluster.add_node(**node)
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


def _workers(options: argparse.Namespace, address: str) -> dict[str, Any]:
    bound_kernel_cache()
    ray = Ray(address=address, num_cpus=1, num_gpus=0, retries=3, patience=300)
    engines: dict[str, Engine] = {"processes": Processes(), "ray": ray}
    found: dict[str, Any] = {}
    stores = set()
    for name, engine in engines.items():
        for num in options.workers:
            with tempfile.TemporaryDirectory() as scratch:
                found[f"{name}_{num}"] = _tokenised(options, engine, num, Path(scratch))
                stores.add(files.fingerprint([files.file_digest(path) for path in sorted(Path(scratch).rglob("shard-*"))]))
    base = found[f"processes_{min(options.workers)}"]["warm_s"]
    ratios = {name: round(base / row["warm_s"], 2) for name, row in found.items()}
    return {"minutes_of_audio": options.minutes, "seconds": found, "speed": ratios, "same_bytes": len(stores) == 1}


def _tokenised(options: argparse.Namespace, engine: Engine, num: int, folder: Path) -> dict[str, float]:
    settings = cli.load("prompts/resynthesis", [f"tokenizer={options.tokenizer}"]).tokenizer
    tokenizer = instantiate(settings)
    make = partial(encoder, partial(instantiate, settings), torch.device("cpu"))
    seconds = []
    with engine.workers(make, asked=num, setting="--workers", after=0.0, gpu=False) as workers:
        for again in ("first", "warm"):
            began = time.perf_counter()
            while workers is not None and not workers.ready():
                time.sleep(0.01)
            sizes: dict[str, Any] = {"batch_seconds": 20.0, "shard_utterances": 64, "device": torch.device("cpu")}
            tokenize_cuts(_cuts(options), tokenizer, folder / again, workers=workers, **sizes)
            seconds.append(round(time.perf_counter() - began, 2))
    return {"first_s": seconds[0], "warm_s": seconds[1]}


def _cuts(options: argparse.Namespace) -> Iterator[MonoCut]:
    """The corpus, over and over, until the minutes are full."""
    left = 60 * options.minutes
    everything = [cut for split in splits_of(options.manifests) for cut in load_cuts(options.manifests, split)]
    for number, cut in enumerate(cycle(everything)):
        if left <= 0:
            return
        left -= cut.duration
        yield cut.with_id(f"{number:08d}")


def _ranks(options: argparse.Namespace) -> dict[str, Any]:
    wanted = [(num, sharding) for num in options.ranks for sharding in ("none", "fsdp")]
    found = {f"{sharding}_{num}": _step_seconds(options, num, sharding) for num, sharding in wanted}
    base = found[f"none_{min(options.ranks)}"]
    return {"step_s": found, "speed": {name: round(base / seconds, 2) for name, seconds in found.items()}}


def _step_seconds(options: argparse.Namespace, num: int, sharding: str) -> float:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num), __file__, "--rank"]
    told = ["--steps", str(options.steps), "--sharding", sharding, "--ranks", *map(str, options.ranks)]
    ended = subprocess.run([*launch, *told], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    return float(ended.stdout.split()[-1])


class Codes(nn.Module):
    """A language model of codes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CODES, 256)
        self.transformer = Transformer(256, layers=4, heads=4, feed_forward=680, dropout=0.0)
        self.head = nn.Linear(256, CODES)

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits_BNV = self.head(self.transformer(self.embedding(batch[:, :-1])))
        return nn.functional.cross_entropy(logits_BNV.float().flatten(0, 1), batch[:, 1:].flatten()), {}


def _rank(options: argparse.Namespace) -> None:
    """One rank's part: the median seconds of a step, said by the first."""
    distributed.start()
    accumulate = max(options.ranks)
    settings = TrainSettings(steps=options.steps + 2, accumulate=accumulate, sharding=options.sharding, **SETTINGS)
    torch.manual_seed(0)
    state = start(Codes(), settings=settings, device=distributed.device("auto"))
    seconds = []
    for step in range(settings.steps):
        generator = torch.Generator().manual_seed(step)
        batches = [torch.randint(CODES, (BATCH, POSITIONS), generator=generator) for _ in range(accumulate)]
        distributed.barrier()
        began = time.perf_counter()
        mine = islice(batches, distributed.rank(), None, Share.here(accumulate).world_size)
        float(train_step(state, *mine, settings=settings, seed=0, last=None)["loss"])  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - began)
    if distributed.is_main():
        print(round(median(seconds[2:]), 4))


if __name__ == "__main__":
    main()
