"""The benchmark of decoding: ours and transformers say the same tokens, and the figures follow from the times; on a GPU as on a CPU."""

import json
import os
import runpy
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import tape
import torch
from torch import Tensor

from audiotok.nn import fused, inference
from audiotok.nn.graphs import Graphs
from audiotok.nn.inference import FastTransformer, for_inference
from audiotok.nn.matrix import Matrix
from audiotok.nn.transformer import Transformer

TOOLS = Path(__file__).parents[2] / "tools"
SIZES = {"layers": 2, "width": 64, "heads": 4, "feed_forward": 96, "vocabulary": 50, "tokens": 12, "rounds": 2, "seed": 0}
TINY = [word for name, size in SIZES.items() for word in (f"--{name.replace('_', '-')}", str(size))]
CPU_WAYS = {"transformers_dynamic", "transformers_static", *(f"ours_{way}" for way in ("module", "fp32", "bf16", "int8"))}
NO_GPU = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tools/bench_gpu.sh writes; on a CPU, where only the device differs. Of the tests of recorded steps it runs a few here."""
    pytest.importorskip("transformers", reason="needs the transformers extra")
    out = tmp_path_factory.mktemp("bench_gpu")
    told = NO_GPU | {"device": "cpu", "out": str(out), "PYTEST_ADDOPTS": "-k replayed_steps_equal -p no:cacheprovider"}
    command = [str(TOOLS / "bench_gpu.sh"), *TINY, "--batch", "1", "3", "--no-compile"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=told)
    assert "3 passed" in done.stdout and (out / "engine.md").read_text() in done.stdout
    return out


def test_ours_says_what_transformers_says_and_the_figures_are_told_in_one_object(measured: Path) -> None:
    told = json.loads((measured / "engine.json").read_text())
    assert told["weights"] == 2 * (4 * 64 * 64 + 3 * 64 * 96 + 2 * 64) + 64 + 50 * 64
    for rows in (1, 3):
        found = told[f"batch_{rows}"]
        speed, times = found["tokens_per_second"], found["times_the_better_of_transformers"]
        assert set(speed) == CPU_WAYS
        better = max(speed["transformers_dynamic"], speed["transformers_static"])
        assert times["ours_fp32"] == pytest.approx(speed["ours_fp32"] / better, rel=0.01, abs=0.01)
        assert times["ours_bf16"] == pytest.approx(speed["ours_bf16"] / better, rel=0.01, abs=0.01)
        floor = found["floor_tokens_per_second"]["fp32"]
        bytes_per_second = floor / rows * 4 * told["weights"]
        assert found["bandwidth_gb_per_second"] == pytest.approx(bytes_per_second / 1e9, abs=0.06)
        assert found["share_of_floor"]["fp32"] == pytest.approx(speed["ours_fp32"] / floor, rel=0.05, abs=1e-3)
        cached = rows * sum(2 * 2 * 64 * length for length in range(4, 16)) / 12  # keys and values of two layers, read at each of 12 steps
        share = speed["ours_bf16"] / rows * 2 * (told["weights"] + cached) / bytes_per_second
        assert found["share_of_floor_with_cache"]["ours_bf16"] == pytest.approx(share, rel=0.05, abs=1e-3)
        assert found["same_tokens_in_float32"] is True and found["distinct_tokens"] > 2
        assert set(found["first_token_that_differs"]) == {"ours_bf16", "ours_int8"}
        assert "left_out" not in found and "peak_memory_mb_beside_the_weights" not in found


def test_the_table_has_a_row_for_each_way_and_a_column_for_each_batch_size(measured: Path) -> None:
    told, lines = json.loads((measured / "engine.json").read_text()), (measured / "engine.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert rows[0][1:] == ["batch 1", "batch 3"] and {row[0] for row in rows[2:]} == CPU_WAYS | {"bandwidth (GB/s)"}
    found = told["batch_3"]
    (cell,) = (row[2] for row in rows if row[0] == "ours_int8")
    share = 100 * found["share_of_floor_with_cache"]["ours_int8"]
    assert (
        cell
        == f"{found['tokens_per_second']['ours_int8']:,.0f} ({found['times_the_better_of_transformers']['ours_int8']:.2f}, {share:.0f} %)"
    )


def test_the_table_tells_the_memory_of_a_gpu_and_why_a_way_is_left_out() -> None:
    table = runpy.run_path(str(TOOLS / "engine_table.py"))["table"]
    batch = {
        "tokens_per_second": {"ours_bf16_graphs": 12345.6},
        "times_the_better_of_transformers": {},
        "share_of_floor_with_cache": {"ours_bf16_graphs": 0.614},
        "peak_memory_mb_beside_the_weights": {"ours_bf16_graphs": 2048.2},
        "bandwidth_gb_per_second": 3021.4,
    }
    told = {"machine": {"device": "a GPU", "cpu": "a CPU", "torch": "2"}, **SIZES, "weights": 1e6}
    text = table(told | {"batch_1": batch, "batch_4": batch | {"tokens_per_second": {}, "left_out": {"ours_bf16_graphs": "out of memory"}}})
    assert "| ours_bf16_graphs | 12,346 (61 %, 2,048 MB) | – |" in text and "| bandwidth (GB/s) | 3021 | 3021 |" in text
    assert text.endswith("- batch 4, ours_bf16_graphs: out of memory")


@pytest.fixture
def tool() -> dict[str, Any]:
    pytest.importorskip("transformers", reason="needs the transformers extra")
    return runpy.run_path(str(TOOLS / "bench_engine.py"))


def test_without_a_gpu_both_say_so_in_a_line(tool: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["bench_engine.py", "--device", "cuda"])
    with pytest.raises(SystemExit, match="--device cuda: PyTorch sees no CUDA GPU here"):
        tool["_options"]()
    done = subprocess.run([TOOLS / "bench_gpu.sh"], capture_output=True, text=True, env=NO_GPU)
    assert done.returncode == 1 and done.stdout == ""
    assert "PyTorch sees no CUDA GPU here; nvidia-smi tells" in done.stderr and done.stderr.count("\n") == 1


def taped(transformer: Transformer, *, weights: Any, compiled: bool) -> FastTransformer:
    """As `for_inference` on a GPU, by the stand-in of a graph."""
    fast = for_inference(transformer, weights=weights)
    fast.graphs = Graphs(tape.capture, inference._ways(compiled))
    return fast


def test_a_gpus_ways_are_measured_by_the_same_code_and_say_the_same(tool: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Matrix, "is_native", lambda matrix: False)
    monkeypatch.setattr(fused, "find_spec", lambda name: None)  # no compiler
    options = Namespace(**SIZES, device=torch.device("cpu"), compile=True)
    llama = tool["_llama"](options)
    with pytest.warns(UserWarning, match="steps on the GPU are not compiled"):
        ways = tool["_gpu_ways"](llama, options, quick=taped)
    ours = {f"ours_{way}" for way in ("module", "fp32", "fp32_graphs", "bf16", "bf16_graphs")}
    compiled = {f"ours_{kind}_compiled" for kind in ("fp32", "bf16", "int8")}
    theirs = {f"transformers_{way}" for way in ("dynamic", "static", "static_compiled")}
    assert set(ways) == ours | compiled | theirs | {f"{way}_bf16" for way in theirs}
    ways = {name: way for name, way in ways.items() if "static" not in name}  # one that compiles would take minutes here
    found = tool["_measure"](ways, llama, 2, options)
    assert set(found.left_out) == compiled and all("no step was recorded so" in why for why in found.left_out.values())
    assert set(found.seconds) == ours | {"transformers_dynamic", "transformers_dynamic_bf16"}
    assert torch.equal(found.said["ours_bf16"], found.said["ours_bf16_graphs"])
    told = tool["_told"](found, llama, rows=2, tokens=options.tokens)
    speed, times = told["tokens_per_second"], told["times_the_better_of_transformers"]
    for kind, other in (("fp32_graphs", "transformers_dynamic"), ("bf16_graphs", "transformers_dynamic_bf16")):
        assert times[f"ours_{kind}"] == pytest.approx(speed[f"ours_{kind}"] / speed[other], rel=0.01, abs=0.01)


def test_there_are_no_figures_where_tokens_differ(tool: dict[str, Any]) -> None:
    first, second = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1, 2, 3], [4, 7, 6]])
    tool["_check"]({"ours_fp32": first, "ours_bf16": second, "transformers_static": first.clone()})  # smaller weights may differ
    with pytest.raises(SystemExit, match="'transformers_static': 1"):
        tool["_check"]({"ours_fp32": first, "transformers_static": second})
    tool["_check"]({"ours_fp32": first, "transformers_static": second}, excused={"transformers_static": 1})


def test_a_row_may_differ_where_both_tokens_are_as_probable_and_nowhere_else(tool: dict[str, Any]) -> None:
    class Foretold:
        """After a token its successor and the one behind that are the most probable, as much as each other up to `gap`."""

        def __init__(self, gap: float) -> None:
            self.gap = gap

        def logits(self, tokens_BN: Tensor) -> Tensor:
            one_hot = torch.nn.functional.one_hot
            return one_hot(tokens_BN + 1, 20).float() + (1 - self.gap) * one_hot(tokens_BN + 2, 20)

    prompt = torch.tensor([[0], [3]])
    first, other = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1, 2, 3], [4, 6, 9]])  # behind the first difference all may
    said = {"ours_fp32": first, "transformers_static": other, "ours_module": first.clone(), "ours_bf16": other}
    assert tool["_ties"](said, Foretold(1e-6), prompt) == {"transformers_static": 1}
    assert tool["_ties"](said, Foretold(0.01), prompt) == {}


def test_a_way_whose_memory_runs_out_is_left_out_and_one_that_fails_is_not(tool: dict[str, Any]) -> None:
    def failing(error: Exception) -> Any:
        def work() -> Tensor:
            raise error

        return work

    found, cpu = tool["Measured"](), torch.device("cpu")
    tool["_warm_up"](found, "ours_bf16", failing(torch.OutOfMemoryError("CUDA out of memory")), cpu)
    assert found.left_out == {"ours_bf16": "CUDA out of memory"} and not found.said
    with pytest.raises(RuntimeError, match="shapes"):
        tool["_warm_up"](found, "ours_bf16", failing(RuntimeError("shapes")), cpu)
