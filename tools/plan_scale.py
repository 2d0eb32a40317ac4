#!/usr/bin/env python3
"""What a corpus of so many hours takes, and what breaks first at each size; print Markdown, and write JSON with --json FILE.

    tools/plan_scale.py --hours 1000 100000 10000000 --utterance-seconds 10 --tokenizers codec lyra \\
        --rates egs/prompts/resynthesis/tokenize.json --rows egs/prompts/resynthesis/rows.json --cores 64 --days 30 --memory 64 \\
        --files 100000 --minutes 10 --core-price 0.04 --storage-price 0.023

Every rate is read from files of measurements: --rates of tools/bench_tokenize.py (whole: read, resample, encode, write), else of
tools/profile_tokenizers.py (encoding alone); --bytes that a store takes, of tools/bench_tokenize.py; --rows of tools/bench_rows.py;
--scale of tools/bench_scale.py, what is lost between workers. What none of them tells is left out and said to be: so is a GPU as long as
nothing was measured on one. Prices, machines and what is too much are told; all else is proportional to hours, so that each limit is
reached at one size. The audio is read where it lies and is not counted.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, inf
from pathlib import Path
from typing import Any

from audiotok import files

GB, MIB, GIB = 10**9, 2**20, 2**30
ABSENT = "–"


@dataclass(frozen=True)
class Rate:
    """What one tokenizer takes on one kind of device."""

    tokenizer: str
    device: str  # cpu, or the name of a GPU
    seconds: float  # of one core or GPU, for a second of audio
    whole: bool  # read and written too, not encoded alone
    audio_seconds: float  # that it was measured over
    source: str


@dataclass(frozen=True)
class Limit:
    """Something that grows with the corpus until it is more than there is."""

    name: str
    hours: float  # of audio, at which it is reached
    measured: str
    done: str


def main() -> None:
    options = _options()
    told = [files.read_json(path) | {"source": path.name} for path in options.rates]
    rates = [rate for found in told for rate in rates_of(found)]
    stored = stored_bits([*told, *map(files.read_json, options.bytes)])
    kept = {name: needed(rates, name) for name in options.tokenizers}
    gpus = {name: rate for name in options.tokenizers if (rate := chosen(rates, name, gpu=True))}
    efficiency = efficiency_of(files.read_json(options.scale)) if options.scale else 1.0
    sizes = [size(hours, rate, stored, gpus, options, efficiency) for hours in options.hours for rate in kept.values()]
    limits = limits_of(files.read_json(options.rows), kept[options.tokenizers[0]], options, efficiency)
    print("\n\n".join([sizes_table(sizes), notes(kept, gpus, options), limits_table(limits, options.hours)]))
    if options.json:
        files.write_json(options.json, {"sizes": sizes, "limits": list(map(asdict, limits)), "rates": list(map(asdict, kept.values()))})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, nargs="+", required=True, help="of audio")
    parser.add_argument("--utterance-seconds", type=float, required=True, help="mean of the corpus")
    parser.add_argument("--tokenizers", nargs="+", required=True, help="the limits are those of the first")
    parser.add_argument("--rates", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--bytes", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--rows", type=Path, required=True, metavar="FILE")
    parser.add_argument("--scale", type=Path, metavar="FILE")
    parser.add_argument("--shard-utterances", type=int, default=256, help="tokenize.shard_utterances")
    parser.add_argument("--cores", type=int, required=True, help="of the cluster")
    parser.add_argument("--days", type=float, required=True, help="that tokenising may take")
    parser.add_argument("--memory", type=float, required=True, help="GiB of a machine")
    parser.add_argument("--files", type=int, required=True, help="in one folder, at most")
    parser.add_argument("--minutes", type=float, required=True, help="that may pass before work begins")
    parser.add_argument("--core-price", type=float, required=True, help="of an hour of a core")
    parser.add_argument("--gpu-price", type=float, help="of an hour of a GPU")
    parser.add_argument("--storage-price", type=float, required=True, help="of a GB and month")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def rates_of(found: Mapping[str, Any]) -> Iterator[Rate]:
    """The rates in what tools/bench_tokenize.py or tools/profile_tokenizers.py printed."""
    device = found.get("machine", {}).get("device", "cpu")
    workers = found.get("settings", {}).get("workers") or 1
    for row in found.get("results", []):
        whole = "real_time_factor" in row
        factor = row["real_time_factor"] * workers if whole else row.get("encode", {}).get("real_time_factor")
        if factor is not None:
            yield Rate(row["tokenizer"], device, factor, whole, row["audio_seconds"], found["source"])


def stored_bits(told: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Bits that a second of audio takes in a store, by tokenizer, where they were measured over the most audio.

    Codes of random weights (a row that tells of "weights") compress as no others do and are not counted.
    """
    rows = [row for found in told for row in found.get("results", []) if "stored_bits_per_second" in row and "weights" not in row]
    return {row["tokenizer"]: row["stored_bits_per_second"] for row in sorted(rows, key=lambda row: row["audio_seconds"])}


