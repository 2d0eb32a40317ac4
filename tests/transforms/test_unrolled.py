"""The unrolled layout against a double loop that only knows its picture, and the laws of transforms/base.py."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from audiotok.transforms.base import Layout
from audiotok.transforms.patterns import Flatten
from audiotok.transforms.streaming import TransformStream
from audiotok.transforms.unrolled import Unroll, rolled
from audiotok.types import TokenSpec

SPEC = TokenSpec(16000, Fraction(50), (7, 7, 5), "test")
UNROLL = Unroll()


@st.composite
def cases(draw):
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    frames = draw(st.integers(0, 6))
    codes = [draw(st.lists(st.integers(0, size - 1), min_size=frames, max_size=frames)) for size in sizes]
    return TokenSpec(16000, Fraction(50), tuple(sizes), "test"), torch.tensor(codes, dtype=torch.int64).reshape(len(sizes), frames)


def slowly(codes_KN, spec):
    """(what stands, where): a position for every codebook of every frame."""
    num_codebooks, frames = codes_KN.shape
    made_KP = torch.tensor(spec.codebook_sizes)[:, None].repeat(1, num_codebooks * frames)
    stands_KP = torch.zeros_like(made_KP, dtype=torch.bool)
    for n in range(frames):
        for k in range(num_codebooks):
            made_KP[k, num_codebooks * n + k] = codes_KN[k, n]
            stands_KP[k, num_codebooks * n + k] = True
    return made_KP, stands_KP


@given(cases())
def test_it_is_what_its_picture_draws_and_comes_back(case):
    spec, codes_KN = case
    made_KP, stands_KP = slowly(codes_KN, spec)
    assert torch.equal(UNROLL.apply(codes_KN, spec), made_KP)
    assert torch.equal(UNROLL.legal(codes_KN.shape[1], spec), stands_KP)
    assert torch.equal(UNROLL.invert(made_KP, spec), codes_KN)
    assert torch.equal(UNROLL.frame_index(codes_KN.shape[1], spec), Flatten().frame_index(codes_KN.shape[1], spec))
    assert torch.equal(rolled(made_KP.masked_fill(~stands_KP, -1)[None])[0], codes_KN)


@given(cases())
def test_legal_ids_are_the_codebooks_codes_where_one_stands_and_the_pad_alone_elsewhere(case):
    spec, codes_KN = case
    first_KP, end_KP = UNROLL.legal_ids(codes_KN.shape[1], spec)
    sizes_K1 = torch.tensor(spec.codebook_sizes)[:, None]
    stands_KP = UNROLL.legal(codes_KN.shape[1], spec)
    assert torch.equal(first_KP, torch.where(stands_KP, 0, sizes_K1)) and torch.equal(
        end_KP, torch.where(stands_KP, sizes_K1, sizes_K1 + 1)
    )
    assert (end_KP <= torch.tensor(UNROLL.out_spec(spec).codebook_sizes)[:, None]).all()


def test_what_stands_in_a_hole_does_not_matter():
    codes_KN = torch.tensor([[1, 2], [3, 4], [0, 1]])
    made_KP, stands_KP = slowly(codes_KN, SPEC)
    assert torch.equal(UNROLL.invert(made_KP.masked_fill(~stands_KP, 0), SPEC), codes_KN)


def test_its_spec_counts_positions_and_one_codebook_has_no_holes():
    assert isinstance(UNROLL, Layout)
    assert UNROLL.out_spec(SPEC).frame_rate == 150 and UNROLL.out_spec(SPEC).codebook_sizes == (8, 8, 6)
    alone = TokenSpec(16000, Fraction(50), (7,), "test")
    assert UNROLL.out_spec(alone).codebook_sizes == (7,) and UNROLL.out_spec(alone).fingerprint != "test"


def test_a_stream_of_it_gives_each_frame_as_it_comes():
    codes_KN = torch.tensor([[1, 2, 3], [3, 4, 5], [0, 1, 2]])
    stream = TransformStream(UNROLL, SPEC)
    state, pieces = stream.open(), []
    for piece_KN in codes_KN.split([1, 2], dim=1):
        made_KP, state = stream.push(state, piece_KN)
        pieces.append(made_KP)
    assert [piece.shape[1] for piece in pieces] == [3, 6]
    assert torch.equal(torch.cat(pieces, 1), UNROLL.apply(codes_KN, SPEC))


def test_half_a_frame_pads_where_codes_stand_and_codes_of_another_spec_are_refused():
    made_KP, _ = slowly(torch.tensor([[1, 2], [3, 4], [0, 1]]), SPEC)
    with pytest.raises(ValueError, match="got 5 positions, want a multiple of the 3 codebooks"):
        UNROLL.invert(made_KP[:, :5], SPEC)
    made_KP[1, 4] = 7
    with pytest.raises(ValueError, match="outside codebook 1"):
        UNROLL.invert(made_KP, SPEC)
    with pytest.raises(ValueError, match="outside codebook 2"):
        UNROLL.apply(torch.tensor([[1], [3], [5]]), SPEC)


@pytest.mark.parametrize("codes_BKP", [torch.zeros(1, 3, 5), torch.zeros(1, 3, 6)], ids=["half a frame", "side by side"])
def test_codes_that_do_not_take_turns_are_not_rolled_up(codes_BKP):
    with pytest.raises(ValueError, match="choose transform=unroll"):
        rolled(codes_BKP.long())
