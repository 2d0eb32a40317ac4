"""Re-Pair against lists that are gone through again after each rule."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from merged_cases import codes_with_repeats, corpora, rules_of, slow_encode, slow_flat, slow_learn, spec_of, spoken
from omegaconf import OmegaConf
from torch import Tensor

from audiotok.transforms.base import Constrained, Fittable
from audiotok.transforms.flat import flattened
from audiotok.transforms.learning import Rules, learn
from audiotok.transforms.repair import RePair
from audiotok.types import TokenSpec

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "transform" / "repair.yaml"


def fitted(corpus: list[Tensor], spec: TokenSpec, *, merges: int = 1000, min_count: int = 2) -> RePair:
    transform = RePair(merges, min_count, fitted=None)
    transform.fit(corpus, spec)
    return transform


def expanded(transform: RePair, spec: TokenSpec) -> list[list[int]]:
    """The codes of each token that was made."""
    expansions = transform.learnt(spec).expansions
    return [expansions.expand(torch.tensor([token]).numpy()).tolist() for token in range(expansions.num_base, len(expansions))]


def test_rules_worked_by_hand() -> None:
    spec, codes_KN = spec_of(3), torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1]])
    transform = fitted([codes_KN], spec)
    # 0 1 three times -> 3, which leaves 3 2 3 2 3; of 2 3 and 3 2, twice each, 2 3 -> 4; in 3 4 4 no pair is there twice
    assert transform.apply(codes_KN, spec).tolist() == [[3, 4, 4]]
    assert expanded(transform, spec) == [[0, 1], [2, 0, 1]]


def test_rules_are_those_of_counting_anew_after_each() -> None:
    for seed in range(25):
        sizes = (2, 3, 4)[: 1 + seed % 3]
        spec, codes = spec_of(*sizes), [codes_with_repeats(sizes, 40, seed=seed + number, kinds=2) for number in range(3)]
        transform = fitted(codes, spec, min_count=2 + seed % 2)
        rules = slow_learn([slow_flat(codes_KN, spec) for codes_KN in codes], spec, most=1000, least=2 + seed % 2, overlapping=False)
        assert rules_of(transform.learnt(spec).encoder) == rules
        for codes_KN in codes:
            assert transform.apply(codes_KN, spec)[0].tolist() == slow_encode(slow_flat(codes_KN, spec), rules)


def test_a_run_holds_its_pair_as_often_as_it_can_be_replaced() -> None:
    spec, codes_KN = spec_of(3), torch.tensor([[0, 0, 0, 1, 0, 0, 0, 2]])  # 0 0 twice, though at four places
    assert expanded(fitted([codes_KN], spec, min_count=3), spec) == []
    (left, right, _), *_ = rules_of(learn([flattened(codes_KN, spec)], spec, Rules(1, 3, overlapping=True, frame_aligned=False)))
    assert (left, right) == (0, 0)


def test_in_what_it_has_learnt_from_no_pair_is_left_that_is_as_frequent(speech: Path) -> None:
    spec, codes = spoken(speech)
    transform = fitted(codes, spec, min_count=4)
    tokens = [transform.apply(codes_KN, spec)[0].tolist() for codes_KN in codes]
    assert slow_learn(tokens, spec_of(len(transform.learnt(spec).expansions)), most=1, least=4, overlapping=False) == []
    assert slow_learn(tokens, spec_of(len(transform.learnt(spec).expansions)), most=1, least=2, overlapping=False) != []
    assert sum(map(len, tokens)) < sum(codes_KN.numel() for codes_KN in codes)


def test_the_vocabulary_can_be_bounded() -> None:
    spec, codes_KN = spec_of(5, 6), codes_with_repeats((5, 6), 200, seed=1)
    whole, bounded = fitted([codes_KN], spec), fitted([codes_KN], spec, merges=7)
    assert bounded.out_spec(spec).codebook_sizes == (11 + 7,)
    assert expanded(bounded, spec) == expanded(whole, spec)[:7]


@settings(deadline=None, max_examples=20, derandomize=True)
@given(corpora(), st.sampled_from([2, 5]))
def test_any_codes_come_back_and_what_came_back_is_encoded_as_before(case: tuple[TokenSpec, list[Tensor], Tensor], min_count: int) -> None:
    spec, heard, other = case
    transform = fitted(heard, spec, min_count=min_count)
    for codes_KN in [*heard, other]:
        tokens_1N = transform.apply(codes_KN, spec)
        assert (tokens_1N < transform.out_spec(spec).codebook_sizes[0]).all()
        assert torch.equal(transform.invert(tokens_1N, spec), codes_KN)
        assert torch.equal(transform.apply(transform.invert(tokens_1N, spec), spec), tokens_1N)


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
    with pytest.raises(ValueError, match="want 0 or more of pairs that occur twice"):
        RePair(10, 1, fitted=None)


def test_the_config_builds_it() -> None:
    config = OmegaConf.load(CONFIG)
    assert OmegaConf.to_container(config, resolve=False)["fitted"] == "${fitted_transform:}"
    assert repr(instantiate(config, fitted=None)) == repr(RePair(16384, 10, fitted=None))
