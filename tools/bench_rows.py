#!/usr/bin/env python3
"""Measure what more utterances cost in memory and time; print one JSON object. Linux: memory is read from /proc.

    tools/bench_rows.py --scratch /tmp/rows --rows 10000 100000 1000000 10000000

Rows are made: a manifest, and a store of one codebook in shards of 256. Each part is done by a process of its own that has done it on a
thousand rows before: `counting` and `reading` the manifest's cuts, `planning` the batches of `tokenize`, `opening` the store, its `index`
with 1,000 utterances by id in random order, `resuming` a writer on it, and the `order` of all batches of an epoch of training. `held` is
all cuts as objects, for comparison, and `dealing` is what the process that plans and writes does for workers that take no time (cuts
pickled, codes of six codebooks unpickled and written): both up to --held rows. Told are seconds, those of the processor, and the peak of
memory above the start.

    tools/bench_rows.py --scratch /tmp/rows --rows --manifests exp/data/prompts_en-1a2b3c4d \\
        --alignments exp/alignments/prompts_en-1a2b3c4d/5e6f7a8b

does `audiotok tokenize` with dMel and some steps of `audiotok train` over the --shortest utterances of a corpus, --times over under ids of
their own. What was made in --scratch is removed.
"""

import argparse
import json
import os
import pickle
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from fractions import Fraction
from gzip import GzipFile
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment
from omegaconf import DictConfig

from audiotok import cli, files
from audiotok.data.batching import BucketedBatches
from audiotok.data.costs import machine
from audiotok.data.manifests import count_cuts, load_cuts, stream_cuts, write_cuts
from audiotok.data.tokenization import Encoded, planned, tokenize_cuts
from audiotok.stages import paths, tokenize, train
from audiotok.store import TokenStore, TokenWriter, Utterance
from audiotok.store.schema import ABOUT, schema, shard_path
from audiotok.store.shards import ROW_GROUP
from audiotok.types import TokenSpec

MIB = 2**20
RATE = 16_000
SPEC = TokenSpec(sample_rate=RATE, frame_rate=Fraction(50), codebook_sizes=(1024,), fingerprint="made rows")
DEALT = TokenSpec(sample_rate=RATE, frame_rate=Fraction(50), codebook_sizes=(1024,) * 6, fingerprint="made codes")
SHARD = 256  # utterances, as in configs/config.yaml
FRAMES = 8  # of a row of the store: nothing that is measured there looks at codes
WARM = 1000  # rows
LOOKED_UP = 1000
BATCHES: dict[str, Any] = {"batch_seconds": 20.0, "progress": lambda more: None}
SMALL = ("model.width=64", "model.layers=1", "model.heads=2", "model.feed_forward=128", "train.batch_frames=800")
STAGES = {"tokenize": tokenize.run, "train": train.run}


