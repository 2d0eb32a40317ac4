"""Segmentation into the fewest tokens, against one that tries them all, and against byte-pair encoding with the same tokens."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from merged_cases import codes_with_repeats, corpora, spec_of, spoken
from omegaconf import OmegaConf
from torch import Tensor

from audiotok.transforms.base import Constrained, Fittable
from audiotok.transforms.bpe import Bpe
from audiotok.transforms.expansions import Expansions
from audiotok.transforms.merges import Merges
from audiotok.transforms.pathpiece import Fewest, PathPiece
from audiotok.transforms.repair import RePair
from audiotok.types import TokenSpec

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "transform" / "pathpiece.yaml"


def fitted(corpus: list[Tensor], spec: TokenSpec, *, merges: int = 30, frame_aligned: bool = False, longest: int = 16) -> PathPiece:
    transform = PathPiece(Bpe(merges, frame_aligned, fitted=None), longest, fitted=None)
    transform.fit(corpus, spec)
    return transform


def slow_fewest(codes: list[int], expansions: Expansions) -> list[int]:
    """Of all segmentations the shortest, and of those the one whose last token is longest, then the one before it, and so on."""
    words = {tuple(expansions.expand(np.array([token])).tolist()): token for token in range(len(expansions))}

    @cache
    def best(end: int) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """(tokens, lengths from the last one on, negative, the tokens) of the codes before `end`."""
        if not end:
            return 0, (), ()
        found = []
        for start in range(max(end - expansions.longest, 0), end):
            if (token := words.get(tuple(codes[start:end]))) is not None:
                number, lengths, tokens = best(start)
                found.append((number + 1, (start - end, *lengths), (*tokens, token)))
        return min(found)

    return list(best(len(codes))[2])


def vocabulary(num_base: int, merged: list[list[int]]) -> Expansions:
    tokens = [[code] for code in range(num_base)] + merged
    return Expansions(np.cumsum([0, *map(len, tokens)]), np.array([code for codes in tokens for code in codes], dtype=np.int64))


def test_the_picture_in_the_docstring_is_true() -> None:
    merges = Merges(np.array([[1, 2], [2, 3], [9, 4]]), 8)
    assert merges.encode(np.array([1, 2, 3, 4])).tolist() == [8, 3, 4]
    assert Fewest(merges.expansions).encode(np.array([1, 2, 3, 4])).tolist() == [1, 10]


def test_of_equally_short_ones_the_last_token_is_the_longest() -> None:
    expansions = vocabulary(4, [[0, 1], [1, 2], [0, 1, 2], [1, 2, 3], [2, 3]])
    assert Fewest(expansions).encode(np.array([0, 1, 2, 3])).tolist() == [0, 7]  # not 0 1 and 2 3, nor 0 1 2 and 3
    assert Fewest(expansions).encode(np.array([0, 1, 2])).tolist() == [6]


@settings(deadline=None, max_examples=300, derandomize=True)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=5).map(tuple), unique=True, max_size=12),
    st.lists(st.integers(0, 2), max_size=20),
)
def test_the_fewest_tokens_are_those_of_trying_them_all(merged: list[tuple[int, ...]], codes: list[int]) -> None:
    expansions = vocabulary(3, [list(word) for word in merged])
    assert Fewest(expansions).encode(np.array(codes, dtype=np.int64)).tolist() == slow_fewest(codes, expansions)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(corpora(), st.booleans(), st.sampled_from([1, 4, 16]))
def test_any_codes_come_back_in_no_more_tokens_than_by_merging_with_the_same_ones(
    case: tuple[TokenSpec, list[Tensor], Tensor], frame_aligned: bool, longest: int
) -> None:
    spec, heard, other = case
    bpe = Bpe(30, frame_aligned, fitted=None)
    bpe.fit(heard, spec)
    transform = fitted(heard, spec, frame_aligned=frame_aligned, longest=longest)
    shorter = only_up_to(bpe.learnt(spec).encoder, longest)
    assert len(shorter.expansions) == transform.out_spec(spec).codebook_sizes[0]
    for codes_KN in [*heard, other]:
        tokens_1N = transform.apply(codes_KN, spec)
        assert torch.equal(transform.invert(tokens_1N, spec), codes_KN)
        assert torch.equal(transform.apply(transform.invert(tokens_1N, spec), spec), tokens_1N)
        assert tokens_1N.shape[1] <= len(shorter.encode(codes_KN.T.flatten().numpy() + np.tile(spec.vocabulary_offsets, codes_KN.shape[1])))


def only_up_to(merges: Merges, longest: int) -> Merges:
    """Without the rules that make a longer token: none that is kept needs one of those."""
    kept = np.flatnonzero(merges.expansions.lengths <= longest)
    pairs_M2 = merges.pairs_M2[kept[merges.num_base :] - merges.num_base]
    return Merges(np.searchsorted(kept, pairs_M2), merges.num_base)


def test_real_codes_take_fewer_tokens_than_by_merging(speech: Path) -> None:
    coarse, heard = spec_of(32), [codes_KN[:1] // 32 for codes_KN in spoken(speech)[1]]  # neighbours that are often the same
    bpe, transform = Bpe(200, False, fitted=None), fitted(heard, coarse, merges=200)
    bpe.fit(heard, coarse)
    merged, fewest = (sum(each.apply(codes_KN, coarse).shape[1] for codes_KN in heard) for each in (bpe, transform))
    assert fewest < merged < sum(codes_KN.numel() for codes_KN in heard)
    assert torch.equal(transform.invert(transform.apply(heard[0], coarse), coarse), heard[0])


def test_any_vocabulary_that_learns_will_do() -> None:
    spec, codes_KN = spec_of(5, 6), codes_with_repeats((5, 6), 100, seed=1)
    repair, transform = RePair(100, 2, fitted=None), PathPiece(RePair(100, 2, fitted=None), 100, fitted=None)
    transform.fit([codes_KN], spec)
    repair.fit([codes_KN], spec)
    assert transform.out_spec(spec).codebook_sizes == repair.out_spec(spec).codebook_sizes
    assert transform.apply(codes_KN, spec).shape[1] <= repair.apply(codes_KN, spec).shape[1] < codes_KN.numel()
    assert transform.out_spec(spec).fingerprint != repair.out_spec(spec).fingerprint


def test_it_can_be_constrained_and_fitted_and_its_own_tokens_are_legal() -> None:
    spec, codes_KN = spec_of(5, 6, 7), codes_with_repeats((5, 6, 7), 60, seed=3)
    transform = fitted([codes_KN], spec)
    assert isinstance(transform, Constrained) and isinstance(transform, Fittable)
    grammar = transform.grammar(spec)
    state = grammar.start()
    for token in transform.apply(codes_KN, spec)[0].tolist():
        assert grammar.legal(state)[token]
        state = grammar.advance(state, token)
    assert grammar.complete(state)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="tokens of at most 0 codes"):
        PathPiece(Bpe(1, False, fitted=None), 0, fitted=None)


def test_the_config_builds_it() -> None:
    config = OmegaConf.load(CONFIG)
    assert OmegaConf.to_container(config, resolve=False)["fitted"] == "${fitted_transform:}"
    assert repr(instantiate(config, fitted=None)) == repr(PathPiece(Bpe(4096, False, fitted=None), 16, fitted=None))
