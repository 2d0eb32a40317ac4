"""Probabilities of codes against every stream that a small model of tokens can make, and every spelling of real codes, written out."""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from audiotok.models.code_lm import CodeNetwork
from audiotok.tokenizers.codec import Codec
from audiotok.transforms.bpe import Bpe
from audiotok.transforms.marginals import ByExpansion, Marginals, Pairwise, aligned, code_log_probs, stream_log_prob

NONE = -np.inf
A, B, C, AB, BA, ABC, BB = range(7)
MERGES = {(A, B): AB, (B, A): BA, (AB, C): ABC, (B, B): BB}  # the first is merged first
EXPANSIONS = [(0,), (1,), (2,), (0, 1), (1, 0), (0, 1, 2), (1, 1)]
LONGEST_STREAM = 5  # tokens, after which every stream ends
Tokens = tuple[int, ...]


class Table:
    """A vocabulary as a list of what its tokens stand for."""

    def __init__(self, expansions: Sequence[Tokens]) -> None:
        self.starts = np.cumsum([0, *map(len, expansions)])
        self.codes = np.array([code for expansion in expansions for code in expansion], dtype=np.int64)


class FiniteModel:
    """Random, with a memory of two tokens; a stream ends at the latest after `LONGEST_STREAM` tokens, so that all can be written out."""

    def __init__(self, num_tokens: int, *, seed: int, longest: int = LONGEST_STREAM) -> None:
        self.num_tokens, self.seed, self.longest, self.questions = num_tokens, seed, longest, 0

    def __call__(self, tokens: Tokens) -> np.ndarray:
        self.questions += 1
        if len(tokens) >= self.longest:
            return np.append(np.full(self.num_tokens, NONE), 0.0)
        generator = np.random.default_rng([self.seed, len(tokens), *(token + 1 for token in tokens[-2:])])
        return np.log(generator.dirichlet(np.full(self.num_tokens + 1, 0.5)) + 1e-9) - np.log1p((self.num_tokens + 1) * 1e-9)


def merged(codes: Sequence[int], merges: dict[tuple[int, int], int] = MERGES) -> Tokens:
    """Byte-pair encoding: of the pairs there are, the one learnt first is merged, leftmost first, until there is none."""
    tokens, ranks = list(codes), {pair: rank for rank, pair in enumerate(merges)}
    while True:
        found = [(ranks[pair], place) for place, pair in enumerate(pairwise(tokens)) if pair in ranks]
        if not found:
            return tuple(tokens)
        _, place = min(found)
        tokens[place : place + 2] = [merges[tokens[place], tokens[place + 1]]]


def spelt(tokens: Sequence[int]) -> Tokens:
    return tuple(code for token in tokens for code in EXPANSIONS[token])


def canonical(tokens: Tokens) -> bool:
    return merged(spelt(tokens)) == tokens


def every_stream(
    model: FiniteModel, follows: Pairwise | None = None, tokens: Tokens = (), log_prob: float = 0.0
) -> Iterator[tuple[Tokens, float]]:
    """(tokens, log-probability) of each stream that ends, the model held to what may follow."""
    log_probs = model(tokens)
    if follows is not None:
        log_probs = np.where(follows(tokens), log_probs, NONE)
        log_probs = log_probs - np.log(np.exp(log_probs).sum())
    yield tokens, log_prob + log_probs[-1]
    for token in np.flatnonzero(log_probs[:-1] > NONE).tolist():
        yield from every_stream(model, follows, (*tokens, token), log_prob + log_probs[token])


def by_codes(made: list[tuple[Tokens, float]], num_codes: int = 3, longest: int = 6) -> dict[Tokens, np.ndarray]:
    """For each beginning of a stream of codes, the probability of each next code, and of the end; not divided by their sum."""
    table: dict[Tokens, np.ndarray] = {}
    for tokens, log_prob in made:
        codes = spelt(tokens)
        for place in range(min(len(codes), longest) + 1):
            row = table.setdefault(codes[:place], np.zeros(num_codes + 1))
            row[codes[place] if place < len(codes) else -1] += np.exp(log_prob)
    return table


@cache
def streams(*, seed: int, held: bool) -> list[tuple[Tokens, float]]:
    return list(every_stream(*model_of(seed=seed, held=held)))


def model_of(*, seed: int, held: bool) -> tuple[FiniteModel, Pairwise | None]:
    return FiniteModel(len(EXPANSIONS), seed=seed), Pairwise(canonical, num_tokens=len(EXPANSIONS)) if held else None


