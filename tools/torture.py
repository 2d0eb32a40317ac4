#!/usr/bin/env python3
"""All that can go wrong, on purpose: stages killed at random moments and hindered, and broken files of every kind. `make torture`.

    tools/torture.py --kills 50 --cases 1000 --out build/torture
    tools/torture.py --kills 3 --cases 0 --stages tokenize tokenize_ray --faults killed "worker killed" "full disk" --out build/some

A tiny recipe over real speech (AUDIOTOK_SPEECH, else the prompts, which are fetched) is tokenized, reduced, trained, spoken and benched.
Each of these stages is killed with SIGKILL at moments drawn by the seed and run again; run on a disk that fills, in folders that cannot be
written, twice at once, under a clock that jumps; and of `tokenize` on Ray a worker, of `train` on two ranks one is killed alone. It has to
end with the bytes of an undisturbed run (see faults.py and kill_check.py). --kills are those of all stages together; every other fault
happens to each stage once. Cases: see fuzz.py.

Writes OUT/torture.json and OUT/torture.md row by row, and goes on where it was stopped if it is run again. Ends with status 1 where
anything differed or failed.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import faults
import fuzz
import kill_check
from faults import EVERYWHERE, FAULTS, KILLS, OF_STAGE, Row, Trial

from audiotok import files
from audiotok.bench.suite import commit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import killing  # noqa: E402, of the tests

CHAIN = 4  # kills of one run at most


def happened(
    speech: Path | None, scratch: Path, *, kills: int, seed: int, utterances: int, stages: Sequence[str], named: Sequence[str],
    done: Sequence[Row] = (),
) -> Iterator[Row]:  # fmt: skip
    """What came of each fault at each stage, but for those that are in `done`."""
    killing.lay_out(scratch, speech, utterances=utterances)
    exp, shares = scratch / "made" / "exp", shares_of(kills, stages, named)
    exp.mkdir(parents=True)
    (scratch / "run").mkdir()
    killing.ended_well(killing.command("prepare", scratch), exp)
    last = max(killing.ORDER.index(stage.partition("_")[0]) for stage in stages)
    for plain in killing.ORDER[: 1 + last]:
        for stage in [one for one in stages if one.partition("_")[0] == plain]:
            found = [row for row in done if row.stage == stage]
            yield from _of_stage(stage, scratch, exp, wanted=shares[stage], seed=seed, done=found)
        killing.ended_well(killing.command(plain, scratch), exp)


def shares_of(kills: int, stages: Sequence[str], named: Sequence[str]) -> dict[str, dict[str, int]]:
    """How often each fault is to happen to each stage: kills by turns, anything else once."""
    wanted = {stage: {fault: int(fault not in KILLS) for fault in OF_STAGE.get(stage, EVERYWHERE) if fault in named} for stage in stages}
    killed = [(stage, fault) for stage, all_of_it in wanted.items() for fault in all_of_it if fault in KILLS]
    for place, (stage, fault) in enumerate(killed):
        wanted[stage][fault] = len(range(place, kills, len(killed)))
    return wanted


def _of_stage(stage: str, scratch: Path, exp: Path, *, wanted: dict[str, int], seed: int, done: Sequence[Row]) -> Iterator[Row]:
    """A stage's rows that are missing. It is first run undisturbed, unless nothing is."""
    counts, begun = Counter[str](), Counter(row.fault for row in done)
    for row in done:
        counts[row.fault] += _count(row)
    if all(counts[fault] >= share for fault, share in wanted.items()):
        return
    if stage == "tokenize_ray" and find_spec("ray") is None:
        yield from (Row(stage, fault, outcome="skipped: Ray is not installed; pip install 'audiotok[ray]'") for fault in wanted)
        return
    words, root = killing.command(stage, scratch), scratch / "run" / "exp"
    start: Callable[..., Any] = kill_check.start if stage == "train_ranks" else killing.start
    expected = kill_check.undisturbed(words, exp, root, start)
    for fault, share in wanted.items():
        while counts[fault] < share:
            chance = random.Random(f"{seed} {stage} {fault} {begun[fault]}")
            trial = Trial(words, exp, root, expected, chance, start, most=min(CHAIN, share - counts[fault]))
            yield (row := faults.row(stage, fault, FAULTS[fault], trial))
            counts[fault] += _count(row)
            begun[fault] += 1


