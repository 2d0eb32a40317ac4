"""The engine against a slow decode without cache, against scripted steps, and against its own result in other company."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import tape
import torch
from torch import Tensor, nn

from audiotok.decoding.autoregressive import generate
from audiotok.decoding.rows import Job
from audiotok.decoding.samplers import Sampler, seed_of
from audiotok.decoding.step import Begin
from audiotok.nn.kv_cache import KVCache
from audiotok.nn.transformer import Transformer

SIZES = (7, 5, 7)
GREEDY = Sampler(0, None, None, None, None, None, ">")
RANDOM = Sampler(0.9, 5, None, None, 4, 0.3, ">")


def run_engine(begin: Begin, *, max_positions: Sequence[int], seeds: Sequence[int], rows: int | None = None, **settings) -> list[Tensor]:
    """The codes of each job, in the order of the jobs."""
    places = {name: settings.pop(name, [None] * len(seeds)) for name in ("forced", "legal", "holes")}
    jobs = [Job(*each) for each in zip(seeds, max_positions, places["forced"], places["legal"], places["holes"], strict=True)]
    made = {one.job: one.codes_KN for one in generate(begin, jobs, rows=rows or len(jobs), device="cpu", **settings)}
    return [made[job] for job in range(len(jobs))]


class Speaker(nn.Module):
    """A tiny model of codes under a condition of its own length per row, as text would be."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.transformer = Transformer(16, layers=2, heads=2, feed_forward=24, dropout=0.0).eval()
        self.codes = nn.ModuleList(nn.Embedding(size + 1, 16) for size in SIZES)  # the last row stands for no code
        self.heads = nn.ModuleList(nn.Linear(16, size) for size in SIZES)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.6)

    def embed(self, codes_BK: Tensor) -> Tensor:
        return sum((table(codes_BK[:, k].where(codes_BK[:, k] >= 0, SIZES[k])) for k, table in enumerate(self.codes)), torch.tensor(0.0))

    def begin(self, conditions: Sequence[Tensor], *, positions: int) -> "SpeakerStep":
        cache = self.transformer.cache(len(conditions), positions=positions)
        lengths_B = torch.tensor([len(condition) for condition in conditions])
        self.transformer(nn.utils.rnn.pad_sequence(conditions, batch_first=True), cache=cache, lengths_B=lengths_B)
        return SpeakerStep(self, cache, lengths_B)

    def slow_greedy(self, condition: Tensor, num: int) -> Tensor:
        """The whole sequence anew for each code."""
        codes = torch.full((1, 3), -1)
        for _ in range(num):
            hidden = self.transformer(torch.cat([condition, self.embed(codes)])[None])[0, -1]
            codes = torch.cat([codes, torch.stack([head(hidden).argmax() for head in self.heads])[None]])
        return codes[1:].T


@dataclass
class SpeakerStep:
    model: Speaker
    cache: KVCache
    condition_B: Tensor

    def __call__(self, heard_BKN: Tensor) -> list[Tensor]:
        embedded_BND = torch.stack([self.model.embed(heard_BK) for heard_BK in heard_BKN.unbind(2)], dim=1)
        hidden_BND = self.model.transformer(embedded_BND, cache=self.cache)
        return [head(hidden_BND) for head in self.model.heads]

    def rewind(self, heard_B: Tensor) -> None:
        self.cache.lengths_B = self.condition_B + heard_B

    def put(self, row: int, other: "SpeakerStep") -> None:
        self.cache.replace(row, other.cache)
        self.condition_B[row] = other.condition_B[0]


@pytest.fixture
def speaker() -> Speaker:
    return Speaker()


def condition(length: int) -> Tensor:
    return torch.randn(length, 16, generator=torch.Generator().manual_seed(length))


def speak(speaker: Speaker, lengths: Sequence[int], *, sampler: Sampler, num: Sequence[int], **more) -> list[Tensor]:
    """The codes of utterances that are told apart by the length of their condition."""
    with torch.no_grad():
        return run_engine(
            lambda jobs: speaker.begin([condition(lengths[job]) for job in jobs], positions=40),
            codebook_sizes=SIZES,
            max_positions=num,
            sampler=sampler,
            seeds=[seed_of(1, str(length)) for length in lengths],
            **more,
        )


