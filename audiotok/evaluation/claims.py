"""What a study claims of two systems, held against their scores: paired differences with intervals, and what these say.

Both systems were given the same utterances, so that how hard an utterance is falls out of a difference. Utterances that were made of one
recording, such as its mixes at several noise levels, are no independent samples: they are drawn together (a cluster bootstrap). Each
interval holds by itself; of twenty that say "not told apart" of systems that are alike, one is expected to say something else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from audiotok.evaluation import results
from audiotok.evaluation.costs import METRIC
from audiotok.evaluation.statistics import paired_interval
from audiotok.evaluation.table import column_label

Verdict = Literal["holds", "does not hold", "not told apart"]


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

    Of `utterances` that both were scored on; `left_out` were scored for one of them alone.
    """

    value: float
    low: float | None
    high: float | None
    utterances: int
    recordings: int
    left_out: int
    verdict: Verdict


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

    [{"claim", "better", "than", "missing": systems that are not scored, "columns": [{..., "all": Difference, "levels": {"-5": ...}}]}]
    Raises ValueError for a column that there is not, or that has no better side, and for an utterance whose origin is not known.
    """
    for name, table in scores.items():
        if unknown := [id for id in table["id"].to_pylist() if id not in origins]:
            told = f"{len(unknown)} utterances are not in the test set, the first is {unknown[0]!r}"
            raise ValueError(f"{name}: {told}; run `audiotok evaluate` again")
    found = []
    for text, claim in claims.items():
        missing = [name for name in (claim.better, claim.than) if name not in scores]
        columns = [] if missing else _columns(text, claim, summaries)
        pair = {} if missing else {name: scores[name] for name in (claim.better, claim.than)}
        made = [_in_column(column, list(pair.values()), origins, resamplings=resamplings, seed=seed) for column in columns]
        found.append({"claim": text, "better": claim.better, "than": claim.than, "missing": missing, "columns": made})
    return found


def _columns(text: str, claim: Claim, summaries: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    sided = {
        column["name"]: column
        for column in summaries[claim.better]["columns"]
        if column["metric"] != METRIC and column["better"] != "neither" and results.cell(summaries[claim.than], column["name"])
    }
    if unknown := [name for name in claim.columns or () if name not in sided]:
        raise ValueError(f"claim {text!r}: {unknown[0]!r} is no column with a better side; of {claim.better} these are {', '.join(sided)}")
    return list(sided.values()) if claim.columns is None else [sided[name] for name in claim.columns]


def _in_column(
    column: Mapping[str, Any], pair: Sequence[pa.Table], origins: Mapping[str, Origin], *, resamplings: int, seed: int
) -> dict[str, Any]:
    better, than = (_scored(table, column) for table in pair)
    levels = sorted({origin.snr for id, origin in origins.items() if id in better.keys() | than.keys() and origin.snr is not None})

    def compared(snr: float | None) -> dict[str, Any] | None:
        left, right = ({id: sums for id, sums in rows.items() if snr in (None, origins[id].snr)} for rows in (better, than))
        made = difference(left, right, origins, higher=column["better"] == "higher", resamplings=resamplings, seed=seed)
        return None if made is None else asdict(made)

    about = {key: column[key] for key in ("name", "label", "better", "unit", "scale", "digits")}
    return about | {"all": compared(None), "levels": {f"{snr:g}": compared(snr) for snr in levels} if len(levels) > 1 else {}}


def _scored(table: pa.Table, column: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """(numerator, denominator) by id of what was scored."""
    name, scored = column["name"], table.filter(pc.is_valid(table[column["name"]]))
    ratio = column["kind"] == "ratio"
    numerators = scored[f"{name}_numerator" if ratio else name].to_pylist()
    denominators = scored[f"{name}_denominator"].to_pylist() if ratio else [1.0] * len(scored)
    return dict(zip(scored["id"].to_pylist(), zip(numerators, denominators)))


def difference(
    better: Mapping[str, tuple[float, float]],
    than: Mapping[str, tuple[float, float]],
    origins: Mapping[str, Origin],
    *,
    higher: bool,
    resamplings: int,
    seed: int,
) -> Difference | None:
    """Of (numerator, denominator) by id; `higher` values are the better ones, or lower ones. None where no utterance has both."""
    shared = sorted(better.keys() & than.keys())
    if not shared:
        return None
    places = {name: place for place, name in enumerate(dict.fromkeys(origins[id].recording for id in shared))}
    left_G2, right_G2 = np.zeros((2, len(places), 2))
    for id in shared:
        left_G2[places[origins[id].recording]] += better[id]
        right_G2[places[origins[id].recording]] += than[id]
    left, right = (float(sums[0] / sums[1]) for sums in (left_G2.sum(axis=0), right_G2.sum(axis=0)))
    low, high = paired_interval(left_G2, right_G2, resamplings=resamplings, seed=seed) or (None, None)
    left_out = len(better.keys() ^ than.keys())
    return Difference(left - right, low, high, len(shared), len(places), left_out, verdict(low, high, higher=higher))


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
    return f"{head}, 95 % intervals over recordings:\n\n" + "\n".join(lines) + "\n"


def _cell(column: Mapping[str, Any], cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "–"
    shown = {key: f"{cell[key] * column['scale']:+.{column['digits']}f}" for key in ("value", "low", "high") if cell[key] is not None}
    interval = f"<br>{shown['low']} – {shown['high']}" if "low" in shown else ""
    left_out = f"<br>{cell['left_out']} left out" if cell["left_out"] else ""
    return f"{shown['value']}{interval}<br>{cell['verdict']}{left_out}"
