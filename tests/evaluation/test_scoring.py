"""Rows, their resumption, and what a summary makes of them. The judges here are small, so that they can fail on order."""

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hydra.utils import instantiate
from tiny import shortest_transcribed

from audiotok import audio, files
from audiotok.data import manifests
from audiotok.data.workers import Workers
from audiotok.evaluation import results, scoring, sources, table
from audiotok.evaluation.metric import Column, MetricFailure, NotApplicable, Ratio, Utterance
from audiotok.evaluation.results import summarise
from audiotok.evaluation.scoring import CHUNK, score_all

IDS = [f"u{index:03d}" for index in range(2 * CHUNK + 3)]


def load(id: str) -> scoring.Pair:
    utterance = Utterance(id, torch.zeros(160 * (1 + IDS.index(id))), 16000, f"text of {id}", "en", "someone")
    return utterance, utterance


@dataclass
class Samples:
    """Scores an utterance by its number of samples; counts its calls; `die_at` is killed."""

    die_at: str | None = None
    calls: list[str] = field(default_factory=list)
    columns = (Column("samples", "Samples", "mean"), Column("rate", "Rate", "ratio", "lower", unit="%", scale=100, digits=1))
    judge = "len 1.0"

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict:
        if reference.id == self.die_at:
            raise KeyboardInterrupt
        self.calls.append(reference.id)
        return {"samples": float(len(estimate.wav_T)), "rate": Ratio(1, IDS.index(reference.id) + 1)}


class Picky:
    columns = (Column("picky", "Picky", "mean", "higher"), Column("said", "said", "text"))
    judge = "picky 2.0"

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict:
        if reference.id in IDS[:3]:
            raise MetricFailure("silence")
        if reference.id == IDS[3]:
            raise NotApplicable("another language")
        if reference.id == IDS[4]:
            return {"picky": float("nan"), "said": "x"}
        return {"picky": 2.0, "said": reference.id}


def test_a_failing_metric_is_counted_with_its_reason_and_its_mean_is_of_the_others(tmp_path):
    metrics = {"samples": Samples(), "picky": Picky()}
    rows = score_all(IDS, load, metrics, folder=tmp_path)
    assert rows["picky_failed"].to_pylist()[:5] == ["silence"] * 3 + [None, "picky came out as nan"]
    assert rows["picky"].to_pylist()[:6] == [None] * 5 + [2.0]
    summary = summarise(rows, metrics, resamplings=100, seed=0)
    samples, _, picky = summary["columns"]
    assert (picky["value"], picky["n"], picky["failed"], picky["skipped"]) == (2.0, len(IDS) - 5, 4, 1)
    assert samples["n"] == len(IDS)  # the failure of one metric leaves the others whole
    assert summary["failures"]["picky"] == {"silence": 3, "picky came out as nan": 1}
    assert summary["skipped"]["picky"] == {"another language": 1}
    assert summary["judges"] == {"samples": "len 1.0", "picky": "picky 2.0"}


def test_a_ratio_is_the_sum_of_numerators_over_the_sum_of_denominators(tmp_path):
    metrics = {"samples": Samples()}
    rate = results.cell(summarise(score_all(IDS[:4], load, metrics, folder=tmp_path), metrics, resamplings=100, seed=0), "rate")
    assert rate is not None
    assert rate["value"] == 4 / (1 + 2 + 3 + 4)
    assert rate["low"] < rate["value"] < rate["high"]
    assert results.number(rate) == "40.0"


def test_a_metric_that_scored_nothing_has_no_value_and_still_counts(tmp_path):
    metrics = {"picky": Picky()}
    summary = summarise(score_all(IDS[:3], load, metrics, folder=tmp_path), metrics, resamplings=100, seed=0)
    (picky,) = summary["columns"]
    assert (picky["value"], picky["low"], picky["n"], picky["failed"]) == (None, None, 0, 3)
    assert results.number(picky) == "–"


def test_an_exception_that_is_not_a_known_failure_ends_the_run(tmp_path):
    class Broken(Picky):
        def __call__(self, reference: Utterance, estimate: Utterance) -> dict:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        score_all(IDS, load, {"broken": Broken()}, folder=tmp_path)


def test_two_metrics_cannot_fill_one_column(tmp_path):
    with pytest.raises(ValueError, match="two metrics fill the column 'rate'"):
        score_all(IDS, load, {"one": Samples(), "two": Samples()}, folder=tmp_path)
    with pytest.raises(ValueError, match="two metrics fill the column 'speaker'"):
        named = Picky()
        named.columns = (Column("speaker", "Speaker", "mean"),)  # the utterance's own column
        score_all(IDS, load, {"named": named}, folder=tmp_path)