@dataclass
class Scripted:
    """A step whose most probable codes are given, and which notes what it hears."""

    codes_BKN: Tensor
    sizes: Sequence[int]
    heard: list[Tensor] = field(default_factory=list)
    heard_B: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.heard_B = torch.zeros(len(self.codes_BKN), dtype=torch.int64)

    def __call__(self, heard_BKN: Tensor) -> list[Tensor]:
        self.heard.append(heard_BKN.clone())
        place_BN = (self.heard_B[:, None] + torch.arange(heard_BKN.shape[2])).clamp_max(self.codes_BKN.shape[2] - 1)
        self.heard_B = self.heard_B + heard_BKN.shape[2]
        return [nn.functional.one_hot(self.codes_BKN[:, k].gather(1, place_BN), size).float() for k, size in enumerate(self.sizes)]

    def rewind(self, heard_B: Tensor) -> None:
        self.heard_B = heard_B.clone()

    def put(self, row: int, other: "Scripted") -> None:
        self.codes_BKN[row], self.heard_B[row] = other.codes_BKN[0], other.heard_B[0]


def scripted(codes_BKN: Tensor, sizes: Sequence[int], *, heard: list[Tensor] | None = None) -> Begin:
    """Of each job the most probable codes are the given ones."""
    return lambda jobs: Scripted(codes_BKN[list(jobs)], sizes, [] if heard is None else heard)


def always(*logits: Sequence[float]) -> Begin:
    """The same logits at every position."""

    class Always:
        def __call__(self, heard_BKN: Tensor) -> list[Tensor]:
            return [torch.tensor(each).expand(len(heard_BKN), heard_BKN.shape[2], -1) for each in logits]

        def rewind(self, heard_B: Tensor) -> None:
            pass

        def put(self, row: int, other: "Always") -> None:
            pass

    return lambda jobs: Always()


@pytest.mark.parametrize("sampler", [GREEDY, RANDOM])
def test_a_step_asks_the_device_once(sampler: Sampler) -> None:
    def asked(num: int) -> Counter[str]:
        forced, legal = torch.tensor([[1, 2], [-1, 4], [3, 3]]), (torch.zeros(3, 9).long(), torch.full((3, 9), 5))
        jobs = [Job(row, num, forced, legal, torch.zeros(3, 9)) for row in range(2)]
        with tape.Asking(refuse=False) as asking:
            steps = always([0.0] * 6 + [-99.0], [0.0] * 5, [0.0] * 7)
            for _ in generate(steps, jobs, rows=2, codebook_sizes=SIZES, sampler=sampler, end=6, device="cpu"):
                pass
        return Counter(asking.asked)

    assert asked(8) - asked(7) == Counter({"tolist": 1}) and asked(7) <= asked(8)


@torch.no_grad()
def test_greedy_codes_are_those_of_a_decode_that_keeps_no_cache(speaker: Speaker) -> None:
    lengths, num = [3, 8, 5], [12, 7, 9]
    rows = speak(speaker, lengths, sampler=GREEDY, num=num)
    for row, length, count in zip(rows, lengths, num):
        assert torch.equal(row, speaker.slow_greedy(condition(length), count))
    assert len(rows[0].unique()) > 2, "constant codes would prove little"


def test_what_is_drawn_for_an_utterance_does_not_depend_on_its_batch(speaker: Speaker) -> None:
    lengths, num = [3, 8, 5, 4], [12, 7, 20, 9]
    together = speak(speaker, lengths, sampler=RANDOM, num=num, end=6)
    alone = [speak(speaker, [length], sampler=RANDOM, num=[count], end=6)[0] for length, count in zip(lengths, num)]
    turned = speak(speaker, lengths[::-1], sampler=RANDOM, num=num[::-1], end=6)[::-1]
    for one, two, three in zip(together, alone, turned):
        assert torch.equal(one, two) and torch.equal(one, three)
    assert any(row.shape[1] < count for row, count in zip(together, num)), "no row met the end"
    other = speak(speaker, [3], sampler=Sampler(5.0, None, None, None, None, None, ">"), num=[12])[0]
    assert not torch.equal(other, speak(speaker, [3], sampler=GREEDY, num=[12])[0])


