"""Dynamic time warping of many short pairs at once."""

import numpy as np


def dtw(distances_PNM: np.ndarray, lengths_P2: np.ndarray) -> np.ndarray:
    """Mean distance along the cheapest path through each of P tables of frame distances, [P].

    `lengths_P2` are the rows and columns of each table that count. A step goes down, right, or both at once; among equally cheap ways
    into a cell the diagonal comes first, then the one from the left. Both this and the mean are Libri-light's (arXiv 1912.07875).
    """
    cost_NMP = np.array(distances_PNM.transpose(1, 2, 0), dtype=np.float64, order="C")
    steps_NMP = np.ones(cost_NMP.shape, dtype=np.int32)
    rows, columns, pairs = cost_NMP.shape
    for row in range(rows):
        for column in range(columns):
            _enter(cost_NMP, steps_NMP, row, column)
    ends = lengths_P2[:, 0] - 1, lengths_P2[:, 1] - 1, np.arange(pairs)
    return cost_NMP[ends] / steps_NMP[ends]


def _enter(cost_NMP: np.ndarray, steps_NMP: np.ndarray, row: int, column: int) -> None:
    """Add to one cell of all tables what it costs to get there, and from where."""
    if not row and not column:
        return
    if not row or not column:
        came = (row, column - 1) if not row else (row - 1, column)
        cost_NMP[row, column] += cost_NMP[came]
        steps_NMP[row, column] += steps_NMP[came]
        return
    up, left, both = cost_NMP[row - 1, column], cost_NMP[row, column - 1], cost_NMP[row - 1, column - 1]
    straight = left <= up
    aside = np.where(straight, left, up)
    aside_steps = np.where(straight, steps_NMP[row, column - 1], steps_NMP[row - 1, column])
    diagonal = both <= aside
    cost_NMP[row, column] += np.where(diagonal, both, aside)
    steps_NMP[row, column] += np.where(diagonal, steps_NMP[row - 1, column - 1], aside_steps)
