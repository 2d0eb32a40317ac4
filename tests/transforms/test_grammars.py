"""What each grammar lets through: all that its transform makes, and nothing that does not invert."""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from audiotok.tokenizers.codec import Codec
from audiotok.transforms.base import Constrained, Grammar
from audiotok.transforms.lzw import Lzw
from audiotok.transforms.meta_tokens import MetaTokens
from audiotok.transforms.run_length import ImplicitRunLength, RunLength
from audiotok.types import TokenSpec

RUNS: list[Constrained] = [kind(longest) for kind in (RunLength, ImplicitRunLength) for longest in (1, 2, 3)]
STREAMS: list[Constrained] = [
    Lzw(1, 2), Lzw(3, 4), Lzw(500, 50), MetaTokens(1, shortest=2, longest=2), MetaTokens(2, shortest=2, longest=4),
    MetaTokens(60, shortest=3, longest=9),
]  # fmt: skip
SIZES = [(1,), (2,), (3,), (1, 1), (2, 1), (1, 2), (2, 2), (1, 3, 1)]

every_runs = pytest.mark.parametrize("transform", RUNS, ids=str)
every_stream = pytest.mark.parametrize("transform", STREAMS, ids=str)
every_transform = pytest.mark.parametrize("transform", RUNS + STREAMS, ids=str)
all_sizes = pytest.mark.parametrize("sizes", SIZES, ids=str)
some_sizes = pytest.mark.parametrize(
    "sizes", [(1,), (3,), (1, 2), (4, 3, 5), (65_536, 2), (3,) * 80], ids=lambda sizes: f"{len(sizes)}x{sizes[0]}"
)


def spec_of(*sizes: int) -> TokenSpec:
    return TokenSpec(sample_rate=16_000, frame_rate=Fraction(50), codebook_sizes=sizes, fingerprint="abc")


def utterance(sizes: tuple[int, ...], frames: int, seed: int) -> Tensor:
    """Few different frames, in runs and in stretches that come again."""
    generator = torch.Generator().manual_seed(seed)
    pool_KV = (torch.rand(len(sizes), 3, generator=generator) * torch.tensor(sizes)[:, None]).long()
    frames_N = torch.randint(3, (frames,), generator=generator).repeat_interleave(torch.randint(1, 5, (frames,), generator=generator))
    return pool_KV[:, frames_N[:frames]]


def all_utterances(sizes: tuple[int, ...], frames: int) -> Iterator[Tensor]:
    """Every one of so many frames or fewer."""
    single = list(itertools.product(*map(range, sizes)))
    for length in range(frames + 1):
        for chosen in itertools.product(single, repeat=length):
            yield torch.tensor(chosen, dtype=torch.int64).reshape(length, len(sizes)).T


def in_order(made_KN: Tensor) -> list[int]:
    """The codes as a generator writes them: a position after another, its codebooks in their order."""
    return made_KN.T.flatten().tolist()


def as_positions(written: tuple[int, ...] | list[int], transform: Constrained, spec: TokenSpec) -> Tensor:
    return torch.tensor(written, dtype=torch.int64).reshape(-1, transform.out_spec(spec).num_codebooks).T


def accepts(grammar: Grammar, written: tuple[int, ...] | list[int]) -> bool:
    state = grammar.start()
    for code in written:
        legal_V = grammar.legal(state)
        if not 0 <= code < len(legal_V) or not legal_V[code]:
            return False
        state = grammar.advance(state, code)
    return grammar.complete(state)


def walk(grammar: Grammar, generator: torch.Generator, *, at_least: int) -> tuple[list[int], list[Any]]:
    """Codes of chance among the legal ones, and the states before each and behind the last."""
    written, states = [], [grammar.start()]
    while not grammar.complete(states[-1]) or len(written) < at_least:
        legal = grammar.legal(states[-1]).nonzero()[:, 0]
        if not len(legal):
            break
        written.append(int(legal[torch.randint(len(legal), (), generator=generator)]))
        states.append(grammar.advance(states[-1], written[-1]))
    return written, states


def accepted(grammar: Grammar, transform: Constrained, spec: TokenSpec, frames: int) -> Iterator[tuple[int, ...]]:
    """Every stream that the grammar lets through and that stands for so many frames or fewer."""
    open_ends: list[tuple[tuple[int, ...], Any]] = [((), grammar.start())]
    while open_ends:
        written, state = open_ends.pop()
        if grammar.complete(state):
            if transform.invert(as_positions(written, transform, spec), spec).shape[1] > frames:
                continue
            yield written
        open_ends += [((*written, code), grammar.advance(state, code)) for code in grammar.legal(state).nonzero()[:, 0].tolist()]


@all_sizes
@every_runs
def test_a_grammar_of_runs_lets_through_exactly_what_apply_makes(transform: Constrained, sizes: tuple[int, ...]) -> None:
    spec, frames = spec_of(*sizes), 5 if len(sizes) == 1 else 4
    made = [tuple(in_order(transform.apply(codes_KN, spec))) for codes_KN in all_utterances(sizes, frames)]
    let_through = list(accepted(transform.grammar(spec), transform, spec, frames))
    assert sorted(let_through) == sorted(made)


