"""Results as a table for the terminal: a row a metric, a column a system."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from audiotok.evaluation.results import cell, column_names, number


def results_table(summaries: Mapping[str, dict[str, Any]], *, title: str) -> Table:
    """Value, 95 % interval and failures of each metric and system. Below it: what failed and why."""
    table = Table(title=title, title_justify="left", caption=_reasons(summaries), caption_justify="left")
    table.add_column("")
    for name, summary in summaries.items():
        unspoken = sum(summary["unspoken"].values())
        table.add_column(f"{name}\n{summary['utterances']} utterances{f', {unspoken} not spoken' if unspoken else ''}", justify="right")
    for name in column_names(summaries):
        cells = [cell(summary, name) for summary in summaries.values()]
        table.add_row(column_label(next(found for found in cells if found)), *map(_text, cells))
    return table


def markdown(summaries: Mapping[str, dict[str, Any]]) -> str:
    """The same as a Markdown table, a row a system, for a recipe's README."""
    names = column_names(summaries)
    cells = {system: [cell(summary, name) for name in names] for system, summary in summaries.items()}
    heads = [column_label(next(column for row in cells.values() if (column := row[i]))) for i in range(len(names))]
    lines = [f"| | utterances | {' | '.join(heads)} |", f"|---|{'---:|' * (len(names) + 1)}"]
    for system, row in cells.items():
        values = " | ".join(_text(column).replace("\n", "<br>") for column in row)
        lines.append(f"| {system} | {summaries[system]['utterances']} | {values} |")
    return "\n".join(lines) + "\n"


def column_label(column: Mapping[str, Any]) -> str:
    """A column's name with its unit and an arrow to the better side."""
    arrow = {"higher": " ↑", "lower": " ↓", "neither": ""}[column["better"]]
    unit = f" ({column['unit']})" if column["unit"] else ""
    return f"{column['label']}{unit}{arrow}"


def _text(column: Mapping[str, Any] | None) -> str:
    if column is None:
        return ""
    interval = "" if column["low"] is None else f"\n{number(column, 'low')} – {number(column, 'high')}"
    unscored = [f"{column[key]} {key}" for key in ("failed", "skipped") if column[key]]
    return "\n".join([f"{number(column)}{interval}", *unscored])


def _reasons(summaries: Mapping[str, dict[str, Any]]) -> str:
    lines = [
        escape(f"{name}: {metric} {kind} for {count}: {reason}")
        for name, summary in summaries.items()
        for kind, reasons in (("not spoken", {"": summary["unspoken"]}), ("failed", summary["failures"]), ("skipped", summary["skipped"]))
        for metric, counts in reasons.items()
        for reason, count in counts.items()
    ]
    return "\n".join(["Below each value: its 95 % interval, bootstrap over utterances.", *lines])
