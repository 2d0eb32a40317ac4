"""Every pattern against a double loop that only knows the picture in its docstring, and the laws of transforms/base.py."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from audiotok.transforms.base import Transform
from audiotok.transforms.patterns import CoarseFirst, Delay, Flatten, Parallel
from audiotok.transforms.stack import Stack
from audiotok.types import TokenSpec

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "transform"
HOLE = None


def spec_of(*sizes: int) -> TokenSpec:
    return TokenSpec(sample_rate=16_000, frame_rate=Fraction(50), codebook_sizes=sizes, fingerprint="abc")


def random_case(seed: int) -> tuple[TokenSpec, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    num_codebooks, num_frames = int(torch.randint(1, 6, (), generator=generator)), int(torch.randint(0, 9, (), generator=generator))
    sizes = torch.randint(1, 12, (num_codebooks,), generator=generator)
    codes_KN = (torch.rand(num_codebooks, num_frames, generator=generator) * sizes[:, None]).long()
    return spec_of(*sizes.tolist()), codes_KN


CASES = [random_case(seed) for seed in range(60)]
CASES += [
    (spec_of(3, 5), torch.zeros(2, 0, dtype=torch.int64)),
    (spec_of(4), torch.tensor([[3]])),
    (spec_of(1, 1), torch.zeros(2, 7).long()),
]

Cells = list[list[tuple[int, int] | None]]  # what stands at each position: (codebook, frame), or HOLE


def parallel_cells(num_codebooks: int, num_frames: int) -> Cells:
    return [[(k, n) for n in range(num_frames)] for k in range(num_codebooks)]


def delay_cells(step: int) -> Callable[[int, int], Cells]:
    def cells(num_codebooks: int, num_frames: int) -> Cells:
        length = num_frames + step * (num_codebooks - 1) if num_frames else 0
        return [[(k, p - step * k) if 0 <= p - step * k < num_frames else HOLE for p in range(length)] for k in range(num_codebooks)]

    return cells


def flatten_cells(num_codebooks: int, num_frames: int) -> Cells:
    return [[(k, n) for n in range(num_frames) for k in range(num_codebooks)]]


def coarse_first_cells(num_codebooks: int, num_frames: int) -> Cells:
    return [[(k, n) for k in range(num_codebooks) for n in range(num_frames)]]


def stack_cells(frames: int) -> Callable[[int, int], Cells]:
    def cells(num_codebooks: int, num_frames: int) -> Cells:
        starts = range(0, num_frames, frames)
        return [[(k, n + i) if n + i < num_frames else HOLE for n in starts] for i in range(frames) for k in range(num_codebooks)]

    return cells


REFERENCES: list[tuple[Transform, Callable[[int, int], Cells]]] = [
    (Parallel(), parallel_cells),
    (Delay(step=0), delay_cells(0)),
    (Delay(step=1), delay_cells(1)),
    (Delay(step=3), delay_cells(3)),
    (Flatten(), flatten_cells),
    (CoarseFirst(), coarse_first_cells),
    (Stack(frames=1), stack_cells(1)),
    (Stack(frames=2), stack_cells(2)),
    (Stack(frames=3), stack_cells(3)),
]
TRANSFORMS = [transform for transform, _ in REFERENCES]
FLAT = (Flatten, CoarseFirst)

every_pattern = pytest.mark.parametrize(("transform", "cells"), REFERENCES, ids=[str(transform) for transform in TRANSFORMS])
every_transform = pytest.mark.parametrize("transform", TRANSFORMS, ids=str)


def slow_apply(transform: Transform, cells: Cells, codes_KN: Tensor, spec: TokenSpec) -> list[list[int]]:
    rows = []
    for row, line in enumerate(cells):
        values = []
        for cell in line:
            if cell is HOLE:
                values.append(spec.codebook_sizes[row % spec.num_codebooks])
            else:
                offset = sum(spec.codebook_sizes[: cell[0]]) if isinstance(transform, FLAT) else 0
                values.append(int(codes_KN[cell]) + offset)
        rows.append(values)
    return rows


@every_pattern
def test_apply_does_what_the_double_loop_does(transform: Transform, cells: Callable[[int, int], Cells]) -> None:
    for spec, codes_KN in CASES:
        assert transform.apply(codes_KN, spec).tolist() == slow_apply(transform, cells(*codes_KN.shape), codes_KN, spec)


@every_pattern
def test_legal_is_true_exactly_where_a_code_stands(transform: Transform, cells: Callable[[int, int], Cells]) -> None:
    for spec, codes_KN in CASES:
        expected = [[cell is not HOLE for cell in row] for row in cells(*codes_KN.shape)]
        assert transform.legal(codes_KN.shape[1], spec).tolist() == expected


@every_pattern
def test_frame_index_is_the_frame_of_the_first_codebook_at_each_position(transform: Transform, cells: Callable[[int, int], Cells]) -> None:
    for spec, codes_KN in CASES:
        columns = list(zip(*cells(*codes_KN.shape), strict=True))
        expected = [next((cell[1] for cell in line if cell is not HOLE), codes_KN.shape[1] - 1) for line in columns]
        assert transform.frame_index(codes_KN.shape[1], spec).tolist() == expected


@every_transform
def test_invert_undoes_apply_and_leaves_its_input_alone(transform: Transform) -> None:
    assert transform.lossless
    for spec, codes_KN in CASES:
        before_KN = codes_KN.clone()
        applied_KN = transform.apply(codes_KN, spec)
        again_KN = applied_KN.clone()
        assert torch.equal(transform.invert(applied_KN, spec), codes_KN)
        assert torch.equal(codes_KN, before_KN) and torch.equal(applied_KN, again_KN)


@every_transform
def test_the_out_spec_counts_the_ids_that_occur_and_no_more(transform: Transform) -> None:
    for spec, codes_KN in CASES:
        sizes = transform.out_spec(spec).codebook_sizes
        applied_KN = transform.apply(codes_KN, spec)
        assert len(sizes) == applied_KN.shape[0]
        assert (applied_KN < torch.tensor(sizes)[:, None]).all()
        top_KN = transform.apply((torch.tensor(spec.codebook_sizes) - 1)[:, None].expand(-1, 7).clone(), spec)
        assert top_KN.amax(dim=1).tolist() == [size - 1 for size in sizes]


@every_transform
def test_the_out_frame_rate_is_positions_per_second(transform: Transform) -> None:
    spec, num_frames = spec_of(4, 4, 4), 600
    lag = transform.step * 2 if isinstance(transform, Delay) else 0
    positions = transform.apply(torch.zeros(3, num_frames, dtype=torch.int64), spec).shape[1] - lag
    assert transform.out_spec(spec).frame_rate == spec.frame_rate * positions / num_frames


def test_transforms_that_change_codes_change_the_fingerprint_each_in_its_own_way() -> None:
    spec = spec_of(4, 4)
    marks = [transform.out_spec(spec).fingerprint for transform in TRANSFORMS]
    assert len(set(marks)) == len(marks)
    assert Parallel().out_spec(spec) == spec


@every_transform
def test_every_code_of_an_utterance_is_a_legal_id_and_a_hole_has_one(transform: Transform) -> None:
    for spec, codes_KN in CASES:
        applied_KN, num_frames = transform.apply(codes_KN, spec), codes_KN.shape[1]
        first_KN, end_KN = transform.legal_ids(num_frames, spec)
        assert ((first_KN <= applied_KN) & (applied_KN < end_KN)).all()
        holes_KN = ~transform.legal(num_frames, spec)
        assert ((end_KN - first_KN)[holes_KN] == 1).all()
        assert torch.equal(first_KN[holes_KN], applied_KN[holes_KN])


@every_transform
def test_whatever_a_generator_draws_among_legal_ids_inverts_to_that_many_frames(transform: Transform) -> None:
    generator = torch.Generator().manual_seed(5)
    for spec, codes_KN in CASES:
        first_KN, end_KN = transform.legal_ids(codes_KN.shape[1], spec)
        drawn_KN = first_KN + (torch.rand(first_KN.shape, generator=generator) * (end_KN - first_KN)).long()
        drawn_frames_KN = transform.invert(drawn_KN, spec)
        assert drawn_frames_KN.shape == codes_KN.shape
        assert torch.equal(transform.apply(drawn_frames_KN, spec), drawn_KN)


@pytest.mark.parametrize("transform", [Delay(step=1), Delay(step=3)], ids=str)
def test_a_delay_ignores_what_stands_in_its_holes(transform: Delay) -> None:
    for spec, codes_KN in CASES:
        applied_KN = transform.apply(codes_KN, spec)
        spoiled_KN = torch.where(transform.legal(codes_KN.shape[1], spec), applied_KN, -7)
        assert torch.equal(transform.invert(spoiled_KN, spec), codes_KN)


def test_a_stack_ignores_what_follows_the_first_pad_id_of_codebook_0() -> None:
    spec = spec_of(4, 9)
    stacked_KN = Stack(frames=3).apply(torch.tensor([[1, 2, 3, 0], [5, 6, 7, 8]]), spec)
    stacked_KN[3, 1] = 8  # codebook 1 of the frame at whose codebook 0 the utterance ends
    stacked_KN[4:, 1] = torch.tensor([2, 1])  # a frame behind the end
    assert Stack(frames=3).invert(stacked_KN, spec).tolist() == [[1, 2, 3, 0], [5, 6, 7, 8]]


def test_a_pad_id_where_a_code_must_stand_is_refused() -> None:
    spec = spec_of(4, 9)
    delayed_KN = Delay(step=1).apply(torch.tensor([[1, 2], [5, 6]]), spec)
    delayed_KN[1, 1] = 9
    with pytest.raises(ValueError, match=r"code 9 at position 0 is outside codebook 1.*that are legal"):
        Delay(step=1).invert(delayed_KN, spec)
    stacked_KN = Stack(frames=2).apply(torch.tensor([[1, 2, 3], [5, 6, 7]]), spec)
    for row, position in [(0, 1), (2, 0), (1, 1)]:
        spoiled_KN = stacked_KN.clone()
        spoiled_KN[row, position] = spec.codebook_sizes[row % 2]
        with pytest.raises(ValueError, match="outside codebook"):
            Stack(frames=2).invert(spoiled_KN, spec)


@pytest.mark.parametrize("transform", [Flatten(), CoarseFirst()], ids=str)
def test_an_id_of_another_codebook_is_refused_in_a_flat_stream(transform: Transform) -> None:
    spec = spec_of(4, 9)
    for ids in ([[4, 4]], [[0, 3]], [[0, 13]], [[-1, 4]]):
        with pytest.raises(ValueError, match="outside codebook"):
            transform.invert(torch.tensor(ids), spec)
    with pytest.raises(ValueError, match="3 positions, want a multiple of the 2 codebooks"):
        transform.invert(torch.tensor([[0, 5, 1]]), spec)


@every_transform
def test_codes_that_do_not_fit_the_spec_are_refused(transform: Transform) -> None:
    spec = spec_of(4, 9)
    for codes_KN in (torch.tensor([[0], [9]]), torch.tensor([[-1], [0]])):
        with pytest.raises(ValueError, match="outside codebook"):
            transform.apply(codes_KN, spec)
    for codes_KN in (torch.zeros(3, 2).long(), torch.zeros(2, 2), torch.zeros(2).long()):
        with pytest.raises(ValueError, match=r"want torch\.int64 \[2, frames\]"):
            transform.apply(codes_KN, spec)
    with pytest.raises(ValueError, match=r"want torch\.int64 \[\d, frames\]"):
        transform.invert(torch.zeros(5, 8).long(), spec)


def test_a_delayed_sequence_too_short_to_be_one_is_refused() -> None:
    with pytest.raises(ValueError, match="got 2 positions, want none or more than the 2"):
        Delay(step=1).invert(torch.zeros(3, 2).long(), spec_of(4, 4, 4))


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="a delay of -1"):
        Delay(step=-1)
    with pytest.raises(ValueError, match="a stack of 0"):
        Stack(frames=0)


def test_two_stacks_are_one() -> None:
    spec, codes_KN = replace(spec_of(5, 6)), torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2], [5, 4, 3, 2, 1, 0, 5, 4]])
    twice_KN = Stack(frames=2).apply(Stack(frames=2).apply(codes_KN, spec), Stack(frames=2).out_spec(spec))
    assert torch.equal(twice_KN, Stack(frames=4).apply(codes_KN, spec))


@pytest.mark.parametrize(
    ("name", "transform"),
    [
        ("parallel", Parallel()),
        ("delay", Delay(step=1)),
        ("flatten", Flatten()),
        ("coarse_first", CoarseFirst()),
        ("stack2", Stack(frames=2)),
    ],
)
def test_each_config_builds_its_transform(name: str, transform: Transform) -> None:
    assert instantiate(OmegaConf.load(CONFIGS / f"{name}.yaml")) == transform
