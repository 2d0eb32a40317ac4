"""Speculation against the plain engine: the same codes where nothing is left to chance, the same probabilities where it is."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from scipy import stats
from torch import Tensor

from audiotok.decoding.acceptance import Exact
from audiotok.decoding.autoregressive import generate
from audiotok.decoding.drafts import ByModel, ByRepetition, Fixed, Thompson
from audiotok.decoding.rows import Job, Rows
from audiotok.decoding.samplers import Sampler
from audiotok.decoding.speculative import Drafter, Drafting, Speculated, speculate
from audiotok.decoding.step import NONE, Begin

GREEDY = Sampler(0, None, None, None, None, None, ">")
SAMPLERS = {
    "plain": Sampler(1.0, None, None, None, None, None, ">"),
    "cold, top-k": Sampler(0.7, 3, None, None, None, None, ">"),
    "top-p": Sampler(1.2, None, 0.8, None, None, None, ">"),
    "repetition-aware": Sampler(1.0, 2, None, None, 2, 0.4, ">"),
}


@dataclass
class Chain:
    """A model whose logits depend on the last two inputs and on nothing else: small enough that its law can be written down."""

    tables: Sequence[Tensor]  # of each codebook [V_0 + 1, V_0 + 1, V_k], the last index for NONE
    rows: int
    heard: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.heard = [[] for _ in range(self.rows)]

    def __call__(self, heard_BKN: Tensor) -> list[Tensor]:
        logits = []
        for row, inputs in zip(self.heard, heard_BKN[:, 0].tolist()):
            places = [tuple(([-1, -1, *row, *inputs])[at : at + 2]) for at in range(len(row) + 1, len(row) + len(inputs) + 1)]
            row.extend(inputs)
            logits.append([torch.stack([table[one, two] for one, two in places]) for table in self.tables])
        return [torch.stack(each) for each in zip(*logits)]

    def rewind(self, heard_B: Tensor) -> None:
        for row, length in zip(self.heard, heard_B.tolist()):
            assert length <= len(row), "what was never heard cannot be gone back to"
            del row[length:]

    def put(self, row: int, other: "Chain") -> None:
        self.heard[row] = list(other.heard[0])


def chain(seed: int, sizes: Sequence[int], *, like: float = 0.0) -> Callable[[Sequence[int]], Chain]:
    """Random tables; `like` is how much the chain has of the one with seed 0."""

    def tables(number: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(number)
        return [2 * torch.randn(sizes[0] + 1, sizes[0] + 1, size, generator=generator) for size in sizes]

    mixed = [like * one + (1 - like) * other for one, other in zip(tables(0), tables(seed))]
    return lambda jobs: Chain(mixed, len(jobs))


def by_chain(begin: Begin, length: int) -> Drafter:
    return lambda state: ByModel(state, begin=begin, lengths=Fixed(length))


def by_repetition(state: Rows) -> Drafting:
    return ByRepetition(state, order=1, lengths=Fixed(2))


DRAFTERS = {
    "a model": by_chain(chain(1, [4, 4], like=0.5), 3),
    "a poor model": by_chain(chain(2, [4, 4]), 1),
    "repetition": by_repetition,
    "Thompson": lambda state: ByModel(state, begin=chain(1, [4, 4], like=0.7), lengths=Thompson(4, cost=0.2, seed=0)),
}


def say(
    jobs: Sequence[Job], drafter: Drafter, *, rule=None, sizes: Sequence[int] = (4, 4), rows: int = 64, sampler: Sampler = GREEDY, **more
) -> list[Speculated]:
    made = speculate(
        chain(0, sizes), jobs, drafter, rule or Exact(), rows=rows, codebook_sizes=sizes, sampler=sampler, device="cpu", **more
    )
    return sorted(made, key=lambda one: one.job)


def plainly(jobs: Sequence[Job], *, sizes: Sequence[int] = (4, 4), rows: int = 64, sampler: Sampler = GREEDY, **more) -> list[Tensor]:
    made = generate(chain(0, sizes), jobs, rows=rows, codebook_sizes=sizes, sampler=sampler, device="cpu", **more)
    return [one.codes_KN for one in sorted(made, key=lambda one: one.job)]


@pytest.mark.parametrize("drafter", DRAFTERS.values(), ids=DRAFTERS)
def test_greedy_codes_are_those_of_the_plain_engine(drafter: Drafter) -> None:
    prompts = [torch.tensor([[1, 2, 3], [0, 1, 2]]), torch.tensor([[3], [3]]), None, torch.tensor([[2, 2, 2, 2], [1, 1, 1, 1]]), None]
    jobs = [Job(seed, length, forced) for seed, (length, forced) in enumerate(zip([40, 7, 23, 4, 11], prompts))]
    for rows in (1, 2, 5):
        for made, wanted in zip(say(jobs, drafter, rows=rows), plainly(jobs), strict=True):
            assert torch.equal(made.codes_KN, wanted)
    ended = plainly(jobs, end=3)
    assert any(row.shape[1] < job.max_positions for row, job in zip(ended, jobs))
    for made, wanted in zip(say(jobs, drafter, rows=2, end=3), ended, strict=True):
        assert torch.equal(made.codes_KN, wanted)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("drafter", ["a model", "repetition", "Thompson"])
def test_what_is_said_has_the_probabilities_of_the_plain_engine(drafter: str, sampler: Sampler) -> None:
    jobs = [Job(seed, 4) for seed in range(3000)]
    one = [tuple(row[0].tolist()) for row in plainly([Job(job.seed + 10**6, 4) for job in jobs], sampler=sampler, rows=500)]
    other = [tuple(made.codes_KN[0].tolist()) for made in say(jobs, DRAFTERS[drafter], sampler=sampler, rows=500)]
    assert p_value(one, other) > 1e-4


def p_value(one: Sequence[tuple], other: Sequence[tuple]) -> float:
    """Of both being drawn from one law; what is rare in both is counted together."""
    counts = Counter(one), Counter(other)
    common = [key for key in set(one) | set(other) if counts[0][key] + counts[1][key] >= 20]
    table = [[count[key] for key in common] + [1 + sum(count.values()) - sum(count[key] for key in common)] for count in counts]
    return float(stats.chi2_contingency(table).pvalue)


class Wrong(Exact):
    """Accepts by the ratio upside down."""

    def verify(self, p, q, drafted_BKG, uniforms, *, active_B=None):
        upside_down = [law_BGV.clone() for law_BGV in p]
        for law_BGV, draft_BGV in zip(upside_down, q):
            law_BGV[:, : draft_BGV.shape[1]] = draft_BGV**2 / law_BGV[:, : draft_BGV.shape[1]].clamp_min(1e-9)
        return super().verify(upside_down, q, drafted_BKG, uniforms, active_B=active_B)


def test_a_wrong_ratio_does_not_pass() -> None:
    jobs = [Job(seed, 4) for seed in range(3000)]
    sampler = SAMPLERS["plain"]
    one = [tuple(row[0].tolist()) for row in plainly([Job(job.seed + 10**6, 4) for job in jobs], sampler=sampler, rows=500)]
    other = [tuple(made.codes_KN[0].tolist()) for made in say(jobs, DRAFTERS["a model"], rule=Wrong(), sampler=sampler, rows=500)]
    assert p_value(one, other) < 1e-12


def test_an_utterance_is_the_same_in_any_company() -> None:
    sampler = SAMPLERS["repetition-aware"]
    jobs = [Job(seed, length) for seed, length in enumerate([9, 30, 4, 17, 22, 1, 12])]
    for drafter in (DRAFTERS["a model"], DRAFTERS["repetition"]):
        alone = [say([job], drafter, sampler=sampler)[0] for job in jobs]
        for rows in (2, 3, 7):
            for one, other in zip(alone, say(jobs, drafter, sampler=sampler, rows=rows)):
                assert torch.equal(one.codes_KN, other.codes_KN) and one.rounds == other.rounds


def test_a_perfect_drafter_is_always_believed_and_rounds_tell_what_was_said() -> None:
    jobs = [Job(seed, length) for seed, length in enumerate([21, 8])]
    for made, job in zip(say(jobs, by_chain(chain(0, [4, 4]), 3), sampler=SAMPLERS["plain"]), jobs):
        assert all(one.accepted == one.drafted == 3 for one in made.rounds)
        assert len(made.rounds) == -(-job.max_positions // 4)
    prompted = say([Job(5, 30, torch.tensor([[1, 2], [3, 0]]))], DRAFTERS["a poor model"], sampler=SAMPLERS["plain"])[0]
    assert prompted.start == 2
    said = sum(one.accepted + 1 for one in prompted.rounds)
    assert 28 <= said <= 29 and prompted.codes_KN.shape == (2, 30)


def test_legal_and_forced_places_bind_drafts_too() -> None:
    first_KN, last_KN = torch.tensor([[0, 2] * 8, [1, 1] * 8]), torch.tensor([[2, 4] * 8, [3, 3] * 8])
    forced_KN = torch.full((2, 16), NONE)
    forced_KN[:, 5] = torch.tensor([3, 1])
    jobs = [Job(seed, 16, forced_KN, (first_KN, last_KN)) for seed in range(20)]
    for drafter in DRAFTERS.values():
        for made in say(jobs, drafter, sampler=SAMPLERS["plain"], rows=7):
            free = torch.arange(16) != 5
            assert ((made.codes_KN >= first_KN) & (made.codes_KN < last_KN))[:, free].all()
            assert made.codes_KN[:, 5].tolist() == [3, 1]


def test_codebooks_of_mixed_sizes_are_drafted_together() -> None:
    sizes = [4, 9, 4]
    jobs = [Job(seed, 12) for seed in range(5)]
    for made, wanted in zip(say(jobs, by_chain(chain(1, sizes, like=0.5), 2), sizes=sizes), plainly(jobs, sizes=sizes), strict=True):
        assert torch.equal(made.codes_KN, wanted)


def test_repetition_finds_what_followed_before() -> None:
    jobs = [Job(0, 12, torch.tensor([[0, 1, 2, 3, 0, 1]])), Job(1, 12, torch.tensor([[3, 3]])), Job(2, 12)]
    state = Rows(jobs, rows=3, codebook_sizes=[4], sampler=GREEDY, end=None, device="cpu")
    state.admit()
    draft = ByRepetition(state, order=2, lengths=Fixed(5)).propose()
    assert draft.codes_BKG[:, 0].tolist() == [[2, 3, 0, 1, 2], [3] * 5, [0] * 5]
    assert all((law_BGV.argmax(2) == draft.codes_BKG[:, k]).all() and (law_BGV.sum(2) == 1).all() for k, law_BGV in enumerate(draft.laws))


def test_thompson_learns_to_draft_far_where_it_is_believed_and_near_where_it_is_not() -> None:
    chosen = []
    for accepted in (0, 1):
        lengths = Thompson(6, cost=0.1, seed=3)
        for _ in range(200):
            length = lengths.next()
            lengths.learn(length, [length * accepted] * 2)
        chosen.append([lengths.next() for _ in range(20)])
    assert set(chosen[0]) == {1} and min(chosen[1]) == 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fixed(0), "a draft has at least one position; got 0"),
        (lambda: Thompson(0, cost=0.1, seed=0), "a draft has at least one position"),
        (lambda: ByRepetition(None, order=0, lengths=Fixed(1)), "at least one position; got order=0"),
    ],
)
def test_drafters_that_cannot_be_are_refused(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
