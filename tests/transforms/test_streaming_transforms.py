"""A stream of frames, however cut, gives what the whole utterance gives; what cannot be known before the end is refused or waits."""

import itertools
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from audiotok.transforms.base import Transform
from audiotok.transforms.lzw import Lzw
from audiotok.transforms.patterns import CoarseFirst, Delay, Flatten, Parallel
from audiotok.transforms.run_length import ImplicitRunLength, RunLength
from audiotok.transforms.stack import Stack
from audiotok.transforms.streaming import Causal, TransformStream
from audiotok.types import TokenSpec

SPEC = TokenSpec(sample_rate=16_000, frame_rate=Fraction(50), codebook_sizes=(3, 2), fingerprint="abc")
CAUSAL: list[Transform] = [
    Parallel(), Delay(step=2), Flatten(), Stack(3), RunLength(longest=3), ImplicitRunLength(longest=4), Lzw(hypertokens=20, longest=6),
]  # fmt: skip


def utterance(seed: int, frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kept_KN = torch.randint(2, (2, frames), generator=generator)
    return kept_KN.repeat_interleave(torch.randint(1, 6, (frames,), generator=generator), dim=1)[:, :frames]


def pieces(codes_KN: Tensor, seed: int) -> list[Tensor]:
    cuts = torch.randint(0, 7, (codes_KN.shape[1],), generator=torch.Generator().manual_seed(seed)).cumsum(0).tolist()
    edges = [0, *(cut for cut in cuts if cut < codes_KN.shape[1]), codes_KN.shape[1]]
    return [codes_KN[:, start:end] for start, end in itertools.pairwise(edges)]


@pytest.mark.parametrize("transform", CAUSAL, ids=repr)
def test_a_stream_in_any_pieces_gives_the_codes_of_the_whole(transform: Transform) -> None:
    stream = TransformStream(transform, SPEC)
    for seed in range(25):
        codes_KN = utterance(seed, seed * 3)
        state, parts = stream.open(), []
        for piece_KN in pieces(codes_KN, seed):
            before = state.codes_KN.clone()
            made_KN, later = stream.push(state, piece_KN)
            assert torch.equal(state.codes_KN, before)
            parts.append(made_KN)
            state = later
        parts.append(stream.close(state))
        assert torch.equal(torch.cat(parts, dim=1), transform.apply(codes_KN, SPEC))


@pytest.mark.parametrize("transform", CAUSAL, ids=repr)
def test_what_is_settled_stays_whatever_follows(transform: Transform) -> None:
    assert isinstance(transform, Causal)
    for seed in range(15):
        codes_KN = utterance(seed, 20)
        positions, _ = transform.settled(codes_KN, SPEC)
        for other in range(4):
            longer_KN = torch.cat([codes_KN, utterance(100 + other, 9)], dim=1)
            assert torch.equal(transform.apply(longer_KN, SPEC)[:, :positions], transform.apply(codes_KN, SPEC)[:, :positions])


def test_a_stream_waits_no_longer_than_it_has_to() -> None:
    codes_KN = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]])
    made_KN, state = TransformStream(RunLength(longest=3), SPEC).push(TransformStream(RunLength(longest=3), SPEC).open(), codes_KN)
    assert made_KN.tolist() == [[0], [0], [2]] and state.codes_KN.shape[1] == 2
    made_KN, state = TransformStream(Stack(2), SPEC).push(TransformStream(Stack(2), SPEC).open(), codes_KN)
    assert made_KN.shape[1] == 2 and state.codes_KN.shape[1] == 1


def test_what_needs_the_whole_utterance_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"CoarseFirst\(\) cannot stream: what it makes of a frame depends on all that come after it"):
        TransformStream(CoarseFirst(), SPEC)
