"""Shorter codes against plain downsampling: hand-computed fronts, interpolation at equal rate, verdicts, and the page."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audiotok import files
from audiotok.evaluation import fronts, fronts_page
from audiotok.evaluation.fronts import ACCOUNT, Reduction

IDS = [f"u{place}" for place in range(40)]
COLUMNS = [
    {"metric": "stoi", "name": "stoi", "label": "STOI", "better": "higher", "unit": "", "scale": 1.0, "digits": 3},
    {"metric": "words", "name": "dwer", "label": "dWER", "better": "lower", "unit": "%", "scale": 100.0, "digits": 1},
]
FAMILIES = {"plain": ["parallel", "decimate2", "decimate4"], "pooling": ["average2"], "lossless": ["bpe"]}
NUMBERS = dict.fromkeys(fronts_page.NUMBERS, 10.0)


def write(root: Path, transform: str, rate: float, *, stoi: list[float] | None = None, errors: list[float] | None = None) -> None:
    """An account of a transform with scores of 40 utterances, of four words each."""
    folder = root / "codec" / transform
    folder.mkdir(parents=True)
    files.write_json(folder / ACCOUNT, NUMBERS | {"fixed_bits": rate, "lossless": stoi is None})
    if stoi is None or errors is None:
        return
    rows = {"id": IDS, "stoi": stoi, "dwer": [e / 4 for e in errors], "dwer_numerator": errors, "dwer_denominator": [4.0] * 40}
    pq.write_table(pa.table(rows), folder / "utterances.parquet")
    files.write_json(folder / "summary.json", {"columns": COLUMNS})


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Reduction]:
    wiggle = [0.01 * (place % 3) for place in range(40)]
    write(tmp_path, "parallel", 1000, stoi=[0.9 + w for w in wiggle], errors=[0.0] * 40)
    write(tmp_path, "decimate2", 500, stoi=[0.7 + w for w in wiggle], errors=[float(place % 2) for place in range(40)])
    write(tmp_path, "decimate4", 250, stoi=[0.5 + w for w in wiggle], errors=[2.0] * 40)
    write(tmp_path, "average2", 707.10678, stoi=[0.85 + w for w in wiggle], errors=[1.0] * 40)
    write(tmp_path, "bpe", 800)
    return {one.transform: one for one in fronts.read(tmp_path, FAMILIES)}


def plain(found: dict[str, Reduction]) -> list[Reduction]:
    return [found[name] for name in FAMILIES["plain"]]


def test_the_front_is_what_no_other_beats_at_its_rate_or_below() -> None:
    points = [("a", 1.0, 0.5), ("b", 2.0, 0.4), ("c", 3.0, 0.9), ("d", 3.0, 0.8), ("e", 4.0, 0.9)]
    assert fronts.front(points, better="higher") == ["a", "c"]
    assert fronts.front([(name, rate, -score) for name, rate, score in points], better="lower") == ["a", "c"]


def test_half_way_between_two_rates_in_logarithm_plain_downsampling_is_their_mean(found: dict[str, Reduction]) -> None:
    verdict = fronts.verdict(found["average2"], plain(found), "stoi", resamplings=200, seed=0)
    assert verdict is not None
    assert verdict.difference == pytest.approx(0.85 - (0.7 + 0.9) / 2, abs=1e-6)
    assert (verdict.low, verdict.high) == pytest.approx((0.05, 0.05), abs=1e-6) and verdict.word == "better"


def test_fewer_errors_are_better_and_words_are_weighed_as_words(found: dict[str, Reduction]) -> None:
    verdict = fronts.verdict(found["average2"], plain(found), "dwer", resamplings=200, seed=0)
    assert verdict is not None
    assert verdict.difference == pytest.approx(100 * ((0.5 + 0.0) / 2 - 1.0) / 4, abs=1e-4)  # in percent of words
    assert verdict.word == "worse"


def test_an_equal_transform_is_level_and_a_rate_outside_has_no_verdict(found: dict[str, Reduction], tmp_path: Path) -> None:
    noise = [0.02 if place % 2 else -0.02 for place in range(40)]
    write(tmp_path / "more", "same", 500, stoi=[0.7 + 0.01 * (p % 3) + noise[p] for p in range(40)], errors=[0.0] * 40)
    write(tmp_path / "more", "tiny", 100, stoi=[0.7] * 40, errors=[0.0] * 40)
    same, tiny = fronts.read(tmp_path / "more", {})
    level = fronts.verdict(same, plain(found), "stoi", resamplings=200, seed=0)
    assert level is not None and level.word == "level"
    assert fronts.verdict(tiny, plain(found), "stoi", resamplings=200, seed=0) is None
    assert same.family == fronts.ASIDE


def test_hard_utterances_are_those_at_which_plain_downsampling_loses_a_word(found: dict[str, Reduction]) -> None:
    hard = fronts.hard(found["decimate2"], "dwer")
    assert hard == set(IDS[1::2])
    assert fronts.mean(found["decimate2"], "dwer") == pytest.approx(12.5)
    assert fronts.mean(found["decimate2"], "dwer", ids=hard) == pytest.approx(25.0)


def test_the_page_the_table_and_the_data_say_the_same(found: dict[str, Reduction], tmp_path: Path) -> None:
    told = fronts_page.Settings(plain=FAMILIES["plain"], solved_by="decimate2", words="dwer", resamplings=200, seed=0)
    page = fronts_page.write(tmp_path / "page", list(found.values()), recipe="a/b", told=told).read_text()
    table = (tmp_path / "page" / fronts_page.TABLE).read_text()
    rows = {row["transform"]: row for row in files.read_json(tmp_path / "page" / fronts_page.DATA)["tokenizers"]["codec"]["rows"]}
    assert rows["average2"]["verdicts"]["stoi"]["word"] == "better" and not rows["decimate2"]["verdicts"]
    assert rows["bpe"]["scores"] == rows["parallel"]["scores"]  # what loses nothing sounds as what is left alone
    assert rows["average2"]["hard_scores"]["dwer"] == pytest.approx(25.0)
    assert "0.860 ▲" in table and "25.0 ▼" in table and "0.860" in page and "20 utterances at which decimate2 loses a word" in page
    assert (tmp_path / "page" / "codec.svg").read_text().count("<svg") == 1 and "http" not in page.split("</style>")[1].split("<img")[0]


def test_a_folder_without_an_account_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no account; run `audiotok account`"):
        fronts.read(tmp_path, {})
