#!/usr/bin/env python3
"""How fast each transform encodes and decodes real codes, and whether ten times as long a store takes more memory; one JSON object.

    tools/bench_transforms.py --tokens exp/tokens/speech-1a2b3c4d/codec-5e6f7a8b --tokenizer codec --transforms bpe4096 lzw run_length

Speeds are millions of the tokenizer's codes a second of one core's time, of the quickest of --rounds rounds: over the utterances of the
train split one by one, and over all of them as one stream. A transform that learns does so from the train split, before. For memory (on
Linux) the train split is written four and forty times over (ids apart) and reduced in a process of its own each: the peak of its resident
set while it reduces, over what it held before.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor

from audiotok import cli
from audiotok.data.costs import machine
from audiotok.data.reduction import Corpus, reduce_split
from audiotok.stages import paths
from audiotok.store import TokenStore, TokenWriter, Utterance
from audiotok.transforms.base import Fittable, Transform

SHARD = 256  # utterances


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    if options.measure:
        print(json.dumps(_memory(options)))
        return
    found = {name: _report(name, options) for name in options.transforms}
    told = {"tokens": options.tokens.name, "rounds": options.rounds, "machine": machine(torch.device("cpu")), "load": os.getloadavg()[0]}
    print(json.dumps({**told, "transforms": found}, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, required=True, help="a folder that tokenize wrote")
    parser.add_argument("--tokenizer", required=True, help="the choice of configs/tokenizer that made it")
    parser.add_argument("--transforms", nargs="+", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="measure memory too")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # the store that this process reduces
    parser.add_argument("--fitted", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _transform(name: str, tokenizer: str, store: TokenStore, fitted: Path) -> Transform:
    cfg = cli.load("prompts/tts", [f"tokenizer={tokenizer}", f"transform={name}"])
    settings = paths.unfitted(cfg)
    transform = instantiate(settings)
    if not isinstance(transform, Fittable) or "fitted" not in settings:
        return transform
    if not fitted.exists():
        transform.fit(Corpus(store), store.spec)
        fitted.mkdir(parents=True)
        transform.save(fitted)
    return instantiate(settings, fitted=str(fitted))


def _report(name: str, options: argparse.Namespace) -> dict[str, Any]:
    store = TokenStore(options.tokens / "train")
    with tempfile.TemporaryDirectory() as scratch:
        transform = _transform(name, options.tokenizer, store, Path(scratch) / "fitted")
        codes = [utterance.codes_KN for utterance in store]
        told = {
            "one_by_one": _speeds(transform, codes, store, options.rounds),
            "one_stream": _speeds(transform, [torch.cat(codes, dim=1)], store, options.rounds),
            "codes": sum(one_KN.numel() for one_KN in codes),
        }
        return told | ({"peak_mib": _peaks(name, options, store, Path(scratch))} if options.memory else {})


def _speeds(transform: Transform, codes: list[Tensor], store: TokenStore, rounds: int) -> dict[str, float]:
    millions = sum(one_KN.numel() for one_KN in codes) / 1e6
    applied = [transform.apply(one_KN, store.spec) for one_KN in codes]
    there = _quickest(lambda: [transform.apply(one_KN, store.spec) for one_KN in codes], rounds)
    back = _quickest(lambda: [transform.invert(one_KN, store.spec) for one_KN in applied], rounds)
    return {"apply": round(millions / there, 2), "invert": round(millions / back, 2)}


def _quickest(work: Callable[[], object], rounds: int) -> float:
    spent = []
    for _ in range(rounds):
        start = process_time()
        work()
        spent.append(process_time() - start)
    return min(spent)


def _peaks(name: str, options: argparse.Namespace, store: TokenStore, scratch: Path) -> dict[str, float]:
    peaks = {}
    for times in (4, 40):
        folder = scratch / f"times{times}"
        _repeat(store, folder, times)
        command = [sys.executable, __file__, "--tokens", str(options.tokens), "--tokenizer", options.tokenizer, "--transforms", name]
        command += ["--measure", str(folder), "--fitted", str(scratch / "fitted")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[f"times{times}"] = json.loads(done.stdout)["grown_mib"]
    return peaks


def _repeat(store: TokenStore, folder: Path, times: int) -> None:
    writer, rows, index = TokenWriter(folder, store.spec), [], 0
    for row in _repeated(store, times):
        rows.append(row)
        if len(rows) == SHARD:
            writer.write(index, rows)
            rows, index = [], index + 1
    if rows:
        writer.write(index, rows)


def _repeated(store: TokenStore, times: int) -> Iterator[Utterance]:
    for time in range(times):
        for utterance in store:
            yield replace(utterance, id=f"{time}-{utterance.id}")


def _memory(options: argparse.Namespace) -> dict[str, float]:
    """Of this process: how much more than before it holds at most while it reduces a store, after one utterance went through."""
    store = TokenStore(options.measure)
    transform = _transform(options.transforms[0], options.tokenizer, store, options.fitted)
    transform.apply(next(iter(store)).codes_KN, store.spec)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _resident("VmRSS")
    reduce_split(store, transform, options.measure.with_name(f"{options.measure.name}-reduced"))
    return {"grown_mib": round((_resident("VmHWM") - before) / 1024, 1)}


def _resident(which: str) -> int:
    """KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:"))


if __name__ == "__main__":
    main()
