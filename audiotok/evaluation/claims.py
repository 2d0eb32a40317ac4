"""What a study claims of two systems, held against their scores: paired differences with intervals, and what these say.

Both systems were given the same utterances, so that how hard an utterance is falls out of a difference. Utterances that were made of one
recording, such as its mixes at several noise levels, are no independent samples: they are drawn together (a cluster bootstrap). Each
interval holds by itself; of twenty that say "not told apart" of systems that are alike, one is expected to say something else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from audiotok.evaluation import results
from audiotok.evaluation.costs import METRIC
from audiotok.evaluation.statistics import paired_interval
from audiotok.evaluation.table import column_label

Verdict = Literal["holds", "does not hold", "not told apart"]
Sums = dict[str, tuple[float, float]]  # (numerator, denominator) by id of what was scored


@dataclass(frozen=True)
class Claim:
    """That one system is better than another in some columns, None: in all that have a better side."""

    better: str
    than: str
    columns: Sequence[str] | None


@dataclass(frozen=True)
class Origin:
    """The recording that an utterance was made of, and the noise level in dB that it is heard at; None where that is not known."""

    recording: str
    snr: float | None


@dataclass(frozen=True)
class Difference:
    """The better system's value less the other's, with its 95 % interval (None for one recording), as stored; `verdict` of the claim.

    Of `utterances` that all trainings of both were scored on; `left_out` were scored for some of them alone. `each` are the values of
    the trainings of the better system, and those of the other one.
    """

    value: float
    low: float | None
    high: float | None
    utterances: int
    recordings: int
    left_out: int
    verdict: Verdict
    each: tuple[list[float], list[float]]


def held(
    claims: Mapping[str, Claim],
    scores: Mapping[str, pa.Table],
    summaries: Mapping[str, Mapping[str, Any]],
    origins: Mapping[str, Origin],
    *,
    resamplings: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Each claim with its differences in each column, over all utterances and at each noise level.

    [{"claim", "better", "than", "trainings": names of those of both, "missing": systems that are not scored, "columns": [{..., "all":
    Difference, "levels": {"-5": ...}}]}]. Raises ValueError for a column that there is not, or that has no better side, for an utterance
    whose origin is not known, and for a training that is a copy of another.
    """
    for name, table in scores.items():
        if unknown := [id for id in table["id"].to_pylist() if id not in origins]:
            told = f"{len(unknown)} utterances are not in the test set, the first is {unknown[0]!r}"
            raise ValueError(f"{name}: {told}; run `audiotok evaluate` again")
    found = []
    for text, claim in claims.items():
        trainings = [trainings_of(name, scores) for name in (claim.better, claim.than)]
        missing = [name for name, made in zip((claim.better, claim.than), trainings) if not made]
        columns = [] if missing else _columns(text, claim, [summaries[name] for made in trainings for name in made])
        pair = [[scores[name] for name in made] for made in trainings]
        made = [_in_column(column, pair, origins, resamplings=resamplings, seed=seed) for column in columns]
        about = {"claim": text, "better": claim.better, "than": claim.than, "trainings": trainings}
        found.append(about | {"missing": missing, "columns": made})
    return found


def trainings_of(system: str, scores: Mapping[str, pa.Table]) -> list[str]:
    """Its names among those that are scored: NAME, NAME@WHAT ...; of NAME@WHAT that one alone.

    Raises ValueError where two of them have all scores alike.
    """
    names = [name for name in scores if system in (name, name.partition("@")[0])]
    for name, other in combinations(names, 2):
        if scores[name].equals(scores[other]):
            raise ValueError(
                f"{name} and {other} have the same scores of every utterance, so they are one training and not two; train {other} "
                f"with another seed= than {name}, or remove it from what is evaluated"
            )
    return names