@cache
def written_out(*, seed: int, held: bool) -> tuple[FiniteModel, Pairwise | None, dict[Tokens, np.ndarray]]:
    return *model_of(seed=seed, held=held), by_codes(streams(seed=seed, held=held))


every_case = pytest.mark.parametrize(("seed", "held"), [(1, False), (2, False), (1, True), (2, True)])


@every_case
def test_code_probabilities_are_those_of_every_stream_written_out(seed: int, held: bool) -> None:
    model, follows, table = written_out(seed=seed, held=held)
    assert table[()].sum() == pytest.approx(1, abs=1e-12)
    for codes in (codes for length in range(5) for codes in product(range(3), repeat=length)):
        log_probs = code_log_probs(codes, Table(EXPANSIONS), model, follows=follows)
        np.testing.assert_allclose(np.exp(log_probs), table[codes] / table[codes].sum(), rtol=0, atol=1e-12)
        assert np.exp(log_probs).sum() == pytest.approx(1, abs=1e-12)


@every_case
def test_the_chain_rule_gives_the_probability_of_a_stream(seed: int, held: bool) -> None:
    model, follows, table = written_out(seed=seed, held=held)
    marginals = Marginals(Table(EXPANSIONS), model, follows=follows)
    for codes in [(), (0, 1, 2, 1), (1, 1, 1, 0, 1), (0, 1, 0, 1, 2)]:
        heard, total = marginals.start(), 0.0
        for code in codes:
            total += marginals.log_probs(heard)[code]
            heard = marginals.advance(heard, code)
            assert heard.log_prob == pytest.approx(total, abs=1e-11)
        total += marginals.log_probs(heard)[-1]
        assert np.exp(total) == pytest.approx(table[codes][-1], rel=1e-10)
        assert stream_log_prob(codes, Table(EXPANSIONS), model, follows=follows) == pytest.approx(total, abs=1e-11)


@every_case
def test_covers_are_the_sequences_whose_last_token_reaches_the_end_each_with_its_share(seed: int, held: bool) -> None:
    model, follows, _ = written_out(seed=seed, held=held)
    marginals = Marginals(Table(EXPANSIONS), model, follows=follows)
    for codes in [(0, 1), (1, 0, 1), (0, 1, 2, 1, 1)]:
        weights: dict[Tokens, float] = {}
        for tokens, log_prob in streams(seed=seed, held=held):
            ends = np.cumsum([len(EXPANSIONS[token]) for token in tokens])
            if spelt(tokens)[: len(codes)] == codes:
                cover = tokens[: int(np.searchsorted(ends, len(codes))) + 1]
                weights[cover] = weights.get(cover, 0.0) + np.exp(log_prob)
        covers = dict(marginals.covers(marginals.heard(codes)))
        assert covers.keys() == weights.keys()
        for cover, log_prob in covers.items():
            assert np.exp(log_prob) == pytest.approx(weights[cover] / sum(weights.values()), abs=1e-12)


def test_held_to_neighbouring_pairs_a_model_makes_what_byte_pair_encoding_makes_and_nothing_else() -> None:
    made = {tokens for tokens, _ in streams(seed=1, held=True)}
    sequences = (tokens for length in range(LONGEST_STREAM + 1) for tokens in product(range(len(EXPANSIONS)), repeat=length))
    assert made == {tokens for tokens in sequences if canonical(tokens)}
    assert 100 < len(made) < 7**5


def test_what_may_follow_makes_a_code_cost_a_constant_number_of_questions() -> None:
    codes = [0, 1] * 30
    model = FiniteModel(len(EXPANSIONS), seed=3, longest=1000)
    held = Marginals(Table(EXPANSIONS), model, follows=Pairwise(canonical, num_tokens=len(EXPANSIONS)))
    assert np.isfinite(held.log_probs(held.heard(codes))).all()
    assert model.questions <= 1 + len(codes)  # one for each first part of the codes that is spelt in its one way
    with pytest.raises(ValueError, match=r"\d+ spellings of the codes so far, at most 500; give `follows`"):
        Marginals(Table(EXPANSIONS), model, most=500).heard(codes)


def naive(codes: Tokens, model: FiniteModel) -> np.ndarray:
    """What a prompt that is segmented as it stands makes of the next code."""
    probs = np.exp(model(merged(codes)))
    return np.append(np.bincount([expansion[0] for expansion in EXPANSIONS], weights=probs[:-1]), probs[-1])


