"""Enhancing a batch row by row, so that what is made of a recording does not depend on its company."""

from collections.abc import Callable

import torch
from torch import Tensor

from audiotok.tokenizers.batches import check_audio


def each_row(enhance: Callable[[Tensor], Tensor], noisy_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """wav_BT of `enhance(noisy_T)`, cut to each row's length, zeros past it. Raises ValueError for what is no finite audio."""
    check_audio(noisy_BT, lengths_B)
    wav_BT = torch.zeros_like(noisy_BT)
    for row, length in enumerate(lengths_B.tolist()):
        wav_BT[row, :length] = enhance(noisy_BT[row, :length])[:length]
    return wav_BT