@pytest.mark.parametrize("killed_at", [IDS[0], IDS[CHUNK], IDS[CHUNK + 5], IDS[-1]])
def test_a_killed_run_goes_on_and_scores_no_finished_chunk_again(tmp_path, killed_at):
    undisturbed = score_all(IDS, load, {"samples": Samples()}, folder=tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        score_all(IDS, load, {"samples": Samples(die_at=killed_at)}, folder=tmp_path / "killed")
    again, done = Samples(), []
    resumed = score_all(IDS, load, {"samples": again}, folder=tmp_path / "killed", progress=done.append)
    assert again.calls == IDS[IDS.index(killed_at) // CHUNK * CHUNK :]
    assert sum(done) == len(IDS)
    assert resumed.equals(undisturbed)
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("undisturbed", "killed")]
    assert names == [{scoring.SCORES}] * 2
    assert pq.read_table(tmp_path / "killed" / scoring.SCORES).equals(undisturbed)


def recorded(folder: Path, speech: Path) -> tuple[Path, Path, list[str]]:
    """Manifests of four recordings, the folder of a system that halves them, and the ids."""
    rows = shortest_transcribed(speech, 4)
    recordings = [manifests.Utterance(f"r{index}", speech / row["path"], row["text"], "x", "en") for index, row in enumerate(rows)]
    (folder / "manifests").mkdir()
    manifests.write_manifests(folder / "manifests", {"test": recordings}, max_rejected=0, max_seconds=60, workers=1)
    for recording in recordings:
        wav_T, rate = audio.read(str(recording.sound))
        audio.write(folder / "halved" / f"{recording.id}.wav", wav_T[: len(wav_T) // 2], rate)
    said = [{"id": recording.id, "path": f"{recording.id}.wav", "text": "", "speaker": "x", "language": "en"} for recording in recordings]
    files.write_jsonl(folder / "halved" / "utterances.jsonl", said)
    return folder / "manifests", folder / "halved", [recording.id for recording in recordings]


def test_worker_processes_give_the_same_rows_in_the_same_order_whenever_they_take_over(tmp_path, speech):
    folder, system, ids = recorded(tmp_path, speech)
    make = partial(instantiate, {"delay": {"_target_": "audiotok.evaluation.reconstruction.Delay", "max_delay": 0.1}})
    alone = scoring.scorer(make, folder)
    here = {system_folder: [alone((system_folder, id)) for id in ids] for system_folder in (None, system)}
    assert [row["seconds"] * 2 for row in here[system]] == pytest.approx([row["seconds"] for row in here[None]], abs=1e-3)

    def load(id: str) -> scoring.Pair:
        taken_here.append(id)
        reference = sources.Recordings(manifests.load_cuts(folder, "test")).load(id)
        return sources.pair(reference, sources.AudioFolder(system).load(id))

    with Workers(partial(scoring.scorer, make, folder), num=2, after=0.0) as workers:
        for name in ("early", "late"):
            taken_here: list[str] = []
            done: list[int] = []
            told = {"folder": tmp_path / name, "system": system, "workers": workers, "progress": done.append}
            rows = score_all(ids, load, make(), **told)
            assert rows.to_pylist() == score_all(ids, load, make(), folder=tmp_path / f"{name} alone").to_pylist()
            assert [row["seconds"] for row in rows.to_pylist()] == [row["seconds"] for row in here[system]]
            assert sum(done) == len(ids)
            while not workers.ready():
                time.sleep(0.01)
            assert name == "early" or taken_here == ids  # only by the run that had no workers


def test_a_finished_table_is_not_scored_again(tmp_path):
    score_all(IDS, load, {"samples": Samples()}, folder=tmp_path)
    again = Samples()
    score_all(IDS, load, {"samples": again}, folder=tmp_path)
    assert again.calls == []


def test_a_run_killed_between_the_table_and_its_chunks_leaves_only_the_table(tmp_path, monkeypatch):
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(scoring.shutil, "rmtree", killed)
        score_all(IDS, load, {"samples": Samples()}, folder=tmp_path)
    assert (tmp_path / "chunks").exists()
    again = Samples()
    assert len(score_all(IDS, load, {"samples": again}, folder=tmp_path)) == len(IDS)
    assert again.calls == []
    assert {path.name for path in tmp_path.iterdir()} == {scoring.SCORES}


def test_a_system_that_spoke_nothing_has_no_utterances_and_its_failures(tmp_path):
    metrics = {"samples": Samples(), "picky": Picky()}
    rows = score_all([], load, metrics, folder=tmp_path)
    summary = summarise(rows, metrics, unspoken=["too long", "too long"], resamplings=100, seed=0)
    assert (summary["utterances"], summary["seconds"], summary["unspoken"]) == (0, 0, {"too long": 2})
    assert [(column["value"], column["n"]) for column in summary["columns"]] == [(None, 0)] * 3
    assert score_all([], load, metrics, folder=tmp_path).equals(rows)


def test_results_that_are_not_there_name_the_stage_that_makes_them(tmp_path):
    with pytest.raises(ValueError, match="run `audiotok evaluate`"):
        results.read(tmp_path)


def test_the_printed_table_holds_values_intervals_failures_and_reasons(tmp_path):
    from rich.console import Console

    metrics = {"samples": Samples(), "picky": Picky()}
    summary = summarise(score_all(IDS, load, metrics, folder=tmp_path), metrics, unspoken=["no [phonemes]"], resamplings=100, seed=0)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table.results_table({"mine": summary}, title="Results of x"))
    text = console.export_text()
    for part in ("Rate (%) ↓", "Picky ↑", "2.00", "4 failed", "1 skipped", "1 not spoken", "picky failed for 3: silence", "no [phonemes]"):
        assert part in text
