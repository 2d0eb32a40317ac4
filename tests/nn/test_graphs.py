"""A recorded step says what the step itself says, whatever happened to the cache between two of them; what cannot be recorded is told."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import get_args

import pytest
import tape
import torch
from torch import Tensor, nn

from audiotok.nn import fused, graphs, inference, native
from audiotok.nn.graphs import BUCKET, KEPT, STEP, UNRECORDED, WARM, CudaCapture, Graphs, plain
from audiotok.nn.inference import FastTransformer, for_inference
from audiotok.nn.kv_cache import KVCache
from audiotok.nn.matrix import Matrix, Weights
from audiotok.nn.shallow import shallow
from audiotok.nn.transformer import Transformer

WIDTH = 32
on_cuda = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"))
DEVICES = ["cpu", on_cuda]


@pytest.fixture(autouse=True)
def no_native_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU there are none; the stand-in, which sees PyTorch's operations, would miss them."""
    monkeypatch.setattr(Matrix, "is_native", lambda matrix: False)


def made(device: str = "cpu", *, width: int = WIDTH, layers: int = 3) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(width, layers=layers, heads=2, feed_forward=48, dropout=0.1).eval()
    for parameter in model.parameters():  # the initial weights are so small that attention hardly matters
        nn.init.normal_(parameter, std=0.2)
    return model.to(device)


def hidden(*shape: int, seed: int = 1, device: str = "cpu", width: int = WIDTH) -> Tensor:
    return torch.randn(*shape, width, generator=torch.Generator().manual_seed(seed)).to(device)


def recorder(device: str, *ways: graphs.Way) -> Graphs:
    """By CUDA graphs where there is a device for them, by their stand-in elsewhere."""
    return Graphs(CudaCapture(torch.device(device)) if device == "cuda" else tape.capture, ways or (plain,))


def pair(device: str, weights: Weights = "fp32", *ways: graphs.Way) -> tuple[FastTransformer, FastTransformer]:
    """One transformer whose steps are recorded and one whose steps never are, and read as far."""
    recorded, launched = for_inference(made(device), weights=weights), for_inference(made(device), weights=weights)
    recorded.graphs, launched.graphs = recorder(device, *ways), Graphs(tape.capture, [])
    return recorded, launched


def recordings(fast: FastTransformer) -> int:
    assert fast.graphs is not None
    return len(fast.graphs)


def speak(fast: FastTransformer, device: str) -> Tensor:
    """Prompts of different lengths, steps of one and of several positions, rewinds, a row replaced, all of one cache."""
    cache, said = fast.cache(3, positions=80), []
    fast(hidden(3, 7, device=device), cache=cache, lengths_B=torch.tensor([7, 2, 5], device=device))
    for turn in range(8):
        for num in (1, 4, 1):
            said.append(fast(hidden(3, num, seed=10 * turn + num, device=device), cache=cache))
        cache.rewind(cache.lengths_B - torch.tensor([0, 3, turn % 3], device=device))
        if turn == 4:
            other = fast.cache(1, positions=9)
            fast(hidden(1, 9, seed=99, device=device), cache=other, lengths_B=torch.tensor([6], device=device))
            cache.replace(1, other)
    return torch.cat(said, 1)


@torch.no_grad()
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
def test_replayed_steps_equal_launched_ones_through_prompts_rewinds_and_rows_replaced(device: str, weights: Weights) -> None:
    recorded, launched = pair(device, weights)
    assert torch.equal(speak(recorded, device), speak(launched, device))
    assert recordings(recorded) == 2, "one of each shape"


@torch.no_grad()
@pytest.mark.parametrize("device", DEVICES)
def test_a_step_in_two_parts_a_block_is_the_modules_step(device: str) -> None:
    in_parts = lambda module, hidden_BND, *, cache: fused.in_parts(  # noqa: E731
        module, hidden_BND, cache, fused.into_attention, fused.out_of_attention
    )
    recorded, launched = pair(device, "fp32", in_parts)
    torch.testing.assert_close(speak(recorded, device), speak(launched, device), atol=1e-5, rtol=1e-5)
    assert recordings(recorded) == 2