def test_each_row_ends_before_its_end_code_or_at_its_limit() -> None:
    script = torch.tensor([[1, 2, 9, 4, 5], [1, 2, 3, 4, 5], [9, 1, 1, 1, 1], [1, 2, 3, 9, 5]])[:, None]
    heard: list[Tensor] = []
    codes = run_engine(
        scripted(script, [10], heard=heard), codebook_sizes=[10], max_positions=[5, 2, 5, 3], sampler=GREEDY, seeds=range(4), end=9
    )
    assert [row[0].tolist() for row in codes] == [[1, 2], [1, 2], [], [1, 2, 3]]
    assert len(heard) == 3, "the batch ends with its last row"
    assert heard[0][:, 0, 0].tolist() == [-1] * 4 and heard[1][[0, 1, 3], 0, 0].tolist() == [1, 1, 1]


def test_a_row_that_has_ended_is_taken_by_the_next_utterance_and_no_step_is_lost(speaker: Speaker) -> None:
    lengths, num = [3, 8, 5, 4, 6, 7], [20, 3, 5, 9, 0, 2]
    alone = [speak(speaker, [length], sampler=RANDOM, num=[count])[0] for length, count in zip(lengths, num)]
    for rows in (1, 2, 3):
        for one, other in zip(alone, speak(speaker, lengths, sampler=RANDOM, num=num, rows=rows)):
            assert torch.equal(one, other)
    heard: list[Tensor] = []
    script = torch.ones(4, 1, 8, dtype=torch.int64)
    run_engine(scripted(script, [4], heard=heard), codebook_sizes=[4], max_positions=[8, 3, 2, 3], sampler=GREEDY, seeds=range(4), rows=2)
    assert [len(step) for step in heard] == [2] * 8, "three short ones beside the long one"


def test_only_codebook_0_ends_a_row() -> None:
    script = torch.tensor([[[1, 1, 9], [9, 2, 2]]])
    (codes,) = run_engine(scripted(script, [10, 10]), codebook_sizes=[10, 10], max_positions=[3], sampler=GREEDY, seeds=[0], end=9)
    assert codes.tolist() == [[1, 1], [9, 2]]


def test_forced_codes_stand_and_are_heard_by_the_next_step() -> None:
    script, heard = torch.tensor([[[1, 1, 1, 1], [2, 2, 2, 2]]]), []
    (codes,) = run_engine(
        scripted(script, [5, 4], heard=heard),
        codebook_sizes=[5, 4],
        max_positions=[4],
        sampler=GREEDY,
        seeds=[0],
        forced=[torch.tensor([[4, -1, 0], [-1, 3, -1]])],
    )
    assert codes.tolist() == [[4, 1, 0, 1], [2, 3, 2, 2]]
    assert heard[1][0, :, 0].tolist() == [4, 2] and heard[2][0, :, 0].tolist() == [1, 3]


def test_a_prompt_is_heard_at_once_and_continued_as_if_it_had_been_generated(speaker: Speaker) -> None:
    for sampler in (GREEDY, RANDOM):
        whole = speak(speaker, [3, 8], sampler=sampler, num=[12, 12])
        prompts = [whole[0][:, :6], whole[1][:, :2]]
        for rows in (1, 2):
            for one, two in zip(whole, speak(speaker, [3, 8], sampler=sampler, num=[12, 12], forced=prompts, rows=rows)):
                assert torch.equal(one, two)
    heard: list[Tensor] = []
    script = torch.ones(1, 1, 9, dtype=torch.int64)
    prompt = torch.tensor([[3, 2, 3, 2, 3, 2]])
    run_engine(scripted(script, [4], heard=heard), codebook_sizes=[4], max_positions=[9], sampler=GREEDY, seeds=[0], forced=[prompt])
    assert [step.shape[2] for step in heard] == [6, 1, 1, 1] and heard[0][0, 0].tolist() == [-1, 3, 2, 3, 2, 3]


def test_a_hole_is_heard_as_no_code() -> None:
    heard: list[Tensor] = []
    (codes,) = run_engine(
        scripted(torch.tensor([[[1, 3, 1, 1]]]), [4], heard=heard),
        codebook_sizes=[4],
        max_positions=[4],
        sampler=GREEDY,
        seeds=[0],
        holes=[torch.tensor([[False, True, False]])],
    )
    assert codes.tolist() == [[1, 3, 1, 1]] and [int(step) for step in heard] == [-1, 1, -1, 1]