@all_sizes
@pytest.mark.parametrize(
    "transform", [Lzw(1, 2), Lzw(3, 3), MetaTokens(1, shortest=2, longest=3), MetaTokens(2, shortest=2, longest=2)], ids=str
)
def test_a_grammar_of_one_stream_lets_through_exactly_what_inverts(transform: Constrained, sizes: tuple[int, ...]) -> None:
    spec = spec_of(*sizes)
    grammar, (size,) = transform.grammar(spec), transform.out_spec(spec).codebook_sizes
    for length in range(6 if size < 5 else 5):
        for ids in itertools.product(range(size), repeat=length):
            assert accepts(grammar, ids) == inverts(transform, ids, spec), ids


def inverts(transform: Constrained, ids: tuple[int, ...], spec: TokenSpec) -> bool:
    try:
        transform.invert(as_positions(ids, transform, spec), spec)
    except ValueError:
        return False
    return True


@some_sizes
@every_transform
def test_whatever_is_drawn_among_legal_codes_inverts(transform: Constrained, sizes: tuple[int, ...]) -> None:
    spec = spec_of(*sizes)
    grammar = transform.grammar(spec)
    for seed in range(3):
        written, states = walk(grammar, torch.Generator().manual_seed(seed), at_least=60)
        assert grammar.complete(states[-1])
        drawn_KN = as_positions(written, transform, spec)
        codes_KN = transform.invert(drawn_KN, spec)
        assert len(codes_KN) == len(sizes) and ((codes_KN >= 0) & (codes_KN < torch.tensor(sizes)[:, None])).all()
        assert torch.equal(transform.invert(transform.apply(codes_KN, spec), spec), codes_KN)
        if transform in RUNS:
            assert torch.equal(transform.apply(codes_KN, spec), drawn_KN)


@some_sizes
@every_stream
def test_a_grammar_of_one_stream_never_leaves_a_generator_without_a_choice(transform: Constrained, sizes: tuple[int, ...]) -> None:
    grammar = transform.grammar(spec_of(*sizes))
    _, states = walk(grammar, torch.Generator().manual_seed(1), at_least=60)
    assert all(grammar.legal(state).any() for state in states)


def test_a_run_that_no_other_can_follow_may_only_end_the_stream() -> None:
    for transform, written in ((RunLength(3), [0, 1]), (ImplicitRunLength(3), [1])):
        grammar = transform.grammar(spec_of(1))
        state = grammar.start()
        for code in written:
            state = grammar.advance(state, code)
        assert grammar.complete(state) and not grammar.legal(state).any()


@some_sizes
@every_transform
def test_every_code_of_apply_is_legal_at_its_place_and_the_stream_may_end_there(transform: Constrained, sizes: tuple[int, ...]) -> None:
    spec = spec_of(*sizes)
    for seed in range(3):
        codes_KN = utterance(sizes, frames=(0, 7, 40)[seed] if len(sizes) < 80 else seed, seed=seed)
        assert accepts(transform.grammar(spec), in_order(transform.apply(codes_KN, spec)))


@pytest.mark.parametrize("num_codebooks", [1, 6])
@pytest.mark.parametrize("transform", [RunLength(8), ImplicitRunLength(4), Lzw(4096, 8), MetaTokens(256, shortest=2, longest=8)], ids=str)
def test_real_codes_are_legal_at_their_places(transform: Constrained, num_codebooks: int, wav_16k: Tensor) -> None:
    codec = Codec.from_pretrained("codec_50hz", num_codebooks=num_codebooks)
    codes_KN = codec.encode(wav_16k[None], torch.tensor([len(wav_16k)]))[0][0]
    assert accepts(transform.grammar(codec.spec), in_order(transform.apply(codes_KN, codec.spec)))


@some_sizes
@every_transform
def test_masks_have_an_entry_for_each_id_of_the_codebook_that_is_next(transform: Constrained, sizes: tuple[int, ...]) -> None:
    spec = spec_of(*sizes)
    grammar, out = transform.grammar(spec), transform.out_spec(spec).codebook_sizes
    _, states = walk(grammar, torch.Generator().manual_seed(2), at_least=12)
    for place, state in enumerate(states):
        legal_V = grammar.legal(state)
        assert legal_V.shape == (out[place % len(out)],) and legal_V.dtype == torch.bool


@pytest.mark.parametrize("sizes", [(1,), (3,), (1, 2), (4, 3, 5)], ids=str)
@every_transform
def test_a_code_that_is_not_legal_is_refused_by_its_name_and_every_other_is_taken(transform: Constrained, sizes: tuple[int, ...]) -> None:
    grammar = transform.grammar(spec_of(*sizes))
    _, states = walk(grammar, torch.Generator().manual_seed(3), at_least=25)
    for state in states:
        legal = grammar.legal(state).tolist()
        for code in (-1, *range(len(legal)), len(legal), 2**40):
            if 0 <= code < len(legal) and legal[code]:
                grammar.advance(state, code)
            else:
                with pytest.raises(ValueError, match=rf"^(id|code) {code} cannot come next.*choose among `legal`"):
                    grammar.advance(state, code)


@every_transform
def test_a_state_that_was_kept_goes_on_as_if_nothing_had_followed_it(transform: Constrained) -> None:
    grammar = transform.grammar(spec_of(4, 3, 5))
    written, states = walk(grammar, torch.Generator().manual_seed(4), at_least=40)
    masks = [grammar.legal(state) for state in states]
    for place in range(len(written)):
        for code in masks[place].nonzero()[:, 0].tolist():
            grammar.advance(states[place], code)
        again = grammar.advance(states[place], written[place])
        assert torch.equal(grammar.legal(again), masks[place + 1])
    assert all(torch.equal(grammar.legal(state), mask_V) for state, mask_V in zip(states, masks, strict=True))