@torch.no_grad()
@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
def test_both_parts_are_traced_whole_for_the_compiler(weights: Weights) -> None:
    into: fused.Into = torch.compile(fused.into_attention, fullgraph=True, backend="aot_eager")
    out_of: fused.Out = torch.compile(fused.out_of_attention, fullgraph=True, backend="aot_eager")
    module, rows = for_inference(made(), weights=weights).module, hidden(2, 3)
    torch.compiler.reset()
    caches = [module.cache(2, positions=8) for _ in range(2)]
    out = fused.in_parts(module, rows, caches[0], into, out_of)
    torch.testing.assert_close(out, module(rows, cache=caches[1]), atol=1e-5, rtol=1e-5)
    assert torch.equal(caches[0].lengths_B, caches[1].lengths_B)


@torch.no_grad()
def test_all_blocks_share_what_is_compiled() -> None:
    """PyTorch compiles a function anew a few times only, fewer than there are blocks."""
    made_for: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        made_for.append(len(inputs))
        return graph.forward

    torch.compiler.reset()
    module = for_inference(made(layers=10), weights="bf16").module
    into: fused.Into = torch.compile(fused.into_attention, fullgraph=True, backend=backend)
    out_of: fused.Out = torch.compile(fused.out_of_attention, fullgraph=True, backend=backend)
    fused.in_parts(module, hidden(2, 3), module.cache(2, positions=8), into, out_of)
    assert len(made_for) == 2


@torch.no_grad()
def test_what_was_compiled_too_often_is_recorded_uncompiled_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = [torch.compile(each, fullgraph=True, backend="eager") for each in (fused.into_attention, fused.out_of_attention)]
    monkeypatch.setattr(fused, "_compiled", lambda: functions)

    def speaking(weights: Weights) -> Graphs:
        """After steps of one row and of several; compiled where that is allowed."""
        fast, made_by = for_inference(made(), weights=weights), Graphs(lambda step, *, undo: (lambda: None, step()), [fused.step, plain])
        for rows in (1, 3, 5):
            cache = fast.cache(rows, positions=8)
            for _ in range(3):
                made_by(fast.module, hidden(rows, 1), cache=cache)
        return made_by

    torch.compiler.reset()
    assert all(speaking(weights).ways == [fused.step, plain] for weights in get_args(Weights))  # more than PyTorch's own limit holds
    torch.compiler.reset()
    monkeypatch.setattr(fused, "TIMES", 2)
    assert speaking("fp32").ways == [fused.step, plain]
    with pytest.warns(UserWarning, match="fused.step is not recorded for the GPU.*compiled anew 2 times"):
        told = speaking("bf16")
    assert told.ways == [plain] and len(told) == 3
    torch.compiler.reset()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.skipif(not fused.is_likely(), reason="no compiler"))])
@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
@torch.no_grad()
def test_a_gpu_records_by_itself_and_compiles_where_told(weights: Weights, compiled: bool) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".* is not recorded|no triton")
        fast, (_, launched) = for_inference(made("cuda"), weights=weights, compiled=compiled), pair("cuda", weights)
        found = speak(fast, "cuda")
    assert recordings(fast) == 2
    far = {"fp32": 1e-4, "bf16": 0.05, "int8": 0.05}[weights]
    torch.testing.assert_close(found, speak(launched, "cuda"), atol=far * float(found.std()) * 4, rtol=far)


@torch.no_grad()
@pytest.mark.parametrize("device", DEVICES)
def test_a_cache_in_other_memory_has_a_recording_of_its_own(device: str) -> None:
    recorded, launched = pair(device)
    caches = [(recorded.cache(2, positions=20), launched.cache(2, positions=20)) for _ in range(2)]
    for turn in range(4 + UNRECORDED):  # in turn, as a model and its drafter of the same shape would be
        for seed, (one, other) in enumerate(caches):
            row = hidden(2, 1, seed=10 * turn + seed, device=device)
            assert torch.equal(recorded(row, cache=one), launched(row, cache=other))
    assert recordings(recorded) == 2


@torch.no_grad()
def test_the_first_layers_of_a_transformer_have_recordings_of_their_own() -> None:
    recorded, launched = pair("cpu")
    few = [shallow(fast, layers=1, norm=fast.module.norm) for fast in (recorded, launched)]
    caches = [fast.cache(1, positions=20) for fast in (recorded, few[0], launched, few[1])]
    for turn in range(4 + UNRECORDED):
        row = hidden(1, 1, seed=turn)
        said = [fast(row, cache=cache) for fast, cache in zip((recorded, few[0], launched, few[1]), caches)]
        assert torch.equal(said[0], said[2]) and torch.equal(said[1], said[3])
    assert recordings(recorded) == 2


