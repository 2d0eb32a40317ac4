#!/usr/bin/env python3
"""Tokenise an hour of real speech with each of some tokenizers; print speed and memory as one JSON object.

    tools/bench_tokenize.py --manifests exp/data/prompts_en-1a2b3c4d --tokenizers dmel kmeans_mel lyra,folder=FOLDER

The corpus (a folder that prepare wrote, all splits, mixed) is repeated until the hour is full. What is timed is what the stage does: read,
resample, encode, write the store. Each tokenizer runs in a process of its own, first over a tenth of the time and then over all of it, so
that the two peaks, and what is held after each tenth of the utterances, show whether memory grows with the corpus. A tokenizer that has to
be fitted is fitted before, in another process, to --fit-minutes of audio.

A tokenizer is a name in configs/tokenizer, with settings behind commas: encodec_24khz,path=FILE,bandwidth=3.0.

    tools/bench_tokenize.py --manifests exp/data/prompts_en-1a2b3c4d --package-loop FILE --utterances 300 --rounds 3

compares with `for wav: model.encode(wav)` over the encodec package: its 24 kHz network at 6 kbit/s with the weights in FILE, the same
utterances of mixed length read by the same function. In each round, in processes of their own and one after the other: the loop at
PyTorch's default number of threads; what the stage does, with --workers, from the call to the whole store, the start of its processes
counted; the loop on one thread, over a quarter. The medians of the rounds and of their ratios are given, the rounds, and whether every
code was the same.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import torch
from hydra.utils import instantiate
from lhotse import MonoCut
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from audiotok import distributed, files
from audiotok.cli import ROOT
from audiotok.data.manifests import load_cuts
from audiotok.data.tokenization import bound_kernel_cache, encoder, read_cut, splits_of, tokenize_cuts
from audiotok.data.workers import Workers, num_cores
from audiotok.stages.tokenize import WORTH_WORKERS
from audiotok.store import TokenStore

MIB = 2**20
BANDWIDTH = 6.0  # kbit/s of EnCodec, where it is compared with its package


def main() -> None:
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.work:
        print(json.dumps(WORK[options.work](options)))
        return
    about: dict[str, Any] = {"machine": _machine(options), "settings": _settings(options)}
    if options.tokenizers:
        about["results"] = [result for tokenizer in options.tokenizers for result in _benchmarked(tokenizer)]
    if options.package_loop:
        about["package_loop"] = _package_loop(options)
    print(json.dumps(about, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifests", type=Path, required=True, help="a folder that `audiotok prepare` wrote")
    parser.add_argument("--tokenizers", nargs="+", default=[], metavar="NAME[,KEY=VALUE...]")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--fit-minutes", type=float, default=5.0)
    parser.add_argument("--batch-seconds", type=float, default=20.0)
    parser.add_argument("--shard-utterances", type=int, default=32, help="few, so that a tenth of the time fills a shard too")
    parser.add_argument("--threads", type=int, help="of PyTorch in this process while it does not tokenise; its own default otherwise")
    parser.add_argument("--workers", type=int, default=num_cores(), help="processes that tokenise; all cores otherwise")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--package-loop", type=Path, metavar="FILE", help="weights of EnCodec 24 kHz")
    parser.add_argument("--utterances", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wait", action="store_true", help="for a line on standard input before each round")
    parser.add_argument("--work", choices=WORK, help=argparse.SUPPRESS)  # what a process of its own does
    parser.add_argument("--fitted", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--every", type=int, default=1, help=argparse.SUPPRESS)
    return parser.parse_args()


def _settings(options: argparse.Namespace) -> dict:
    keys = ("hours", "fit_minutes", "batch_seconds", "shard_utterances", "threads", "workers", "device")
    return {key: getattr(options, key) for key in keys}


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
            yield {"tokenizer": tokenizer.split(",")[0], **_output([*again, *mine, "--work", "tokenize", "--hours", str(hours)])}


def _output(command: Sequence[str]) -> dict:
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {ended.returncode}")
    return json.loads(ended.stdout.splitlines()[-1])


def tokenizer_settings(tokenizer: str, *, fitted: Path | None) -> DictConfig:
    """What makes the tokenizer NAME[,KEY=VALUE...]; `fitted` is where it lies if it has to be fitted, None before."""
    name, *settings = tokenizer.split(",")
    path = ROOT / "configs" / "tokenizer" / f"{name}.yaml"
    if not path.exists():
        raise SystemExit(f"no tokenizer {name!r}; there are: {', '.join(sorted(path.stem for path in path.parent.glob('*.yaml')))}")
    cfg = OmegaConf.create({"seed": 1234, "tokenizer": OmegaConf.load(path)})
    cfg.tokenizer.merge_with_dotlist(settings)
    if "fitted" in cfg.tokenizer:
        cfg.tokenizer.fitted = None if fitted is None else str(fitted)
    return cfg.tokenizer


def _fit(options: argparse.Namespace) -> dict:
    settings = tokenizer_settings(options.tokenizers[0], fitted=None)
    if "fitted" in settings:
        tokenizer, cuts = instantiate(settings), cuts_of(options.manifests, options.fit_minutes / 60)
        tokenizer.fit(read_cut(cut, tokenizer.sample_rate) for cut in cuts)
        options.fitted.mkdir()
        tokenizer.save(options.fitted)
    return {}


def _tokenize(options: argparse.Namespace) -> dict:
    bound_kernel_cache()
    settings, device = tokenizer_settings(options.tokenizers[0], fitted=options.fitted), distributed.device(options.device)
    tokenizer = instantiate(settings)
    sizes = {"batch_seconds": options.batch_seconds, "shard_utterances": options.shard_utterances}
    with tempfile.TemporaryDirectory() as scratch, _workers(options, settings) as workers:
        folder = Path(scratch)
        tokenize_cuts(cuts_of(options.manifests, 30 / 3600), tokenizer, folder / "warm", device=device, **sizes)
        loaded = _peak_memory()
        cuts, memory = list(cuts_of(options.manifests, options.hours)), _Memory()
        watched = partial(memory.look, len(cuts), workers)
        start = time.perf_counter()
        failed = tokenize_cuts(cuts, tokenizer, folder / "store", device=device, workers=workers, progress=watched, **sizes)
        wall = time.perf_counter() - start
        own = _peak_memory()
        about = TokenStore(folder / "store").about()
        audio_seconds, store_bytes = sum(about["duration"].to_pylist()), sum(path.stat().st_size for path in folder.glob("store/*"))
    return {
        "audio_seconds": round(audio_seconds, 1),
        "utterances": about.num_rows,
        "failed": len(failed),
        "wall_seconds": round(wall, 2),
        "real_time_factor": round(wall / audio_seconds, 5),
        "peak_memory_mib": round(own, 1),
        "warm_memory_mib": round(loaded, 1),
        "worker_peak_memory_mib": round(_peak_memory(resource.RUSAGE_CHILDREN), 1) if workers else None,
        "memory_mib_by_tenth": memory.tenths,
        "store_mib": round(store_bytes / MIB, 2),
        "bits_per_second": round(tokenizer.spec.bits_per_second, 1),
        "stored_bits_per_second": round(store_bytes * 8 / audio_seconds, 1),
    }


def cuts_of(manifests: Path, hours: float) -> Iterator[MonoCut]:
    """The corpus over and over, under new ids, until the time is full."""
    cuts = _mixed(manifests)
    left = hours * 3600
    for repeat in count():
        for cut in cuts:
            if left <= 0:
                return
            left -= cut.duration
            yield cut.with_id(f"{cut.id}-{repeat}")


def _peak_memory(who: int = resource.RUSAGE_SELF) -> float:
    """MiB that this process, or the largest of those that it has started and that have ended, has held at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit / MIB