def test_only_legal_codes_and_the_end_are_chosen(speaker: Speaker) -> None:
    first = torch.tensor([0, 4, 2]).repeat(10)[None].expand(3, -1)
    last = torch.stack([first[0] + 2, first[0] + 1, first[0] + 2])
    hot = Sampler(50.0, None, None, None, None, None, ">")
    rows = speak(speaker, [3, 8], sampler=hot, num=[30, 30], legal=[(first, last)] * 2)
    for row in rows:
        assert row.shape[1] == 30 and (row >= first).all() and (row < last).all()
    assert len({tuple(column) for column in rows[0].T.tolist()}) > 5
    ended = speak(speaker, [3, 8], sampler=hot, num=[30, 30], legal=[(first, last)] * 2, end=6)
    assert min(row.shape[1] for row in ended) < 30


def test_repetition_is_judged_by_each_codebooks_own_history() -> None:
    uneven = Sampler(1.0, 1, None, None, 2, 0.5, ">")
    drawn = set()
    for seed in range(20):
        (codes,) = run_engine(
            always([0.0, 0.1, 0.0], [0.0, 0.1, 0.0]),
            codebook_sizes=[3, 3],
            max_positions=[3],
            sampler=uneven,
            seeds=[seed],
            forced=[torch.tensor([[1, 1], [0, 0]])],
        )
        drawn.add(tuple(codes[:, 2].tolist()))
    assert {first for first, _ in drawn} == {0, 1, 2}, "code 1, the only one of top-k, filled the window: drawn from all"
    assert {second for _, second in drawn} == {1}


def test_codebooks_draw_with_numbers_of_their_own() -> None:
    (codes,) = run_engine(
        always(*[[0.0] * 50] * 3),
        codebook_sizes=[50] * 3,
        max_positions=[40],
        sampler=Sampler(1.0, None, None, None, None, None, ">"),
        seeds=[0],
    )
    assert all((codes[one] == codes[other]).float().mean() < 0.2 for one, other in ((0, 1), (0, 2), (1, 2)))
    assert len(codes[0].unique()) > 15, "and each position with others"


def test_codebooks_of_mixed_sizes_keep_their_places() -> None:
    sizes = [4, 9, 4, 2, 9]
    script = torch.stack([torch.randint(size, (3, 6), generator=torch.Generator().manual_seed(k)) for k, size in enumerate(sizes)], dim=1)
    for sampler in (GREEDY, Sampler(0.01, None, None, None, None, None, ">")):
        codes = run_engine(scripted(script, sizes), codebook_sizes=sizes, max_positions=[6] * 3, sampler=sampler, seeds=range(3))
        assert torch.equal(torch.stack(codes), script)


def test_no_rows_and_rows_of_no_length_give_no_codes() -> None:
    def never(jobs: Sequence[int]) -> Scripted:
        raise AssertionError("there is nothing to generate")

    for num in ([], [0, 0]):
        codes = run_engine(never, codebook_sizes=SIZES, max_positions=num, sampler=GREEDY, seeds=range(len(num)))
        assert [row.shape for row in codes] == [(3, 0)] * len(num)


def test_a_listener_hears_all_codes_in_their_order(speaker: Speaker) -> None:
    heard: dict[int, list[Tensor]] = {0: [], 1: [], 2: []}
    codes = speak(
        speaker, [3, 8, 5], sampler=RANDOM, num=[12, 4, 9], end=6, rows=2, listen=lambda job, codes_KN: heard[job].append(codes_KN)
    )
    for job, row in enumerate(codes):
        assert torch.equal(torch.cat([row[:, :0], *heard[job]], dim=1), row)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_stop_the_engine(bad: float) -> None:
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        run_engine(always([0.0, bad, 0.0]), codebook_sizes=[3], max_positions=[4], sampler=GREEDY, seeds=[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_sizes": [3, 5]}, r"logits for codebooks of \[3, 4\], the codebooks' sizes are \[3, 5\]"),
        ({"forced": [torch.zeros(1, 2)]}, r"forced codes are \[2, N\]; got \[1, 2\]"),
        ({"forced": [torch.tensor([[3], [0]])]}, "a forced code lies outside its codebook"),
        ({"legal": [(torch.zeros(2, 2), torch.zeros(1, 2))]}, r"legal end codes are \[2, N\]; got \[1, 2\]"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict, message: str) -> None:
    settings = {"codebook_sizes": [3, 4], "max_positions": [2], "sampler": GREEDY, "seeds": [0]}
    with pytest.raises(ValueError, match=message):
        run_engine(scripted(torch.zeros(1, 2, 2, dtype=torch.int64), [3, 4]), **settings | changes)
