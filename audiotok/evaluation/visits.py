"""What a model that knows where it is in its text did there, without a recogniser: which phonemes it spoke, and in what order."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Visits:
    """Of one utterance's path through its phonemes. In order and whole: `skipped`, `unreached` and `returns` are 0.

    `skipped` phonemes lie before the furthest that was spoken, `unreached` behind it; `returns` is how often the path went back; `longest`
    is its longest stay in one phoneme, in positions.
    """

    skipped: int
    unreached: int
    returns: int
    longest: int

    @property
    def whole(self) -> bool:
        return self.skipped == self.unreached == self.returns == 0


def visits(path_N: Tensor, num_phonemes: int) -> Visits:
    """Of the index of the phoneme that each position speaks. Raises ValueError for an index that is no phoneme's."""
    if not len(path_N):
        return Visits(0, num_phonemes, 0, 0)
    if path_N.min() < 0 or path_N.max() >= num_phonemes:
        raise ValueError(
            f"positions speak phonemes {int(path_N.min())} to {int(path_N.max())} of {num_phonemes}; give the path up to the text's end"
        )
    spoken, furthest = path_N.unique(), int(path_N.max())
    _, stays = torch.unique_consecutive(path_N, return_counts=True)
    return Visits(furthest + 1 - len(spoken), num_phonemes - 1 - furthest, int((path_N.diff() < 0).sum()), int(stays.max()))


def walked(moves_N: Tensor, num_phonemes: int) -> Tensor:
    """The path of a pointer by the moves that it made at each position: 0 0 1 0 1 -> 0 0 0 1 1; the last one leads out of it.

    Positions behind the last phoneme, in which delayed codebooks end, are no part of it.
    """
    path_N = moves_N.cumsum(0) - moves_N
    return path_N[path_N < num_phonemes]