class _Memory:
    """MiB held after each tenth of the utterances, by this process or by the largest of its workers; empty where there is no /proc."""

    def __init__(self) -> None:
        self.done, self.tenths = 0, list[float]()

    def look(self, total: int, workers: Workers | None, more: int) -> None:
        self.done += more
        if self.done * 10 >= total * (len(self.tenths) + 1) and Path("/proc/self/statm").exists():
            pids = ["self"] if workers is None or not workers.ready() else workers.pids
            pages = max(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
            self.tenths.append(round(pages * resource.getpagesize() / MIB, 1))


def _workers(options: argparse.Namespace, settings: DictConfig) -> Any:
    if options.workers == 1:
        return nullcontext()
    make = partial(instantiate, OmegaConf.to_container(settings, resolve=True))
    return Workers(partial(encoder, make, distributed.device(options.device)), num=options.workers, after=WORTH_WORKERS)


def _package_loop(options: argparse.Namespace) -> dict:
    """The rounds of the comparison, and what they come to."""
    again, rounds = [sys.executable, __file__, *sys.argv[1:]], []
    for number in range(options.rounds):
        if options.wait:
            print(f"round {number + 1}: waiting for a line", file=sys.stderr, flush=True)
            sys.stdin.readline()
        load = os.getloadavg()[0]
        loop = _output([*again, "--work", "loop"])
        stage = _output([*again, "--work", "stage"])
        one = _output([*again, "--work", "loop", "--threads", "1", "--every", "4"])
        codes = [result.pop("codes") for result in (loop, stage, one)]
        same = codes[0] == codes[1] and codes[2].items() <= codes[1].items()
        rounds.append({"load_before": load, "loop": loop, "stage": stage, "loop_one_thread": one, "identical_codes": same})
    speeds = {name: [row[name]["hours_per_hour"] for row in rounds] for name in ("loop", "stage", "loop_one_thread")}
    return {
        "utterances": rounds[0]["stage"]["utterances"],
        "audio_seconds": rounds[0]["stage"]["audio_seconds"],
        "hours_of_audio_per_hour": {name: median(values) for name, values in speeds.items()},
        "stage_to_loop": round(median(ours / theirs for ours, theirs in zip(speeds["stage"], speeds["loop"])), 3),
        "stage_to_loop_one_thread": round(median(ours / theirs for ours, theirs in zip(speeds["stage"], speeds["loop_one_thread"])), 3),
        "identical_codes": all(row["identical_codes"] for row in rounds),
        "rounds": rounds,
    }


def _mixed(manifests: Path) -> list[MonoCut]:
    """The utterances without regard to their order, so that each part of them is like the others."""
    cuts = (cut for split in splits_of(manifests) for cut in load_cuts(manifests, split))
    return sorted(cuts, key=lambda cut: files.fingerprint(cut.id))


def _compared(options: argparse.Namespace) -> list[MonoCut]:
    cuts = _mixed(options.manifests)
    if len(cuts) < options.utterances:
        raise SystemExit(f"{options.manifests} holds {len(cuts)} utterances, --utterances wants {options.utterances}")
    return cuts[: options.utterances : options.every]


def _loop(options: argparse.Namespace) -> dict:
    """What a user of the package writes, at a number of threads."""
    from encodec import EncodecModel  # noqa: PLC0415

    model = EncodecModel.encodec_model_24khz(pretrained=False)
    model.load_state_dict(torch.load(options.package_loop, weights_only=True))
    model.eval()
    model.set_target_bandwidth(BANDWIDTH)
    cuts, codes, start = _compared(options), {}, time.perf_counter()
    with torch.no_grad():
        for cut in cuts:
            codes[cut.id] = model.encode(read_cut(cut, model.sample_rate)[None, None])[0][0][0]
    return _speed(cuts, time.perf_counter() - start) | {"codes": {id: _code_digest(codes_KN) for id, codes_KN in codes.items()}}


def _stage(options: argparse.Namespace) -> dict:
    """What `audiotok tokenize` does with `tokenize.workers: auto`."""
    bound_kernel_cache()
    settings = tokenizer_settings(f"encodec_24khz,path={options.package_loop},bandwidth={BANDWIDTH}", fitted=None)
    device = distributed.device(options.device)
    tokenizer, cuts = instantiate(settings), _compared(options)
    sizes = {"batch_seconds": options.batch_seconds, "shard_utterances": options.shard_utterances}
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        with _workers(options, settings) as workers:
            failed = tokenize_cuts(cuts, tokenizer, Path(scratch) / "store", device=device, workers=workers, **sizes)
        wall = time.perf_counter() - start
        codes = {row.id: _code_digest(row.codes_KN) for row in TokenStore(Path(scratch) / "store")}
    return _speed(cuts, wall) | {"failed": len(failed), "codes": codes}


def _speed(cuts: Sequence[MonoCut], wall: float) -> dict:
    seconds = sum(cut.duration for cut in cuts)
    speed = {"hours_per_hour": round(seconds / wall, 2), "wall_seconds": round(wall, 2), "cpu_seconds": round(_cpu_seconds(), 2)}
    return {"utterances": len(cuts), "audio_seconds": round(seconds, 1), **speed, "threads": torch.get_num_threads()}


def _cpu_seconds() -> float:
    """Of this process and its workers from their start, imports and the reading of weights counted."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _code_digest(codes_KN: Tensor) -> str:
    return hashlib.sha256(codes_KN.to(torch.int64).contiguous().numpy().tobytes()).hexdigest()


WORK = {"fit": _fit, "tokenize": _tokenize, "loop": _loop, "stage": _stage}

if __name__ == "__main__":
    main()
