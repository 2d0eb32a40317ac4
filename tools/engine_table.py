#!/usr/bin/env python3
"""What tools/bench_engine.py has measured as one Markdown table: tools/engine_table.py engine.json"""

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: tools/engine_table.py FILE, the object that tools/bench_engine.py has printed")
    print(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))


def table(told: dict[str, Any]) -> str:
    """One row a way, one column a batch size; below it the reasons of what was left out."""
    found = {name.removeprefix("batch_"): each for name, each in told.items() if name.startswith("batch_")}
    ways = dict.fromkeys(way for each in found.values() for way in each["tokens_per_second"])
    head = ["| tokens/s (times transformers, share of the floor) |" + "".join(f" batch {rows} |" for rows in found)]
    head += ["|---|" + "---:|" * len(found)]
    body = [f"| {way} |" + "".join(f" {_cell(each, way)} |" for each in found.values()) for way in ways]
    body += ["| bandwidth (GB/s) |" + "".join(f" {each['bandwidth_gb_per_second']:.0f} |" for each in found.values())]
    left_out = [f"- batch {rows}, {way}: {why}" for rows, each in found.items() for way, why in each.get("left_out", {}).items()]
    return "\n".join([_conditions(told), "", *head, *body, *([""] if left_out else []), *left_out])


def _cell(found: dict[str, Any], way: str) -> str:
    """12,345 (2.30, 61 %), on a GPU with its memory beside the weights; a dash where it was not measured."""
    if way not in found["tokens_per_second"]:
        return "–"
    times, peak = found["times_the_better_of_transformers"].get(way), found.get("peak_memory_mb_beside_the_weights", {}).get(way)
    inside = [f"{times:.2f}"] if times is not None else []
    inside += [f"{100 * found['share_of_floor_with_cache'][way]:.0f} %"] + ([f"{peak:,.0f} MB"] if peak is not None else [])
    return f"{found['tokens_per_second'][way]:,.0f} ({', '.join(inside)})"


def _conditions(told: dict[str, Any]) -> str:
    machine = told["machine"]
    return (
        f"{machine['device']}, {machine['cpu']}, torch {machine['torch']}: {told['layers']} layers, {told['width']} wide, "
        f"{told['weights'] / 1e6:.1f} M weights read a step, {told['tokens']} tokens, median of {told['rounds']} rounds; "
        "the floor is the time in which weights, keys and values can be read"
    )


if __name__ == "__main__":
    main()
