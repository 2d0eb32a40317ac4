#!/usr/bin/env python3
"""All that can go wrong, on purpose: stages killed at random moments, and broken files of every kind. `make torture`.

    tools/torture.py --kills 50 --cases 1000 --json torture.json

Kills: a tiny recipe over real speech (AUDIOTOK_SPEECH) is tokenized, reduced, trained, spoken and benched; each of these is killed with
SIGKILL at moments drawn by the seed, run again to its end, and compared with an undisturbed run byte for byte (see kill_check.py).
Cases: see fuzz.py.

Prints both tables and writes every kill and case as JSON; ends with status 1 where anything differed or failed.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import fuzz
import kill_check

from audiotok import files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import killing  # noqa: E402, of the tests


def killed(speech: Path, scratch: Path, *, kills: int, seed: int, utterances: int, stages: Sequence[str]) -> dict[str, kill_check.Report]:
    """What became of each of the stages, killed `kills` times in all."""
    killing.lay_out(scratch, speech, utterances=utterances)
    exp, reports = scratch / "made" / "exp", {}
    exp.mkdir(parents=True)
    killing.ended_well(killing.command("prepare", scratch), exp)
    shares = {stage: len(range(place, kills, len(stages))) for place, stage in enumerate(stages)}
    for stage in killing.ORDER[: 1 + max(map(killing.ORDER.index, stages))]:
        words = killing.command(stage, scratch)
        if share := shares.get(stage):
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                reports[stage] = kill_check.check(words, exp, Path(folder), kills=share, chain=4, seed=seed, start=killing.start)
        killing.ended_well(words, exp)
    shutil.rmtree(scratch / "made")
    return reports


def table(reports: dict[str, kill_check.Report]) -> str:
    lines = [f"{'stage':14}{'kills':>7}{'runs compared':>15}{'files compared':>16}{'differences':>13}"]
    for stage, report in reports.items():
        counts = len(report.kills), report.compared_runs, report.compared_files, len(report.differences)
        lines.append("{:14}{:>7}{:>15}{:>16}{:>13}".format(stage, *counts))
        lines += [f"  {difference}" for difference in report.differences[:5]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where everything is written")
    options = parser.parse_args()
    speech = Path(os.environ.get("AUDIOTOK_SPEECH", ROOT.parent / "shared" / "speech"))
    with tempfile.TemporaryDirectory() as scratch:
        reports = killed(speech, Path(scratch), kills=options.kills, seed=options.seed, utterances=24, stages=killing.KILLED)
    print(table(reports), flush=True)
    cases = fuzz.run(options.cases, seed=options.seed, kinds=list(fuzz.KINDS))
    failed = [case for case in cases if case["outcome"] in fuzz.FAILURES]
    print(f"\n{fuzz.table(cases)}", *failed, sep="\n")
    if options.json:
        files.write_json(options.json, {"kills": {stage: vars(report) for stage, report in reports.items()}, "cases": cases})
    raise SystemExit(int(bool(failed) or not all(report.identical for report in reports.values())))


if __name__ == "__main__":
    main()
