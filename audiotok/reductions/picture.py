"""A plan drawn: which frames each token is made of, and which it stands for."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from audiotok.reductions.plan import Plan

MOST_CELLS = 600  # a side of the drawing: about its pixels


def draw(plan: Plan, target: Path | Axes) -> None:
    """The matrix, frames from left to right and tokens from top to bottom, darker for more weight; a box around what each stands for.

    Onto axes, or into a file of the kind that its name says (.png, .svg, .pdf). Of a plan that is larger than a drawing, each cell shows
    the largest weight that falls in it, and there are no boxes.
    """
    if isinstance(target, Axes):
        _onto(plan, target)
        return
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    _onto(plan, figure.add_subplot())
    figure.savefig(target, dpi=150, metadata={"Date": None} if target.suffix == ".svg" else None)


def weights(plan: Plan) -> np.ndarray:
    """What is drawn: [tokens, frames], or the largest weights of a grid of at most 600 by 600."""
    shape = (min(plan.num_tokens, MOST_CELLS), min(plan.num_frames, MOST_CELLS))
    token_E, frame_E = plan.down_MN.indices().cpu().numpy()
    grid = np.zeros(shape)
    np.maximum.at(grid, (token_E * shape[0] // plan.num_tokens, frame_E * shape[1] // plan.num_frames), plan.down_MN.values().cpu().numpy())
    return grid


def _onto(plan: Plan, axes: Axes) -> None:
    axes.set(xlabel="frame", ylabel="token", title=f"{plan.num_frames} frames, {plan.num_tokens} tokens")
    if not plan.num_tokens:
        return
    extent = (0, plan.num_frames, plan.num_tokens, 0)
    axes.imshow(weights(plan), cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="nearest", extent=extent)
    if plan.num_frames <= MOST_CELLS:
        _boxes(plan, axes)


def _boxes(plan: Plan, axes: Axes) -> None:
    durations_M = plan.durations_M.cpu().numpy()
    ends_M = durations_M.cumsum()
    for token, (end, duration) in enumerate(zip(ends_M, durations_M)):
        left, right = end - duration, end
        axes.plot([left, right, right, left, left], [token, token, token + 1, token + 1, token], color="tab:red", linewidth=0.8)
