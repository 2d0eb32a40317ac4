"""A transformer made ready to speak says what it said before, in any order of calls, and with smaller weights nearly so."""

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.nn import native
from audiotok.nn.inference import FastTransformer, for_inference
from audiotok.nn.kv_cache import KVCache
from audiotok.nn.matrix import FEW, Matrix, Weights
from audiotok.nn.transformer import Transformer

WIDTH, KINDS = 96, ("fp32", "bf16", "int8")
FAR: dict[Weights, float] = {
    "fp32": 5e-6,
    "bf16": 0.04,
    "int8": 0.1,
}  # the error's share of a vector's length; 1.6e-6, 0.024, 0.063 were seen
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, native.COMPILERS)), reason="no compiler")


@pytest.fixture
def transformer() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(WIDTH, layers=3, heads=2, feed_forward=80, dropout=0.1).eval()
    for parameter in model.parameters():  # the initial weights are so small that attention hardly matters
        nn.init.normal_(parameter, std=0.15)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model


@pytest.fixture(params=["compiled", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With native.cpp, which must then be there, and without."""
    if request.param == "plain":
        monkeypatch.setattr(native, "library", lambda: None)
    elif not any(map(shutil.which, native.COMPILERS)):
        pytest.skip("no compiler")
    else:
        assert native.library() is not None
    return str(request.param)


def hidden(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


def near(found: Tensor, exact: Tensor, weights: Weights) -> bool:
    share = float(((found - exact).norm(dim=-1) / exact.norm(dim=-1)).max())
    assert share <= FAR[weights], f"{share} of the length"
    return True


@torch.no_grad()
@pytest.mark.parametrize("weights", KINDS)
def test_rows_of_different_lengths_then_steps_equal_the_whole_sequence(transformer: Transformer, weights: Weights, way: str) -> None:
    fast, prompts, steps = for_inference(transformer, weights=weights), [2, 25, 1], (1, 3, 1, 4)
    rows = [hidden(length + sum(steps), seed=length) for length in prompts]
    cache = fast.cache(3, positions=40)
    padded = nn.utils.rnn.pad_sequence([row[:length] for row, length in zip(rows, prompts)], batch_first=True, padding_value=3.0)
    outputs = [[out[:length]] for out, length in zip(fast(padded, cache=cache, lengths_B=torch.tensor(prompts)), prompts)]
    for at, num in zip((0, 1, 4, 5), steps):
        inputs = torch.stack([row[length + at : length + at + num] for row, length in zip(rows, prompts)])
        for kept, out in zip(outputs, fast(inputs, cache=cache)):
            kept.append(out)
    for row, kept in zip(rows, outputs):
        assert near(torch.cat(kept), transformer(row[None])[0], weights)
    assert cache.lengths_B.tolist() == [length + sum(steps) for length in prompts]


@torch.no_grad()
@pytest.mark.parametrize("scale", [3.0, 30.0])
def test_scores_and_gates_of_any_size_are_exponentials_all_the_same(transformer: Transformer, scale: float, way: str) -> None:
    """Gates of hundreds and scores of thousands: beyond what exp() can hold, where it is 0, or a sigmoid's end."""
    for name, weight in transformer.named_parameters():
        if name.endswith(".input.weight"):
            weight.mul_(scale)
    fast, given_BND = for_inference(transformer, weights="fp32"), hidden(2, 37)
    cache = fast.cache(2, positions=37)
    found_BND = torch.cat([fast(given_BND[:, n : n + 1], cache=cache) for n in range(37)], dim=1)
    assert near(found_BND, transformer(given_BND), "bf16")  # rounding grows with them, here too without native.cpp


@torch.no_grad()
def test_a_long_greedy_decode_says_the_same_codes_as_the_module(transformer: Transformer, way: str) -> None:
    codes_VD, head_VD = hidden(50, seed=5), hidden(50, seed=6)

    def said(model: Transformer | FastTransformer) -> list[list[int]]:
        cache, codes_B, found = model.cache(2, positions=301), torch.tensor([3, 4]), []
        for _ in range(300):
            codes_B = F.linear(model(codes_VD[codes_B][:, None], cache=cache)[:, 0], head_VD).argmax(-1)
            found.append(codes_B.tolist())
        return found

    plain = said(transformer)
    assert said(for_inference(transformer, weights="fp32")) == plain
    assert len({tuple(codes) for codes in plain}) > 50  # it does not say the same few for ever


@needs_compiler
@torch.no_grad()
@pytest.mark.parametrize("weights", KINDS)
def test_a_vector_has_the_same_bits_whatever_else_is_in_the_step(transformer: Transformer, weights: Weights) -> None:
    fast, rows = for_inference(transformer, weights=weights), hidden(11, 13, seed=3)

    def heard(rows: Tensor, chunks: tuple[int, ...]) -> Tensor:
        cache = fast.cache(len(rows), positions=20)
        return torch.cat([fast(part, cache=cache) for part in rows.split(chunks, 1)], 1)

    one_by_one = torch.cat([heard(rows[row : row + 1], (1,) * 13) for row in range(11)])
    assert torch.equal(heard(rows, (1,) * 13), one_by_one)
    for row in (0, 10):
        assert torch.equal(heard(rows[row : row + 1], (1, 2, 3, 7)), one_by_one[row : row + 1])
    assert torch.equal(heard(rows[:2], (8, 5)), one_by_one[:2])


@torch.no_grad()
@pytest.mark.parametrize("weights", KINDS)
def test_a_rewound_row_goes_on_as_if_it_had_never_heard_the_rest(transformer: Transformer, weights: Weights, way: str) -> None:
    fast, past, wrong, right = for_inference(transformer, weights=weights), hidden(2, 6), hidden(2, 4, seed=8), hidden(2, 3, seed=9)
    cache, clean = fast.cache(2, positions=14), fast.cache(2, positions=14)
    fast(past, cache=cache)
    fast(wrong, cache=cache)
    cache.rewind(torch.tensor([6, 3]))
    fast(past[:, :3], cache=clean)
    fast(torch.stack([past[0, 3:], wrong[1, :3]]), cache=clean, lengths_B=torch.tensor([3, 0]))
    torch.testing.assert_close(fast(right, cache=cache), fast(right, cache=clean), atol=1e-6, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("weights", KINDS)
def test_a_replaced_row_goes_on_as_the_new_utterance(transformer: Transformer, weights: Weights, way: str) -> None:
    fast = for_inference(transformer, weights=weights)
    cache, alone, both = fast.cache(2, positions=12), fast.cache(1, positions=4), hidden(2, 1, seed=9)
    fast(hidden(2, 8), cache=cache)
    fast(hidden(1, 3, seed=7), cache=alone)
    cache.replace(0, alone)
    out = fast(both, cache=cache)
    for row, past in enumerate((hidden(1, 3, seed=7)[0], hidden(2, 8)[1])):
        whole = transformer(torch.cat([past, both[row]])[None])
        assert near(out[row, -1], whole[0, -1], weights)


@torch.no_grad()
def test_compiled_and_plain_prompts_share_a_cache(transformer: Transformer) -> None:
    fast, row = for_inference(transformer, weights="fp32"), hidden(1, FEW["fp32"] + 9)
    cache = fast.cache(1, positions=64)
    outputs = [fast(part, cache=cache) for part in row.split((3, FEW["fp32"] + 1, 5), 1)]  # the middle one goes through the module
    torch.testing.assert_close(torch.cat(outputs, 1), transformer(row), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_transformer_itself_is_left_as_it_was(transformer: Transformer) -> None:
    before, parameters = transformer(hidden(1, 5)), dict(transformer.named_parameters())
    transformer.train()
    fast = for_inference(transformer, weights="int8")
    fast(hidden(1, 2), cache=fast.cache(1, positions=4))
    after = dict(transformer.named_parameters())
    assert [*after] == [*parameters] and all(after[name] is parameter and parameter.requires_grad for name, parameter in parameters.items())
    assert all(part.training for part in transformer.modules())
    assert torch.equal(transformer.eval()(hidden(1, 5)), before)


@torch.no_grad()
def test_a_bf16_transformer_and_a_width_of_no_whole_lanes_speak_too() -> None:
    low = Transformer(64, layers=2, heads=2, feed_forward=48, dropout=0.0).bfloat16().eval()
    odd = Transformer(40, layers=2, heads=2, feed_forward=24, dropout=0.0).eval()
    for model in (low, odd):
        fast, row = for_inference(model, weights="bf16"), torch.randn(1, 3, model.norm.weight.numel())
        out = fast(row, cache=fast.cache(1, positions=4))
        assert F.cosine_similarity(out.float(), model(row.to(model.norm.weight.dtype)).float(), dim=-1).min() > 0.999


@torch.no_grad()
def test_a_cache_refuses_what_does_not_fit(transformer: Transformer) -> None:
    fast = for_inference(transformer, weights="fp32")
    cache = fast.cache(2, positions=4)
    fast(hidden(2, 3), cache=cache)
    if native.library() is not None:
        with pytest.raises(ValueError, match="2 positions do not fit in a cache of 4 whose rows hold 3 to 3"):
            fast(hidden(2, 2), cache=cache)
        with pytest.raises(ValueError, match="make it by cache"):
            fast(hidden(1, 1), cache=cache)
        with pytest.raises(ValueError, match="make it by cache"):
            for_inference(transformer, weights="bf16")(hidden(2, 1), cache=cache)
    with pytest.raises(ValueError, match="5 positions do not fit in a cache of 4"):
        for_inference(transformer, weights="fp32").module(hidden(2, 5), cache=cache)
    with pytest.raises(ValueError, match=r"rows of \[3, 3\] positions cannot be rewound to \[2, 4\]"):
        cache.rewind(torch.tensor([2, 4]))


@pytest.mark.parametrize("weights", KINDS)
@pytest.mark.parametrize("vectors", [1, 2, 3, 4, 7, 8, 13, 40])
def test_a_matrix_multiplies_as_its_weight_does(weights: Weights, vectors: int, way: str) -> None:
    torch.manual_seed(0)
    weight_VD, vectors_BD = torch.randn(37, WIDTH), torch.randn(vectors, WIDTH)
    weight_VD[4] = 0
    matrix = Matrix(weight_VD, weights)
    exact = F.linear(vectors_BD, weight_VD)
    assert matrix(vectors_BD).dtype is torch.float32
    # Of sums of 96 products with a deviation of 1: bf16 rounds by up to 2^-9 of a weight, int8 by up to 1/254 of a row's largest.
    far = {"fp32": 1e-4, "bf16": 0.16, "int8": 0.5}[weights]
    torch.testing.assert_close(matrix(vectors_BD), exact, atol=far, rtol=0)
    assert torch.equal(matrix.rows(5, 30)(vectors_BD), matrix(vectors_BD)[:, 5:30]) or way == "plain"
    torch.testing.assert_close(matrix.rows(5, 30)(vectors_BD), matrix(vectors_BD)[:, 5:30], atol=far / 4, rtol=0)


def test_a_matrix_takes_a_fraction_of_the_memory_and_shares_that_of_float32() -> None:
    weight_VD = torch.randn(64, WIDTH)
    matrices = [Matrix(weight_VD, weights) for weights in KINDS]
    assert [matrix.weight.element_size() for matrix in matrices] == [4, 2, 1]
    assert matrices[0].weight.data_ptr() == weight_VD.data_ptr()
    assert matrices[2].rows(3, 9).weight.data_ptr() == matrices[2].weight[3:].data_ptr()
    with pytest.raises(ValueError, match="fp32, bf16 or int8; got 'int4'"):
        Matrix(weight_VD, "int4")  # type: ignore[arg-type]


def test_large_weights_are_copied_as_they_are() -> None:
    weight_VD, hidden_ND = torch.randn(2048, 512), torch.randn(3, 512)
    matrix = Matrix(weight_VD, "fp32")
    assert torch.equal(matrix.weight, weight_VD)
    weight_VD.zero_()
    assert matrix(hidden_ND).abs().amin() > 0 and torch.allclose(matrix(hidden_ND), hidden_ND @ matrix.weight.T, atol=1e-3)


@needs_compiler
def test_compiled_weights_round_as_pytorch_does() -> None:
    """bf16 keys are written by native.cpp: to the nearest, ties to even."""
    torch.manual_seed(0)
    model = Transformer(32, layers=1, heads=2, feed_forward=16, dropout=0.0).eval()
    caches = [
        KVCache.empty(1, layers=1, heads=2, positions=64, width=16, dtype=kind, device="cpu") for kind in (torch.float32, torch.bfloat16)
    ]
    row = torch.randn(1, 4, 32)
    halved = for_inference(model, weights="bf16")
    exact = for_inference(model, weights="fp32")
    for block in exact.module.blocks:  # the same weights, so that the caches differ in their type alone
        block.attention.input.weight.copy_(block.attention.input.weight.bfloat16())
    exact(row, cache=caches[0])
    halved(row, cache=caches[1])
    for wide, low in ((caches[0].keys, caches[1].keys), (caches[0].values, caches[1].values)):
        assert torch.equal(wide.bfloat16(), low)


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    yield tmp_path
    native.library.cache_clear()


@torch.no_grad()
@pytest.mark.parametrize(("compiler", "why"), [(None, "no compiler found"), ("#!/bin/sh\necho no such flag >&2; exit 1\n", "no such flag")])
def test_without_a_compiler_one_line_says_so_and_speech_goes_on(
    transformer: Transformer, no_library: Path, monkeypatch: pytest.MonkeyPatch, compiler: str | None, why: str
) -> None:
    monkeypatch.setenv("PATH", str(no_library))
    monkeypatch.setenv("CXX", str(no_library / "cxx"))
    if compiler is not None:
        (no_library / "cxx").write_text(compiler)
        (no_library / "cxx").chmod(0o755)
    fast, row = for_inference(transformer, weights="fp32"), hidden(1, 3)
    cache = fast.cache(1, positions=4)
    with pytest.warns(UserWarning, match=f"native.cpp is not compiled.*{why}") as told:
        outputs = [fast(part, cache=cache) for part in row.split(1, 1)]
    assert len(told) == 1
    torch.testing.assert_close(torch.cat(outputs, 1), transformer(row), atol=1e-5, rtol=1e-5)


@needs_compiler
def test_the_library_is_compiled_once_for_a_machine(no_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.library() is not None
    (made,) = (no_library / "audiotok").iterdir()
    before = made.stat().st_mtime_ns
    native.library.cache_clear()
    assert native.library() is not None and made.stat().st_mtime_ns == before
    monkeypatch.setattr(native, "_processor", lambda: "another")
    native.library.cache_clear()
    assert native.library() is not None and len([*(no_library / "audiotok").iterdir()]) == 2
