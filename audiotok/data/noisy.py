"""Noisy speech beside the clean speech in it: what enhancement learns from."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoisyBatch:
    """Pieces of speech, noisy and clean, aligned to the sample; zeros past a row's length."""

    noisy_BT: Tensor
    clean_BT: Tensor
    lengths_B: Tensor

    def to(self, device: torch.device) -> "NoisyBatch":
        return NoisyBatch(*(part.to(device, non_blocking=True) for part in (self.noisy_BT, self.clean_BT, self.lengths_B)))
