"""Axis 1: what is left of speech after the codec."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from audiotok.bench.scores import mean
from audiotok.bench.subject import Selection, Subject, recording
from audiotok.bench.task import Axis, Outcome, Score
from audiotok.evaluation import scoring, sources
from audiotok.evaluation.metric import Column, Metric, Ratio


class Reconstruction:
    """Every metric between the recordings of a selection and what the subject gives back; of the recordings themselves, the ceiling."""

    axis: Axis = "reconstruction"
    seeded = False

    def __init__(self, *, selection: Selection, metrics: Mapping[str, Metric], primary: Sequence[str]) -> None:
        """`primary`: the columns that rank."""
        self.selections = (selection,)
        self.metrics = metrics
        self.primary = set(primary)

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        rows = []
        for cut in subject.cuts(self.selections[0]):
            reference = recording(cut)
            rows.append(scoring.score(self.metrics, *sources.pair(reference, subject.transmitted(cut))))
        scores = scored(self.metrics, rows, primary=self.primary)
        return Outcome(tuple(scores), judges={name: metric.judge for name, metric in self.metrics.items()})


def scored(
    metrics: Mapping[str, Metric], rows: Sequence[scoring.Row], *, primary: Iterable[str], prefix: str = "", label: str = ""
) -> list[Score]:
    """A score for each column of numbers, with what had none and why."""
    columns = [(name, column) for name, metric in metrics.items() for column in metric.columns if column.kind != "text"]
    return [_score(name, column, rows, primary=column.name in set(primary), prefix=prefix, label=label) for name, column in columns]


def _score(metric: str, column: Column, rows: Sequence[scoring.Row], *, primary: bool, prefix: str, label: str) -> Score:
    items: dict[str, float | Ratio] = {}
    failures: dict[str, int] = {}
    for row in rows:
        if row.get(column.name) is None:
            if reason := row.get(f"{metric}_failed"):  # what is skipped was not asked: no text, no weights
                failures[reason] = failures.get(reason, 0) + 1
        elif column.kind == "ratio":
            items[row["id"]] = Ratio(row[f"{column.name}_numerator"], row[f"{column.name}_denominator"])
        else:
            items[row["id"]] = float(row[column.name])
    named = replace(column, name=f"{prefix}{column.name}", label=f"{label}{column.label}")
    return Score(named, mean(items), items, failures, primary=primary)
