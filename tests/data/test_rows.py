"""Rows of a JSONL file by id are those of a dict of them, and a corpus of them is what it says without holding them."""

import tracemalloc
from pathlib import Path

import pytest

from audiotok import files
from audiotok.data import rows as rows_module
from audiotok.data.rows import Rows


def some(number: int) -> list[dict]:
    return [{"id": f"utterance_{place}", "phonemes": ["a", "ü"] * 20, "durations": [0.05 * place] * 40} for place in range(number)]


@pytest.mark.parametrize("at_once", [1, 3, 4096])
def test_rows_are_those_of_a_dict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(rows_module, "AT_ONCE", at_once)
    wanted = [*some(7), {"id": "utterance_2", "phonemes": ["later"]}]
    files.write_jsonl(tmp_path / "rows.jsonl", wanted)
    found = Rows(tmp_path / "rows.jsonl")
    assert dict(found) == {row["id"]: row for row in wanted} and list(found) == [row["id"] for row in wanted[:7]] and len(found) == 7
    assert "elsewhere" not in found and found.get("elsewhere") is None
    with pytest.raises(KeyError, match="elsewhere"):
        found["elsewhere"]


def test_a_damaged_file_and_a_row_without_an_id_are_refused_by_name_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for text, reason in (
        ('{"id": "a"}\n{"id"\n', "line 2 is damaged"),
        ('{"id": "a"}\n[]\n', "line 2: got '\\[\\]'"),
        ('{"id": 7}\n', "line 1: got"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"rows\.jsonl, {reason}"):
            Rows(path)
    files.write_jsonl(path, some(2))
    files.seal(tmp_path)
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl is damaged: other than its checksum"):
        Rows(path)


def test_what_a_row_says_is_not_held(tmp_path: Path) -> None:
    files.write_jsonl(tmp_path / "rows.jsonl", some(20_000))
    tracemalloc.start()
    rows = Rows(tmp_path / "rows.jsonl")
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(rows) == 20_000 and held < 20_000 * 32
