"""Costs beside scores, and the figure of quality against bits."""

from pathlib import Path

import pytest

from audiotok import files
from audiotok.evaluation import costs, rates, results, sources, table

CODEC = {"_target_": "Codec", "path": "here", "num_codebooks": 1}
LYRA = {"_target_": "Lyra", "folder": "there", "num_stages": 16}


def test_a_family_is_one_tokenizer_with_one_number_changed():
    settings = {
        "recordings": None,
        "codec-1": CODEC,
        "codec-4": CODEC | {"num_codebooks": 4},
        "codec-all": CODEC | {"num_codebooks": None},
        "codec_single": CODEC | {"path": "elsewhere"},
        "lyra": LYRA,
        "lyra_6k": LYRA | {"num_stages": 30},
        "mine": None,
    }
    assert rates.families(settings) == {
        "recordings": ["recordings"],
        "codec": ["codec-1", "codec-4", "codec-all"],
        "codec_single": ["codec_single"],
        "lyra": ["lyra", "lyra_6k"],
        "mine": ["mine"],
    }


def test_two_numbers_or_a_text_or_a_switch_make_another_tokenizer():
    for other in (CODEC | {"num_codebooks": 2, "dim": 3}, CODEC | {"path": "x"}, CODEC | {"num_codebooks": True}, CODEC):
        assert len(rates.families({"a-1": CODEC, "a-2": other})) == 2
    mel = {"mel": {"hop": 200}, "low": 1}
    settings = {"d": mel, "d-hop": {"mel": {"hop": 400}, "low": 1}, "d-low": {"mel": {"hop": 200}, "low": 2}}
    assert rates.families(settings) == {"d": ["d", "d-hop"], "d-low": ["d-low"]}  # d-low is one number from d, but not from d-hop


def test_families_whose_names_would_clash_or_share_nothing_bear_their_first_systems_name():
    settings = {"codec": {"_target_": "Other"}, "codec-1": CODEC, "codec-2": CODEC | {"num_codebooks": 2}}
    assert list(rates.families(settings)) == ["codec", "codec-1"]
    assert rates.families({"small": CODEC, "large": CODEC | {"num_codebooks": 2}}) == {"small": ["small", "large"]}


def column(name: str, value: float | None, better: str = "higher", metric: str | None = None) -> dict:
    about = {"label": name.upper(), "unit": "", "scale": 1.0, "digits": 2, "better": better, "metric": metric or name}
    return {"name": name, **about, "value": value, "low": None, "high": None, "n": 1, "failed": 0, "skipped": 0}


def summary(**values: float | None) -> dict:
    columns = [column(name, value, better="neither" if name == "delay" else "higher") for name, value in values.items()]
    return {"utterances": 1, "unspoken": {}, "failures": {}, "skipped": {}, "judges": {"pesq": "pesq 1"}, "columns": columns}


def audio_folder(folder: Path, **said: dict) -> sources.AudioFolder:
    for name, content in said.items():
        files.write_json(folder / f"{name}.json", content)
    return sources.AudioFolder(folder)


CONDITIONS = {"threads": 1, "cpu": "CPU", "device": "cpu", "torch": "2", "utterances": 3, "seconds": 12.0}
FACTORS = {"encode": 0.01, "decode": 0.02, "both": 0.03}


@pytest.fixture
def systems(tmp_path: Path) -> dict[str, sources.AudioFolder]:
    opus = {"bits_per_second": 6000.0, "payload_bits_per_second": 5241.0, "file_bits_per_second": 7164.0}
    return {
        "codec": audio_folder(
            tmp_path / "codec",
            system={"bits_per_second": 3000.0},
            costs={"parameters": 6_100_000, "real_time_factor": FACTORS, "conditions": CONDITIONS},
        ),
        "opus": audio_folder(
            tmp_path / "opus", system=opus, costs={"parameters": None, "real_time_factor": {"both": 0.5}, "conditions": CONDITIONS}
        ),
        "before": audio_folder(tmp_path / "before", system={"bits_per_second": 500.0}),
        "tts": audio_folder(tmp_path / "tts"),
    }


