"""Byte-pair encoding: learning and encoding against lists that are gone through again after each merge, and against Hugging Face's."""

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from merged_cases import codes_with_repeats, corpora, rules_of, slow_encode, slow_flat, slow_learn, spec_of, spoken
from omegaconf import OmegaConf
from torch import Tensor

from audiotok.transforms import bpe
from audiotok.transforms.base import Constrained, Fittable
from audiotok.transforms.bpe import Bpe, hugging_face, text
from audiotok.transforms.flat import flattened
from audiotok.transforms.learning import Rules, learn
from audiotok.transforms.merges import Merges
from audiotok.types import TokenSpec

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "transform"
tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed; pip install tokenizers")
both = pytest.mark.parametrize("frame_aligned", [False, True])


def fitted(corpus: list[Tensor], spec: TokenSpec, *, merges: int = 30, frame_aligned: bool = False) -> Bpe:
    transform = Bpe(merges, frame_aligned, fitted=None)
    transform.fit(corpus, spec)
    return transform


def small_streams(seed: int) -> tuple[TokenSpec, list[Tensor]]:
    """Of 1 to 3 codebooks of 2 to 4 codes, with runs."""
    generator = np.random.default_rng(seed)
    sizes = tuple(generator.integers(2, 5, size=generator.integers(1, 4)).tolist())
    return spec_of(*sizes), [codes_with_repeats(sizes, 40, seed=seed + number, kinds=2) for number in range(3)]


def test_the_picture_in_the_docstring_is_true() -> None:
    spec, codes_KN = spec_of(4, 4), torch.tensor([[1, 2, 1, 3], [1, 2, 1, 3]])
    transform = fitted([codes_KN], spec, merges=1)
    assert transform.apply(codes_KN, spec).tolist() == [[8, 2, 6, 8, 3, 7]]
    assert transform.invert(torch.tensor([[8, 2, 6, 8, 3, 7]]), spec).tolist() == codes_KN.tolist()


@both
def test_merges_are_those_of_counting_anew_after_each(frame_aligned: bool) -> None:
    for seed in range(25):
        spec, codes = small_streams(seed)
        merges = learn([flattened(codes_KN, spec) for codes_KN in codes], spec, Rules(25, 2, overlapping=True, frame_aligned=frame_aligned))
        streams = [slow_flat(codes_KN, spec) for codes_KN in codes]
        assert rules_of(merges) == slow_learn(streams, spec, most=25, frame_aligned=frame_aligned)
        expansions = merges.expansions
        words = {tuple(expansions.expand(np.array([token])).tolist()) for token in range(len(expansions))}
        assert len(words) == len(expansions)  # no two tokens of the same codes


def test_utterances_do_not_run_into_one_another() -> None:
    spec = spec_of(4)
    streams = [np.array([0, 1]), np.array([2, 3]), np.array([0, 1]), np.zeros(0, dtype=np.int64), np.array([2, 3])]
    assert rules_of(learn(streams, spec, Rules(9, 2, overlapping=True, frame_aligned=False))) == [(0, 1, 4), (2, 3, 5)]


def test_of_nothing_nothing_is_learnt() -> None:
    spec = spec_of(4, 4)
    for frame_aligned in (False, True):
        transform = fitted([torch.zeros(2, 0, dtype=torch.int64)], spec, frame_aligned=frame_aligned)
        assert transform.out_spec(spec).codebook_sizes == (8,)
        assert transform.apply(torch.tensor([[1], [2]]), spec).tolist() == [[1, 6]]
    assert fitted([], spec).out_spec(spec).codebook_sizes == (8,)


def test_without_the_constraint_merges_of_real_codes_are_hugging_faces(speech: Path) -> None:
    two = spec_of(1024, 1024)
    streams = [flattened(codes_KN[:2], two) for codes_KN in spoken(speech)[1]]
    theirs = hugging_face(streams, num_base=2048, most=200)
    ours = learn(streams, two, Rules(200, 2, overlapping=True, frame_aligned=False))
    assert len(theirs.pairs_M2) > 40
    assert rules_of(ours) == rules_of(theirs)


@pytest.mark.parametrize("size", [5, 300, 60_000])
def test_without_the_constraint_merges_of_random_chains_are_hugging_faces(size: int) -> None:
    generator, spec = np.random.default_rng(size), spec_of(size)
    kinds = generator.integers(0, size, size=(12, 4))
    streams = [np.concatenate(kinds[generator.integers(0, 12, size=60)]) for _ in range(4)]
    ours = learn(streams, spec, Rules(60, 2, overlapping=True, frame_aligned=False))
    assert rules_of(ours) == rules_of(hugging_face(streams, num_base=size, most=60))
    assert len(ours.pairs_M2) == 60


