#!/usr/bin/env python3
"""Broken files of every kind that audiotok reads, made of whole ones by a seed: each is refused by an error that the command line shows.

    tools/fuzz.py --cases 1000 --json fuzz.json          # all kinds, in turns
    tools/fuzz.py --cases 100 --kind parquet --seed 7

A case flips, cuts, doubles, moves or overwrites bytes of a file and reads it as the stages do. Its outcome is `refused`, `unchanged` (what
was hit does not matter), `changed` (other content is read, which only a checksum could tell), or a failure: `crashed`, `hung`, `memory`,
`lost` (a good file beside it was not read), `silent` (changed, in a folder that has checksums). Children do the work, each with a bound on
its memory, so that a decoder that dies takes no case with it but its own.

Prints a table of kinds and outcomes; ends with status 1 where anything failed.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn

from audiotok import audio, cli, files
from audiotok.data.integrity import read_array
from audiotok.data.manifests import Utterance, load_cuts, write_manifests
from audiotok.store import TokenStore, TokenWriter
from audiotok.store import Utterance as Row
from audiotok.training import checkpoint
from audiotok.types import TokenSpec

FAILURES = ("crashed", "hung", "memory", "lost", "silent")
MEMORY = 2 << 30  # bytes beyond what a child takes before its first case
SECONDS = 30  # of a case
SPEC = TokenSpec(sample_rate=16_000, frame_rate=Fraction(50), codebook_sizes=(16, 300), fingerprint="f" * 64)


class Lost(Exception):
    """A good file was not read because a broken one lay beside it."""


@dataclass(frozen=True)
class Kind:
    """A whole file, and how it is read; `sealed` where its folder has checksums, so that no change may go unnoticed."""

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], Any]
    sealed: bool = False


def _sound() -> np.ndarray:
    time_T = np.arange(8000) / 16_000
    return (0.3 * np.sin(2 * np.pi * 220 * time_T * (1 + time_T)) + 0.01 * np.random.default_rng(0).standard_normal(8000)).astype(
        np.float32
    )


def _write_store(path: Path) -> None:
    writer = TokenWriter(path.parent, SPEC)
    for index in range(2):
        rows = [(f"utt-{number}", torch.randint(0, 16, (2, 30 + number))) for number in range(index * 80, index * 80 + 80)]
        writer.write(index, [Row(id, codes_KN, 100, "some text", None, "en", 0.6) for id, codes_KN in rows], failed={"bad": "why"})


def _read_store(path: Path) -> Any:
    TokenWriter(path.parent, SPEC)
    store = TokenStore(path.parent)
    store["utt-3"]
    store.descriptions()
    return [(row.id, row.num_samples, row.text, row.codes_KN.tolist()) for row in store], store.failed


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))


def _read_weights(path: Path) -> Any:
    network = _network()
    checkpoint.load_weights(path, network)
    return {name: tensor.tolist() for name, tensor in network.state_dict().items()}


def _write_training(path: Path) -> None:
    torch.save(
        {"step": 3, "optimizer": {"state": {0: {"exp_avg": torch.arange(50.0)}}}, "sums": {"loss": torch.tensor(1.0)}, "count": 2}, path
    )


def _write_cuts(path: Path) -> None:
    soundfile.write(path.parent / "a.wav", _sound(), 16_000)
    listed = {"train": [Utterance(f"utt {number}", path.parent / "a.wav", "text", "someone", "en") for number in range(20)]}
    write_manifests(path.parent, listed, max_rejected=0, max_seconds=60, workers=1)


def _write_sealed(path: Path) -> None:
    files.write_jsonl(path, [{"id": f"utt-{number}", "phonemes": ["a", "b"], "durations": [0.1, number / 10]} for number in range(50)])
    files.seal(path.parent)


RECIPE = """\
# @package _global_
defaults:
  - override /tokenizer: dmel
  - override /model: ar_tts
seed: 7
data:
  name: "mine"
  languages: [en, fr]
train: { steps: 30, learning_rate: 8e-4 }
exp_dir: ${exp_root}/mine
select:
  min_words: 1