def main() -> None:
    options = _options()
    told: dict[str, Any] = {"machine": machine(torch.device("cpu")), "load_before": os.getloadavg()[0], "shard_utterances": SHARD}
    with _folder(options.scratch):
        told["rows"] = [_said(row) for rows in options.rows for row in _made(rows, options)]
        if options.manifests:
            told["stages"] = [_said(row) for times in options.times for row in _staged(times, options)]
    print(json.dumps(told, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True, help="a new folder; 10,000,000 rows take some GB")
    parser.add_argument("--rows", type=int, nargs="*", default=[10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--held", type=int, default=10**5, help="rows at most that are held, or dealt")
    parser.add_argument("--manifests", type=Path, help="a folder that `audiotok prepare` wrote")
    parser.add_argument("--alignments", type=Path, help="the folder that `audiotok align` wrote of it")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--shortest", type=int, default=100, help="utterances of the training split that are aligned")
    parser.add_argument("--steps", type=int, default=5)
    return parser.parse_args()


def _said(row: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(row), file=sys.stderr, flush=True)  # the whole is printed at the end
    return row


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    path.mkdir(parents=True)  # a new one: it is removed
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _made(rows: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each part, over so many made rows."""
    with _folder(options.scratch / "warm") as warm, _folder(options.scratch / "made") as folder:
        parts = [name for name in options.parts if rows <= options.held or name not in COMPARED]
        for made in {PARTS[name].needs: None for name in parts}:
            alone(made, warm, WARM)
            alone(made, folder, rows)
        for name in parts:
            yield {"part": name, "rows": rows} | alone(measured, name, warm, folder)


def alone(function: Callable[..., Any], *told: Any, **named: Any) -> Any:
    """What the function returns in a process of its own, which has imported this and done nothing."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["audiotok.cli", "audiotok.stages.tokenize", "audiotok.stages.train"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *told, **named).result()


def measured(name: str, warm: Path, folder: Path) -> dict[str, float]:
    """What `watched` tells of a part over `folder`, after the same on `warm`."""
    work = PARTS[name].work
    work(warm)
    return watched(lambda: work(folder))


def watched(work: Callable[[], dict[str, float] | None]) -> dict[str, float]:
    """Seconds of a piece of work, those of the processor, and MiB at the peak above what is held now; and what it tells itself."""
    held = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
    began, used = time.perf_counter(), time.process_time()
    told = work() or {}
    wall, used = time.perf_counter() - began, time.process_time() - used
    return {"seconds": round(wall, 3), "cpu_seconds": round(used, 3), "peak_mib": round(_status("VmHWM") - held, 1)} | told


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / MIB


def make_manifest(folder: Path, rows: int) -> None:
    """cuts_train.jsonl.gz of so many utterances; nothing of it depends on anything but their number."""
    line = json.dumps(_cut("@", RATE).to_dict())
    line = line.replace('"duration": 1.0', '"duration": #').replace(f'"num_samples": {RATE}', '"num_samples": ~')
    with open(folder / "cuts_train.jsonl.gz", "wb") as raw, GzipFile(fileobj=raw, mode="wb", compresslevel=1, filename="", mtime=0) as file:
        for place, samples in enumerate(_samples(rows).tolist()):
            text = line.replace("@", id_of(place)).replace("#", str(samples / RATE)).replace("~", str(samples))
            file.write(f"{text}\n".encode())


def make_store(folder: Path, rows: int) -> None:
    """store/ of the same utterances."""
    (folder / "store").mkdir()
    samples_N = _samples(rows)
    for index, start in enumerate(range(0, rows, SHARD)):
        table = _table(range(start, min(start + SHARD, rows)), samples_N)
        pq.write_table(table, shard_path(folder / "store", index), row_group_size=ROW_GROUP, compression="zstd", write_page_checksum=True)


def make_lengths(folder: Path, rows: int) -> None:
    """Frames of the same utterances."""
    np.save(folder / "lengths.npy", (_samples(rows) // 320).astype(np.int32))


def _samples(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).integers(RATE, 10 * RATE, rows)


def id_of(place: int) -> str:
    return f"made_{place:08d}"


def _cut(id: str, samples: int) -> MonoCut:
    source = AudioSource(type="file", channels=[0], source=f"audio/train/{id}.flac")
    recording = Recording(id=id, sources=[source], sampling_rate=RATE, num_samples=samples, duration=samples / RATE)
    segment = SupervisionSegment(id, id, 0.0, samples / RATE, text=f"The sentence of {id}, as it was read.", speaker="one", language="en")
    return MonoCut(id, 0.0, samples / RATE, 0, supervisions=[segment], recording=recording)


def _table(places: range, samples_N: np.ndarray) -> pa.Table:
    ids = [id_of(place) for place in places]
    told = {
        "id": ids,
        "num_frames": [FRAMES] * len(ids),
        "num_samples": samples_N[places.start : places.stop],
        "text": [f"The sentence of {id}, as it was read." for id in ids],
        "speaker": ["one"] * len(ids),
        "language": ["en"] * len(ids),
        "duration": samples_N[places.start : places.stop] / RATE,
    }
    wanted = schema(SPEC, {})
    offsets, codes = np.arange(len(ids) + 1, dtype=np.int32) * FRAMES, np.zeros(len(ids) * FRAMES, np.uint16)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(codes)).cast(wanted.field("codes_00").type)
    return pa.Table.from_arrays([*(pa.array(told[name], kind) for name, kind in ABOUT.items()), lists], schema=wanted)


def _counting(folder: Path) -> None:
    count_cuts(folder, "train")


def _reading(folder: Path) -> None:
    sum(cut.duration for cut in stream_cuts(folder, "train"))


def _planning(folder: Path) -> None:
    writer = TokenWriter(folder / "empty", SPEC)
    sum(len(batch) for _, batch in planned(stream_cuts(folder, "train"), writer, shard_utterances=SHARD, **BATCHES))


def _opening(folder: Path) -> None:
    TokenStore(folder / "store")


def _index(folder: Path) -> dict[str, float]:
    store = TokenStore(folder / "store")
    places = random.Random(0).sample(range(len(store)), LOOKED_UP)
    assert "elsewhere" not in store  # the index is there
    began = time.perf_counter()
    assert [store[id_of(place)].id for place in places] == [id_of(place) for place in places]
    return {"ms_an_utterance": round((time.perf_counter() - began) / LOOKED_UP * 1000, 3)}


def _resuming(folder: Path) -> None:
    TokenWriter(folder / "store", SPEC)


def _order(folder: Path) -> None:
    lengths_N = np.load(folder / "lengths.npy")
    assert sum(len(batch) for batch in BucketedBatches(lengths_N, 24_000, 0).epoch(0)) == len(lengths_N)


def _held(folder: Path) -> None:
    load_cuts(folder, "train")


def _dealing(folder: Path) -> None:
    tokenizer: Any = SimpleNamespace(spec=DEALT)
    sizes: dict[str, Any] = {"shard_utterances": SHARD, "device": torch.device("cpu"), "workers": _Idle(), **BATCHES}
    tokenize_cuts(stream_cuts(folder, "train"), tokenizer, folder / "dealt", **sizes)


class _Idle:
    """Workers that take no time: what is left is what the process does that deals work to them, pickling counted."""

    def ready(self) -> bool:
        return True

    def map(self, tasks: Iterable[list[MonoCut]]) -> Iterator[Encoded]:
        for cuts in tasks:
            told = pickle.loads(pickle.dumps(cuts))  # noqa: S301, our own
            yield pickle.loads(pickle.dumps(([_utterance(cut) for cut in told], {})))  # noqa: S301


def _utterance(cut: MonoCut) -> Utterance:
    frames = round(cut.duration * 50)
    codes_KN = torch.arange(6 * frames, dtype=torch.int32).reshape(6, frames) * 7 % 1024
    return Utterance(cut.id, codes_KN, round(cut.duration * RATE), cut.supervisions[0].text, "one", "en", cut.duration)


@dataclass(frozen=True)
class Part:
    work: Callable[[Path], dict[str, float] | None]
    needs: Callable[[Path, int], None]


PARTS = {
    "counting": Part(_counting, make_manifest),
    "reading": Part(_reading, make_manifest),
    "planning": Part(_planning, make_manifest),
    "opening": Part(_opening, make_store),
    "index": Part(_index, make_store),
    "resuming": Part(_resuming, make_store),
    "order": Part(_order, make_lengths),
    "held": Part(_held, make_manifest),
    "dealing": Part(_dealing, make_manifest),
}
COMPARED = ("held", "dealing")


def _staged(times: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each stage, over a corpus so many times."""
    with _folder(options.scratch / "staged") as folder:
        cfg = cli.load("prompts/tts", _settings(folder, options.steps))
        rows = alone(_lay_out, cfg, options.manifests, options.alignments, times=times, shortest=options.shortest)
        for name in STAGES:
            yield {"stage": name, "times": times, "rows": rows} | alone(_run, name, cfg)


def _settings(folder: Path, steps: int) -> list[str]:
    choices = ["tokenizer=dmel", "transform=parallel", "model=ar_tts", "device=cpu", "tokenize.workers=1"]
    return [f"exp_root={folder}", *choices, f"train.steps={steps}", *SMALL]


def _lay_out(cfg: DictConfig, manifests: Path, alignments: Path, *, times: int, shortest: int) -> int:
    """The manifests and alignments that the stages of `cfg` read; how many utterances they have."""
    aligned = {row["id"]: row for row in files.read_jsonl(alignments / "alignments.jsonl")}
    known = sorted((cut for cut in stream_cuts(manifests, "train") if cut.id in aligned), key=lambda cut: (cut.duration, cut.id))
    names = [(cut, f"{cut.id}-{turn:05d}") for turn in range(times) for cut in islice(known, shortest)]
    cuts = (cut.with_id(name) for cut, name in names)
    rows = (aligned[cut.id] | {"id": name} for cut, name in names)
    files.build(paths.manifests(cfg), {"times": times}, lambda partial: write_cuts(partial / "cuts_train.jsonl.gz", cuts))
    files.build(paths.alignments(cfg), {"times": times}, lambda partial: files.write_jsonl(partial / "alignments.jsonl", rows))
    return len(names)


def _run(name: str, cfg: DictConfig) -> dict[str, float]:
    with redirect_stdout(sys.stderr):
        return watched(lambda: STAGES[name](cfg))


if __name__ == "__main__":
    main()
