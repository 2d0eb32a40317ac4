"""The page of a benchmark: numbers made up, speech real; from its files to a browser without a network."""

import html
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
from tiny import shortest_transcribed

from audiotok import audio, files
from audiotok.bench import entries, leaderboard, rows
from audiotok.bench.rows import Row
from audiotok.bench.task import Score
from audiotok.evaluation.metric import Column

PESQ = Column("pesq", "PESQ", "mean", "higher")
STOI = Column("stoi", "STOI", "mean", "higher", digits=3)
UED = Column("ued", "Unit edit distance", "mean", "lower", unit="%", scale=100, digits=1)
ACCURACY = Column("accuracy", "Accuracy", "mean", "higher", unit="%", scale=100, digits=1)
RATES = {"codec_8": 10_000.0, "codec_2": 9000.0, "steady": 800.0, "semantic": 500.0, "broken": 450.0}
QUALITY = {"codec_8": 10.2, "codec_2": 9.1, "steady": 3.3, "semantic": 2.4, "broken": 4.05, "recordings": 11.0}
HOSTILE = "</script><script>document.title='taken'</script>"


def items(mean: float, count: int = 12, *, seed: int = 0) -> dict[str, float]:
    noise = np.random.default_rng(seed).normal(scale=0.01, size=count)
    return {str(index): float(mean + value) for index, value in enumerate(noise - noise.mean())}


def of_items(column: Column, mean: float, *, seed: int = 0, **told: Any) -> Score:
    values = items(mean, seed=seed)
    return Score(column, float(np.mean(list(values.values()))), values, **told)


def coins(share: float, count: int = 40) -> dict[str, float]:
    return {str(index): float(index < share * count) for index in range(count)}


def write_cells(folder: Path, name: str, *, has_codes: bool = True) -> None:
    about = {
        "commit": "abc123",
        "machine": {"cpu": "a processor", "cores": 2},
        "versions": {"torch": "2.11"},
        "tokenizer": f"print of {name}",
    }
    told = {"suite": "speech", "tokenizer": name, "started": "2026-11-26T10:00:00+00:00", "seconds": 2.5, "provenance": about}

    def cell(task: str, axis: str, seed: int, scores: tuple[Score, ...], verdict: str = "ok", **more: Any) -> None:
        rows.write(Row(task=task, axis=axis, seed=seed, scores=scores, verdict=verdict, **{"reason": None, **told, **more}), folder)

    level = QUALITY[name]
    heard = of_items(PESQ, level, primary=True, failures={"silence": 2} if name == "semantic" else {})
    cell("resynthesis", "reconstruction", 0, (heard, of_items(STOI, level / 20)))
    if not has_codes:
        cell("digits", "downstream", 0, (), "not_applicable", reason="it has no codes")
        return
    curve = [{"name": "noise: UED (%)", "kind": "noise_UED", "points": [[20, 1.0 + level], [10, 2.0 + level], [0, float("nan")]]}]
    wrong = {"verdict": "batch_dependent", "reason": "codes differ <with> the batch"} if name == "broken" else {}
    cell("robustness", "tokens", 0, (of_items(UED, level / 50, primary=True),), **wrong, detail={"curves": curve})
    for seed in (0, 1):
        share = 0.1 if name == "steady" else level / 14 + 0.05 * seed
        values = coins(share)
        accuracy = Score(ACCURACY, float(np.mean(list(values.values()))), values, chance=0.1, primary=True)
        cell("digits", "downstream", seed, (accuracy,))


