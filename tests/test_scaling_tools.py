"""The plan of a large corpus against numbers by hand, and what more utterances cost, measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from audiotok import cli, files

TOOLS = cli.ROOT / "tools"
MIB = 2**20


def run(name: str, *words: object, fails: bool = False) -> str:
    ended = subprocess.run([sys.executable, str(TOOLS / name), *map(str, words)], capture_output=True, text=True, timeout=600)
    assert (ended.returncode != 0) == fails, ended.stderr
    return ended.stderr if fails else ended.stdout


@pytest.fixture
def told(tmp_path: Path) -> list[object]:
    """What a plan is told, with figures that are easily reckoned with."""
    speeds = [
        {"tokenizer": "quick", "real_time_factor": 0.01, "audio_seconds": 100.0, "stored_bits_per_second": 1e6},
        {"tokenizer": "quick", "real_time_factor": 0.02, "audio_seconds": 900.0, "stored_bits_per_second": 4000.0},
        {"tokenizer": "quick", "encode": {"real_time_factor": 0.5}, "audio_seconds": 9999.0},
        {"tokenizer": "alone", "encode": {"real_time_factor": 0.25}, "audio_seconds": 60.0},
        {"tokenizer": "alone", "stored_bits_per_second": 1.0, "audio_seconds": 60.0, "weights": "random"},
    ]
    parts = {"planning": 20e-6, "opening": 2e-6, "index": 2e-6, "order": 1e-6, "held": 50e-6, "dealing": 1e-3}
    rows = [{"part": name, "rows": 1000, "cpu_seconds": 1000 * each, "peak_mib": 1000 * 2048 / MIB} for name, each in parts.items()]
    rows.append({"part": "held", "rows": 10, "cpu_seconds": 99.0, "peak_mib": 99.0})  # the most rows that were tried count
    rows.append({"part": "order", "rows": 5000, "cpu_seconds": 0.0, "peak_mib": 0.0})  # what takes nothing has no limit
    stages = [{"stage": "train", "rows": number, "peak_mib": 100 + number * 4096 / MIB} for number in (10, 1000, 9000)]
    files.write_json(tmp_path / "rates.json", {"machine": {"device": "cpu"}, "settings": {"workers": 2}, "results": speeds})
    files.write_json(tmp_path / "rows.json", {"rows": rows, "stages": stages})
    plan = {"hours": 1000, "utterance-seconds": 3.6, "cores": 10, "days": 10, "memory": 2, "files": 100, "minutes": 1}
    named = {"rates": tmp_path / "rates.json", "rows": tmp_path / "rows.json", "json": tmp_path / "plan.json"}
    prices = {"core-price": 0.5, "storage-price": 0.25}
    return [word for name, value in (plan | named | prices).items() for word in (f"--{name}", value)]


def limits(printed: str) -> dict[str, str]:
    """The hours at which each limit is reached."""
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines()]
    return {row[1]: row[2] for row in rows if len(row) == 5}


def test_a_plan_is_what_its_measurements_come_to(told: list[object], tmp_path: Path) -> None:
    printed = run("plan_scale.py", *told, "--tokenizers", "quick", "alone")
    quick, alone = files.read_json(tmp_path / "plan.json")["sizes"]
    assert quick | {"utterances": 1_000_000, "shards": 3907, "gpu_hours": None, "gpu_price": None} == quick
    for name, value in {"core_hours": 40, "days": 40 / 240, "compute_price": 20, "gigabytes": 1.8, "storage_price": 0.45}.items():
        assert quick[name] == pytest.approx(value), name  # two workers at 0.02: 0.04 of a core
    assert alone["core_hours"] == pytest.approx(250) and alone["gigabytes"] is None
    assert "| 1,000 | alone | 1,000,000 | 250 |" in printed and "– | – | 3,907 |" in printed
    assert "quick: 25 hours of audio in an hour of a core, read, encoded and written (rates.json)." in printed
    assert "alone: 4 hours of audio in an hour of a core, encoded alone (rates.json)." in printed
    assert "No rate was measured on a GPU for quick, alone: it is left out." in printed and "--scale was not given" in printed


def test_limits_stand_in_the_order_in_which_they_are_reached(told: list[object], tmp_path: Path) -> None:
    printed = run("plan_scale.py", *told, "--tokenizers", "quick")
    found = limits(printed)
    assert list(found) == [
        "what is reached",
        "100 files in a folder",  # 25,600 utterances of a thousandth of an hour
        "memory of `train`",  # 2 GiB / 4096 bytes
        "the manifest as objects",  # 2 GiB / 2048 bytes
        "the ids of the store",
        "planning again after a kill",  # 60 s / 20 µs
        "one core",  # 240 hours / 0.04
        "opening the store",  # 60 s / 2 µs
        "10 cores",
        "one process that plans and writes",  # 864,000 s / 1 ms
    ]
    assert list(found.values())[1:] == ["25.6", "524", "1,049", "1,049", "3,000", "6,000", "30,000", "60,000", "864,000"]
    assert "| 1,000 | memory of `train` | 524 | 4,096 bytes an utterance |" in printed
    assert "| beyond | one core | 6,000 | 25 hours an hour |" in printed
    assert "it feeds 144 cores" in printed  # 3.6 s at 0.04 take 144 ms of a core, and 1 ms to deal
    assert [row["name"] for row in files.read_json(tmp_path / "plan.json")["limits"]] == list(found)[1:]


def test_what_is_lost_between_workers_and_a_gpu_that_was_measured_are_reckoned_in(told: list[object], tmp_path: Path) -> None:
    speeds = {"processes_1": 1.0, "processes_2": 1.6, "ray_2": 1.7}
    files.write_json(tmp_path / "scale.json", {"workers": {"speed": speeds}})
    rate = {"tokenizer": "quick", "real_time_factor": 0.001, "audio_seconds": 100.0}
    files.write_json(tmp_path / "gpu.json", {"machine": {"device": "Some GPU"}, "settings": {"workers": None}, "results": [rate]})
    more = ["--rates", tmp_path / "rates.json", tmp_path / "gpu.json", "--scale", tmp_path / "scale.json", "--gpu-price", 3]
    printed = run("plan_scale.py", *told, *more, "--tokenizers", "quick")
    (row,) = files.read_json(tmp_path / "plan.json")["sizes"]
    assert row["core_hours"] == pytest.approx(50) and (row["gpu_hours"], row["gpu_price"]) == (1.0, 3.0)
    assert "quick: 1,000 hours of audio in an hour of Some GPU" in printed and "left out" not in printed
    assert limits(printed)["10 cores"] == "48,000" and limits(printed)["one core"] == "6,000"


def test_a_tokenizer_that_nobody_measured_is_refused_by_name(told: list[object]) -> None:
    said = run("plan_scale.py", *told, "--tokenizers", "other", fails=True)
    assert "no rate of 'other' was measured; --rates tell of: alone, quick; measure it with tools/bench_tokenize.py" in said


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from /proc")
def test_ten_times_the_utterances_take_a_few_bytes_more_for_each(tmp_path: Path) -> None:
    words = ["--scratch", tmp_path / "scratch", "--rows", 10_000, 100_000, "--parts", "planning", "index", "order"]
    rows = json.loads(run("bench_rows.py", *words))["rows"]
    grown = {row["part"]: row["peak_mib"] * MIB for row in rows if row["rows"] == 100_000}
    assert [(row["part"], row["rows"]) for row in rows] == [(part, number) for number in (10_000, 100_000) for part in grown]
    assert grown["planning"] < 140 * 100_000, "as objects they would take 1,900 bytes each"
    assert grown["index"] < 80 * 100_000, "a dict of ids takes 130 bytes each"
    assert grown["order"] < 80 * 100_000
    assert not (tmp_path / "scratch").exists()
