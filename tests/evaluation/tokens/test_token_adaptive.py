"""The adaptive code length, against a model that counts one unit at a time and a coder that writes and reads."""

from collections import Counter, defaultdict
from math import log2
from pathlib import Path

import numpy as np
import pytest
from real_codes import Corpus, codec, corpus, dmel

from audiotok.evaluation.tokens.adaptive import DISCOUNT, adaptive_bits, ideal_lengths
from audiotok.evaluation.tokens.units import past


class SlowModel:
    """The same model, learning one unit at a time, and giving the probability of every unit that may come."""

    def __init__(self, *, size: int, order: int) -> None:
        self.size, self.order = size, order
        self.counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        self.weights = [1 / (order + 2)] * (order + 2)

    def experts(self, context: tuple[int, ...]) -> list[np.ndarray]:
        experts = [np.full(self.size, 1 / self.size)]
        for order in range(self.order + 1):
            counts = self.counts[context[:order]]
            if not counts:
                experts.append(experts[-1])
                continue
            kept_V = np.array([max(counts[unit] - DISCOUNT, 0) for unit in range(self.size)])
            experts.append((kept_V + DISCOUNT * len(counts) * experts[-1]) / counts.total())
        return experts

    def probabilities(self, context: tuple[int, ...]) -> np.ndarray:
        return np.average(self.experts(context), axis=0, weights=self.weights)

    def learn(self, unit: int, context: tuple[int, ...]) -> None:
        weights = [weight * expert[unit] for weight, expert in zip(self.weights, self.experts(context))]
        self.weights = [weight / sum(weights) for weight in weights]
        for order in range(self.order + 1):
            self.counts[context[:order]][unit] += 1


BITS = 48
QUARTER = 1 << (BITS - 2)


def frequencies(probabilities_V: np.ndarray) -> list[int]:
    """Cumulative whole numbers that a coder can divide its range by, from 0."""
    counts = np.maximum(np.round(probabilities_V * 2**32), 1).astype(int)
    return [0, *np.cumsum(counts).tolist()]


class Range:
    """The interval of an arithmetic coder (Witten, Neal and Cleary 1987) in `BITS` bits; `step` says what is settled as it narrows."""

    def __init__(self) -> None:
        self.low, self.high = 0, 4 * QUARTER - 1

    def narrow(self, start: int, end: int, total: int) -> None:
        width = self.high - self.low + 1
        self.low, self.high = self.low + width * start // total, self.low + width * end // total - 1

    def step(self) -> tuple[int | None, int] | None:
        """(the bit that is settled or None for one to follow the next, what was taken off), or None while nothing is."""
        if self.high < 2 * QUARTER:
            settled, off = 0, 0
        elif self.low >= 2 * QUARTER:
            settled, off = 1, 2 * QUARTER
        elif self.low >= QUARTER and self.high < 3 * QUARTER:
            settled, off = None, QUARTER
        else:
            return None
        self.low, self.high = 2 * (self.low - off), 2 * (self.high - off) + 1
        return settled, off


def write(units: list[int], contexts: list[tuple[int, ...]], model: SlowModel) -> list[int]:
    written: list[int] = []
    interval, waiting = Range(), 0
    for unit, context in zip(units, contexts):
        cumulative = frequencies(model.probabilities(context))
        interval.narrow(cumulative[unit], cumulative[unit + 1], cumulative[-1])
        while (step := interval.step()) is not None:
            if step[0] is None:
                waiting += 1
            else:
                written += [step[0], *[1 - step[0]] * waiting]
                waiting = 0
        model.learn(unit, context)
    last = int(interval.low >= QUARTER)
    return [*written, last, *[1 - last] * (waiting + 1)]


def read(written: list[int], count: int, order: int, model: SlowModel) -> list[int]:
    """`count` units of one stream."""
    bits = iter(written)
    interval, units, value = Range(), [], 0
    for _ in range(BITS):
        value = 2 * value + next(bits, 0)
    for _ in range(count):
        context = tuple(units[-back] if back <= len(units) else -1 for back in range(1, order + 1))
        cumulative = frequencies(model.probabilities(context))
        target = ((value - interval.low + 1) * cumulative[-1] - 1) // (interval.high - interval.low + 1)
        unit = int(np.searchsorted(cumulative, target, side="right")) - 1
        interval.narrow(cumulative[unit], cumulative[unit + 1], cumulative[-1])
        while (step := interval.step()) is not None:
            value = 2 * (value - step[1]) + next(bits, 0)
        model.learn(unit, context)
        units.append(unit)
    return units


def markov(length: int, *, size: int, seed: int) -> np.ndarray:
    """Each unit is followed by the next one three times out of four, else by any."""
    generator, units = np.random.default_rng(seed), [0]
    for follows, other in zip(generator.random(length - 1) < 0.75, generator.integers(0, size, size=length - 1)):
        units.append((units[-1] + 1) % size if follows else int(other))
    return np.array(units)


def bits_of(units_N: np.ndarray, *, size: int, order: int) -> float:
    return float(adaptive_bits([units_N[None]], sizes=[size], order=order, given_below=False)[0])


