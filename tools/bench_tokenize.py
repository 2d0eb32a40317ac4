#!/usr/bin/env python3
"""Tokenise an hour of real speech with each of some tokenizers; print speed and memory as one JSON object.

    tools/bench_tokenize.py --manifests exp/data/prompts_en-1a2b3c4d --tokenizers dmel kmeans_mel lyra,folder=FOLDER

The corpus (a folder that prepare wrote, all splits) is repeated until the hour is full. What is timed is what the stage does: read,
resample, encode, write the store. Each tokenizer runs in a process of its own, first over a tenth of the time and then over all of it, so
that the two peaks show whether memory grows with the corpus. A tokenizer that has to be fitted is fitted before, in another process, to
--fit-minutes of audio.

A tokenizer is a name in configs/tokenizer, with settings behind commas: encodec_24khz,path=FILE,bandwidth=3.0.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import torch
from hydra.utils import instantiate
from lhotse import MonoCut
from omegaconf import DictConfig, OmegaConf

from audiotok import distributed
from audiotok.cli import ROOT
from audiotok.data.manifests import load_cuts
from audiotok.data.tokenization import read_cut, splits_of, tokenize_cuts
from audiotok.store import TokenStore

MIB = 2**20


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    if options.work:
        print(json.dumps(WORK[options.work](options)))
        return
    results = [result for tokenizer in options.tokenizers for result in _benchmarked(tokenizer)]
    print(json.dumps({"machine": _machine(options), "settings": _settings(options), "results": results}, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifests", type=Path, required=True, help="a folder that `audiotok prepare` wrote")
    parser.add_argument("--tokenizers", nargs="+", required=True, metavar="NAME[,KEY=VALUE...]")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--fit-minutes", type=float, default=5.0)
    parser.add_argument("--batch-seconds", type=float, default=60.0)
    parser.add_argument("--shard-utterances", type=int, default=32, help="few, so that a tenth of the time fills a shard too")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", choices=WORK, help=argparse.SUPPRESS)  # what a process of its own does
    parser.add_argument("--fitted", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _settings(options: argparse.Namespace) -> dict:
    return {key: getattr(options, key) for key in ("hours", "fit_minutes", "batch_seconds", "shard_utterances", "threads", "device")}


def _machine(options: argparse.Namespace) -> dict:
    models = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    device = distributed.device(options.device)
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _benchmarked(tokenizer: str) -> Iterator[dict]:
    """The rows of one tokenizer: a tenth of the time, all of it."""
    with tempfile.TemporaryDirectory() as scratch:
        again = [sys.executable, __file__, *sys.argv[1:]]  # argparse keeps the last value of an option given twice
        mine = ["--tokenizers", tokenizer, "--fitted", f"{scratch}/fitted"]
        _output([*again, *mine, "--work", "fit"])
        for share in (0.1, 1.0):
            hours = share * _options().hours
            yield {"tokenizer": tokenizer, **_output([*again, *mine, "--work", "tokenize", "--hours", str(hours)])}


def _output(command: Sequence[str]) -> dict:
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {ended.returncode}")
    return json.loads(ended.stdout.splitlines()[-1])


def _tokenizer_settings(options: argparse.Namespace) -> DictConfig:
    name, *settings = options.tokenizers[0].split(",")
    path = ROOT / "configs" / "tokenizer" / f"{name}.yaml"
    if not path.exists():
        raise SystemExit(f"no tokenizer {name!r}; there are: {', '.join(sorted(path.stem for path in path.parent.glob('*.yaml')))}")
    cfg = OmegaConf.create({"seed": 1234, "tokenizer": OmegaConf.load(path)})
    cfg.tokenizer.merge_with_dotlist(settings)
    if "fitted" in cfg.tokenizer:
        cfg.tokenizer.fitted = None if options.work == "fit" else str(options.fitted)
    return cfg.tokenizer


def _fit(options: argparse.Namespace) -> dict:
    settings = _tokenizer_settings(options)
    if "fitted" in settings:
        tokenizer, cuts = instantiate(settings), _cuts(options.manifests, options.fit_minutes / 60)
        tokenizer.fit(read_cut(cut, tokenizer.sample_rate) for cut in cuts)
        options.fitted.mkdir()
        tokenizer.save(options.fitted)
    return {}


def _tokenize(options: argparse.Namespace) -> dict:
    tokenizer, device = instantiate(_tokenizer_settings(options)), distributed.device(options.device)
    sizes = {"batch_seconds": options.batch_seconds, "shard_utterances": options.shard_utterances}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tokenize_cuts(_cuts(options.manifests, 30 / 3600), tokenizer, folder / "warm", device=device, **sizes)
        loaded = _peak_memory()
        start = time.perf_counter()
        failed = tokenize_cuts(_cuts(options.manifests, options.hours), tokenizer, folder / "store", device=device, **sizes)
        wall = time.perf_counter() - start
        about = TokenStore(folder / "store").about()
        audio_seconds, store_bytes = sum(about["duration"].to_pylist()), sum(path.stat().st_size for path in folder.glob("store/*"))
    return {
        "audio_seconds": round(audio_seconds, 1),
        "utterances": about.num_rows,
        "failed": len(failed),
        "wall_seconds": round(wall, 2),
        "real_time_factor": round(wall / audio_seconds, 5),
        "peak_memory_mib": round(_peak_memory(), 1),
        "warm_memory_mib": round(loaded, 1),
        "store_mib": round(store_bytes / MIB, 2),
        "bits_per_second": round(tokenizer.spec.bits_per_second, 1),
        "stored_bits_per_second": round(store_bytes * 8 / audio_seconds, 1),
    }


def _cuts(manifests: Path, hours: float) -> Iterator[MonoCut]:
    """The corpus over and over, under new ids, until the time is full."""
    cuts = [cut for split in splits_of(manifests) for cut in load_cuts(manifests, split)]
    left = hours * 3600
    for repeat in count():
        for cut in cuts:
            if left <= 0:
                return
            left -= cut.duration
            yield cut.with_id(f"{cut.id}-{repeat}")


def _peak_memory() -> float:
    """MiB that this process has held at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


WORK = {"fit": _fit, "tokenize": _tokenize}

if __name__ == "__main__":
    main()