"""


def _read_recipe(path: Path) -> Any:
    return OmegaConf.to_container(cli.load(str(path), []), resolve=False)


def _read_sound(path: Path) -> Any:
    """As `prepare` does: good files before and behind it, which are kept whatever it is."""
    good = [path.parent / "good-1.wav", path.parent / "good-2.wav"]
    for one in good:
        soundfile.write(one, _sound(), 16_000)
    listed = [Utterance(one.stem, one) for one in (good[0], path, good[1])]
    rejected = write_manifests(path.parent / "out", {"train": listed}, max_rejected=0.5, max_seconds=60, workers=1)
    kept = [cut.id for cut in load_cuts(path.parent / "out", "train")]
    if not {one.stem for one in good} <= set(kept):
        raise Lost(f"kept {kept}")
    if rejected:
        raise ValueError(rejected[0].reason)
    wav_T, rate = audio.read(path)
    return audio.resample(wav_T, rate, 16_000).tolist()


def _sound_file(**options: Any) -> Callable[[Path], object]:
    return lambda path: soundfile.write(path, _sound(), 16_000, **options)


def _plain_jsonl(path: Path) -> None:
    files.write_jsonl(path, [{"id": f"utt-{number}", "text": "ä b"} for number in range(50)])


KINDS = {
    kind.name: kind
    for kind in (
        Kind("shard-00000.parquet", _write_store, _read_store),
        Kind("model.safetensors", lambda path: save_file(_network().state_dict(), path), _read_weights),
        Kind("training.pt", _write_training, lambda path: checkpoint._read_training(path, device=torch.device("cpu"))["step"]),
        Kind("rows.jsonl", _plain_jsonl, lambda path: list(files.read_jsonl(path))),
        Kind("alignments.jsonl", _write_sealed, lambda path: list(files.read_jsonl(path)), sealed=True),
        Kind("cuts_train.jsonl.gz", _write_cuts, lambda path: [cut.to_dict() for cut in load_cuts(path.parent, "train")]),
        Kind("recipe.yaml", lambda path: path.write_text(RECIPE), _read_recipe),
        Kind("sound.flac", _sound_file(subtype="PCM_16"), _read_sound),
        Kind("sound.wav", _sound_file(subtype="PCM_16"), _read_sound),
        Kind("float.wav", _sound_file(subtype="FLOAT"), _read_sound),
        Kind("sound.mp3", _sound_file(), _read_sound),
        Kind("codes.npy", lambda path: np.save(path, np.arange(600).reshape(2, 300)), lambda path: read_array(path).tolist()),
    )
}


def broken(whole: bytes, random: np.random.Generator) -> bytes:
    """The bytes with something wrong in one to eight places, half of the time near their beginning."""
    content = bytearray(whole)
    for _ in range(int(random.integers(1, 9)) if random.random() < 0.5 else 1):
        reach = min(len(content), 96) if random.random() < 0.5 else len(content)
        place, length = int(random.integers(max(reach, 1))), int(random.integers(1, 65))
        some = bytes(random.integers(0, 256, length, dtype=np.uint8))
        match int(random.integers(8)):
            case 0 | 1 if content:
                content[min(place, len(content) - 1)] ^= 1 << int(random.integers(8))
            case 2:
                content[place : place + length] = some[: len(content[place : place + length])]
            case 3:
                del content[place:]
            case 4:
                del content[place : place + length]
            case 5:
                content[place:place] = some
            case 6:
                content[place:place] = content[place : place + length]
            case _:
                content[place : place + 4] = b"\xff" * len(content[place : place + 4])
    return bytes(content)


def outcome(kind: Kind, seed: int, folder: Path) -> tuple[str, str]:
    """(outcome, what was said) of one case."""
    path = folder / kind.name
    kind.write(path)
    expected, content = kind.read(path), broken(path.read_bytes(), np.random.default_rng([seed, *kind.name.encode()]))
    if content == path.read_bytes():
        return "unchanged", ""
    path.write_bytes(content)
    signal.alarm(SECONDS)
    try:
        found = kind.read(path)
    except cli.SHOWN as error:
        return "refused", " ".join(str(error).replace(str(folder), "").split())[:200]
    except Lost as error:
        return "lost", str(error)
    except MemoryError as error:
        return "memory", str(error)
    except Exception as error:  # noqa: BLE001, whatever it is, the command line would show it as a traceback
        return "crashed", f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.alarm(0)
    if json.dumps(found, default=str) == json.dumps(expected, default=str):
        return "unchanged", ""
    return ("silent" if kind.sealed else "changed"), ""


class Hung(BaseException):
    """A case took longer than it may."""


def _child(kind: Kind, first: int, last: int) -> None:
    """Cases `first` to `last`, a line before each and a line behind."""

    def late(*_: object) -> None:
        raise Hung

    signal.signal(signal.SIGALRM, late)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    for seed in range(first, last):
        print(json.dumps({"kind": kind.name, "seed": seed}), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                result, said = outcome(kind, seed, Path(folder))
            except Hung:
                result, said = "hung", f"no end within {SECONDS} s"
        print(json.dumps({"kind": kind.name, "seed": seed, "outcome": result, "said": said}), flush=True)


def cases(kind: Kind, seeds: range) -> Iterator[dict]:
    """The outcome of each case, in children that are replaced when they die."""
    first = seeds.start
    while first < seeds.stop:
        command = [sys.executable, __file__, "--kind", kind.name, "--child", str(first), str(seeds.stop)]
        limit = SECONDS * 2 * (seeds.stop - first) + 120
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=limit)
            printed, code = ended.stdout, ended.returncode
        except subprocess.TimeoutExpired as error:
            printed, code = (error.stdout or b"").decode(), None
        lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        done = [line for line in lines if "outcome" in line]
        yield from done
        if code == 0:
            return
        if not lines:
            raise SystemExit(f"a child could not begin:\n{ended.stderr}")
        lost = lines[-1]["seed"]
        if "outcome" not in lines[-1]:
            yield lines[-1] | {"outcome": "hung" if code is None else "crashed", "said": f"the process ended with {code}"}
        first = lost + 1


def run(num: int, *, seed: int, kinds: list[str]) -> list[dict]:
    """`num` cases, as many of each kind."""
    shares = [len(range(place, num, len(kinds))) for place in range(len(kinds))]
    return [case for name, share in zip(kinds, shares) for case in cases(KINDS[name], range(seed, seed + share))]


def table(found: list[dict]) -> str:
    outcomes = ("refused", "unchanged", "changed", *FAILURES)
    lines = [f"{'kind':24}{'cases':>8}" + "".join(f"{name:>11}" for name in outcomes)]
    for kind in dict.fromkeys(case["kind"] for case in found):
        counts = Counter(case["outcome"] for case in found if case["kind"] == kind)
        lines.append(f"{kind:24}{sum(counts.values()):>8}" + "".join(f"{counts[name]:>11}" for name in outcomes))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--json", type=Path, help="where every case is written")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(KINDS[options.kind], *options.child)
        return
    found = run(options.cases, seed=options.seed, kinds=[options.kind] if options.kind else list(KINDS))
    print(table(found))
    for case in found:
        if case["outcome"] in FAILURES:
            print(json.dumps(case))
    if options.json:
        files.write_json(options.json, found)
    raise SystemExit(int(any(case["outcome"] in FAILURES for case in found)))


if __name__ == "__main__":
    main()
