#!/usr/bin/env python3
"""Where the time of each tokenizer's encode and decode goes, as one JSON object.

    tools/profile_tokenizers.py --manifests exp/data/prompts_en-1a2b3c4d --tokenizers dmel kmeans_whisper lyra,folder=FOLDER

Each is a process of its own on one thread: --seconds of real speech in whole utterances, once to warm up and once under cProfile, by the
processor's time, so that other work on the machine changes little. A row is a function that time was spent in itself, torch's operators
among them, with its share; what has less than --least is summed under "other". A tokenizer that has to be fitted is fitted to the same
speech before. Names of tokenizers as for tools/bench_tokenize.py.
"""

import argparse
import cProfile
import json
import pstats
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from bench_tokenize import cuts_of, tokenizer_settings
from hydra.utils import instantiate
from torch import Tensor

from audiotok.data.tokenization import bound_kernel_cache, read_cut
from audiotok.tokenizers.base import Decoder, Tokenizer


def main() -> None:
    options = _options()
    if options.alone:
        print(json.dumps(_profiled(options)))
        return
    again = [sys.executable, __file__, *sys.argv[1:], "--alone", "--tokenizers"]
    outputs = [subprocess.run([*again, name], stdout=subprocess.PIPE, text=True, check=True).stdout for name in options.tokenizers]
    print(json.dumps({"torch": torch.__version__, "results": [json.loads(output.splitlines()[-1]) for output in outputs]}, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifests", type=Path, required=True, help="a folder that `audiotok prepare` wrote")
    parser.add_argument("--tokenizers", nargs="+", required=True, metavar="NAME[,KEY=VALUE...]")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--least", type=float, default=0.03)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _profiled(options: argparse.Namespace) -> dict:
    bound_kernel_cache()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer, waves = _ready(options, Path(scratch) / "fitted")
    seconds = sum(map(len, waves)) / tokenizer.spec.sample_rate
    codes = [tokenizer.encode(*_batch(wav_T)) for wav_T in waves]
    rows = {"encode": _where(lambda: [tokenizer.encode(*_batch(wav_T)) for wav_T in waves], seconds, least=options.least)}
    if isinstance(tokenizer, Decoder):
        tokenizer.decode(*codes[0])
        rows["decode"] = _where(lambda: [tokenizer.decode(*pair) for pair in codes], seconds, least=options.least)
    return {"tokenizer": options.tokenizers[0].split(",")[0], "audio_seconds": round(seconds, 1), **rows}


def _ready(options: argparse.Namespace, fitted: Path) -> tuple[Tokenizer, list[Tensor]]:
    """The tokenizer, fitted where it has to be, and the waves at its rate."""
    cuts, settings = list(cuts_of(options.manifests, options.seconds / 3600)), tokenizer_settings(options.tokenizers[0], fitted=None)
    tokenizer = instantiate(settings)
    if "fitted" in settings:
        waves = [read_cut(cut, tokenizer.sample_rate) for cut in cuts]
        tokenizer.fit(iter(waves))
        fitted.mkdir()
        tokenizer.save(fitted)
        return instantiate(tokenizer_settings(options.tokenizers[0], fitted=fitted)), waves
    return tokenizer, [read_cut(cut, tokenizer.spec.sample_rate) for cut in cuts]


def _batch(wav_T: Tensor) -> tuple[Tensor, Tensor]:
    return wav_T[None], torch.tensor([len(wav_T)])


def _where(work: Callable[[], object], seconds: float, *, least: float) -> dict:
    """The real-time factor, and the functions that took at least that share of the time."""
    start = time.process_time()
    with torch.inference_mode():
        work()
        plain = time.process_time() - start
        profile = cProfile.Profile(timer=time.process_time)
        profile.runcall(work)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, _, _ in stats.values())
    shares = sorted(((own / total, calls, _name(function)) for function, (_, calls, own, _, _) in stats.items()), reverse=True)
    rows = [{"function": name, "share": round(share, 3), "calls": calls} for share, calls, name in shares if share >= least]
    return {
        "real_time_factor": round(plain / seconds, 5),
        "under_profile": round(total / plain, 2),
        "where": [*rows, {"function": "other", "share": round(1 - sum(row["share"] for row in rows), 3)}],
    }


def _name(function: Sequence) -> str:
    """Of what cProfile calls (file, line, name): torch.conv1d, or file.name."""
    file, _, name = function
    if file != "~":
        return f"{Path(file).stem}.{name}"
    return (
        re.sub(r"^<?built-in method |^<?method '(\w+)' of '([\w.]+)' objects", r"\2.\1", name)
        .strip("<>.")
        .replace("torch._C.TensorBase", "Tensor")
    )


if __name__ == "__main__":
    main()
