"""Scores by the signal-to-noise ratio that the speech was heard at: a table a band, a panel a metric over the ratio."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from matplotlib.figure import Figure

from audiotok.evaluation import results, table

Bands = dict[float, dict[str, dict[str, Any]]]  # summaries by ratio and system
COLUMNS, PANEL = 3, (4.0, 2.8)  # inches


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
            name: results.summarise_part(_at(rows, snrs, snr), summaries[name], resamplings=resamplings, seed=seed)
            for name, rows in scores.items()
        }
        for snr in sorted(set(snrs.values()))
    }


def _at(rows: pa.Table, snrs: Mapping[str, float], snr: float) -> pa.Table:
    return rows.filter(pa.array([snrs[id] == snr for id in rows["id"].to_pylist()], pa.bool_()))


def markdown(bands: Bands) -> str:
    """A table a band, a row a system."""
    return "\n".join(f"### {snr:g} dB\n\n{table.markdown(summaries)}" for snr, summaries in bands.items())


def draw(path: Path, bands: Bands) -> None:
    """A panel a metric, a line a system, its 95 % intervals as bars."""
    names = results.column_names(next(iter(bands.values())))
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(PANEL[0] * COLUMNS, PANEL[1] * rows), layout="constrained")
    for place, name in enumerate(names, 1):
        _panel(figure.add_subplot(rows, COLUMNS, place), name, bands)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def _panel(axes: Any, name: str, bands: Bands) -> None:
    for system in next(iter(bands.values())):
        cells = {snr: results.cell(summaries[system], name) for snr, summaries in bands.items()}
        _line(axes, system, {snr: cell for snr, cell in cells.items() if cell and cell["value"] is not None})
    column = next(cell for summary in next(iter(bands.values())).values() if (cell := results.cell(summary, name)))
    axes.set(title=table.column_label(column), xlabel="SNR (dB)", xticks=list(bands))


def _line(axes: Any, system: str, cells: Mapping[float, Mapping[str, Any]]) -> None:
    """Means over the ratio; where one utterance says nothing of its spread, a bar of no length."""
    middle = [cell["value"] * cell["scale"] for cell in cells.values()]
    below, above = (
        [abs(cell["value"] - (cell["value"] if cell[end] is None else cell[end])) * cell["scale"] for cell in cells.values()]
        for end in ("low", "high")
    )
    axes.errorbar(list(cells), middle, yerr=[below, above], label=system, capsize=2, linewidth=1)
