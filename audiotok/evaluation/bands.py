"""Scores by the signal-to-noise ratio that the speech was heard at: a table a band, a panel a metric over the ratio."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from audiotok.evaluation import lines, results, table
from audiotok.evaluation.costs import METRIC

Bands = dict[float, dict[str, dict[str, Any]]]  # summaries by ratio and system


def by_band(
    scores: Mapping[str, pa.Table],
    summaries: Mapping[str, Mapping[str, Any]],
    snrs: Mapping[str, float],
    *,
    resamplings: int,
    seed: int,
) -> Bands:
    """Each system's summary of the utterances at each ratio, lowest first; `snrs` by id. Raises ValueError for an id without one."""
    for name, rows in scores.items():
        if missing := [id for id in rows["id"].to_pylist() if id not in snrs]:
            raise ValueError(f"{name}: {len(missing)} utterances are of no mix, the first is {missing[0]!r}; run `audiotok evaluate` again")
    return {
        snr: {
            name: results.summarise_part(_at(rows, snrs, snr), _without_costs(summaries[name]), resamplings=resamplings, seed=seed)
            for name, rows in scores.items()
        }
        for snr in sorted(set(snrs.values()))
    }


def _at(rows: pa.Table, snrs: Mapping[str, float], snr: float) -> pa.Table:
    return rows.filter(pa.array([snrs[id] == snr for id in rows["id"].to_pylist()], pa.bool_()))


def _without_costs(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Bits are the same at every ratio, and no scores of utterances."""
    judges = {name: judge for name, judge in summary["judges"].items() if name != METRIC}
    return {**summary, "judges": judges}


def markdown(bands: Bands) -> str:
    """A table a band, a row a system."""
    return "\n".join(f"### {snr:g} dB\n\n{table.markdown(summaries)}" for snr, summaries in bands.items())


def draw(path: Path, bands: Bands) -> None:
    """A panel a metric, a line a system (of several trainings the first), its 95 % intervals as bars."""
    bands = {snr: {name: summaries[name] for name in results.once(summaries)} for snr, summaries in bands.items()}
    names = results.column_names(next(iter(bands.values())))
    lines.draw(path, [_panel(name, bands) for name in names], x_label="SNR (dB)", x_ticks=list(bands))


def _panel(name: str, bands: Bands) -> lines.Panel:
    systems = next(iter(bands.values()))
    cells = {
        system: {snr: cell for snr, summaries in bands.items() if (cell := results.cell(summaries[system], name))} for system in systems
    }
    return lines.Panel(table.column_label(next(cell for each in cells.values() for cell in each.values())), cells)