def test_costs_stand_before_the_scores_of_every_system_and_empty_where_they_are_not_known(systems):
    scored = {name: summary(pesq=2.0) for name in ("recordings", *systems)}
    told = costs.with_costs(scored, systems)
    names = [cost.name for cost in costs.COLUMNS]
    assert all([column["name"] for column in one["columns"]] == [*names, "pesq"] for one in told.values())
    values = {name: [results.cell(one, cost)["value"] for cost in names] for name, one in told.items()}
    assert values == {
        "recordings": [None] * 5,
        "codec": [3000, 6_100_000, 0.03, 0.01, 0.02],
        "opus": [5241, None, 0.5, None, None],  # what was measured, not the target
        "before": [500, None, None, None, None],
        "tts": [None] * 5,
    }
    assert results.number(results.cell(told["codec"], "parameters")) == "6.10"
    assert told["opus"]["costs"]["file_bits_per_second"] == 7164
    assert "1 thread of CPU" in told["codec"]["judges"]["costs"]
    assert "measured" in told["opus"]["judges"]["costs"] and "thread" not in told["before"]["judges"]["costs"]
    assert told["tts"]["judges"] == {"pesq": "pesq 1"}
    lines = table.markdown(told).splitlines()
    assert lines[0].startswith("| | utterances | Rate (bit/s) | Parameters (M) | RTF ↓ | RTF encode ↓ | RTF decode ↓ | PESQ ↑ |")
    assert lines[2].startswith("| recordings | 1 | – | – | – | – | – | 2.00 |")
    assert scored["codec"]["columns"] == summary(pesq=2.0)["columns"]


def test_where_no_system_tells_its_costs_nothing_is_added(systems):
    scored = {"recordings": summary(pesq=2.0), "tts": summary(pesq=1.0)}
    assert costs.with_costs(scored, {"tts": systems["tts"]}) == scored


def test_the_costs_of_a_folder_are_no_part_of_what_is_scored(systems):
    files.write_jsonl(systems["codec"].path / "utterances.jsonl", [])
    before = systems["codec"].fingerprint()
    files.write_json(systems["codec"].path / "costs.json", {"parameters": 1, "real_time_factor": {}, "conditions": CONDITIONS})
    again = sources.AudioFolder(systems["codec"].path)
    assert (again.fingerprint(), again.costs["parameters"]) == (before, 1)


def rated(rate: float | None, **values: float | None) -> dict:
    one = summary(**values)
    return one | {"columns": [column(costs.BITS, rate, better="neither", metric=costs.METRIC), *one["columns"]]}


def test_a_panel_draws_each_family_by_rate_higher_values_higher_and_only_what_was_measured():
    scored = {
        "recordings": rated(None, pesq=4.6, delay=0.0),
        "c-2": rated(1000, pesq=2.0, delay=0.0),
        "c-1": rated(500, pesq=1.0, delay=0.0),
        "lyra": rated(3200, pesq=3.0, delay=0.0),
        "mute": rated(700, pesq=None, delay=None),
    }
    members = {"recordings": ["recordings"], "c": ["c-2", "c-1"], "lyra": ["lyra"], "mute": ["mute"]}
    (panel,) = rates.panels(scored, members)  # a delay is neither good nor bad
    assert panel.data() == {
        "metric": "PESQ",
        "better": "higher",
        "families": {
            "recordings": [],
            "c": [
                {"system": "c-1", "bits_per_second": 500, "value": 1.0},
                {"system": "c-2", "bits_per_second": 1000, "value": 2.0},
            ],
            "lyra": [{"system": "lyra", "bits_per_second": 3200, "value": 3.0}],
            "mute": [],
        },
    }
    low, high, best = (point for family in panel.families for point in family.points)
    assert low.x < high.x < best.x and low.y > high.y > best.y
    assert high.x - low.x == pytest.approx((best.x - high.x) * 0.30103 / 0.50515, rel=0.02)  # log10 of 2 and of 3.2
    assert {label for _, label in panel.x_ticks} == {"500", "1k", "2k"}
    assert high.text == "c-2: 2.00 at 1000 bit/s"


def test_one_rate_is_no_figure():
    assert rates.panels({"recordings": rated(None, pesq=4.6), "lyra": rated(3200, pesq=3.0)}, {"lyra": ["lyra"]}) == []
