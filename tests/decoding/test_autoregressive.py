"""The engine against a slow decode without cache, against scripted steps, and against its own result in other company."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from audiotok.decoding.autoregressive import generate
from audiotok.decoding.samplers import Sampler, seed_of
from audiotok.nn.transformer import Transformer

SIZES = (7, 5, 7)
GREEDY = Sampler(0, None, None, None, None, None, ">")
RANDOM = Sampler(0.9, 5, None, None, 4, 0.3, ">")


def run_engine(step: Callable, **settings) -> tuple[Tensor, Tensor]:
    return generate(step, **{"num_rows": len(settings["seeds"]), "device": "cpu"} | settings)


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

    def stepper(self, conditions: Sequence[Tensor], *, positions: int) -> Callable[[Tensor, int], list[Tensor]]:
        cache = self.transformer.cache(len(conditions), positions=positions)
        lengths_B = torch.tensor([len(condition) for condition in conditions])
        self.transformer(nn.utils.rnn.pad_sequence(conditions, batch_first=True), cache=cache, lengths_B=lengths_B)

        def step(previous_BK: Tensor, position: int) -> list[Tensor]:
            hidden_B1D = self.transformer(self.embed(previous_BK)[:, None], cache=cache)
            return [head(hidden_B1D[:, 0]) for head in self.heads]

        return step

    def slow_greedy(self, condition: Tensor, num: int) -> Tensor:
        """The whole sequence anew for each code."""
        codes = torch.full((1, 3), -1)
        for _ in range(num):
            hidden = self.transformer(torch.cat([condition, self.embed(codes)])[None])[0, -1]
            codes = torch.cat([codes, torch.stack([head(hidden).argmax() for head in self.heads])[None]])
        return codes[1:].T


@pytest.fixture
def speaker() -> Speaker:
    return Speaker()


def condition(length: int) -> Tensor:
    return torch.randn(length, 16, generator=torch.Generator().manual_seed(length))


def speak(speaker: Speaker, lengths: Sequence[int], *, sampler: Sampler, num: Sequence[int], **more) -> list[Tensor]:
    """The codes of utterances that are told apart by the length of their condition."""
    with torch.no_grad():
        step = speaker.stepper([condition(length) for length in lengths], positions=40)
    codes_BKN, lengths_B = run_engine(
        step,
        codebook_sizes=SIZES,
        max_positions_B=torch.tensor(num),
        sampler=sampler,
        seeds=[seed_of(1, str(length)) for length in lengths],
        **more,
    )
    assert all((row[:, length:] == -1).all() for row, length in zip(codes_BKN, lengths_B))
    return [row[:, :length] for row, length in zip(codes_BKN, lengths_B.tolist())]


def scripted(codes_BKN: Tensor, sizes: Sequence[int], *, heard: list[Tensor] | None = None) -> Callable[[Tensor, int], list[Tensor]]:
    """A step whose most probable codes are the given ones."""

    def step(previous_BK: Tensor, position: int) -> list[Tensor]:
        if heard is not None:
            heard.append(previous_BK.clone())
        return [nn.functional.one_hot(codes_BKN[:, k, position], size).float() for k, size in enumerate(sizes)]

    return step


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


def test_each_row_ends_before_its_end_code_or_at_its_limit_and_the_batch_with_its_last_row() -> None:
    script = torch.tensor([[1, 2, 9, 4, 5], [1, 2, 3, 4, 5], [9, 1, 1, 1, 1], [1, 2, 3, 9, 5]])[:, None]
    heard: list[Tensor] = []
    codes, lengths = run_engine(
        scripted(script, [10], heard=heard),
        codebook_sizes=[10],
        max_positions_B=torch.tensor([5, 2, 5, 3]),
        sampler=GREEDY,
        seeds=range(4),
        end=9,
    )
    assert lengths.tolist() == [2, 2, 0, 3]
    assert codes[:, 0].tolist() == [[1, 2, -1], [1, 2, -1], [-1, -1, -1], [1, 2, 3]]
    assert [step[:, 0].tolist() for step in heard] == [[-1] * 4, [1, 1, -1, 1], [2, 2, -1, 2]]


def test_only_codebook_0_ends_a_row() -> None:
    script = torch.tensor([[[1, 1, 9], [9, 2, 2]]])
    codes, lengths = run_engine(
        scripted(script, [10, 10]), codebook_sizes=[10, 10], max_positions_B=torch.tensor([3]), sampler=GREEDY, seeds=[0], end=9
    )
    assert lengths.tolist() == [2] and codes.tolist() == [[[1, 1], [9, 2]]]


def test_forced_codes_stand_and_are_heard_by_the_next_step() -> None:
    script, heard = torch.tensor([[[1, 1, 1, 1], [2, 2, 2, 2]]]), []
    codes, _ = run_engine(
        scripted(script, [5, 4], heard=heard),
        codebook_sizes=[5, 4],
        max_positions_B=torch.tensor([4]),
        sampler=GREEDY,
        seeds=[0],
        forced_BKN=torch.tensor([[[4, -1, 0], [-1, 3, -1]]]),
    )
    assert codes.tolist() == [[[4, 1, 0, 1], [2, 3, 2, 2]]]
    assert heard[1].tolist() == [[4, 2]] and heard[2].tolist() == [[1, 3]]


def test_a_prompt_is_continued_as_if_it_had_been_generated(speaker: Speaker) -> None:
    whole = speak(speaker, [3, 8], sampler=GREEDY, num=[12, 12])
    forced = torch.full((2, 3, 6), -1)
    forced[0], forced[1, :, :2] = whole[0][:, :6], whole[1][:, :2]
    for one, two in zip(whole, speak(speaker, [3, 8], sampler=GREEDY, num=[12, 12], forced_BKN=forced)):
        assert torch.equal(one, two)


def test_only_legal_codes_and_the_end_are_chosen(speaker: Speaker) -> None:
    first = torch.tensor([0, 4, 2]).repeat(10)[None, None].expand(2, 3, -1)
    last = torch.stack([first[:, 0] + 2, first[:, 0] + 1, first[:, 0] + 2], dim=1)
    hot = Sampler(50.0, None, None, None, None, None, ">")
    rows = speak(speaker, [3, 8], sampler=hot, num=[30, 30], legal=(first, last))
    for row in rows:
        assert row.shape[1] == 30 and (row >= first[0]).all() and (row < last[0]).all()
    assert len({tuple(column) for column in rows[0].T.tolist()}) > 5
    ended = speak(speaker, [3, 8], sampler=hot, num=[30, 30], legal=(first, last), end=6)
    assert min(row.shape[1] for row in ended) < 30


def test_repetition_is_judged_by_each_codebooks_own_history() -> None:
    sizes = [3, 3]
    uneven = Sampler(1.0, 1, None, None, 2, 0.5, ">")

    def step(previous_BK: Tensor, position: int) -> list[Tensor]:
        return [torch.tensor([[0.0, 0.1, 0.0]])] * 2

    forced = torch.tensor([[[1, 1], [0, 0]]])
    drawn = set()
    for seed in range(20):
        codes, _ = run_engine(
            step, codebook_sizes=sizes, max_positions_B=torch.tensor([3]), sampler=uneven, seeds=[seed], forced_BKN=forced
        )
        drawn.add(tuple(codes[0, :, 2].tolist()))
    assert {first for first, _ in drawn} == {0, 1, 2}, "code 1, the only one of top-k, filled the window: drawn from all"
    assert {second for _, second in drawn} == {1}


def test_codebooks_draw_with_numbers_of_their_own() -> None:
    codes, _ = run_engine(
        lambda previous, position: [torch.zeros(1, 50)] * 3,
        codebook_sizes=[50] * 3,
        max_positions_B=torch.tensor([40]),
        sampler=Sampler(1.0, None, None, None, None, None, ">"),
        seeds=[0],
    )
    assert all((codes[0, one] == codes[0, other]).float().mean() < 0.2 for one, other in ((0, 1), (0, 2), (1, 2)))
    assert len(codes[0, 0].unique()) > 15, "and each position with others"


def test_codebooks_of_mixed_sizes_keep_their_places() -> None:
    sizes = [4, 9, 4, 2, 9]
    script = torch.stack([torch.randint(size, (3, 6), generator=torch.Generator().manual_seed(k)) for k, size in enumerate(sizes)], dim=1)
    for sampler in (GREEDY, Sampler(0.01, None, None, None, None, None, ">")):
        codes, _ = run_engine(
            scripted(script, sizes), codebook_sizes=sizes, max_positions_B=torch.tensor([6, 6, 6]), sampler=sampler, seeds=range(3)
        )
        assert torch.equal(codes, script)


def test_no_rows_and_rows_of_no_length_give_no_codes() -> None:
    def never(previous_BK: Tensor, position: int) -> list[Tensor]:
        raise AssertionError("there is nothing to generate")

    for num in ([], [0, 0]):
        codes, lengths = run_engine(
            never, codebook_sizes=SIZES, max_positions_B=torch.tensor(num, dtype=torch.int64), sampler=GREEDY, seeds=range(len(num))
        )
        assert codes.shape == (len(num), 3, 0) and lengths.tolist() == num


def test_progress_hears_of_every_position() -> None:
    heard: list[int] = []
    script = torch.zeros(1, 1, 4, dtype=torch.int64)
    run_engine(
        scripted(script, [2]), codebook_sizes=[2], max_positions_B=torch.tensor([4]), sampler=GREEDY, seeds=[0], progress=heard.append
    )
    assert heard == [0, 1, 2, 3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_stop_the_engine(bad: float) -> None:
    with pytest.raises(FloatingPointError, match="logits of position 0 are not finite"):
        run_engine(
            lambda previous, position: [torch.tensor([[0.0, bad, 0.0]])],
            codebook_sizes=[3],
            max_positions_B=torch.tensor([4]),
            sampler=GREEDY,
            seeds=[0],
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0, 1], "num_rows": 1}, r"1 rows need as many maximal lengths and seeds; got \[1\] and 2"),
        ({"num_rows": 2, "seeds": [0, 1]}, r"2 rows need as many maximal lengths and seeds; got \[1\] and 2"),
        ({"codebook_sizes": [3, 5]}, r"logits for codebooks of \[3, 4\], the codebooks' sizes are \[3, 5\]"),
        ({"forced_BKN": torch.zeros(1, 1, 2)}, r"forced codes are \[1, 2, N\]; got \[1, 1, 2\]"),
        ({"forced_BKN": torch.tensor([[[3], [0]]])}, "a forced code lies outside its codebook"),
        ({"legal": (torch.zeros(1, 2, 2), torch.zeros(2, 2, 2))}, r"legal end codes are \[1, 2, N\]; got \[2, 2, 2\]"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict, message: str) -> None:
    settings = {"codebook_sizes": [3, 4], "max_positions_B": torch.tensor([2]), "sampler": GREEDY, "seeds": [0]}
    with pytest.raises(ValueError, match=message):
        run_engine(scripted(torch.zeros(1, 2, 2, dtype=torch.int64), [3, 4]), **settings | changes)
