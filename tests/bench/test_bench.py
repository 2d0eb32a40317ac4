"""The whole way of a tokenizer onto the leaderboard, an honest one and each broken one, with not a file of the project touched."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from bench_cases import FAULTS, tiny_suite
from tiny import tiny_speech_folder

from audiotok import cli
from audiotok.bench import rows, suite

OWN = '''"""A tokenizer of somebody's own: zero crossings of each 20 ms, one of 32 steps."""

from fractions import Fraction

import torch

from audiotok.types import TokenSpec


class Crossings:
    def __init__(self, *, levels: int = 32) -> None:
        self.levels = levels
        self.spec = TokenSpec(16000, Fraction(50), (levels,), f"crossings {levels}")

    def encode(self, wav_BT, lengths_B):
        frames_B = -(-lengths_B // 320)
        spare = int(frames_B.max()) * 320 - wav_BT.shape[1]
        signs_BNT = torch.nn.functional.pad(wav_BT, (0, max(spare, 0)))[:, : int(frames_B.max()) * 320].sign().unflatten(1, (-1, 320))
        share_BN = (signs_BNT.diff(dim=2) != 0).float().mean(dim=2)
        codes_BN = (share_BN * self.levels).long().clamp(0, self.levels - 1)
        inside_BN = torch.arange(codes_BN.shape[1]) < frames_B[:, None]
        return (codes_BN * inside_BN)[:, None], frames_B
'''


@pytest.fixture(scope="module")
def place(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of somebody's own with a suite, a corpus and a tokenizer, outside the project."""
    folder = tmp_path_factory.mktemp("elsewhere")
    corpus = tiny_speech_folder(folder / "corpus", speech, utterances=6)
    with open(corpus / "manifest.tsv", encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file, delimiter="\t"))
    assert {row["dataset"] for row in listed} == {"librispeech"}
    (folder / "crossings.py").write_text(OWN, encoding="utf-8")
    tiny_suite(folder)
    return folder


def bench(place: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> dict[str, dict[str, rows.Row]]:
    """Run the suite in that folder; the rows by tokenizer and task."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    settings = [f"corpora.speech.root={place / 'corpus'}", f"exp_root={place / 'exp'}", "prepare.workers=1", "bench.listen.min_seconds=0"]
    cli.main(["bench", "recipes/tiny.yaml", *settings, *overrides])
    return {
        folder.name: {row.task: row for row in rows.read(folder)}
        for folder in sorted((place / "bench" / "tiny").iterdir())
        if (folder / "cells").is_dir()
    }


def test_a_class_of_ones_own_gets_a_row_without_a_file_of_the_project_touched(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(OWN.splitlines()) <= 30
    found = bench(place, monkeypatch, "tokenizer=crossings.Crossings")["Crossings"]
    assert {task: row.verdict for task, row in found.items()} == {
        "laws": "ok",
        "codebook_use": "ok",
        "reconstruction": "not_applicable",
        "cost": "ok",
    }
    assert found["reconstruction"].reason == "it has no way back to sound"
    laws = {score.column.name: score.value for score in found["laws"].scores}
    assert laws == {"law_again": 1.0, "law_batch": 1.0, "law_padding": 1.0}
    told = found["cost"].provenance
    assert told["tokenizer"] == "crossings 32" and told["machine"]["torch"] and told["versions"]["torch"] and told["seed"] == 0
    page = (place / "bench" / "report" / "index.html").read_text(encoding="utf-8")
    assert "Crossings" in page and "crossings 32" in page


def test_what_is_there_is_not_measured_again_and_other_settings_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench(place, monkeypatch, "tokenizer=crossings.Crossings")
    cells = sorted((place / "bench" / "tiny" / "Crossings" / "cells").glob("*"))
    before = {path: path.stat().st_mtime_ns for path in cells}
    bench(place, monkeypatch, "tokenizer=crossings.Crossings")
    assert {path: path.stat().st_mtime_ns for path in cells} == before
    with pytest.raises(SystemExit, match=r"of another tokenizer \(levels: None there, 8 now\); set bench.label"):
        bench(place, monkeypatch, "tokenizer=crossings.Crossings", "tokenizer.levels=8")
    found = bench(place, monkeypatch, "tokenizer=crossings.Crossings", "tokenizer.levels=8", "bench.label=coarse")
    assert found["coarse"]["cost"].provenance["tokenizer"] == "crossings 8"


def test_a_cell_that_is_missing_is_all_that_is_measured(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench(place, monkeypatch, "tokenizer=crossings.Crossings")
    cells = place / "bench" / "tiny" / "Crossings" / "cells"
    kept, gone = cells / "cost-0.parquet", cells / "laws-0.parquet"
    before = kept.stat().st_mtime_ns
    gone.unlink()
    bench(place, monkeypatch, "tokenizer=crossings.Crossings")
    assert gone.exists() and kept.stat().st_mtime_ns == before


def test_a_run_that_was_stopped_behind_its_last_cell_goes_on_with_the_sound_of_the_page(place: Path, monkeypatch, capsys) -> None:
    bench(place, monkeypatch, "tokenizer=dmel", "bench.tasks=[codebook_use]")
    folder = place / "bench" / "tiny" / "dmel"
    before = {path.name: path.read_bytes() for path in (folder / "audio").iterdir()}
    assert len(before) > 1
    (folder / "audio" / "utterances.jsonl").unlink()
    next((folder / "audio").glob("*.flac")).unlink()
    (cell,) = (folder / "cells").iterdir()
    measured = cell.stat().st_mtime_ns
    bench(place, monkeypatch, "tokenizer=dmel", "bench.tasks=[codebook_use]")
    assert {path.name: path.read_bytes() for path in (folder / "audio").iterdir()} == before and cell.stat().st_mtime_ns == measured
    capsys.readouterr()
    bench(place, monkeypatch, "tokenizer=dmel", "bench.tasks=[codebook_use]")
    assert capsys.readouterr().out.count("dmel is there already") == 1


def test_sentences_that_are_not_at_hand_are_no_end_of_it_and_what_is_overwritten_is_heard_anew(place: Path, monkeypatch, capsys) -> None:
    told = ["tokenizer=dmel", "bench.tasks=[codebook_use]", "bench.label=heard"]
    bench(place, monkeypatch, *told, "bench.listen.min_seconds=1000")
    assert "no audio for the page: the corpus speech has no such utterances" in " ".join(capsys.readouterr().out.split())
    folder = place / "bench" / "tiny" / "heard" / "audio"
    assert not folder.exists()
    bench(place, monkeypatch, *told)
    heard = next(folder.glob("*.flac"))
    told_of = heard.read_bytes()
    heard.write_bytes(b"of another tokenizer")
    bench(place, monkeypatch, *told, "overwrite=true")
    assert heard.read_bytes() == told_of


def test_a_row_names_the_machine_that_it_was_measured_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = suite.surroundings(torch.device("cpu"))
    monkeypatch.setattr(suite, "surroundings", lambda device: own | {"machine": {"host": "the one that asks"}})  # in this process alone
    found = bench(place, monkeypatch, "tokenizer=crossings.Crossings", "bench.workers=1", "bench.label=measured_elsewhere")
    assert {row.provenance["machine"]["torch"] for row in found["measured_elsewhere"].values()} == {own["machine"]["torch"]}


def test_a_yaml_is_a_tokenizer_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "mine.yaml").write_text("_target_: crossings.Crossings\nlevels: 4\n", encoding="utf-8")
    found = bench(place, monkeypatch, "tokenizer=mine.yaml", "bench.tasks=[codebook_use]", "--trust", "crossings")
    assert [row.verdict for row in found["mine"].values()] == ["ok"]


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_broken_tokenizer_gets_a_named_verdict_and_the_other_cells_finish(place, monkeypatch, fault: str) -> None:
    settings = ["tokenizer=bench_cases.Loudness", f"tokenizer.fault={fault}", f"bench.label=bad_{fault}"]
    found = bench(place, monkeypatch, *settings)[f"bad_{fault}"]
    assert set(found) == {"laws", "codebook_use", "reconstruction", "cost"}
    assert FAULTS[fault] in {row.verdict for row in found.values()}, {task: (row.verdict, row.reason) for task, row in found.items()}
    if fault in ("nan", "short"):  # its codes are well
        assert found["codebook_use"].verdict == "ok"
    page = (place / "bench" / "report" / "index.html").read_text(encoding="utf-8")
    assert FAULTS[fault] in page


def test_a_process_that_dies_is_a_verdict(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["tokenizer=bench_cases.Loudness", "tokenizer.fault=die", "bench.label=deadly", "bench.workers=1", "bench.tasks=[laws,cost]"]
    found = bench(place, monkeypatch, *settings)["deadly"]
    assert {row.verdict for row in found.values()} == {"died"}


def test_one_tokenizer_that_cannot_be_made_does_not_stop_the_others(place: Path, monkeypatch, capsys) -> None:
    shutil.rmtree(place / "bench", ignore_errors=True)
    with pytest.raises(SystemExit, match=r"not done: crossings\.Missing"):
        bench(place, monkeypatch, "tokenizer=crossings.Missing,crossings.Crossings", "bench.tasks=[codebook_use]")
    assert "crossings.Missing" in capsys.readouterr().err
    assert (place / "bench" / "tiny" / "Crossings" / "cells" / "codebook_use-0.parquet").exists()


def test_report_draws_the_page_of_a_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench(place, monkeypatch, "tokenizer=crossings.Crossings")
    page = place / "bench" / "report" / "index.html"
    page.unlink()
    cli.main(["report", "bench"])
    assert page.exists()
    told = json.loads((place / "bench" / "report" / "results.json").read_text(encoding="utf-8"))
    assert "Crossings" in json.dumps(told)