@st.composite
def rules_and_codes(draw: st.DrawFn) -> tuple[Merges, list[int]]:
    """Any rules over three codes, learnt or not, and codes that hold what they merge."""
    pairs = [draw(st.tuples(st.integers(0, 2 + rule), st.integers(0, 2 + rule))) for rule in range(draw(st.integers(0, 9)))]
    merges = Merges(np.array(pairs, dtype=np.int64).reshape(-1, 2), 3)
    spans = draw(st.lists(st.integers(0, len(merges.expansions) - 1), max_size=6))
    return merges, merges.expansions.expand(np.array(spans, dtype=np.int64)).tolist()[:60]


@settings(deadline=None, max_examples=300, derandomize=True)
@given(rules_and_codes())
def test_the_earliest_rule_is_applied_where_it_applies_first_until_none_does(case: tuple[Merges, list[int]]) -> None:
    merges, codes = case
    assert merges.encode(np.array(codes, dtype=np.int64)).tolist() == slow_encode(codes, rules_of(merges))


def hugging_face_encoder(merges: Merges, alphabet: np.ndarray) -> Any:
    """The same merges as a tokenizer of theirs."""
    words = [text(np.searchsorted(alphabet, merges.expansions.expand(np.array([token])))) for token in range(len(merges.expansions))]
    vocabulary = {words[code]: int(code) for code in alphabet}
    vocabulary |= {words[token]: token for token in range(merges.num_base, len(words))}
    return tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [(words[left], words[right]) for left, right, _ in rules_of(merges)]))


@both
def test_real_codes_are_encoded_as_hugging_face_encodes_them(frame_aligned: bool, speech: Path) -> None:
    spec, codes = spoken(speech)
    transform = fitted(codes, spec, merges=500, frame_aligned=frame_aligned)
    alphabet = np.unique(np.concatenate([flattened(codes_KN, spec) for codes_KN in codes]))
    encoder = hugging_face_encoder(transform.learnt(spec).encoder, alphabet)
    for codes_KN in codes:
        ours = transform.apply(codes_KN, spec)[0].tolist()
        assert ours == encoder.encode(text(np.searchsorted(alphabet, flattened(codes_KN, spec)))).ids
        assert len(ours) < codes_KN.numel()


def test_codes_of_few_kinds_are_encoded_as_hugging_face_encodes_them() -> None:
    for seed in range(20):
        spec, codes = small_streams(seed)
        alphabet = np.arange(sum(spec.codebook_sizes))
        merges = learn([flattened(codes_KN, spec) for codes_KN in codes], spec, Rules(40, 2, overlapping=True, frame_aligned=False))
        encoder = hugging_face_encoder(merges, alphabet)
        for codes_KN in codes:
            assert merges.encode(flattened(codes_KN, spec)).tolist() == encoder.encode(text(flattened(codes_KN, spec))).ids


@settings(deadline=None, max_examples=25, derandomize=True)
@given(corpora(), st.booleans(), st.sampled_from([0, 3, 40]))
def test_any_codes_come_back_and_what_came_back_is_encoded_as_before(
    case: tuple[TokenSpec, list[Tensor], Tensor], frame_aligned: bool, merges: int
) -> None:
    spec, heard, other = case
    transform = fitted(heard, spec, merges=merges, frame_aligned=frame_aligned)
    (size,) = transform.out_spec(spec).codebook_sizes
    assert sum(spec.codebook_sizes) <= size <= sum(spec.codebook_sizes) + merges
    for codes_KN in [*heard, other]:
        tokens_1N = transform.apply(codes_KN, spec)
        assert tokens_1N.dtype == torch.int64 and tokens_1N.shape[1] <= codes_KN.numel() and (tokens_1N < size).all()
        assert torch.equal(transform.invert(tokens_1N, spec), codes_KN)
        assert torch.equal(transform.apply(transform.invert(tokens_1N, spec), spec), tokens_1N)


def test_the_largest_utterance_of_the_widest_codes_comes_back() -> None:
    spec, codes_KN = spec_of(*[65_536] * 80), codes_with_repeats((65_536,) * 80, 10_000, seed=0)
    transform = fitted([codes_KN[:, :50]], spec, merges=500, frame_aligned=True)
    tokens_1N = transform.apply(codes_KN, spec)
    assert tokens_1N.shape[1] < 0.9 * codes_KN.numel()
    assert torch.equal(transform.invert(tokens_1N, spec), codes_KN)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(corpora(), st.data())
def test_a_fuzzed_stream_is_codes_or_an_error_that_names_the_position(
    case: tuple[TokenSpec, list[Tensor], Tensor], data: st.DataObject
) -> None:
    spec, heard, _ = case
    transform = fitted(heard, spec)
    (size,) = transform.out_spec(spec).codebook_sizes
    tokens_1N = transform.apply(heard[0], spec).clone()
    for _ in range(3):
        if tokens_1N.numel():
            tokens_1N[0, data.draw(st.integers(0, tokens_1N.numel() - 1))] = data.draw(st.integers(-2, size + 1))
    try:
        codes_KN = transform.invert(tokens_1N, spec)
    except ValueError as error:
        assert "position " in str(error)
    else:
        assert torch.equal(transform.invert(transform.apply(codes_KN, spec), spec), codes_KN)