@torch.no_grad()
def test_what_was_returned_is_not_overwritten_by_the_next_replay() -> None:
    recorded, _ = pair("cpu")
    cache = recorded.cache(1, positions=20)
    kept = [recorded(hidden(1, 1, seed=turn), cache=cache) for turn in range(8)]
    assert len({float(out.sum()) for out in kept}) == 8


@torch.no_grad()
def test_prompts_and_shapes_seen_once_are_not_recorded_and_old_recordings_are_forgotten() -> None:
    recorded, _ = pair("cpu")
    cache = recorded.cache(1, positions=400)
    for num in (STEP + 1,) * (UNRECORDED + 2):
        recorded(hidden(1, num), cache=cache)
    for num in range(2, 12):
        recorded(hidden(1, num), cache=cache)
    assert recordings(recorded) == 0
    caches = [recorded.cache(1, positions=8) for _ in range(KEPT + 5)]
    for one in caches:
        for turn in range(UNRECORDED + 2):
            recorded(hidden(1, 1, seed=turn), cache=one)
    assert recordings(recorded) == KEPT


def asking(module: Transformer, hidden_BND: Tensor, *, cache: KVCache) -> Tensor:
    longest = int(cache.lengths_B.max())
    return module(hidden_BND, cache=cache) * (1 if longest >= 0 else 0)


def choosing(module: Transformer, hidden_BND: Tensor, *, cache: KVCache) -> Tensor:
    out_BND = module(hidden_BND, cache=cache)
    out_BND[out_BND > 1e9] = 0
    return out_BND


@torch.no_grad()
@pytest.mark.parametrize("way", [asking, choosing])
def test_a_way_that_asks_for_values_is_left_with_one_warning_and_the_next_is_taken(way: Callable) -> None:
    recorded, launched = pair("cpu", "fp32", way, plain)
    with pytest.warns(UserWarning, match=f"{way.__name__} is not recorded for the GPU: .*a recorded step asks for values") as told:
        assert torch.equal(speak(recorded, "cpu"), speak(launched, "cpu"))
    assert len(told) == 1 and recordings(recorded) == 2


@torch.no_grad()
def test_where_nothing_can_be_recorded_each_step_is_launched_and_that_is_said_once() -> None:
    recorded, launched = pair("cpu", "fp32", asking)
    with pytest.warns(UserWarning, match="asking is not recorded") as told:
        assert torch.equal(speak(recorded, "cpu"), speak(launched, "cpu"))
    assert len(told) == 1 and recordings(recorded) == 0


class Stream:
    """Of a GPU that notes what is asked of it."""

    def __init__(self, name: str, journal: list[str]) -> None:
        self.name, self.journal = name, journal

    def wait_stream(self, other: "Stream") -> None:
        self.journal.append(f"{self.name} waits for {other.name}")


