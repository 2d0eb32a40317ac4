"""Tokens and transforms to accounts and their page, over real speech with dMel: from the shell's words to the figures."""

import json
from pathlib import Path

import pytest
from tiny import tiny_speech_folder

from audiotok import cli

RECIPE = """
# @package _global_
defaults:
  - override /data: speech
  - override /tokenizer: dmel
  - override /metrics: closeness
prepare: { workers: 1 }
tokenize: { workers: 1 }
select: { min_words: 1, max_utterances: 3 }
evaluate: { bootstrap: 50 }
account:
  words: stoi
  train_utterances: 3
  foretelling:
    size: { width: 16, layers: 1, heads: 2 }
    budget: { steps: 2, codes: 2000, frames: 16 }
  baseline: [parallel, decimate2, decimate3]
  families: { plain: [parallel, decimate2, decimate3], pooling: [average2], lossless: [run_length] }
"""
METRICS = """
stoi:
  _target_: audiotok.evaluation.reconstruction.Stoi
  max_delay: 0.1
"""


@pytest.fixture(scope="module")
def accounted(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """What the shell is told, and the folder of the accounts."""
    pytest.importorskip("pystoi", reason="needs the eval extra")
    root = tmp_path_factory.mktemp("account")
    corpus = tiny_speech_folder(root / "corpus", speech, utterances=10)
    for path, text in (("recipes/short.yaml", RECIPE), ("metrics/closeness.yaml", METRICS)):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text)
    told = [str(root / "recipes" / "short.yaml"), f"data.root={corpus}", f"exp_root={root / 'exp'}"]
    for stage, *more in (["prepare"], ["tokenize"], ["account", "transform=parallel,decimate2,decimate3,average2,run_length"], ["report"]):
        cli.main([stage, *told, *more])
    return told, root / "exp" / "short"


def test_the_account_holds_what_codes_cost_and_what_lossy_ones_lose(accounted: tuple[list[str], Path]) -> None:
    folder = accounted[1] / "account" / "dmel"
    found = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/account.json")}
    assert set(found) == {"parallel", "decimate2", "decimate3", "average2", "run_length"}
    assert found["decimate2"]["positions"] == pytest.approx(found["parallel"]["positions"] / 2, rel=0.02)
    assert found["run_length"]["exact"] and not found["average2"]["exact"]
    assert found["run_length"]["positions"] <= found["parallel"]["positions"]
    assert not (folder / "run_length" / "summary.json").exists() and (folder / "parallel" / "summary.json").exists()
    assert (folder / "average2" / "matrix.png").stat().st_size > 500
    scores = {name: json.loads((folder / name / "summary.json").read_text())["columns"] for name in ("parallel", "decimate3")}
    stoi = {name: next(column["value"] for column in columns if column["name"] == "stoi") for name, columns in scores.items()}
    assert stoi["decimate3"] < stoi["parallel"] < 1


def test_the_page_holds_a_verdict_for_what_is_no_plain_downsampling(accounted: tuple[list[str], Path]) -> None:
    folder = accounted[1] / "account_report"
    rows = {row["transform"]: row for row in json.loads((folder / "account.json").read_text())["tokenizers"]["dmel"]["rows"]}
    assert rows["average2"]["verdicts"]["stoi"]["word"] in ("better", "level", "worse") and not rows["decimate2"]["verdicts"]
    assert rows["run_length"]["scores"] == rows["parallel"]["scores"]
    assert "average2" in (folder / "account.html").read_text() and "average2" in (folder / "dmel.svg").read_text()


def test_a_second_run_has_nothing_to_do_and_a_choice_that_fails_does_not_stop_the_others(
    accounted: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="not done: merge2; the reasons are above"):
        cli.main(["account", *accounted[0], "transform=merge2,parallel"])
    said = capsys.readouterr()
    assert "parallel is there already" in said.out and "audiotok: merge2:" in said.err