def write_tokenizer(folder: Path, name: str, speech: Path) -> None:
    codes = name in RATES
    quantisation = "k-means" if name == "semantic" else "RVQ"
    settings = {"name": "codec", "num_codebooks": int(name[-1])} if name.startswith("codec") else {"name": name, "note": HOSTILE}
    about = {
        "label": name.replace("steady", "Steady & sure"),
        "taxonomy": {"quantisation": quantisation, "streaming": name != "semantic", "domain": ["speech", "music"]} if codes else {},
        "spec": {"sample_rate": 16_000, "frame_rate": "25/2", "codebook_sizes": [1024] * 80} if codes else {},
        "bits_per_second": RATES.get(name),
        "fingerprint": f"print of {name}",
        "settings": settings if codes else None,
        "family": None,
        "reference": not codes,
    }
    files.write_json(folder / "tokenizer.json", about)
    write_cells(folder, name, has_codes=codes)
    write_audio(folder / "audio", speech, level=0.5)


def write_audio(folder: Path, speech: Path, *, level: float) -> None:
    told = []
    for line in shortest_transcribed(speech, 3)[:2]:
        wav_T, rate = audio.read(speech / line["path"])
        path = f"{Path(line['path']).stem}.flac"
        audio.write(folder / path, level * wav_T, rate)
        told.append({"id": Path(path).stem, "path": path, "text": line["text"], "language": "en"})
    files.write_jsonl(folder / "utterances.jsonl", told)