def _columns(text: str, claim: Claim, summaries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    first, *others = summaries
    sided = {
        column["name"]: column
        for column in first["columns"]
        if column["metric"] != METRIC and column["better"] != "neither" and all(results.cell(other, column["name"]) for other in others)
    }
    if unknown := [name for name in claim.columns or () if name not in sided]:
        raise ValueError(f"claim {text!r}: {unknown[0]!r} is no column with a better side; of {claim.better} these are {', '.join(sided)}")
    return list(sided.values()) if claim.columns is None else [sided[name] for name in claim.columns]


def _in_column(
    column: Mapping[str, Any], pair: Sequence[Sequence[pa.Table]], origins: Mapping[str, Origin], *, resamplings: int, seed: int
) -> dict[str, Any]:
    better, than = ([_scored(table, column) for table in trainings] for trainings in pair)
    known = {id for rows in (*better, *than) for id in rows}
    levels = sorted({origin.snr for id, origin in origins.items() if id in known and origin.snr is not None})

    def compared(snr: float | None) -> dict[str, Any] | None:
        left, right = (
            [{id: sums for id, sums in rows.items() if snr in (None, origins[id].snr)} for rows in trainings]
            for trainings in (better, than)
        )
        made = difference(left, right, origins, higher=column["better"] == "higher", resamplings=resamplings, seed=seed)
        return None if made is None else asdict(made)

    about = {key: column[key] for key in ("name", "label", "better", "unit", "scale", "digits")}
    return about | {"all": compared(None), "levels": {f"{snr:g}": compared(snr) for snr in levels} if len(levels) > 1 else {}}


def _scored(table: pa.Table, column: Mapping[str, Any]) -> Sums:
    name, scored = column["name"], table.filter(pc.is_valid(table[column["name"]]))
    ratio = column["kind"] == "ratio"
    numerators = scored[f"{name}_numerator" if ratio else name].to_pylist()
    denominators = scored[f"{name}_denominator"].to_pylist() if ratio else [1.0] * len(scored)
    return dict(zip(scored["id"].to_pylist(), zip(numerators, denominators)))


def difference(
    better: Sequence[Sums],
    than: Sequence[Sums],
    origins: Mapping[str, Origin],
    *,
    higher: bool,
    resamplings: int,
    seed: int,
) -> Difference | None:
    """Of the trainings of each; `higher` values are the better ones, or lower ones. None where no utterance was scored for all of them."""
    scored = [rows.keys() for rows in (*better, *than)]
    shared, known = sorted(set.intersection(*map(set, scored))), set.union(*map(set, scored))
    if not shared:
        return None
    places = {name: place for place, name in enumerate(dict.fromkeys(origins[id].recording for id in shared))}
    place_I = [places[origins[id].recording] for id in shared]
    left_TG2, right_UG2 = (_by_group(trainings, shared, place_I, len(places)) for trainings in (better, than))
    low, high = paired_interval(left_TG2, right_UG2, resamplings=resamplings, seed=seed) or (None, None)
    value = _ratio(left_TG2.sum(axis=(0, 1))) - _ratio(right_UG2.sum(axis=(0, 1)))
    each = [_ratio(sums_G2.sum(axis=0)) for sums_G2 in left_TG2], [_ratio(sums_G2.sum(axis=0)) for sums_G2 in right_UG2]
    decided = verdict(low, high, higher=higher)
    return Difference(value, low, high, len(shared), len(places), len(known) - len(shared), decided, each)


def _by_group(trainings: Sequence[Sums], shared: Sequence[str], place_I: Sequence[int], groups: int) -> np.ndarray:
    """[T, G, 2]: numerators and denominators of each recording, summed."""
    sums_TG2 = np.zeros((len(trainings), groups, 2))
    for sums_G2, rows in zip(sums_TG2, trainings):
        np.add.at(sums_G2, place_I, [rows[id] for id in shared])
    return sums_TG2


def _ratio(sums_2: np.ndarray) -> float:
    return float(sums_2[0] / sums_2[1])


def verdict(low: float | None, high: float | None, *, higher: bool) -> Verdict:
    """What an interval of the difference says of the claim that it is on the better side of 0."""
    if low is None or high is None or low <= 0 <= high:
        return "not told apart"
    return "holds" if (low > 0) == higher else "does not hold"


def markdown(found: Sequence[Mapping[str, Any]]) -> str:
    """A table a claim, a row a column of the scores: the difference, its interval and the verdict, over all and at each noise level."""
    return "\n".join(_table(claim) for claim in found)


def _table(claim: Mapping[str, Any]) -> str:
    head = f"### {claim['claim']}\n\n`{claim['better']}` less `{claim['than']}`"
    if claim["missing"]:
        return f"{head}: not measured, {' and '.join(claim['missing'])} is not scored.\n"
    levels = list(dict.fromkeys(level for column in claim["columns"] for level in column["levels"]))
    lines = [f"| | {' | '.join(['all', *(f'{level} dB' for level in levels)])} |", f"|---|{'---:|' * (len(levels) + 1)}"]
    for column in claim["columns"]:
        cells = [column["all"], *(column["levels"].get(level) for level in levels)]
        lines.append(f"| {column_label(column)} | {' | '.join(_cell(column, cell) for cell in cells)} |")
    return f"{head}, 95 % intervals over recordings{_trainings(claim)}:\n\n" + "\n".join(lines) + "\n"


def _trainings(claim: Mapping[str, Any]) -> str:
    """Of how many trainings the intervals know; nothing where each system was trained once, as most are."""
    better, than = (len(made) for made in claim["trainings"])
    if better == than == 1:
        return ""
    alone = " (what another of that would be is not in them)" if min(better, than) == 1 else ""
    return f" and trainings, {better} of `{claim['better']}` and {than} of `{claim['than']}`{alone}"


def _cell(column: Mapping[str, Any], cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "–"
    shown = {key: f"{cell[key] * column['scale']:+.{column['digits']}f}" for key in ("value", "low", "high") if cell[key] is not None}
    interval = f"<br>{shown['low']} – {shown['high']}" if "low" in shown else ""
    left_out = f"<br>{cell['left_out']} left out" if cell["left_out"] else ""
    return f"{shown['value']}{interval}<br>{cell['verdict']}{left_out}"