def test_lengths_worked_by_hand():
    # uniform: 1/4 each. Order 0: 1/4, then of 1 unit seen (1 - 0.75) / 1 + 0.75 * 1/4 for the same again
    again = 0.25 + 0.75 / 4
    bits_N = ideal_lengths(np.array([2, 2]), np.empty((2, 0), dtype=int), size=4)
    assert bits_N[0] == pytest.approx(2)
    assert bits_N.sum() == pytest.approx(-log2((1 / 16 + again / 4) / 2))


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_lengths_are_those_of_a_model_that_counts_one_unit_at_a_time(order: int):
    streams = [markov(80, size=5, seed=seed) for seed in range(2)]
    contexts_NO, units_N = past(streams, order=order), np.concatenate(streams)
    model, slow = SlowModel(size=5, order=order), []
    for unit, context in zip(units_N.tolist(), map(tuple, contexts_NO.tolist())):
        probabilities_V = model.probabilities(context)
        assert probabilities_V.sum() == pytest.approx(1, abs=1e-12)
        slow.append(-log2(probabilities_V[unit]))
        model.learn(unit, context)
    assert ideal_lengths(units_N, contexts_NO, size=5) == pytest.approx(slow, abs=1e-9)


def test_a_real_coder_writes_the_length_within_two_bits_and_reads_the_units_back(speech: Path):
    for units_N, size in ((markov(300, size=12, seed=0), 12), (corpus(speech, dmel()).codes[2][20], 16)):
        contexts = list(map(tuple, past([units_N], order=2).tolist()))
        written = write(units_N.tolist(), contexts, SlowModel(size=size, order=2))
        assert read(written, len(units_N), 2, SlowModel(size=size, order=2)) == units_N.tolist()
        ideal = bits_of(units_N, size=size, order=2)
        assert ideal - 0.001 <= len(written) <= ideal + 2.001
        assert len(written) < 0.9 * log2(size) * len(units_N)


def test_no_corpus_takes_more_than_a_fixed_length_code_and_a_few_bits(speech: Path):
    chance_N = np.random.default_rng(0).integers(0, 1024, size=5000)
    assert 50_000 <= bits_of(chance_N, size=1024, order=2) <= 50_000 + log2(4)
    for tokenizer in (codec(), dmel()):
        said = corpus(speech, tokenizer)
        bits_K = adaptive_bits(said.codes, sizes=said.sizes, order=2, given_below=True)
        fixed = sum(codes_KN.shape[1] for codes_KN in said.codes) * np.log2(said.sizes)
        assert (bits_K <= fixed + log2(5)).all()


def test_a_higher_order_costs_at_most_a_bit_and_a_half_more():
    for units_N in (markov(400, size=8, seed=1), np.random.default_rng(0).integers(0, 8, size=400)):
        lengths = [bits_of(units_N, size=8, order=order) for order in range(4)]
        assert all(lengths[high] <= lengths[low] + log2(5) for low in range(4) for high in range(low, 4))


def test_a_long_source_costs_its_entropy():
    units_N = markov(60_000, size=8, seed=0)
    follows, other = 0.75 + 0.25 / 8, 0.25 / 8
    entropy = -follows * log2(follows) - 7 * other * log2(other)
    assert entropy * 0.98 < bits_of(units_N, size=8, order=1) / 60_000 < entropy * 1.02


def test_what_was_seen_before_is_not_paid_for_again():
    train, test = ([markov(2000, size=64, seed=seed)[None]] for seed in (0, 1))
    options = {"sizes": [64], "order": 1, "given_below": False}
    held_out, alone, both = (
        float(bits[0])
        for bits in (adaptive_bits(test, seen=train, **options), adaptive_bits(test, **options), adaptive_bits(train + test, **options))  # type: ignore[arg-type]
    )
    assert held_out < 0.9 * alone
    assert held_out + float(adaptive_bits(train, **options)[0]) == pytest.approx(both)  # type: ignore[arg-type]


def test_a_codebook_that_the_one_below_decides_costs_nothing_given_it():
    below_N = np.random.default_rng(0).integers(0, 16, size=4000)
    codes_KN = np.stack([below_N, (below_N * 5 + 3) % 16])
    alone = adaptive_bits([codes_KN], sizes=[16, 16], order=1, given_below=False)
    given = adaptive_bits([codes_KN], sizes=[16, 16], order=1, given_below=True)
    assert given[0] == alone[0] and alone[1] > 15_900
    assert given[1] < 0.05 * alone[1]


def test_contexts_do_not_reach_into_the_next_utterance():
    pair = [np.array([[0, 1]]), np.array([[0, 1]])]
    apart = adaptive_bits(pair, sizes=[4], order=1, given_below=False)
    streams = [codes_KN[0] for codes_KN in pair]
    assert apart[0] == pytest.approx(ideal_lengths(np.array([0, 1, 0, 1]), past(streams, order=1), size=4).sum())
    assert apart[0] != pytest.approx(bits_of(np.array([0, 1, 0, 1]), size=4, order=1))


def test_codes_that_do_not_fit_their_sizes_are_refused():
    with pytest.raises(ValueError, match="got 1 codebooks and 2 sizes"):
        adaptive_bits([np.array([[1]])], sizes=[2, 2], order=0, given_below=False)
    with pytest.raises(ValueError, match="want 0 to 1"):
        adaptive_bits([np.array([[2]])], sizes=[2], order=0, given_below=False)


def share(said: Corpus, **options: bool) -> float:
    fixed = sum(codes_KN.shape[1] for codes_KN in said.codes) * np.log2(said.sizes).sum()
    return float(adaptive_bits(said.codes, sizes=said.sizes, order=2, **options).sum() / fixed)


def test_levels_of_real_mel_bands_follow_their_past_and_more_so_their_neighbour_band(speech: Path):
    said = corpus(speech, dmel())
    assert share(said, given_below=True) < share(said, given_below=False) < 0.7
    assert 0.85 < share(corpus(speech, codec()), given_below=False) <= 1.0001