@contextmanager
def noted(journal: list[str], name: str) -> Iterator[None]:
    journal.append(f"into {name}")
    yield
    journal.append(f"out of {name}")


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of torch.cuda, in its order."""
    found: list[str] = []
    pools = iter("ABC")
    for name, value in {
        "device": lambda device: noted(found, f"device {device}"),
        "Stream": lambda: Stream("aside", found),
        "current_stream": lambda: Stream("the stream in use", found),
        "stream": lambda stream: noted(found, stream.name),
        "graph_pool_handle": lambda: next(pools),
        "CUDAGraph": lambda: SimpleNamespace(replay="replay"),
        "graph": lambda graph, *, pool, capture_error_mode: noted(found, f"a recording in pool {pool}"),
    }.items():
        monkeypatch.setattr(graphs.torch.cuda, name, value)
    return found


def test_a_graph_is_recorded_after_steps_beside_the_stream_in_use(journal: list[str]) -> None:
    capture = CudaCapture(torch.device("cuda:1"))

    def step() -> Tensor:
        journal.append("step")
        return torch.ones(1)

    replay, out = capture(step, undo=lambda: journal.append("undo"))
    assert replay == "replay" and out.item() == 1
    warm = ["into aside", *["step", "undo"] * WARM, "out of aside"]
    assert journal == [
        "into device cuda:1",
        *("aside waits for the stream in use", *warm, "the stream in use waits for aside"),
        *("into a recording in pool A", "step", "out of a recording in pool A"),
        "out of device cuda:1",
    ]


def test_recordings_share_a_pool_until_one_is_refused(journal: list[str]) -> None:
    capture = CudaCapture(torch.device("cuda"))

    def refused() -> Tensor:
        if "recording" in journal[-1]:
            raise RuntimeError("operation not permitted when stream is capturing")
        return torch.ones(1)

    for step in (torch.ones, torch.ones, refused, torch.ones):
        try:
            capture(partial(step, 1) if step is torch.ones else step, undo=lambda: None)
        except RuntimeError as error:
            assert step is refused and "not permitted" in str(error)
    assert [entry[-1] for entry in journal if entry.startswith("into a recording")] == ["A", "A", "A", "B"]


@torch.no_grad()
def test_memory_that_runs_out_is_no_reason_for_another_way() -> None:
    def full(step: Callable[[], Tensor], *, undo: Callable[[], None]) -> tuple[Callable[[], None], Tensor]:
        step()
        raise torch.OutOfMemoryError("CUDA out of memory")

    fast = for_inference(made(), weights="fp32")
    fast.graphs = Graphs(full, [plain])
    cache = fast.cache(1, positions=8)
    for turn in range(UNRECORDED):
        fast(hidden(1, 1, seed=turn), cache=cache)
    with pytest.raises(torch.OutOfMemoryError):
        fast(hidden(1, 1), cache=cache)
    assert cache.lengths_B.tolist() == [UNRECORDED], "nothing was heard"


@torch.no_grad()
@pytest.mark.parametrize("device", DEVICES)
def test_as_rows_grow_the_cache_is_read_further_and_the_step_recorded_anew(device: str) -> None:
    recorded, launched = pair(device)
    launched.graphs = None  # and so reads to the end of the cache
    caches = [fast.cache(2, positions=2 * BUCKET + 40) for fast in (recorded, launched)]
    seen = []
    for start in (0, BUCKET - 4, 2 * BUCKET - 4):
        for fast, cache in zip((recorded, launched), caches):
            prompt = hidden(2, start + 1 - int(cache.lengths_B[0]), seed=start, device=device)
            fast(prompt, cache=cache, lengths_B=torch.tensor([prompt.shape[1], 1], device=device))
        for turn in range(8):
            row = hidden(2, 1, seed=start + turn, device=device)
            out, other = (fast(row, cache=cache) for fast, cache in zip((recorded, launched), caches))
            torch.testing.assert_close(out, other, atol=1e-5, rtol=1e-5)
        seen.append(recordings(recorded))
        assert caches[0].longest == int(caches[0].lengths_B.max()) and torch.equal(caches[0].lengths_B, caches[1].lengths_B)
    assert seen == [1, 2, 3]


@torch.no_grad()
def test_a_rewound_cache_is_read_no_further_than_its_rows_reach() -> None:
    recorded, _ = pair("cpu")
    cache, read = recorded.cache(2, positions=2 * BUCKET), []
    recorded.graphs = Graphs(tape.capture, [])
    recorded.module.register_forward_pre_hook(lambda module, args, kwargs: read.append(kwargs["cache"].capacity), with_kwargs=True)
    recorded(hidden(2, BUCKET), cache=cache)
    recorded(hidden(2, 1), cache=cache)
    cache.rewind(torch.tensor([7, 9]))
    recorded(hidden(2, 1), cache=cache)
    assert read == [BUCKET, 2 * BUCKET, BUCKET] and cache.longest == 10


@torch.no_grad()
def test_a_recorded_step_refuses_a_cache_of_another_shape_and_what_does_not_fit() -> None:
    recorded, _ = pair("cpu")
    with pytest.raises(ValueError, match="make it by cache"):
        recorded(hidden(1, 1), cache=recorded.cache(2, positions=4))
    cache = recorded.cache(2, positions=4)
    recorded(hidden(2, 4), cache=cache, lengths_B=torch.tensor([1, 2]))  # padded: no row is as long as the bound says
    recorded(hidden(2, 1), cache=cache)
    with pytest.raises(ValueError, match="2 positions do not fit in a cache of 4 whose rows hold up to 3"):
        recorded(hidden(2, 2), cache=cache)


def test_a_cpu_has_no_recordings_and_keeps_its_compiled_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    fast = for_inference(made(width=2 * native.LANES), weights="bf16", compiled=True)
    assert fast.graphs is None and fast._model is not None


def test_without_a_compiler_one_line_says_so_and_steps_are_recorded_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inference._ways(compiled=False) == [plain]
    monkeypatch.setattr(fused, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="no triton or no C compiler") as told:
        assert inference._ways(compiled=True) == [plain]
    assert len(told) == 1
    monkeypatch.setattr(fused, "find_spec", lambda name: object())
    monkeypatch.setattr(fused.shutil, "which", lambda name: "/usr/bin/cc")
    assert inference._ways(compiled=True) == [fused.step, plain]
