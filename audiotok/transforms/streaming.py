"""Transforms of codes that come a few frames at a time.

A causal transform says how much of what it made so far is settled: stays, whatever comes. A stream gives each position out as soon as it is
settled, and together they are what `apply` makes of the whole, however it was cut. All there is to a stream is its state, a value that a
caller can keep and move.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from audiotok.transforms.base import Transform
from audiotok.types import TokenSpec


@runtime_checkable
class Causal(Transform, Protocol):
    """A transform whose positions are settled by what has come, but for some at the end."""

    def settled(self, codes_KN: Tensor, spec: TokenSpec) -> tuple[int, int]:
        """(positions, frames): the first `positions` of `apply(codes_KN)` stay, whatever follows; and the first `frames` frames need not
        be known any more: `apply` of those behind them gives the positions behind the settled ones. A transform that remembers everything
        says 0 frames."""
        ...


@dataclass(frozen=True, eq=False)
class State:
    """The frames that are still needed, and how many of the positions that they make have been given out."""

    codes_KN: Tensor
    given: int


class TransformStream:
    """`apply` over frames that come in pieces. Raises ValueError for a transform that needs the whole utterance."""

    def __init__(self, transform: Transform, spec: TokenSpec) -> None:
        if not isinstance(transform, Causal):
            raise ValueError(
                f"{transform!r} cannot stream: what it makes of a frame depends on all that come after it; apply it to whole utterances"
            )
        self.transform, self.spec = transform, spec

    def open(self) -> State:
        """Of a stream of which nothing has come."""
        return State(torch.zeros(self.spec.num_codebooks, 0, dtype=torch.int64), 0)

    def push(self, state: State, codes_KN: Tensor) -> tuple[Tensor, State]:
        """(codes_KN of the positions that are settled by these frames, the state after them). `state` itself is not changed."""
        known_KN = torch.cat([state.codes_KN.to(codes_KN.device), codes_KN], dim=1)
        positions, frames = self.transform.settled(known_KN, self.spec)
        made_KN = self.transform.apply(known_KN, self.spec)[:, state.given : positions]
        left = State(known_KN[:, frames:], 0 if frames else max(positions, state.given))
        return made_KN, left

    def close(self, state: State) -> Tensor:
        """codes_KN of the positions that only the end settles."""
        return self.transform.apply(state.codes_KN, self.spec)[:, state.given :]
