"""Rules that a table of results must keep, each after a mistake that was published somewhere.

A rule is a pure function of what was read; it changes no number and hides no row. What it finds is shown on the page: an "error" cannot be
right, a "warning" wants a look, a "note" is to be known when the numbers are read.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isclose
from typing import Any, Literal

from audiotok.bench.comparison import Compare, Key, Measured, by_key, not_converged
from audiotok.bench.entries import RECORDINGS, Entry, Suite
from audiotok.bench.rows import NOT_APPLICABLE, OK, Row
from audiotok.evaluation.metric import Ratio

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
COPIED = 4  # equal values from which two tokenizers, or two scores, are taken for copies
# What packages and tables write where a score could not be had; the judges themselves come near and never quite there.
DISGUISES = {"pesq": 1.0, "stoi": 0.0, "estoi": 0.0, "f0_correlation": 0.0}


@dataclass(frozen=True)
class Finding:
    """What a rule saw, and of which tokenizers."""

    rule: str
    tokenizers: tuple[str, ...]
    what: str
    severity: Severity


def findings(suite: Suite, scores: Sequence[Measured], compare: Compare) -> list[Finding]:
    """What all rules say of a suite, the gravest first."""
    found = [
        *bitrate_monotone(suite.entries, scores, compare),
        *copied_tokenizers(scores),
        *copied_scores(scores),
        *better_than_recordings(scores, compare),
        *signs_disagree(scores),
        *disguised_failures(scores),
        *values_without_items(scores),
        *more_than_fixed_length(suite.entries, scores),
        *missing_cells(suite.entries),
        *failed_cells(suite.rows),
        *not_converged_rows(scores),
        *mixed_seeds(suite.rows),
        *mixed_provenance(suite.rows),
    ]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def bitrate_monotone(entries: Iterable[Entry], scores: Iterable[Measured], compare: Compare) -> list[Finding]:
    """Within a family a primary reconstruction score does not fall, by more than the interval of the difference, when bits rise."""
    rates = {entry.name: entry.bits_per_second for entry in entries if entry.bits_per_second}
    family = {entry.name: entry.family for entry in entries if entry.family and entry.name in rates}
    found = []
    for (task, name), column in by_key(scores).items():
        judged = [one for one in column if one.axis == "reconstruction" and one.primary and one.tokenizer in family]
        for low, high in combinations(sorted(judged, key=lambda one: rates[one.tokenizer] or 0.0), 2):
            together = family[low.tokenizer] == family[high.tokenizer] and rates[low.tokenizer] != rates[high.tokenizer]
            if together and _better(low, high, compare):
                bits = f"{rates[high.tokenizer]:.0f} bit/s than at {rates[low.tokenizer]:.0f}"
                what = f"{task}, {name}: worse at {bits} ({high.text()}, {low.text()})"
                found.append(Finding("bitrate_monotone", (low.tokenizer, high.tokenizer), what, "error"))
    return found


def _better(left: Measured, right: Measured, compare: Compare) -> bool:
    """Whether the left one is better by more than the interval of the difference."""
    found = compare(left, right)
    return found is not None and not found.tie and found.estimate * left.sign > 0


def copied_tokenizers(scores: Iterable[Measured]) -> list[Finding]:
    """No two tokenizers have four values or more to the last bit in common.

    Whole numbers, costs and what is neither good nor bad (a ratio of lengths) are not counted: they may well be the same.
    """
    values: dict[str, dict[Key, float]] = {}
    for one in scores:
        if one.axis != "cost" and one.column.better != "neither" and one.mean is not None and not one.mean.is_integer():
            values.setdefault(one.tokenizer, {})[one.key] = one.mean
    found = []
    for left, right in combinations(values, 2):
        same = [key for key in values[left] if values[left][key] == values[right].get(key)]
        if len(same) >= COPIED:
            what = f"the same values to the last bit at {len(same)} scores: {', '.join(' '.join(key) for key in same)}"
            found.append(Finding("copied_tokenizers", (left, right), what, "warning"))
    return found


def copied_scores(scores: Iterable[Measured]) -> list[Finding]:
    """No two scores have the same value for each of four tokenizers or more, unless that is one value for all."""
    vectors = {key: {one.tokenizer: one.mean for one in column if one.mean is not None} for key, column in by_key(scores).items()}
    kept = {key: vector for key, vector in vectors.items() if len(vector) >= COPIED and len(set(vector.values())) > 1}
    return [
        Finding("copied_scores", tuple(kept[left]), f"{' '.join(left)} and {' '.join(right)} are the same for all tokenizers", "warning")
        for left, right in combinations(kept, 2)
        if kept[left] == kept[right]
    ]


def better_than_recordings(scores: Iterable[Measured], compare: Compare) -> list[Finding]:
    """No resynthesis is better than the recording itself by more than the interval of the difference."""
    found = []
    for (task, name), column in by_key(scores).items():
        reference = next((one for one in column if one.tokenizer == RECORDINGS), None)
        if reference is None or reference.axis != "reconstruction":
            continue
        for one in column:
            if one is not reference and _better(one, reference, compare):
                what = f"{task}, {name}: {one.text()}, better than the recordings ({reference.text()})"
                found.append(Finding("better_than_recordings", (one.tokenizer,), what, "warning"))
    return found


def signs_disagree(scores: Iterable[Measured]) -> list[Finding]:
    """A ratio in dB has one sign, raw or aligned (`NAME_raw`, and `NAME_aligned` or `NAME`), scale-invariant or not (`si_sdr`, `sdr`)."""
    tables: dict[tuple[str, str], dict[str, Measured]] = {}
    for one in scores:
        if one.mean is not None and one.column.unit == "dB":
            tables.setdefault((one.tokenizer, one.task), {})[one.column.name] = one
    found = []
    for (tokenizer, task), own in tables.items():
        for left, right, reason in _pairs(own):
            if (own[left].mean or 0) * (own[right].mean or 0) < 0:
                what = f"{task}: {left} {own[left].text()}, {right} {own[right].text()}: {reason}"
                found.append(Finding("signs_disagree", (tokenizer,), what, "warning"))
    return found


def _pairs(names: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    known = set(names)
    for raw in sorted(name for name in known if name.endswith("_raw")):
        stem = raw.removesuffix("_raw")
        for aligned in (f"{stem}_aligned", stem):
            if aligned in known:
                yield raw, aligned, "a delay that the raw number counts as distortion"
                break
    for invariant, plain in (("si_sdr_aligned", "sdr"), ("si_sdr", "sdr"), ("si_snr", "sdr"), ("si_sdr_raw", "sdr_raw")):
        if {invariant, plain} <= known:
            yield invariant, plain, "another level or polarity than the recording's"


def disguised_failures(scores: Iterable[Measured]) -> list[Finding]:
    """No item has the worst value there is, exactly, and not all items have one and the same value."""
    found = []
    for one in scores:
        values = [item.numerator / item.denominator for items in one.items.values() for item in items.values() if item.denominator]
        floored = sum(value == DISGUISES.get(one.column.name) for value in values)
        where = f"{one.task}, {one.column.name}"
        if floored:
            what = f"{where}: exactly {DISGUISES[one.column.name]:g} for {floored} of {len(values)} items, which stands for a failure"
            found.append(Finding("disguised_failures", (one.tokenizer,), what, "error" if floored == len(values) else "warning"))
        elif len(values) >= COPIED and len(set(values)) == 1 and _varies(one) and not _perfect(one, values[0]):
            what = f"{where}: {one.text(values[0])} for every one of {len(values)} items"
            found.append(Finding("disguised_failures", (one.tokenizer,), what, "warning"))
    return found


def _varies(one: Measured) -> bool:
    """Whether its items should differ; the recordings compared with themselves do not, nor need what is neither good nor bad."""
    return one.column.better != "neither" and one.axis in ("reconstruction", "downstream") and one.tokenizer != RECORDINGS


def _perfect(one: Measured, value: float) -> bool:
    """Whether it is a share and the best there is: all may be right."""
    return one.column.unit == "%" and value == {"higher": 1.0, "lower": 0.0}.get(one.column.better)


def values_without_items(scores: Iterable[Measured]) -> list[Finding]:
    """A value is the mean (or the ratio of sums) of its items."""
    found = []
    for one in scores:
        for seed, value in one.values.items():
            given = _mean(one.items.get(seed, {}))
            if given is not None and not isclose(value, given, rel_tol=1e-6, abs_tol=1e-9):
                what = f"{one.task}, {one.column.name}, seed {seed}: {one.text(value)}, but its items give {one.text(given)}"
                found.append(Finding("values_without_items", (one.tokenizer,), what, "error"))
    return found


def _mean(items: Mapping[str, Ratio]) -> float | None:
    denominator = sum(item.denominator for item in items.values())
    return sum(item.numerator for item in items.values()) / denominator if denominator else None


def more_than_fixed_length(entries: Iterable[Entry], scores: Iterable[Measured]) -> list[Finding]:
    """Neither the rate of a tokenizer nor any rate that its codes were compressed to is above that of fixed-length codes."""
    limits = {entry.name: entry.fixed_length or entry.bits_per_second for entry in entries}
    told = [(entry.name, "bits_per_second of tokenizer.json", entry.bits_per_second) for entry in entries]
    told += [
        (one.tokenizer, " ".join(one.key), one.mean * one.column.scale)
        for one in scores
        if one.mean is not None and one.axis in ("tokens", "language_model") and one.column.unit == "bit/s"
    ]
    return [
        Finding("more_than_fixed_length", (name,), f"{what}: {rate:.1f} bit/s, fixed-length codes need {limit:.1f}", "warning")
        for name, what, rate in told
        if rate and (limit := limits.get(name)) and rate > limit * (1 + 1e-6)
    ]


def missing_cells(entries: Sequence[Entry]) -> list[Finding]:
    """Every tokenizer that is ranked has a row for each task and seed that another one has."""
    ranked = [entry for entry in entries if not entry.reference]
    wanted = dict.fromkeys((row.task, row.seed) for entry in ranked for row in entry.rows if row.verdict != NOT_APPLICABLE)
    found = []
    for entry in ranked:
        excused = {row.task for row in entry.rows if row.verdict == NOT_APPLICABLE}
        present = {(row.task, row.seed) for row in entry.rows}
        missing = [f"{task} (seed {seed})" for task, seed in wanted if task not in excused and (task, seed) not in present]
        if missing:
            found.append(Finding("missing_cells", (entry.name,), f"not measured: {', '.join(missing)}", "warning"))
    return found


def failed_cells(rows: Iterable[Row]) -> list[Finding]:
    """A cell has no verdict against its tokenizer, no value that is no number, and a score for every item.

    What was not asked (no text, no weights at hand) is no failure. The same failure of several scores, seeds and tokenizers is one finding.
    """
    found: list[Finding] = []
    lost: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for row in rows:
        where = f"{row.task}, seed {row.seed}"
        if row.verdict not in (OK, NOT_APPLICABLE):
            found.append(Finding("failed_cells", (row.tokenizer,), f"{where}: {row.verdict}: {row.reason}", "error"))
        elif unmeasured := [score.column.name for score in row.scores if score.value is not None and score.value != score.value]:
            found.append(Finding("failed_cells", (row.tokenizer,), f"{where}: no number for {', '.join(unmeasured)}", "error"))
        for score in row.scores:
            for reason, count in score.failures.items():
                if not count:
                    continue
                lost.setdefault((row.task, f"{count} items: {reason}"), []).append((row.tokenizer, score.column.name))
    for (task, reason), where_lost in lost.items():
        names = ", ".join(_unique(name for _, name in where_lost))
        found.append(Finding("failed_cells", _unique(one for one, _ in where_lost), f"{task}, {names}: {reason}", "warning"))
    return found


def not_converged_rows(scores: Iterable[Measured]) -> list[Finding]:
    """A downstream score that ranks is better than chance by more than two standard deviations; one finding for each."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for one in scores:
        if one.primary and (reason := not_converged(one)):
            found.setdefault((one.task, one.column.name), {})[one.tokenizer] = reason
    return [
        Finding("not_converged", tuple(reasons), f"{task}, {name}: {'; '.join(f'{who}: {why}' for who, why in reasons.items())}", "warning")
        for (task, name), reasons in found.items()
    ]


