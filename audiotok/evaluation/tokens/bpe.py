"""How far merging frequent neighbours shortens streams that it was not learnt from (arXiv 2310.14580)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

import numpy as np

from audiotok.evaluation.metric import NotApplicable
from audiotok.transforms.merges import Merges


@dataclass(frozen=True)
class BpeEfficiency:
    """What merges make of streams that they were not learnt from."""

    units: int
    tokens: int
    seconds: float
    vocabulary: int

    @property
    def length_ratio(self) -> float:
        """Tokens for each unit: 1 where nothing was merged, the lower the better."""
        return self.tokens / self.units

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def bits_per_second(self) -> float:
        """Of ids of a fixed length: fewer tokens, but of a larger vocabulary."""
        return self.tokens_per_second * log2(self.vocabulary)


def efficiency(merges: Merges, held_out: Sequence[np.ndarray], *, seconds: float) -> BpeEfficiency:
    """How many tokens the held-out streams become, which last `seconds` in all. Raises NotApplicable where they hold no unit."""
    number = sum(len(units_N) for units_N in held_out)
    if not number or seconds <= 0:
        raise NotApplicable(f"{number} units in {seconds:g} s: there is nothing to measure a length by")
    tokens = sum(len(merges.encode(units_N)) for units_N in held_out)
    return BpeEfficiency(number, tokens, seconds, merges.num_base + len(merges.pairs_M2))
