"""Nested dropout: how much of a code is heard while a codec learns, so that any first part of it decodes."""

from typing import Literal

import torch
from torch import Tensor

Sizes = Literal["uniform", "powers"]


def kept_columns(batch: int, columns: int, *, share: float, sizes: Sizes) -> Tensor:
    """kept_BK, whether column k of an utterance's codes is heard: in a share of the utterances only the first few, else all.

    How many is drawn uniformly from 1 to all (One-D-Piece, arXiv 2501.10064) or, by "powers", from 1, 2, 4 ... and all of them (FlexTok,
    arXiv 2502.13967), which learns the short ones faster.
    """
    numbers = torch.arange(1, columns + 1) if sizes == "uniform" else torch.tensor([*_powers_below(columns), columns])
    drawn_B = numbers[torch.randint(len(numbers), (batch,))]
    number_B = torch.where(torch.rand(batch) < share, drawn_B, columns)
    return torch.arange(columns) < number_B[:, None]


def _powers_below(columns: int) -> list[int]:
    return [1 << exponent for exponent in range((columns - 1).bit_length())]
