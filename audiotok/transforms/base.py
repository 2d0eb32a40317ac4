"""What a transform of codes is.

A transform acts when tokens are read, or makes a store of its own (`audiotok reduce`); the store of a tokenizer keeps raw codes. A lossless
one holds `invert(apply(codes)) == codes` for every input, and `apply(invert(y)) == y` for every y that `apply` makes. `apply` and `invert`
raise ValueError that names the position for codes that cannot be theirs.

Where a transform of several frames to one, or of one to several, depends on the codes themselves, the frame rate of its `out_spec` is the
most positions that a second can have.

Some layouts have holes: positions at which no code stands. A hole holds the pad id, which is the size of the codebook before the transform,
so that `out_spec` counts one id more for a codebook that has holes, and the same number of ids for one that has none. `invert` ignores
whatever stands in a hole, and raises ValueError for a pad id anywhere else.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from audiotok.types import TokenSpec


@runtime_checkable
class Transform(Protocol):
    lossless: bool

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        """The spec of transformed codes."""
        ...

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        """Codes in the transformed layout, ids below `out_spec(spec).codebook_sizes`."""
        ...

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        """Codes in the original layout; `spec` is the original one."""
        ...


@runtime_checkable
class Layout(Transform, Protocol):
    """A transform whose positions depend on the number of frames alone, so that a generator knows them beforehand."""

    def frame_index(self, num_frames: int, spec: TokenSpec) -> Tensor:
        """For each position of the transformed layout, the frame of the first codebook that has a code there: int64 [N'].

        It leads: a model that is told this frame's phoneme is told what the code to be chosen next speaks.
        """
        ...

    def legal(self, num_frames: int, spec: TokenSpec) -> Tensor:
        """Bool [K', N']: True where a code stands, False at a hole, where a generator must write the pad id."""
        ...

    def legal_ids(self, num_frames: int, spec: TokenSpec) -> tuple[Tensor, Tensor]:
        """(first_KN, end_KN), int64 [K', N']: a generator may choose `first <= id < end`; at a hole that is the pad id alone."""
        ...

    def sources(self, spec: TokenSpec) -> tuple[tuple[int, ...], ...]:
        """For each codebook of the layout, the codebooks whose ids it holds, one range after another; a pad id comes behind them."""
        ...


@runtime_checkable
class WithHoles(Transform, Protocol):
    """A transform whose holes depend on the codes."""

    def stands(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        """Bool [K', N'] of transformed codes: True where a code stands, False at a hole."""
        ...


class Grammar(Protocol):
    """Which codes may come next, so that a generator never writes what cannot be inverted.

    A position's codebooks are chosen one after another, in their order. A state is a value: it is never changed, and can be kept.
    """

    def start(self) -> Any:
        """Of a stream in which nothing stands yet."""
        ...

    def legal(self, state: Any) -> Tensor:
        """bool_V over the ids of the codebook that is to be chosen next."""
        ...

    def advance(self, state: Any, code: int) -> Any:
        """The state after that code. Raises ValueError where it is not legal."""
        ...

    def complete(self, state: Any) -> bool:
        """Whether the stream may end here."""
        ...


@runtime_checkable
class Constrained(Transform, Protocol):
    """A transform whose positions depend on the codes, with the grammar of what it makes."""

    def grammar(self, spec: TokenSpec) -> Grammar:
        """Of transformed codes; `spec` is the original one."""
        ...


@runtime_checkable
class Fittable(Protocol):
    """A transform that has to learn from codes before it can act; what needs that raises ValueError until then."""

    @property
    def fitted(self) -> Path | None:
        """The folder that it was loaded from, or None."""
        ...

    def fit(self, corpus: Iterable[Tensor], spec: TokenSpec) -> None:
        """Learn from utterances codes_KN; a corpus can be gone through more than once."""
        ...

    def save(self, folder: Path) -> None:
        """Write what was learnt into a folder that the constructor can be given as `fitted`."""
        ...


def as_layout(transform: Transform) -> Layout:
    """The transform. Raises ValueError where its positions depend on the codes, which a model that is told of each position cannot use."""
    if not isinstance(transform, Layout):
        raise ValueError(
            f"{transform!r}: its positions depend on the codes, and this model is told beforehand what each of them speaks; "
            "choose transform=parallel, delay, flatten, unroll, coarse_first, stack2 or merge2"
        )
    return transform