def _count(row: Row) -> int:
    """What a row is of its share: its kills, or itself."""
    return max(1, row.kills) if row.fault in KILLS else 1


def table(rows: Sequence[Row]) -> str:
    """Of all rows, in Markdown, with what differed or failed below."""
    lines = ["| stage | fault | moment | outcome | files compared | differences |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.stage} | {row.fault} | {row.moment} | {row.outcome[:80]} | {row.files} | {len(row.differences)} |".replace("\n", " ")
        for row in rows
    ]
    details = [f"- {row.stage}, {row.fault}: {', '.join(row.differences[:5]) or row.outcome}" for row in rows if row.failed]
    return "\n".join([*lines, *([""] if details else []), *details])


def begun(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What OUT/torture.json says of a run that was stopped. Raises ValueError where that was told otherwise."""
    if not (out / "torture.json").exists():
        return {"settings": settings, "rows": [], "cases": {}}
    record = files.read_json(out / "torture.json")
    if differing := next(files.differences(record["settings"], settings), None):
        key, old, new = differing
        raise ValueError(f"{out} is of another run ({key}: {old!r} there, {new!r} now); delete it, or give another --out")
    return record


def write(out: Path, record: dict[str, Any]) -> None:
    """Both files, each whole."""
    files.write_json(out / "torture.json", record)
    cases = [case for found in record["cases"].values() for case in found]
    text = table([Row(**row) for row in record["rows"]]) + (f"\n\n```\n{fuzz.table(cases)}\n```" if cases else "")
    with files.whole_file(out / "torture.md") as partial_file:
        partial_file.write_text(f"{text}\n", encoding="utf-8")


def tortured(speech: Path | None, out: Path, record: dict[str, Any]) -> None:
    """Fill a record, written with each row and each kind of file."""
    settings = record["settings"]
    with tempfile.TemporaryDirectory() as scratch:
        told = {name: settings[name] for name in ("kills", "seed", "utterances", "stages", "named")}
        for row in happened(speech, Path(scratch), **told, done=[Row(**row) for row in record["rows"]]):
            print(table([row]).splitlines()[2], flush=True)
            record["rows"].append(asdict(row))
            write(out, record)
    for place, kind in enumerate(fuzz.KINDS):
        if kind not in record["cases"]:
            share = len(range(place, settings["cases"], len(fuzz.KINDS)))
            record["cases"][kind] = fuzz.run(share, seed=settings["seed"], kinds=[kind])
            write(out, record)


def main() -> None:
    options = _options()
    settings = {name: getattr(options, name) for name in ("kills", "cases", "seed", "utterances", "stages")}
    settings |= {"named": options.faults, "commit": commit()}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is mounted is unmounted
    speech = Path(os.environ.get("AUDIOTOK_SPEECH", ROOT.parent / "shared" / "speech"))
    try:
        record = begun(options.out, json.loads(json.dumps(settings)))
    except ValueError as error:
        raise SystemExit(str(error)) from None
    tortured(speech if (speech / "manifest.tsv").exists() else None, options.out, record)
    print(f"\n{(options.out / 'torture.md').read_text(encoding='utf-8')}")
    cases = [case for found in record["cases"].values() for case in found if case["outcome"] in fuzz.FAILURES]
    print(*map(json.dumps, cases), sep="\n")
    raise SystemExit(int(bool(cases) or any(Row(**row).failed for row in record["rows"])))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--utterances", type=int, default=24)
    parser.add_argument("--stages", nargs="+", choices=killing.KILLED, default=list(killing.KILLED))
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--out", type=Path, required=True, help="a folder for torture.json and torture.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
