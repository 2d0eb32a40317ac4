"""A step that keeps up with rows: begun for their jobs, told of their prompts, handed from one utterance to the next."""

from collections.abc import Sequence

from torch import Tensor

from audiotok.decoding.rows import Rows
from audiotok.decoding.step import Begin, Step


class Session:
    """Between calls it has heard inputs 0 to n - 1 of a row with n positions: all that stands but the last."""

    def __init__(self, begin: Begin, state: Rows) -> None:
        self._begin, self._state = begin, state
        self._step: Step | None = None

    def admit(self, rows: Sequence[int]) -> None:
        """Go on with the utterances that are new in these rows."""
        state = self._state
        rows = [row for row in rows if state.active[row]]
        if not rows:
            return
        if self._step is None:
            anyone = state.jobs_B[rows[0]]
            self._step = self._prompted([anyone if job is None else job for job in state.jobs_B], range(len(state.jobs_B)))
            return
        for row in rows:
            self._step.put(row, self._prompted([state.jobs_B[row]], [row]))

    def _prompted(self, jobs: Sequence[int | None], rows: Sequence[int]) -> Step:
        step = self._begin([job for job in jobs if job is not None])
        heard_B = self._state.positions_B[list(rows)]
        if longest := int(heard_B.max()):
            step(self._state.inputs(heard_B.new_zeros(len(self._state.jobs_B)), longest)[list(rows)])
            step.rewind(heard_B)
        return step

    def __call__(self, heard_BKN: Tensor) -> Sequence[Tensor]:
        """The step's logits_BNV of each codebook."""
        assert self._step is not None
        return self._step(heard_BKN)

    def rewind(self, heard_B: Tensor) -> None:
        """Forget all but each row's first `heard_B` inputs."""
        assert self._step is not None
        self._step.rewind(heard_B)
