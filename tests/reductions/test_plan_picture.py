"""Pictures of plans: what is drawn is the matrix, and drawing leaves nothing behind."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image
from reduction_cases import EVERY, walk

from audiotok.reductions.picture import draw, weights
from audiotok.reductions.plan import Plan, Reduction, means


@pytest.mark.parametrize("reduction", EVERY, ids=repr)
def test_what_is_drawn_is_the_matrix(reduction: Reduction) -> None:
    plan = reduction.plan(walk(40))
    axes = Figure().add_subplot()
    draw(plan, axes)
    (image,) = axes.get_images()
    assert np.array_equal(np.asarray(image.get_array()), plan.down_MN.to_dense().numpy())
    assert image.get_extent() == [0, 40, plan.num_tokens, 0]


def test_a_box_stands_around_the_frames_that_each_token_stands_for() -> None:
    axes = Figure().add_subplot()
    draw(means(torch.tensor([2, 1])), axes)
    boxes = [(set(line.get_xdata()), set(line.get_ydata())) for line in axes.get_lines()]
    assert boxes == [({0, 2}, {0, 1}), ({2, 3}, {1, 2})]


def test_a_plan_larger_than_the_drawing_shows_the_largest_weight_of_each_cell() -> None:
    plan = means(torch.full((1_000,), 2))
    grid = weights(plan)
    assert grid.shape == (600, 600)
    assert set(np.unique(grid)) == {0, 0.5}
    expected = {(token * 600 // 1_000, (2 * token + frame) * 600 // 2_000) for token in range(1_000) for frame in range(2)}
    assert set(zip(*map(list, np.nonzero(grid)))) == expected
    axes = Figure().add_subplot()
    draw(plan, axes)
    assert not axes.get_lines()


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_file_is_of_the_kind_that_its_name_says(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"plan.{kind}"
    draw(means(torch.tensor([2, 3, 1])), path)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind]
    assert path.read_bytes().startswith(start)
    if kind == "png":
        assert len(np.unique(np.asarray(Image.open(path).convert("L")))) > 10


def test_a_plan_of_nothing_is_drawn_empty(tmp_path: Path) -> None:
    draw(Plan(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)), tmp_path / "empty.png")
    assert (tmp_path / "empty.png").exists()


def test_drawing_touches_no_global_state(tmp_path: Path) -> None:
    before, backend = pyplot.get_fignums(), matplotlib.get_backend()
    draw(means(torch.tensor([2, 3])), tmp_path / "plan.png")
    assert (pyplot.get_fignums(), matplotlib.get_backend()) == (before, backend)