def test_aligned_tokens_are_parts_of_one_frame_or_whole_frames(speech: Path) -> None:
    spec, codes = spoken(speech)
    loose, aligned = (fitted(codes, spec, merges=300, frame_aligned=frame_aligned) for frame_aligned in (False, True))
    assert torch.equal(aligned.invert(aligned.apply(codes[0], spec), spec), codes[0])
    assert whole_or_part(aligned, spec).all()
    assert not whole_or_part(loose, spec).all()


def whole_or_part(transform: Bpe, spec: TokenSpec) -> np.ndarray:
    expansions = transform.learnt(spec).expansions
    phases, lengths = expansions.phase(spec), expansions.lengths
    return (phases + lengths <= spec.num_codebooks) | ((phases == 0) & (lengths % spec.num_codebooks == 0))


def test_a_frame_of_one_code_is_always_whole() -> None:
    codes_KN = codes_with_repeats((40,), 300, seed=1)
    loose, aligned = (fitted([codes_KN], spec_of(40), frame_aligned=frame_aligned) for frame_aligned in (False, True))
    assert torch.equal(loose.apply(codes_KN, spec_of(40)), aligned.apply(codes_KN, spec_of(40)))


def test_the_out_spec_is_of_one_stream_with_a_mark_of_the_settings_and_the_merges() -> None:
    spec = spec_of(5, 6)
    first, second = (codes_with_repeats((5, 6), 60, seed=seed) for seed in (1, 2))
    transform = fitted([first], spec)
    out = transform.out_spec(spec)
    assert out.frame_rate == 100 and out.num_codebooks == 1 and out.sample_rate == spec.sample_rate
    assert out.fingerprint == fitted([first], spec).out_spec(spec).fingerprint
    others = [fitted([first], spec, merges=29), fitted([second], spec), fitted([first], spec, frame_aligned=True)]
    assert len({out.fingerprint, spec.fingerprint, *(other.out_spec(spec).fingerprint for other in others)}) == 5


@both
def test_it_can_be_constrained_and_fitted_and_its_own_tokens_are_legal(frame_aligned: bool) -> None:
    spec, codes_KN = spec_of(5, 6, 7), codes_with_repeats((5, 6, 7), 60, seed=3)
    transform = fitted([codes_KN], spec, frame_aligned=frame_aligned)
    assert isinstance(transform, Constrained) and isinstance(transform, Fittable)
    grammar = transform.grammar(spec)
    state = grammar.start()
    for token in transform.apply(codes_KN, spec)[0].tolist():
        assert grammar.legal(state)[token]
        state = grammar.advance(state, token)
    assert grammar.complete(state)


def test_ids_that_surrogates_would_take_have_characters_of_their_own() -> None:
    points = [ord(character) for character in text(np.arange(60_000)).encode().decode()]
    assert all(first < second for first, second in pairwise(points)) and not set(points) & set(bpe.SURROGATES)


def test_more_codes_than_characters_are_refused_where_hugging_face_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "CHARACTERS", 3)
    with pytest.raises(ValueError, match=r"got 4 different codes, want at most 3.*frame_aligned=true"):
        fitted([torch.tensor([[0, 1, 2, 3]])], spec_of(4))
    assert fitted([torch.tensor([[0, 1, 2, 3]])], spec_of(4), frame_aligned=True).out_spec(spec_of(4)).codebook_sizes == (4,)


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match="pip install tokenizers"):
        fitted([torch.tensor([[0, 1]])], spec_of(4))


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="got -1 merges, want 0 or more"):
        Bpe(-1, False, fitted=None)
    with pytest.raises(ValueError, match="got 5 merges of pairs that occur 1 times"):
        Rules(5, 1, overlapping=True, frame_aligned=False)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([[0, 4]], r"rule 0 joins \[0, 4\]; only the 4 ids below are known"),
        ([[0, 1], [5, 1]], r"rule 1 joins \[5, 1\]; only the 5 ids"),
        ([[-1, 1]], r"rule 0 joins \[-1, 1\]"),
        ([[0, 1, 2]], r"got pairs of int64 \[1, 3\], want int64 \[rules, 2\]"),
        ([0.5], r"got pairs of float64 \[1\]"),
    ],
)
def test_merges_of_what_is_not_known_yet_are_refused(pairs: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Merges(np.array(pairs), 4)


@pytest.mark.parametrize(
    ("name", "merges", "frame_aligned"), [("bpe1024", 1024, False), ("bpe4096", 4096, False), ("bpe4096_aligned", 4096, True)]
)
def test_each_config_builds_its_transform(name: str, merges: int, frame_aligned: bool) -> None:
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    assert OmegaConf.to_container(config, resolve=False)["fitted"] == "${fitted_transform:}"
    assert repr(instantiate(config, fitted=None)) == repr(Bpe(merges, frame_aligned, fitted=None))