def chosen(rates: Iterable[Rate], tokenizer: str, *, gpu: bool) -> Rate | None:
    """Of the rates of a tokenizer the whole one over the most audio, and the slowest of such; None where there is none."""
    mine = [rate for rate in rates if rate.tokenizer == tokenizer and (rate.device != "cpu") == gpu]
    return max(mine, key=lambda rate: (rate.whole, rate.audio_seconds, rate.seconds), default=None)


def needed(rates: Sequence[Rate], tokenizer: str) -> Rate:
    """The rate of a core. Ends the program where there is none."""
    found = chosen(rates, tokenizer, gpu=False)
    if found is None:
        known = ", ".join(sorted({rate.tokenizer for rate in rates})) or "none"
        raise SystemExit(f"no rate of {tokenizer!r} was measured; --rates tell of: {known}; measure it with tools/bench_tokenize.py")
    return found


def efficiency_of(found: Mapping[str, Any]) -> float:
    """What is left of a worker's speed beside others: the least that tools/bench_scale.py measured."""
    return min(speed / int(name.rsplit("_", 1)[1]) for name, speed in found["workers"]["speed"].items())


def size(
    hours: float, rate: Rate, stored: Mapping[str, float], gpus: Mapping[str, Rate], options: argparse.Namespace, efficiency: float
) -> dict[str, Any]:
    """What so many hours take; None for what was not measured."""
    utterances = hours * 3600 / options.utterance_seconds
    core_hours = hours * rate.seconds / efficiency
    gpu_hours = hours * gpus[rate.tokenizer].seconds if rate.tokenizer in gpus else None
    gigabytes = hours * 3600 * stored[rate.tokenizer] / 8 / GB if rate.tokenizer in stored else None
    return {
        "hours": hours,
        "tokenizer": rate.tokenizer,
        "utterances": round(utterances),
        "core_hours": core_hours,
        "days": core_hours / options.cores / 24,
        "compute_price": core_hours * options.core_price,
        "gpu_hours": gpu_hours,
        "gpu_price": None if gpu_hours is None or options.gpu_price is None else gpu_hours * options.gpu_price,
        "gigabytes": gigabytes,
        "storage_price": None if gigabytes is None else gigabytes * options.storage_price,
        "shards": ceil(utterances / options.shard_utterances),
    }


def limits_of(found: Mapping[str, Any], rate: Rate, options: argparse.Namespace, efficiency: float) -> list[Limit]:
    """In the order in which they are reached."""
    rows, hours = {row["part"]: row for row in sorted(found["rows"], key=lambda row: row["rows"])}, options.utterance_seconds / 3600
    memory, wait, patience = options.memory * GIB, options.minutes * 60, options.days * 24

    def limit(name: str, most: float, part: str, unit: str, done: str) -> Limit:
        row = rows[part]
        each = row["peak_mib"] * MIB / row["rows"] if unit == "bytes" else row["cpu_seconds"] / row["rows"]
        text = f"{each:,.0f} bytes" if unit == "bytes" else f"{each * 1e6:.3g} µs"
        return Limit(name, most / each * hours if each > 0 else inf, f"{text} an utterance", done)

    fed = rate.seconds * options.utterance_seconds / (rows["dealing"]["cpu_seconds"] / rows["dealing"]["rows"])
    limits = [
        Limit("one core", patience / rate.seconds, f"{1 / rate.seconds:,.0f} hours an hour", "`tokenize.workers`, then `engine=ray`"),
        Limit(
            f"{options.cores} cores",
            patience * options.cores * efficiency / rate.seconds,
            f"{options.cores * efficiency / rate.seconds:,.0f} hours an hour",
            "more cores; a GPU once one is measured",
        ),
        Limit(
            f"{options.files:,} files in a folder",
            options.files * options.shard_utterances * hours,
            f"{options.shard_utterances} utterances a shard",
            "`tokenize.shard_utterances=4096`",
        ),
        limit("the manifest as objects", memory, "held", "bytes", "`tokenize` streams it; `prepare`, `align` and `fit` hold it"),
        limit("planning again after a kill", wait, "planning", "seconds", "nothing: every line is read again, no shard is made again"),
        limit("opening the store", wait, "opening", "seconds", "larger shards: the footer of each is read"),
        limit("the ids of the store", memory, "index", "bytes", "arrays of hashes and places in place of a dict"),
        limit("the order of an epoch", memory, "order", "bytes", "arrays; a batch is made when it is asked for"),
        limit("planning an epoch", wait, "order", "seconds", "nothing: once an epoch, and after a restart for each before"),
        limit(
            "one process that plans and writes",
            patience * 3600,
            "dealing",
            "seconds",
            f"it feeds {fed:,.0f} cores; parts by `data.datasets`",
        ),
        *_of_training(found, memory, hours),
    ]
    return sorted((limit for limit in limits if limit.hours < inf), key=lambda limit: limit.hours)