def test_a_prompt_segmented_as_it_stands_is_biased_and_one_that_is_aligned_is_not() -> None:
    model, follows, table = written_out(seed=1, held=True)
    marginals, codes = Marginals(Table(EXPANSIONS), model, follows=follows), (2, 0, 1)
    exact = table[codes] / table[codes].sum()
    assert np.abs(naive(codes, model) - exact).max() > 0.1
    for prompt in (codes for length in range(5) for codes in product(range(3), repeat=length)):
        tokens, remainder = aligned(prompt, merged, marginals.sorted)
        assert spelt(tokens) + tuple(remainder) == prompt
        log_probs = marginals.log_probs(marginals.heard(remainder, tokens=tokens))
        np.testing.assert_allclose(np.exp(log_probs), table[prompt] / table[prompt].sum(), rtol=0, atol=1e-12)


def test_a_prompt_gives_back_the_tokens_that_codes_behind_it_can_change_and_keeps_those_that_they_cannot() -> None:
    ordered = ByExpansion(Table(EXPANSIONS))
    assert aligned((), merged, ordered) == ((), ())
    assert aligned((0,), merged, ordered) == ((), (0,))  # b may follow
    assert aligned((2, 0), merged, ordered) == ((C,), (0,))
    assert aligned((2, 0, 1, 2), merged, ordered) == ((C,), (0, 1, 2))  # that token cannot change, but it is the last
    assert aligned((2, 0, 1, 2, 2), merged, ordered) == ((C, ABC), (2,))
    assert aligned((2, 2, 1), merged, ordered) == ((C, C), (1,))
    for prompt in product(range(3), repeat=5):
        tokens, _ = aligned(prompt, merged, ordered)
        assert all(merged(prompt + behind)[: len(tokens)] == tokens for length in range(4) for behind in product(range(3), repeat=length))


def finished_shares(marginals: Marginals, tokens: Tokens, remainder: Tokens) -> dict[Tokens, float]:
    """Of each sequence that draws token by token can end in, its probability."""
    if not remainder:
        return {tokens: 1.0}
    shares: dict[Tokens, float] = {}
    probs = np.exp(marginals.prompted(tokens, remainder))
    for token in np.flatnonzero(probs).tolist():
        for ended, share in finished_shares(marginals, (*tokens, token), remainder[len(EXPANSIONS[token]) :]).items():
            shares[ended] = share * probs[token]
    return shares


@every_case
def test_draws_that_use_up_a_remainder_have_the_shares_of_its_covers(seed: int, held: bool) -> None:
    model, follows, _ = written_out(seed=seed, held=held)
    marginals = Marginals(Table(EXPANSIONS), model, follows=follows)
    for tokens, remainder in [((C,), (0, 1)), ((), (1, 0, 1, 2)), ((A,), (0, 1, 1))]:
        covers = {cover: np.exp(share) for cover, share in marginals.covers(marginals.heard(remainder, tokens=tokens))}
        shares = finished_shares(marginals, tokens, remainder)
        assert shares.keys() == covers.keys()
        assert max(abs(shares[cover] - covers[cover]) for cover in covers) < 1e-12


def test_a_mask_alone_is_drawn_to_short_tokens() -> None:
    model, follows, _ = written_out(seed=1, held=True)
    marginals, remainder = Marginals(Table(EXPANSIONS), model, follows=follows), (0, 1)
    masked = np.where(marginals.sorted.allowed(remainder) & follows((C,))[:-1], np.exp(model((C,))[:-1]), 0.0)
    assert np.flatnonzero(masked).tolist() == [A, AB, ABC]
    exact = np.exp(marginals.prompted((C,), remainder))
    assert masked[A] / masked.sum() > exact[A] + 0.01


