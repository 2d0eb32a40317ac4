"""What tokens stand for, against loops over lists, and which streams of them are frames."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merged_cases import slow_flat, spec_of
from safetensors.numpy import load_file, save_file
from torch import Tensor

from audiotok.transforms.expansions import NEVER, Expansions
from audiotok.types import TokenSpec

SPEC = spec_of(4, 4)


def expansions_of(num_base: int, merged: list[list[int]]) -> Expansions:
    tokens = [[code] for code in range(num_base)] + merged
    starts = np.cumsum([0, *map(len, tokens)])
    return Expansions(starts, np.array([code for codes in tokens for code in codes], dtype=np.int64))


@st.composite
def vocabularies(draw: st.DrawFn) -> tuple[TokenSpec, list[list[int]]]:
    """(spec, merged tokens), some of which are no piece of a stream of frames."""
    spec = spec_of(*draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    tokens = []
    for _ in range(draw(st.integers(0, 8))):
        frames = draw(st.integers(1, 3))
        codes_KN = torch.tensor([[draw(st.integers(0, size - 1)) for _ in range(frames)] for size in spec.codebook_sizes])
        flat = slow_flat(codes_KN, spec) * 2
        start = draw(st.integers(0, len(flat) // 2 - 1))
        tokens.append(flat[start : start + draw(st.integers(2, 6))])
    tokens += draw(st.lists(st.lists(st.integers(0, sum(spec.codebook_sizes) - 1), min_size=2, max_size=4), max_size=2))
    return spec, [codes for codes in tokens if len(codes) > 1]


def slow_codebook(code: int, spec: TokenSpec) -> int:
    return next(k for k in range(spec.num_codebooks) if code < sum(spec.codebook_sizes[: k + 1]))


def slow_phase(codes: list[int], spec: TokenSpec) -> int:
    found = [slow_codebook(code, spec) for code in codes]
    return found[0] if found == [(found[0] + index) % spec.num_codebooks for index in range(len(found))] else NEVER


def slow_invert(codes: list[int], spec: TokenSpec) -> Tensor | None:
    if len(codes) % spec.num_codebooks or any(slow_codebook(code, spec) != i % spec.num_codebooks for i, code in enumerate(codes)):
        return None
    offsets = torch.tensor(spec.vocabulary_offsets)
    return (torch.tensor(codes, dtype=torch.int64).reshape(-1, spec.num_codebooks) - offsets).T


def test_the_picture_of_the_module_is_true() -> None:
    expansions = expansions_of(8, [[1, 5], [2, 6, 1, 5]])
    tokens_1N = torch.tensor([[0, 4, 9, 8]])
    assert expansions.expand(tokens_1N[0].numpy()).tolist() == [0, 4, 2, 6, 1, 5, 1, 5]
    assert expansions.invert(tokens_1N, SPEC).tolist() == [[0, 2, 1, 1], [0, 2, 1, 1]]
    assert (len(expansions), expansions.num_base, expansions.longest) == (10, 8, 4)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(vocabularies(), st.data())
def test_any_stream_of_tokens_is_what_a_loop_makes_of_it_or_an_error_that_names_the_position(
    case: tuple[TokenSpec, list[list[int]]], data: st.DataObject
) -> None:
    spec, merged = case
    num_base = sum(spec.codebook_sizes)
    expansions, words = expansions_of(num_base, merged), [[code] for code in range(num_base)] + merged
    assert expansions.phase(spec).tolist() == [slow_phase(codes, spec) for codes in words]
    tokens = data.draw(st.lists(st.integers(0, len(words) - 1), max_size=12))
    flat = [code for token in tokens for code in words[token]]
    assert expansions.expand(np.array(tokens, dtype=np.int64)).tolist() == flat
    expected = slow_invert(flat, spec)
    if expected is not None:
        assert torch.equal(expansions.invert(torch.tensor([tokens], dtype=torch.int64).reshape(1, -1), spec), expected)
        return
    with pytest.raises(ValueError, match=r"position \d+") as error:
        expansions.invert(torch.tensor([tokens]), spec)
    wrong = [i for i, code in enumerate(flat) if slow_codebook(code, spec) != i % spec.num_codebooks]
    ends = np.cumsum([len(words[token]) for token in tokens])
    position = int((ends <= wrong[0]).sum()) if wrong else len(tokens)
    assert f"position {position} " in str(error.value)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(vocabularies(), st.data())
def test_the_grammar_lets_through_exactly_what_inverts(case: tuple[TokenSpec, list[list[int]]], data: st.DataObject) -> None:
    spec, merged = case
    expansions = expansions_of(sum(spec.codebook_sizes), merged)
    grammar, tokens = expansions.grammar(spec), list[int]()
    state = grammar.start()
    for _ in range(data.draw(st.integers(0, 8))):
        legal = grammar.legal(state).nonzero().flatten().tolist()
        for illegal in set(range(-1, len(expansions) + 1)) - set(legal):
            with pytest.raises(ValueError, match=f"token {illegal} does not begin with a code of codebook"):
                grammar.advance(state, illegal)
        tokens.append(data.draw(st.sampled_from(legal)))
        state = grammar.advance(state, tokens[-1])
        whole = len(expansions.expand(np.array(tokens))) % spec.num_codebooks == 0
        assert grammar.complete(state) == whole
        if whole:
            assert expansions.invert(torch.tensor([tokens]), spec).shape[0] == spec.num_codebooks
        else:
            with pytest.raises(ValueError, match=f"ends at position {len(tokens)} "):
                expansions.invert(torch.tensor([tokens]), spec)


def test_no_tokens_are_no_frames() -> None:
    expansions = expansions_of(8, [[1, 5]])
    assert expansions.invert(torch.zeros(1, 0, dtype=torch.int64), SPEC).shape == (2, 0)
    assert expansions.grammar(SPEC).complete(expansions.grammar(SPEC).start())


def test_ids_that_are_no_tokens_are_refused_by_their_position() -> None:
    expansions = expansions_of(8, [[1, 5]])
    for tokens in ([[8, 9]], [[8, -1]], [[8, 2**40]]):
        with pytest.raises(ValueError, match="at position 1 is outside codebook 0, which holds 9"):
            expansions.invert(torch.tensor(tokens), SPEC)
    with pytest.raises(ValueError, match=r"want torch\.int64 \[1, frames\]"):
        expansions.invert(torch.zeros(2, 3, dtype=torch.int64), SPEC)
    with pytest.raises(ValueError, match=r"expansions of 8 base ids; codebooks of 2 x 5 have 10"):
        expansions.invert(torch.tensor([[8]]), spec_of(5, 5))


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=5), max_size=5), st.lists(st.integers(0, 3), max_size=20), st.integers(1, 3)
)
def test_the_last_place_over_which_no_token_reaches_is_found(merged: list[list[int]], codes: list[int], every: int) -> None:
    inside = {pair for token in merged for pair in pairwise(token)}
    places = [p for p in range(0, len(codes) + 1, every) if 0 < p < len(codes) and (codes[p - 1], codes[p]) not in inside]
    assert expansions_of(4, merged).parted(np.array(codes, dtype=np.int64), every) == max(places, default=0)


def test_tokens_up_to_a_length_keep_their_order() -> None:
    shorter = expansions_of(8, [[1, 5], [1, 5, 1], [1, 5, 1, 5], [2, 6]]).up_to(3)
    assert [shorter.expand(np.array([token])).tolist() for token in range(8, len(shorter))] == [[1, 5], [1, 5, 1], [2, 6]]
    assert len(shorter.up_to(1)) == 8


def test_what_was_saved_is_loaded_and_base_ids_take_no_room(tmp_path: Path) -> None:
    expansions = expansions_of(80 * 65_536, [[1, 70_000], [5, 70_001, 140_000]])
    expansions.save(tmp_path / "e.safetensors")
    again = Expansions.load(tmp_path / "e.safetensors")
    assert np.array_equal(again.starts, expansions.starts) and np.array_equal(again.codes, expansions.codes)
    assert (tmp_path / "e.safetensors").stat().st_size < 1000


def damage(path: Path, name: str, array: np.ndarray) -> None:
    save_file(load_file(path) | {name: array}, path)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("starts", np.array([8, 10, 9]), "must rise from 0"),
        ("starts", np.array([8, 8, 10, 14]), "must rise from 0"),
        ("starts", np.array([8, 10, 15]), "must rise from 0"),
        ("starts", np.array([[8, 10, 14]]), r"same number of dimensions|got starts"),
        ("codes", np.array([1, 5, 2, 6, 1, 8]), "the first 8 tokens are base ids"),
        ("codes", np.array([1, 5, 2, 6, 1, -1]), "the first 8 tokens are base ids"),
        ("num_base", np.array([0]), r"got num_base \[0\]"),
        ("num_base", np.array([2**62]), "got num_base"),
        ("num_base", np.array([8, 8]), r"got num_base \[8, 8\]"),
        ("num_base", np.array([9]), "must rise from 0"),
        ("codes", np.array([1.0, 5, 2, 6, 1, 5]), "codes of float64"),
        ("more", np.array([1]), "more of int64"),
    ],
)
def test_a_file_that_holds_no_expansions_is_refused(name: str, array: np.ndarray, message: str, tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    expansions_of(8, [[1, 5], [2, 6, 1, 5]]).save(path)
    damage(path, name, array)
    with pytest.raises(ValueError, match=message) as error:
        Expansions.load(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_cut_missing_or_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    with pytest.raises(ValueError, match="no such file"):
        Expansions.load(path)
    expansions_of(8, [[1, 5]]).save(path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="damaged, or no safetensors file"):
        Expansions.load(path)
    torch.save({"starts": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="damaged, or no safetensors file"):
        Expansions.load(path)


@pytest.mark.parametrize(
    ("starts", "codes"),
    [([0, 1, 2], [1, 0]), ([0], []), ([1, 2], [0, 0]), ([0, 2], [0, 0]), ([0, 1, 3], [0, 0, 1])],
)
def test_base_ids_stand_for_themselves_and_others_for_base_ids(starts: list[int], codes: list[int]) -> None:
    with pytest.raises(ValueError, match="expansions: "):
        Expansions(np.array(starts), np.array(codes, dtype=np.int64))
    with pytest.raises(ValueError, match=r"got starts of int32 \[2\]"):
        Expansions(np.array([0, 1], dtype=np.int32), np.array([0]))