def _of_training(found: Mapping[str, Any], memory: float, hours: float) -> list[Limit]:
    """What each further utterance costs a process that trains, from the two largest corpora that were tried."""
    runs = sorted((row for row in found.get("stages", []) if row["stage"] == "train"), key=lambda row: row["rows"])[-2:]
    if len(runs) < 2:
        return []
    each = (runs[1]["peak_mib"] - runs[0]["peak_mib"]) * MIB / (runs[1]["rows"] - runs[0]["rows"])
    if each <= 0:
        return []
    done = "arrays and an index; codes and alignments are read when they are asked for"
    return [Limit("memory of `train`", memory / each * hours, f"{each:,.0f} bytes an utterance", done)]


def sizes_table(sizes: Sequence[Mapping[str, Any]]) -> str:
    gpu = any(row["gpu_hours"] is not None for row in sizes)
    names = ["hours", "tokenizer", "utterances", "core-hours", "days", "price", "GB", "price a month", "shards"]
    keys = ["hours", "tokenizer", "utterances", "core_hours", "days", "compute_price", "gigabytes", "storage_price", "shards"]
    if gpu:
        names, keys = [*names, "GPU-hours", "price"], [*keys, "gpu_hours", "gpu_price"]
    ruler = "|".join(["---:", "---", *["---:"] * (len(names) - 2)])
    rows = ["| " + " | ".join(_shown(row[key]) for key in keys) + " |" for row in sizes]
    return "\n".join([f"| {' | '.join(names)} |", f"|{ruler}|", *rows])


def limits_table(limits: Sequence[Limit], hours: Sequence[float]) -> str:
    """Each limit beside the smallest of the asked sizes that reaches it."""
    lines = ["| size | what is reached | at hours | measured | what is done |", "|---:|---|---:|---|---|"]
    for limit in limits:
        reached = next((f"{asked:,.0f}" for asked in sorted(hours) if asked >= limit.hours), "beyond")
        lines.append(f"| {reached} | {limit.name} | {_shown(limit.hours)} | {limit.measured} | {limit.done} |")
    return "\n".join(lines)


def notes(kept: Mapping[str, Rate], gpus: Mapping[str, Rate], options: argparse.Namespace) -> str:
    """Where the rates are from, and what is not there."""
    lines = [_source(rate) for rate in [*kept.values(), *gpus.values()]]
    if missing := [name for name in kept if name not in gpus]:
        lines.append(f"No rate was measured on a GPU for {', '.join(missing)}: it is left out.")
    if gpus and options.gpu_price is None:
        lines.append("No price of a GPU was told: it is left out.")
    if not options.scale:
        lines.append("Nothing is taken off for work shared among many: --scale was not given.")
    return "\n".join(f"- {line}" for line in lines)


def _source(rate: Rate) -> str:
    what = "read, encoded and written" if rate.whole else "encoded alone"
    unit = "a core" if rate.device == "cpu" else rate.device
    return f"{rate.tokenizer}: {1 / rate.seconds:,.0f} hours of audio in an hour of {unit}, {what} ({rate.source})."


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return ABSENT if value is None else f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
