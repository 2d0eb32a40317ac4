"""The benchmark of decoding: ours and transformers say the same tokens, and the figures follow from the times."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOOL = Path(__file__).parents[2] / "tools" / "bench_engine.py"
TINY = ["--layers", "2", "--width", "64", "--heads", "4", "--feed-forward", "96", "--vocabulary", "50", "--tokens", "12", "--rounds", "2"]


def test_ours_says_what_transformers_says_and_the_figures_are_told_in_one_object() -> None:
    pytest.importorskip("transformers", reason="needs the transformers extra")
    done = subprocess.run([sys.executable, str(TOOL), *TINY, "--batch", "1", "3"], check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert told["weights"] == 2 * (4 * 64 * 64 + 3 * 64 * 96 + 2 * 64) + 64 + 50 * 64
    for rows in (1, 3):
        found = told[f"batch_{rows}"]
        speed, times = found["tokens_per_second"], found["times_the_better_of_transformers"]
        assert set(speed) == {"transformers_dynamic", "transformers_static", *(f"ours_{way}" for way in ("module", "fp32", "bf16", "int8"))}
        better = max(speed["transformers_dynamic"], speed["transformers_static"])
        assert times["ours_fp32"] == pytest.approx(speed["ours_fp32"] / better, abs=0.01)
        floor = rows * found["bandwidth_gb_per_second"] * 1e9 / (4 * told["weights"])
        assert found["floor_tokens_per_second"]["fp32"] == pytest.approx(floor, rel=0.02)
        assert found["share_of_floor"]["fp32"] == pytest.approx(speed["ours_fp32"] / floor, rel=0.05, abs=1e-3)
        assert found["same_tokens_in_float32"] is True and found["distinct_tokens"] > 2


def test_there_are_no_figures_where_tokens_differ() -> None:
    pytest.importorskip("transformers", reason="needs the transformers extra")
    tool = runpy.run_path(str(TOOL))
    first, second = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1, 2, 3], [4, 7, 6]])
    tool["_check"]({"ours_fp32": first, "ours_bf16": second, "transformers_static": first.clone()})  # smaller weights may differ
    with pytest.raises(SystemExit, match="'transformers_static': 1"):
        tool["_check"]({"ours_fp32": first, "transformers_static": second})
