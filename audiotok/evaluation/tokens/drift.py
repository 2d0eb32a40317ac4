"""What becomes of the codes when speech is encoded and decoded again and again."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from audiotok.evaluation.tokens.distance import frame_agreement


@dataclass(frozen=True)
class Drift:
    """Shares of equal codes, [C, K]: row c is cycle c + 1 against the codes of the recording, and against the cycle before it.

    A codec that repeats itself has 1 throughout; one that drifts keeps losing against the recording; one that settles, another fixed point,
    loses at first and then agrees with itself.
    """

    from_first_CK: np.ndarray
    neighbours_CK: np.ndarray


def drift(cycles: Sequence[np.ndarray]) -> Drift:
    """From the codes_KN of cycles 0, 1, 2 ...: cycle c + 1 is made of the speech that cycle c decodes to.

    Frames are compared in place, as `frame_agreement` does: a codec that shifts by a frame disagrees. Raises ValueError for one cycle.
    """
    if len(cycles) < 2:
        raise ValueError(f"got the codes of {len(cycles)} cycles, want those of the recording and of one cycle at least")
    return Drift(
        from_first_CK=np.stack([frame_agreement(cycles[0], codes_KN) for codes_KN in cycles[1:]]),
        neighbours_CK=np.stack([frame_agreement(before_KN, codes_KN) for before_KN, codes_KN in pairwise(cycles)]),
    )