@pytest.fixture(scope="module")
def bench(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    for name in QUALITY:
        write_tokenizer(folder / "speech" / name, name, speech)
    write_audio(folder / "speech" / "recordings" / "audio", speech, level=1.0)
    files.write_json(folder / "speech" / "suite.json", {"tasks": {"resynthesis": {}, "robustness": {}, "digits": {}}})
    return folder


@pytest.fixture(scope="module")
def page(bench: Path) -> Path:
    return leaderboard.write(bench)


@pytest.fixture(scope="module")
def board(page: Path) -> Mapping[str, Any]:
    return files.read_json(page.with_name("results.json"))["suites"][0]


def test_a_folder_without_results_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no SUITE/TOKENIZER/tokenizer\.json; run `audiotok bench`"):
        leaderboard.write(tmp_path)


def test_entries_are_what_was_written_and_tasks_come_in_the_order_of_the_suite(bench: Path) -> None:
    (suite,) = entries.suites(bench)
    assert suite.tasks == ("resynthesis", "robustness", "digits")
    assert [row.task for row in suite.rows][:6] == ["resynthesis"] * 6
    codec = next(entry for entry in suite.entries if entry.name == "codec_2")
    assert (codec.fixed_length, codec.taxonomy["streaming"], codec.taxonomy["domain"]) == (12.5 * 80 * 10, "yes", "speech, music")
    assert codec.taxonomy["training"] == ""
    assert len(codec.sentences) == len(suite.recordings) == 2


def test_tokenizers_that_differ_in_one_number_are_a_family(bench: Path) -> None:
    (suite,) = entries.suites(bench)
    family = {entry.name: entry.family for entry in suite.entries}
    assert family == dict.fromkeys(family, None) | {"codec_2": "codec", "codec_8": "codec"}


def test_results_hold_means_deviations_ranks_and_differences(board: Mapping[str, Any]) -> None:
    accuracy = board["cells"]["digits/accuracy"]["codec_2"]
    first, second = (np.mean(list(coins(9.1 / 14 + 0.05 * seed).values())) for seed in (0, 1))
    assert accuracy["mean"] == pytest.approx((first + second) / 2)
    assert accuracy["sd"] == pytest.approx(abs(second - first) / np.sqrt(2))
    assert (accuracy["n"], accuracy["items"]) == (2, 40)
    ranks = {name: cell["rank"] for name, cell in board["cells"]["resynthesis/pesq"].items()}
    assert ranks == {"codec_8": "1", "codec_2": "2", "broken": "3", "steady": "4", "semantic": "5", "recordings": ""}
    assert board["ranks"]["tokenizers"]["codec_8"]["means"]["reconstruction"] == {"mean": 1.0, "n": 1, "of": 1}
    assert "recordings" not in board["ranks"]["tokenizers"]
    pair = next(one for one in board["differences"]["resynthesis/pesq"] if {one["left"], one["right"]} == {"codec_2", "codec_8"})
    assert abs(pair["difference"]["estimate"]) == pytest.approx(1.1)
    assert max(pair["signs"]["left"], pair["signs"]["right"]) == 12


def test_the_best_is_the_best_of_those_ranked_and_flags_say_why(board: Mapping[str, Any]) -> None:
    best = [name for name, cell in board["cells"]["resynthesis/pesq"].items() if cell["best"]]
    assert best == ["codec_8"]
    (flag,) = board["cells"]["digits/accuracy"]["steady"]["flags"]
    assert flag["kind"] == "not converged" and "chance (10.0 %)" in flag["reason"]
    assert not board["cells"]["digits/accuracy"]["codec_2"]["flags"]


def test_correlations_are_those_of_the_ranked_tokenizers(board: Mapping[str, Any]) -> None:
    found = next(one for one in board["correlations"] if (one["left"], one["right"]) == ("robustness/ued", "resynthesis/pesq"))
    assert found["n"] == 5
    assert found["spearman"] == pytest.approx(1)
    assert found["spearman_p"] == pytest.approx(2 / 120)


def test_sanity_findings_are_on_the_page(page: Path, board: Mapping[str, Any]) -> None:
    whats = [finding["what"] for finding in board["findings"]]
    assert "robustness, seed 0: batch_dependent: codes differ <with> the batch" in whats
    assert any(what.startswith("digits, accuracy: ") and "10.0 % is not better than chance" in what for what in whats)
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert all(what in text for what in whats)


def test_the_table_has_a_row_for_every_value_of_every_seed(page: Path) -> None:
    table = polars.read_parquet(page.with_name("results.parquet"))
    assert len(table) == 6 * 2 + 5 * (1 + 2) + 1
    digits = table.filter((polars.col("tokenizer") == "codec_2") & (polars.col("score") == "accuracy")).sort("seed")
    assert digits["value"].to_list() == pytest.approx([np.mean(list(coins(9.1 / 14 + 0.05 * seed).values())) for seed in (0, 1)])
    assert digits["quantisation"].to_list() == ["RVQ", "RVQ"]
    assert json.loads(digits["provenance"][0])["commit"] == "abc123"
    empty = table.filter(polars.col("score").is_null())
    assert empty.select("tokenizer", "task", "verdict", "reason").rows() == [("recordings", "digits", "not_applicable", "it has no codes")]
    semantic = table.filter((polars.col("tokenizer") == "semantic") & (polars.col("score") == "pesq"))
    assert semantic.select("failures", "failure_reasons").rows() == [(2, '{"silence": 2}')]


def test_the_page_needs_nothing_else_and_what_is_measured_cannot_write_into_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert 'src="http' not in text and "url(" not in text and '<link rel="stylesheet' not in text
    assert HOSTILE not in text
    data = text.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    assert json.loads(data)["suites"][0]["tokenizers"][-2]["settings"]["note"] == HOSTILE


def test_json_in_a_page_closes_no_element_and_holds_what_it_held() -> None:
    value = {"</script>": "<!-- </ é"}
    assert "<" not in leaderboard.embedded(value)
    assert json.loads(leaderboard.embedded(value)) == value


@pytest.fixture
def tab(browser: Any, page: Path) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    opened.goto(page.as_uri())
    yield opened
    opened.close()


def wait_until(tab: Any, condition: str) -> None:
    """Playwright's own wait evaluates strings in the page, which its content policy forbids."""
    deadline = time.monotonic() + 20
    while not tab.evaluate(condition):
        assert time.monotonic() < deadline, condition
        tab.wait_for_timeout(50)


def names(tab: Any, axis: str) -> list[str]:
    """The tokenizers that a table shows, from top to bottom."""
    rows = tab.locator(f"[data-axis={axis}] tbody tr:visible")
    return rows.evaluate_all("rows => rows.map(row => row.dataset.tokenizer)")


def sort_button(tab: Any, axis: str, label: str) -> Any:
    return tab.locator(f"[data-axis={axis}] thead .sort", has_text=label)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_without_a_network_shows_and_plays_the_page_without_complaint(browser: Any, page: Path, scheme: str) -> None:
    context = browser.new_context(offline=True, color_scheme=scheme, viewport={"width": 400, "height": 800})
    tab = context.new_page()
    complaints, requests = [], []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    assert tab.locator("audio").count() == 2 * 6  # two sentences: the recording and five tokenizers
    wait_until(tab, "[...document.querySelectorAll('audio')].every(audio => audio.duration > 0)")
    tab.evaluate("document.querySelectorAll('audio')[0].play()")
    wait_until(tab, "document.querySelectorAll('audio')[0].currentTime > 0.1")
    tab.evaluate("document.querySelectorAll('audio')[1].play()")
    wait_until(tab, "document.querySelectorAll('audio')[1].currentTime > 0.1")
    assert tab.evaluate("document.querySelectorAll('audio')[0].paused")  # one voice at a time
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")  # on a phone
    assert tab.title() == "Leaderboard · audiotok"
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    context.close()


def test_a_head_sorts_numbers_as_numbers_both_ways_with_what_is_missing_last(tab: Any) -> None:
    pesq = sort_button(tab, "reconstruction", "PESQ")
    pesq.click()
    falling = ["recordings", "codec_8", "codec_2", "broken", "steady", "semantic"]  # 11.0, 10.2, 9.1: not as texts
    assert names(tab, "reconstruction") == falling
    head = pesq.locator("xpath=ancestor::th")
    assert head.get_attribute("aria-sort") == "descending"
    pesq.click()
    assert names(tab, "reconstruction") == falling[::-1]
    assert head.get_attribute("aria-sort") == "ascending"
    sort_button(tab, "reconstruction", "Rate").press("Enter")
    assert names(tab, "reconstruction") == ["broken", "semantic", "steady", "codec_2", "codec_8", "recordings"]  # it has no rate
    assert head.get_attribute("aria-sort") == "none"


def test_equal_rows_keep_their_order_when_another_head_sorts(tab: Any) -> None:
    table = tab.locator("section", has=tab.locator("h2", has_text="Tokenizers")).locator("table")
    table.locator(".sort", has_text="Rate").last.click()
    table.locator(".sort", has_text="Quantisation").click()
    order = table.locator("tbody tr").evaluate_all("rows => rows.map(row => row.dataset.tokenizer)")
    assert order == ["semantic", "broken", "steady", "codec_2", "codec_8", "recordings"]


def test_filters_hide_rows_sections_drawings_and_players(tab: Any) -> None:
    assert len(names(tab, "reconstruction")) == 6
    tab.fill("#find", "CODEC_")
    assert names(tab, "reconstruction") == ["codec_2", "codec_8"]
    assert tab.inner_text("#shown") == "2 of 6 tokenizers"
    assert tab.locator("audio:visible").count() == 2 * 3
    assert tab.locator(".rates circle:visible").count() == 2
    tab.fill("#find", "")
    tab.uncheck("#references")
    assert "recordings" not in names(tab, "reconstruction")
    tab.select_option("#quantisation", "k-means")
    assert names(tab, "reconstruction") == ["semantic"]
    tab.select_option("#streaming", "yes")
    assert names(tab, "reconstruction") == []
    tab.select_option("#quantisation", "")
    tab.select_option("#streaming", "")
    tab.select_option("#axis", "tokens")
    assert names(tab, "reconstruction") == []
    assert len(names(tab, "tokens")) == 5


def test_explaining_scores_are_shown_when_asked_for(tab: Any) -> None:
    stoi = sort_button(tab, "reconstruction", "STOI")
    assert not stoi.is_visible()
    tab.check("#explain")
    assert stoi.is_visible()
    stoi.click()
    assert names(tab, "reconstruction")[:4] == ["recordings", "codec_8", "codec_2", "broken"]  # 0.55, 0.51, 0.455, 0.2025


def test_a_number_opens_where_it_comes_from(tab: Any) -> None:
    tab.locator("[data-axis=downstream] .value[data-of=codec_2]").press("Enter")
    dialog = tab.locator("#provenance")
    assert dialog.is_visible()
    text = dialog.inner_text()
    for told in ("print of codec_2", "abc123", "a processor", '"torch": "2.11"', "2 seeds and 40 items", "95 % interval", "chance 10.0"):
        assert told in text
    assert "Paired differences from" in text
    seeds = dialog.locator("table").first.locator("tbody tr").evaluate_all("rows => rows.map(row => row.cells[1].textContent)")
    assert seeds == [f"{100 * np.mean(list(coins(9.1 / 14 + 0.05 * seed).values())):.1f}" for seed in (0, 1)]
    tab.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_flags_carry_their_reasons(tab: Any) -> None:
    row = tab.locator("[data-axis=downstream] tr[data-tokenizer=steady]")
    assert "not better than chance" in row.locator(".badge", has_text="not converged").get_attribute("title")
    broken = tab.locator("[data-axis=tokens] tr[data-tokenizer=broken] .badge")
    assert (broken.inner_text(), broken.get_attribute("title")) == ("batch dependent", "seed 0: codes differ <with> the batch")
    semantic = tab.locator("[data-axis=reconstruction] tr[data-tokenizer=semantic] .badge").first
    assert (semantic.inner_text(), semantic.get_attribute("title")) == ("2 failed", "silence: 2")
    tab.locator("[data-axis=downstream] tr[data-tokenizer=recordings] .value").click()
    assert "not_applicable: it has no codes" in tab.inner_text("#provenance")


def test_figures_are_drawn_of_the_numbers(tab: Any) -> None:
    titles = tab.locator(".rates circle title").evaluate_all("all => all.map(one => one.textContent)")
    assert "codec_2: 9.10 at 9000 bit/s" in titles
    assert len(titles) == len(RATES)
    assert tab.locator(".rates polyline").count() == 1  # of the family
    assert tab.locator(".radars .area").count() == len(RATES)
    assert tab.locator(".curves polyline").count() == len(RATES)
    assert tab.locator(".curves circle").count() == 2 * len(RATES)  # what is not a number is not drawn
    tab.select_option(".across", label="resynthesis: PESQ ↑")
    tab.select_option(".up", label="digits: Accuracy (%) ↑")
    points = tab.locator(".tradeoff circle title").evaluate_all("all => all.map(one => one.textContent)")
    assert any(point.startswith("codec_8: ") and point.endswith(" at 10.20") for point in points)


def test_correlations_are_told_to_pointer_and_keyboard_in_both_kinds(tab: Any) -> None:
    cell = tab.locator(".heat tbody td").first
    assert cell.inner_text() == "1.00"
    cell.focus()
    assert "spearman 1.000, n 5, p 0.017" in tab.inner_text(".pointed")
    tab.select_option(".coefficient", "pearson")
    assert "pearson" in tab.locator(".heat tbody td").first.get_attribute("title")


def test_two_suites_share_a_page_and_one_is_seen_at_a_time(browser: Any, bench: Path, tmp_path: Path) -> None:
    shutil.copytree(bench / "speech", tmp_path / "first")
    shutil.copytree(bench / "speech" / "steady", tmp_path / "second" / "steady")
    tab = browser.new_page()
    tab.goto(leaderboard.write(tmp_path).as_uri())
    assert tab.locator(".suite-name:visible").all_text_contents() == ["first"]
    tab.select_option("#suite", "second")
    assert tab.locator(".suite-name:visible").all_text_contents() == ["second"]
    assert tab.inner_text("#shown") == "1 of 1 tokenizers"
    assert tab.evaluate(
        "new Set([...document.querySelectorAll('[id]')].map(one => one.id)).size === document.querySelectorAll('[id]').length"
    )
    tab.close()
