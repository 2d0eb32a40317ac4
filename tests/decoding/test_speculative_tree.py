"""Trees against the plain engine: the same codes where nothing is left to chance, the same probabilities where it is."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import compress

import pytest
import torch
from scipy import stats
from torch import Tensor

from audiotok.decoding.autoregressive import generate
from audiotok.decoding.kernels import Identity
from audiotok.decoding.rows import Job
from audiotok.decoding.samplers import Sampler
from audiotok.decoding.speculative import Speculated
from audiotok.decoding.speculative_tree import speculate_tree
from audiotok.decoding.step import NONE, Begin
from audiotok.decoding.tree_verification import Candidates, KSequential, Recursive, Verifier, choose
from audiotok.decoding.trees import Best, ByTree, Chains, Levels, Shape
from audiotok.nn.branching import Branches

NUM = 1000
GREEDY = Sampler(0, None, None, None, None, None, ">")
SAMPLERS = {
    "plain": Sampler(1.0, None, None, None, None, None, ">"),
    "cold, top-k": Sampler(0.7, 3, None, None, None, None, ">"),
    "top-p": Sampler(1.2, None, 0.8, None, None, None, ">"),
    "repetition-aware": Sampler(1.0, 2, None, None, 2, 0.4, ">"),
}
WAYS: dict[str, tuple[Shape, Verifier]] = {
    "chains, recursive": (Chains(3, 2), Recursive()),
    "chains, k-sequential": (Chains(3, 2), KSequential()),
    "levels": (Levels([3, 2]), Recursive()),
    "best": (Best(nodes=5, deepest=3, exponent=0.5), Recursive()),
}


@dataclass
class Bush:
    """A model whose logits depend on the last two inputs on the way, and on nothing else."""

    tables: Sequence[Tensor]  # of each codebook [V_0 + 1, V_0 + 1, V_k], the last index for NONE
    rows: int
    heard: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.heard = [[] for _ in range(self.rows)]

    def __call__(self, heard_BKN: Tensor) -> list[Tensor]:
        return self.branch(heard_BKN, Branches(torch.arange(heard_BKN.shape[2]).expand(self.rows, -1), self._line(heard_BKN.shape[2])))

    def _line(self, num: int) -> Tensor:
        return torch.ones(num, num, dtype=torch.bool).tril().expand(self.rows, -1, -1)

    def branch(self, heard_BKN: Tensor, branches: Branches) -> list[Tensor]:
        logits = []
        for past, new, every in zip(self.heard, heard_BKN[:, 0].tolist(), branches.sees_BNM.tolist()):
            first = len(past) - branches.heard
            past.extend(new)
            ways = [[-1, *past[max(0, first - 1) : first], *compress(past[first:], sees)] for sees in every]
            two, one = torch.tensor([way[-2:] for way in ways]).T
            logits.append([table[two, one] for table in self.tables])
        return [torch.stack(each) for each in zip(*logits)]

    def keep(self, first_B: Tensor, path_BM: Tensor) -> None:
        for past, first, path in zip(self.heard, first_B.tolist(), path_BM.tolist()):
            past[first:] = [past[first + at] for at in path]

    def rewind(self, heard_B: Tensor) -> None:
        for row, length in zip(self.heard, heard_B.tolist()):
            assert length <= len(row), "what was never heard cannot be gone back to"
            del row[length:]

    def put(self, row: int, other: "Bush") -> None:
        self.heard[row] = list(other.heard[0])


def bush(seed: int, sizes: Sequence[int], *, like: float = 0.0) -> Callable[[Sequence[int]], Bush]:
    """Random tables; `like` is how much they have of those with seed 0."""

    def tables(number: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(number)
        return [2 * torch.randn(sizes[0] + 1, sizes[0] + 1, size, generator=generator) for size in sizes]

    mixed = [like * one + (1 - like) * other for one, other in zip(tables(0), tables(seed))]
    return lambda jobs: Bush(mixed, len(jobs))


def say(
    jobs: Sequence[Job],
    way: tuple[Shape, Verifier],
    *,
    sizes: Sequence[int] = (4, 4),
    rows: int = 64,
    sampler: Sampler = GREEDY,
    begin: Begin | None = None,
    like: float = 0.5,
    **more,
) -> list[Speculated]:
    drafter = partial(ByTree, begin=bush(1, sizes, like=like), shape=way[0])
    made = speculate_tree(
        begin or bush(0, sizes), jobs, drafter, way[1], rows=rows, codebook_sizes=sizes, sampler=sampler, device="cpu", **more
    )
    return sorted(made, key=lambda one: one.job)


def plainly(jobs: Sequence[Job], *, sizes: Sequence[int] = (4, 4), rows: int = 64, sampler: Sampler = GREEDY, **more) -> list[Tensor]:
    made = generate(bush(0, sizes), jobs, rows=rows, codebook_sizes=sizes, sampler=sampler, device="cpu", **more)
    return [one.codes_KN for one in sorted(made, key=lambda one: one.job)]


def p_value(one: Sequence[tuple], other: Sequence[tuple]) -> float:
    """Of both being drawn from one law; what is rare in both is counted together."""
    counts = Counter(one), Counter(other)
    common = [key for key in set(one) | set(other) if counts[0][key] + counts[1][key] >= 20]
    table = [[count[key] for key in common] + [1 + sum(count.values()) - sum(count[key] for key in common)] for count in counts]
    return float(stats.chi2_contingency(table).pvalue)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_greedy_codes_are_those_of_the_plain_engine(way) -> None:
    prompts = [torch.tensor([[1, 2, 3], [0, 1, 2]]), torch.tensor([[3], [3]]), None, torch.tensor([[2, 2, 2, 2], [1, 1, 1, 1]]), None]
    jobs = [Job(seed, length, forced) for seed, (length, forced) in enumerate(zip([40, 7, 23, 4, 11], prompts))]
    for rows in (1, 2, 5):
        for made, wanted in zip(say(jobs, way, rows=rows), plainly(jobs), strict=True):
            assert torch.equal(made.codes_KN, wanted)
    ended = plainly(jobs, end=3)
    assert any(row.shape[1] < job.max_positions for row, job in zip(ended, jobs))
    for made, wanted in zip(say(jobs, way, rows=2, end=3), ended, strict=True):
        assert torch.equal(made.codes_KN, wanted)


@cache
def plainly_often(sampler: Sampler, sizes: tuple[int, ...]) -> list[tuple]:
    jobs = [Job(10**6 + seed, 3) for seed in range(NUM)]
    return [tuple(row.flatten().tolist()) for row in plainly(jobs, sampler=sampler, sizes=sizes, rows=500)]


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_is_said_has_the_probabilities_of_the_plain_engine(way, sampler: Sampler) -> None:
    made = say([Job(seed, 3) for seed in range(NUM)], way, sampler=sampler, sizes=(3, 2), rows=500)
    assert p_value(plainly_often(sampler, (3, 2)), [tuple(one.codes_KN.flatten().tolist()) for one in made]) > 1e-4


class Wrong(Recursive):
    """Forgets what the candidates before have taken."""

    def choose(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        plan = self.plan(candidates)
        return choose(candidates, replace(plan, offsets_RM=plan.offsets_RM * 0), [Identity()] * len(candidates.p))


def test_a_wrong_ratio_does_not_pass() -> None:
    sampler = SAMPLERS["plain"]
    made = say([Job(seed, 3) for seed in range(NUM)], (Levels([3, 2]), Wrong()), sampler=sampler, sizes=(4,), rows=500, like=0.0)
    assert p_value(plainly_often(sampler, (4,)), [tuple(one.codes_KN.flatten().tolist()) for one in made]) < 1e-9


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_an_utterance_is_the_same_in_any_company(way) -> None:
    sampler = SAMPLERS["repetition-aware"]
    jobs = [Job(seed, length) for seed, length in enumerate([9, 30, 4, 17, 22, 1, 12])]
    alone = [say([job], way, sampler=sampler)[0] for job in jobs]
    for rows in (2, 7):
        for one, other in zip(alone, say(jobs, way, sampler=sampler, rows=rows)):
            assert torch.equal(one.codes_KN, other.codes_KN) and one.rounds == other.rounds


@pytest.mark.parametrize(("way", "least"), zip(WAYS.values(), [2, 2, 2, 1]), ids=WAYS)
def test_a_perfect_drafter_is_always_believed_and_rounds_tell_what_was_said(way, least: int) -> None:
    [made] = say([Job(3, 40)], way, sampler=SAMPLERS["plain"], like=1.0)
    assert all(one.drafted == way[0].nodes and one.accepted >= least for one in made.rounds) and made.start == 0
    assert 40 <= sum(one.accepted + 1 for one in made.rounds) <= 40 + way[0].deepest


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_legal_and_forced_places_and_holes_bind_trees_too(way) -> None:
    first_KN, last_KN = torch.tensor([[0, 2] * 8, [1, 1] * 8]), torch.tensor([[2, 4] * 8, [3, 3] * 8])
    forced_KN = torch.full((2, 16), NONE)
    forced_KN[:, 5] = torch.tensor([3, 1])
    holes_KN = torch.zeros(2, 16, dtype=torch.bool)
    holes_KN[0, 7] = True
    jobs = [Job(seed, 16, forced_KN, (first_KN, last_KN), holes_KN) for seed in range(10)]
    for made in say(jobs, way, sampler=SAMPLERS["plain"], rows=4):
        free = torch.arange(16) != 5
        assert ((made.codes_KN >= first_KN) & (made.codes_KN < last_KN))[:, free].all()
        assert made.codes_KN[:, 5].tolist() == [3, 1]
    for made, wanted in zip(say(jobs, way), plainly(jobs), strict=True):
        assert torch.equal(made.codes_KN, wanted)


class Line:
    """A step that cannot branch."""

    def __init__(self, step: Bush) -> None:
        self.step = step

    def __call__(self, heard_BKN: Tensor) -> Sequence[Tensor]:
        return self.step(heard_BKN)

    def rewind(self, heard_B: Tensor) -> None:
        self.step.rewind(heard_B)

    def put(self, row: int, other: "Line") -> None:
        self.step.put(row, other.step)


def test_a_step_that_cannot_branch_is_refused() -> None:
    begin = bush(0, [4, 4])
    with pytest.raises(ValueError, match=r"Line hears positions in a line only.*drafting=small_model"):
        say([Job(0, 4)], WAYS["levels"], begin=lambda jobs: Line(begin(jobs)))