def mixed_seeds(rows: Iterable[Row]) -> list[Finding]:
    """The tokenizers of one table were measured with the same seeds."""
    found = []
    for task, own in _by_task(rows).items():
        seeds: dict[str, list[int]] = {}
        for row in own:
            seeds.setdefault(row.tokenizer, []).append(row.seed)
        groups = _groups({name: str(sorted(some)) for name, some in seeds.items()})
        if len(groups) > 1:
            found.append(Finding("mixed_seeds", tuple(seeds), f"{task}: {_told(groups)}", "warning"))
    return found


def mixed_provenance(rows: Iterable[Row]) -> list[Finding]:
    """The rows of one task come from one commit, machine, settings, corpora, versions and judges.

    A cost from another machine is an error, other machines elsewhere a note. What is of the tokenizer itself, of the seed, and of the
    cell (a fingerprint of both) differs by right, and a judge that was not needed is not missed. Tasks that are mixed in the same way are
    one finding.
    """
    mixed: dict[tuple[str, str, Severity], list[Row]] = {}
    for own in _by_task(rows).values():
        leaves = [dict(_leaves(row.provenance)) for row in own]
        for key in dict.fromkeys(key for told in leaves for key in told):
            telling = [(row, told[key]) for row, told in zip(own, leaves) if key in told]
            if len({value for _, value in telling}) > 1:
                who = _who([row for row, _ in telling], [value for _, value in telling])
                mixed.setdefault((key, who, _gravity(key, own[0].axis)), []).extend(row for row, _ in telling)
    return [
        Finding(
            "mixed_provenance",
            _unique(row.tokenizer for row in own),
            f"{', '.join(_unique(row.task for row in own))}, {key}: {who}",
            gravity,
        )
        for (key, who, gravity), own in mixed.items()
    ]


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _who(rows: Sequence[Row], values: Sequence[str]) -> str:
    """Which rows told what; a tokenizer whose seeds all told the same is named once."""
    told: dict[str, set[str]] = {}
    for row, value in zip(rows, values):
        told.setdefault(row.tokenizer, set()).add(value)
    names = [row.tokenizer if len(told[row.tokenizer]) == 1 else f"{row.tokenizer} (seed {row.seed})" for row in rows]
    return _told(_groups(dict(zip(names, values))))


def _gravity(key: str, axis: str) -> Severity:
    if key.startswith("machine"):
        return "error" if axis == "cost" else "note"
    return "warning" if key.startswith(("commit", "versions")) else "error"


def _by_task(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows that hold scores: only those stand beside each other in a table."""
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        if row.scores:
            tasks.setdefault(row.task, []).append(row)
    return tasks


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, value as text) of all that should be the same for every tokenizer."""
    if key.rpartition(".")[2] in ("tokenizer", "cell", "seed"):
        return
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value if isinstance(value, str) else json.dumps(value, default=str)


def _groups(told: Mapping[str, str]) -> dict[str, list[str]]:
    """Who told the same, under what they told."""
    groups: dict[str, list[str]] = {}
    for name, value in told.items():
        groups.setdefault(value, []).append(name)
    return groups


def _told(groups: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{value} for {', '.join(names)}" for value, names in groups.items())
