"""Steps that can hear several continuations at once, and a session of such a step."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from audiotok.decoding.rows import Rows
from audiotok.decoding.session import Session
from audiotok.decoding.step import Begin, Step
from audiotok.nn.branching import Branches


@runtime_checkable
class Branching(Step, Protocol):
    """A step (`audiotok.decoding.step.Step`) whose inputs may branch."""

    def branch(self, heard_BKN: Tensor, branches: Branches) -> Sequence[Tensor]:
        """Of each codebook logits_BNV: after each of N more inputs, heard behind those on its own way from the root alone.

        Inputs of one tree may come in several calls. Before anything else is heard, `keep` or `rewind` leaves inputs in a line.
        """
        ...

    def keep(self, first_B: Tensor, path_BM: Tensor) -> None:
        """Of what was heard behind each row's first `first_B` inputs keep only those at `path_BM`, in this order."""
        ...


class BranchingSession:
    """A `Session` whose step may hear a tree as well. Raises ValueError where it cannot."""

    def __init__(self, begin: Begin, state: Rows) -> None:
        self._begin = begin
        self._step: Branching | None = None
        self._line = Session(self._begun, state)
        self.admit, self.rewind, self.hear = self._line.admit, self._line.rewind, self._line.__call__

    def _begun(self, jobs: Sequence[int]) -> Step:
        step = self._begin(jobs)
        if not isinstance(step, Branching):
            raise ValueError(
                f"{type(step).__name__} hears positions in a line only, several candidates need one that branches; "
                "choose drafting=small_model, which speaks a single draft ahead"
            )
        if self._step is None:  # the one that the session keeps: the others are put into its rows
            self._step = step
        return step

    def branch(self, heard_BKN: Tensor, branches: Branches) -> Sequence[Tensor]:
        """The step's logits_BNV of each codebook."""
        assert self._step is not None
        return self._step.branch(heard_BKN, branches)

    def keep(self, first_B: Tensor, path_BM: Tensor) -> None:
        """As `Branching.keep`."""
        assert self._step is not None
        self._step.keep(first_B, path_BM)
