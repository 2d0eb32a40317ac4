"""What a system costs, as columns beside its scores: bits, parameters, time.

They are what decode wrote beside the audio, of the machine it ran on, and no scores: measuring them again leaves the scores as they are.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from audiotok.evaluation.metric import Column
from audiotok.evaluation.sources import AudioFolder

METRIC = "costs"
BITS = "bits_per_second"
COLUMNS = (
    Column(BITS, "Rate", "mean", unit="bit/s", digits=0),
    Column("parameters", "Parameters", "mean", unit="M", scale=1e-6, digits=2),
    Column("real_time_factor", "RTF", "mean", "lower", digits=4),
    Column("encode_real_time_factor", "RTF encode", "mean", "lower", digits=4),
    Column("decode_real_time_factor", "RTF decode", "mean", "lower", digits=4),
)


def with_costs(summaries: Mapping[str, dict[str, Any]], systems: Mapping[str, AudioFolder]) -> dict[str, dict[str, Any]]:
    """The summaries, each with the columns of the costs that any system tells of before its own; unchanged where none tells any."""
    told = {name: systems[name].costs if name in systems else {} for name in summaries}
    values = {name: _values(costs) for name, costs in told.items()}
    columns = [column for column in COLUMNS if any(column.name in row for row in values.values())]
    return {
        name: summary
        | {"columns": [_column(column, values[name].get(column.name)) for column in columns] + summary["columns"]}
        | ({"costs": told[name], "judges": summary["judges"] | _judge(told[name])} if told[name] else {})
        for name, summary in summaries.items()
    }


def _values(costs: Mapping[str, Any]) -> dict[str, float]:
    """By column; what is not known is left out. Of a codec whose rate varies, the bits of its frames as measured."""
    factors = costs.get("real_time_factor", {})
    values = {
        BITS: costs.get("payload_bits_per_second", costs.get(BITS)),
        "parameters": costs.get("parameters"),
        "real_time_factor": factors.get("both"),
        "encode_real_time_factor": factors.get("encode"),
        "decode_real_time_factor": factors.get("decode"),
    }
    return {name: float(value) for name, value in values.items() if value is not None}


def _column(column: Column, value: float | None) -> dict[str, Any]:
    interval = {"value": value, "low": None, "high": None, "n": int(value is not None)}
    return asdict(column) | {"metric": METRIC, "failed": 0, "skipped": 0} | interval


def _judge(costs: Mapping[str, Any]) -> dict[str, str]:
    """How the numbers came about."""
    rate = "the bits of its frames, as measured" if "payload_bits_per_second" in costs else "frames of fixed-length codes"
    about = costs.get("conditions")
    if about is None or not costs["real_time_factor"]:
        return {METRIC: f"rate: {rate}"}
    threads = f"{about['threads']} thread{'s' if about['threads'] > 1 else ''}"
    where = f"{threads} of {about['cpu']}" if about["device"] == "cpu" else about["device"]
    timed = f"{about['utterances']} utterances, {about['seconds']:.0f} s, one at a time"
    return {METRIC: f"rate: {rate}; real-time factor (seconds of work for a second of speech): {where}, torch {about['torch']}, {timed}"}