def test_the_loop_chooses_until_the_remainder_is_used_up() -> None:
    model, follows, _ = written_out(seed=2, held=True)
    marginals = Marginals(Table(EXPANSIONS), model, follows=follows)
    tokens = marginals.finished((C,), (0, 1, 1, 1), choose=lambda log_probs: int(log_probs.argmax()))
    assert spelt(tokens)[:5] == (2, 0, 1, 1, 1) and len(spelt(tokens[:-1])) < 5 and canonical(tokens)
    assert marginals.finished((C, A), (), choose=lambda log_probs: 1 // 0) == (C, A)


def test_allowed_are_the_tokens_that_begin_with_the_remainder_and_those_it_begins_with() -> None:
    ordered = ByExpansion(Table(EXPANSIONS))
    for remainder in (codes for length in range(5) for codes in product(range(3), repeat=length)):
        slow = [expansion[: len(remainder)] == remainder[: len(expansion)] for expansion in EXPANSIONS]
        assert ordered.allowed(remainder).tolist() == slow


@st.composite
def vocabularies(draw: st.DrawFn) -> list[Tokens]:
    num_codes = draw(st.integers(1, 4))
    longer = draw(st.lists(st.lists(st.integers(0, num_codes - 1), min_size=2, max_size=5).map(tuple), max_size=12))
    return [(code,) for code in range(num_codes)] + longer  # two tokens may stand for the same codes


@settings(deadline=None, max_examples=60, derandomize=True)
@given(vocabularies(), st.integers(0, 99), st.lists(st.integers(0, 3), max_size=7))
def test_the_next_codes_sum_to_1_and_the_sum_over_covers_is_the_sum_over_segmentations(
    expansions: list[Tokens], seed: int, drawn: list[int]
) -> None:
    num_codes = sum(len(expansion) == 1 for expansion in expansions)
    codes = tuple(code % num_codes for code in drawn)
    model = FiniteModel(len(expansions), seed=seed, longest=1000)
    marginals = Marginals(Table(expansions), model)
    assert np.exp(marginals.log_probs(marginals.heard(codes))).sum() == pytest.approx(1, abs=1e-12)

    def ways(tokens: Tokens, rest: Tokens) -> float:
        if not rest:
            return np.exp(model(tokens)[-1])
        fitting = [token for token, expansion in enumerate(expansions) if rest[: len(expansion)] == expansion]
        return sum(np.exp(model(tokens)[token]) * ways((*tokens, token), rest[len(expansions[token]) :]) for token in fitting)

    assert np.exp(stream_log_prob(codes, Table(expansions), model)) == pytest.approx(ways((), codes), rel=1e-10)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(vocabularies())
def test_tokens_are_sorted_by_what_they_stand_for(expansions: list[Tokens]) -> None:
    ordered = ByExpansion(Table(expansions))
    listed = [expansions[token] for token in ordered.order.tolist()]
    assert listed == sorted(expansions)
    assert [ordered.expand(token) for token in range(len(expansions))] == expansions
    for code in range(ordered.num_codes):
        assert all(expansion[0] == code for expansion in listed[ordered.bounds[code] : ordered.bounds[code + 1]])


def real_codes(wav_T: Tensor) -> list[int]:
    """The first codebook's."""
    codec = Codec.from_pretrained("codec_50hz", num_codebooks=1)
    return codec.encode(wav_T[None], torch.tensor([len(wav_T)]))[0][0, 0].tolist()


def by_network(network: CodeNetwork, tokens: Tokens) -> np.ndarray:
    """What a network of tokens and an end says of the next one, made less even than it is untrained."""
    with torch.inference_mode():
        logits_V = network(torch.tensor([[[*tokens, 0]]]))[0][0, -1].double()
    return (3 * logits_V).log_softmax(dim=0).numpy()


def learnt(codes: list[int], *, merges: int) -> dict[tuple[int, int], int]:
    """Pairs of real codes that come one after another, the most frequent first."""
    rules: dict[tuple[int, int], int] = {}
    for new in range(merges):
        tokens = merged(codes, rules)
        counts: dict[tuple[int, int], int] = {}
        for pair in pairwise(tokens):
            counts[pair] = counts.get(pair, 0) + 1
        rules[max(counts, key=lambda pair: (counts[pair], pair))] = 1024 + new
    return rules


def test_a_transformer_over_merged_tokens_of_real_codes_gives_the_codes_the_sum_over_their_segmentations(wav_16k: Tensor) -> None:
    torch.manual_seed(0)
    codes = real_codes(wav_16k)
    rules = learnt(codes, merges=24)
    expansions: list[Tokens] = [(code,) for code in range(1024)]
    for left, right in rules:
        expansions.append(expansions[left] + expansions[right])
    network = CodeNetwork(codebook_sizes=[len(expansions) + 1], width=32, layers=1, heads=2).eval()

    @cache
    def next_log_probs(tokens: Tokens) -> np.ndarray:
        return by_network(network, tokens)

    def ways(tokens: Tokens, rest: Sequence[int]) -> list[float]:
        if not len(rest):
            return [next_log_probs(tokens)[-1]]
        fitting = [token for token in range(len(expansions)) if tuple(rest[: len(expansions[token])]) == expansions[token]]
        return [
            next_log_probs(tokens)[token] + behind for token in fitting for behind in ways((*tokens, token), rest[len(expansions[token]) :])
        ]

    place = max(range(len(codes) - 10), key=lambda start: -len(merged(codes[start : start + 10], rules)))
    heard = codes[place : place + 10]
    segmentations = ways((), heard)
    assert len(segmentations) > 5
    assert stream_log_prob(heard, Table(expansions), next_log_probs) == pytest.approx(np.logaddexp.reduce(segmentations), abs=1e-10)
    marginals = Marginals(Table(expansions), next_log_probs)
    state, total = marginals.start(), 0.0
    for code in heard:
        total += marginals.log_probs(state)[code]
        state = marginals.advance(state, code)
    assert total + marginals.log_probs(state)[-1] == pytest.approx(np.logaddexp.reduce(segmentations), abs=1e-10)


def test_of_byte_pair_encoded_real_codes_the_one_spelling_that_it_makes_has_all_of_the_probability(wav_16k: Tensor) -> None:
    torch.manual_seed(0)
    codes, spec = real_codes(wav_16k), Codec.from_pretrained("codec_50hz", num_codebooks=1).spec
    bpe = Bpe(64, False, fitted=None)
    bpe.fit([torch.tensor([codes])], spec)
    expansions = bpe.learnt(spec).expansions
    network = CodeNetwork(codebook_sizes=[len(expansions) + 1], width=32, layers=1, heads=2).eval()
    follows = Pairwise(
        lambda pair: tuple(bpe.apply(torch.tensor(expansions.expand(np.array(pair)))[None], spec)[0].tolist()) == pair,
        num_tokens=len(expansions),
    )
    asked: list[Tokens] = []

    def next_log_probs(tokens: Tokens) -> np.ndarray:
        asked.append(tokens)
        return by_network(network, tokens)

    start = max(range(len(codes) - 30), key=lambda start: -bpe.apply(torch.tensor([codes[start : start + 30]]), spec).shape[1])
    heard = codes[start : start + 30]
    tokens = tuple(bpe.apply(torch.tensor([heard]), spec)[0].tolist())
    assert len(tokens) < 25
    expected = 0.0
    for place, token in enumerate((*tokens, -1)):
        log_probs = by_network(network, tokens[:place])
        expected += log_probs[token] - np.logaddexp.reduce(log_probs[follows(tokens[:place])])
    assert stream_log_prob(heard, expansions, next_log_probs, follows=follows) == pytest.approx(expected, abs=1e-9)
    assert len(asked) == len(set(asked)) <= 1 + len(heard)


def test_what_cannot_be_is_refused() -> None:
    model = FiniteModel(len(EXPANSIONS), seed=1)
    marginals = Marginals(Table(EXPANSIONS), model)
    for code in (-1, 3):
        with pytest.raises(ValueError, match=f"code {code}: the vocabulary stands for the codes 0 to 2"):
            marginals.advance(marginals.start(), code)
        with pytest.raises(ValueError, match=f"code {code}: the vocabulary"):
            marginals.sorted.allowed((0, code))
    with pytest.raises(ValueError, match="every token stands for one code or more"):
        ByExpansion(Table([(0,), ()]))
    for expansions in ([(1,), (0,)], [(0,), (0, 1)], [(0, 0), (0,)]):
        with pytest.raises(ValueError, match="stand for one each, in order"):
            ByExpansion(Table(expansions))
    with pytest.raises(ValueError, match=r"got an array of \[7\], want \[8\]"):
        code_log_probs((), Table(EXPANSIONS), lambda tokens: np.zeros(7))
    with pytest.raises(ValueError, match="nothing may follow 0 tokens"):
        code_log_probs((), Table(EXPANSIONS), model, follows=lambda tokens: np.zeros(8, dtype=np.bool_))


def test_codes_without_any_probability_have_none_behind_them() -> None:
    ends = np.append(np.full(len(EXPANSIONS), NONE), 0.0)
    marginals = Marginals(Table(EXPANSIONS), lambda tokens: ends)
    heard = marginals.heard((0, 1))
    assert heard.log_prob == NONE and marginals.covers(heard) == []
    assert stream_log_prob((0, 1), Table(EXPANSIONS), lambda tokens: ends) == NONE
    with pytest.raises(ValueError, match="the codes so far no probability"):
        marginals.log_probs(heard)
    with pytest.raises(ValueError, match=r"no probability to the codes \[0, 1\] behind 0 tokens"):
        marginals.prompted((), (0, 1))
