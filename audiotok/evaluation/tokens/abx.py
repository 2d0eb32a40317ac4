"""ABX: how often a segment X is closer to a segment B of another category than to A of its own; 0.5 by chance, 0 at best.

Definition and averages are Libri-light's (arXiv 1912.07875, after Schatz et al. 2013). Within speakers, A, B and X are of one speaker;
across speakers, A and B are of one and X is of another. All three share their context. Equal distances count as half an error.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from audiotok.evaluation.tokens.dtw import dtw

Mode = Literal["within", "across"]
Distance = Literal["mismatch", "angular"]
CELLS_AT_ONCE = 50_000_000  # of the tables of frame distances, times the width of a frame


@dataclass(frozen=True)
class Segment:
    """One stretch of speech. Frames are [N, D]: D codes (mismatch: the share that differs), or a vector (angular: angle over pi).

    `context` is what must be alike around A, B and X (the phones before and after), empty where that does not matter.
    """

    category: str
    speaker: str
    context: str
    frames_ND: np.ndarray


class Cell(NamedTuple):
    """Triples that are averaged first: of a pair of categories, a speaker of A and B, a speaker of X and a context."""

    a: str
    b: str
    speaker: str
    x_speaker: str
    context: str


@dataclass(frozen=True)
class Abx:
    """`error` is the mean over `pairs` of categories, A before B; each is a mean over speakers of means over their cells."""

    error: float
    pairs: dict[tuple[str, str], float]
    triples: int


def abx(segments: Sequence[Segment], *, mode: Mode, distance: Distance, max_cells: int, max_triples: int, seed: int) -> Abx:
    """The ABX error of the segments, from at most `max_cells` cells with at most `max_triples` triples each, drawn by `seed`.

    Raises ValueError where they make no triple, for instance where no speaker says two categories in one context.
    """
    generator = np.random.default_rng(seed)
    members: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for index, segment in enumerate(segments):
        members[segment.context, segment.speaker, segment.category].append(index)
    cells = list(_cells(members, mode))
    if not cells:
        raise ValueError(f"{len(segments)} segments make no triple {mode} speakers; pass two categories of one speaker in one context")
    if len(cells) > max_cells:
        cells = [cells[place] for place in np.sort(generator.choice(len(cells), size=max_cells, replace=False))]
    drawn = [_triples(members, cell, limit=max_triples, generator=generator) for cell in cells]
    errors = _errors(_checked(segments), np.concatenate(drawn), distance)
    splits = np.cumsum([len(triples) for triples in drawn])[:-1]
    pairs = _averaged({cell: float(part.mean()) for cell, part in zip(cells, np.split(errors, splits))})
    return Abx(float(np.mean(list(pairs.values()))), pairs, len(errors))


def _cells(members: dict[tuple[str, str, str], list[int]], mode: Mode) -> Iterator[Cell]:
    if mode not in ("within", "across"):
        raise ValueError(f"got mode={mode!r}, want within or across")
    categories, speakers = defaultdict(list), defaultdict(list)
    for context, speaker, category in members:
        categories[context, speaker].append(category)
        speakers[context, category].append(speaker)
    for context, speaker, a in members:
        others = [b for b in categories[context, speaker] if b != a]
        if mode == "across":
            yield from (Cell(a, b, speaker, x, context) for x in speakers[context, a] if x != speaker for b in others)
        elif len(members[context, speaker, a]) > 1:
            yield from (Cell(a, b, speaker, speaker, context) for b in others)


def _triples(members: dict[tuple[str, str, str], list[int]], cell: Cell, *, limit: int, generator: np.random.Generator) -> np.ndarray:
    """Indices of A, B and X, [triples, 3]; A and X are never the same segment."""
    of_a, of_b = members[cell.context, cell.speaker, cell.a], members[cell.context, cell.speaker, cell.b]
    of_x = members[cell.context, cell.x_speaker, cell.a]
    within = cell.speaker == cell.x_speaker
    shape = len(of_a) - within, len(of_b), len(of_x)
    total = int(np.prod(shape))
    ranks = np.arange(total) if total <= limit else generator.choice(total, size=limit, replace=False)
    a, b, x = np.unravel_index(ranks, shape)
    if within:
        a = a + (a >= x)
    return np.stack([np.take(of_a, a), np.take(of_b, b), np.take(of_x, x)], axis=1)


def _checked(segments: Sequence[Segment]) -> list[np.ndarray]:
    frames = [np.asarray(segment.frames_ND) for segment in segments]
    wrong = next((array.shape for array in frames if array.ndim != 2 or not array.size or array.shape[1] != frames[0].shape[-1]), None)
    if wrong is not None:
        raise ValueError(
            f"got a segment of shape {list(wrong)}, want [N, D], not empty and with one D for all; pass codes_KN as codes_KN.T"
        )
    return frames


def _errors(frames: list[np.ndarray], triples: np.ndarray, distance: Distance) -> np.ndarray:
    """For each triple 1 where X is closer to B, 0 where it is closer to A, 0.5 in between."""
    wanted = np.concatenate([triples[:, [2, 0]], triples[:, [2, 1]]])
    pairs, place = np.unique(wanted, axis=0, return_inverse=True)
    to_a, to_b = np.split(_distances(frames, pairs, distance)[place.ravel()], 2)
    return np.where(to_a == to_b, 0.5, (to_a > to_b).astype(np.float64))


def _distances(frames: list[np.ndarray], pairs: np.ndarray, distance: Distance) -> np.ndarray:
    """Warped distance of each pair, in batches of pairs that are about as long."""
    lengths_P2 = np.array([len(array) for array in frames])[pairs]
    order = np.lexsort(lengths_P2.T)
    step = max(1, CELLS_AT_ONCE // (int(lengths_P2.max()) ** 2 * frames[0].shape[1]))
    result = np.empty(len(pairs))
    for start in range(0, len(order), step):
        batch = order[start : start + step]
        left, right = (_padded([frames[index] for index in pairs[batch, side]]) for side in (0, 1))
        result[batch] = dtw(frame_distances(left, right, distance), lengths_P2[batch])
    return result


def _padded(arrays: list[np.ndarray]) -> np.ndarray:
    padded = np.zeros((len(arrays), max(map(len, arrays)), arrays[0].shape[1]), dtype=arrays[0].dtype)
    for row, array in zip(padded, arrays):
        row[: len(array)] = array
    return padded


def frame_distances(left_PND: np.ndarray, right_PMD: np.ndarray, distance: Distance) -> np.ndarray:
    """Distance of every frame of one to every frame of the other, [P, N, M], from 0 to 1.

    Of codes the share of codebooks that differ; of vectors their angle over pi, and for a vector of zeros, which has none, 1/2.
    """
    if distance == "mismatch":
        return (left_PND[:, :, None] != right_PMD[:, None]).mean(axis=-1)
    if distance != "angular":
        raise ValueError(f"got distance={distance!r}, want mismatch or angular")
    left_PND, right_PMD = (array / np.maximum(np.linalg.norm(array, axis=-1, keepdims=True), 1e-12) for array in (left_PND, right_PMD))
    return np.arccos(np.clip(left_PND @ right_PMD.transpose(0, 2, 1), -1, 1)) / np.pi


def _averaged(cells: dict[Cell, float]) -> dict[tuple[str, str], float]:
    """Cells to speakers (of A and B), speakers to pairs of categories."""
    speakers, pairs = defaultdict(list), defaultdict(list)
    for cell, error in cells.items():
        speakers[cell.a, cell.b, cell.speaker].append(error)
    for (a, b, _), errors in speakers.items():
        pairs[a, b].append(np.mean(errors))
    return {pair: float(np.mean(errors)) for pair, errors in pairs.items()}
