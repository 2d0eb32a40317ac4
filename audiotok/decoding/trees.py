"""Several drafts at once: trees of positions that a drafter has drawn, and the shapes in which it grows them.

Nodes are numbered in the order in which they are drawn, so that a parent comes before its children; -1 is the root, what stands already.
Siblings are drawn from one law: independently (`Chains`, SpecTr, arXiv 2310.15141), or each unlike those before it (`Levels`, `Best`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from audiotok.decoding.branching import BranchingSession
from audiotok.decoding.rows import Rows
from audiotok.decoding.siblings import LEAST_LEFT, draw_unlike, own_probabilities
from audiotok.decoding.step import Begin
from audiotok.nn.branching import Branches

ROOT = -1


@dataclass(frozen=True)
class Tree:
    """G drafted nodes of each row. `laws` are what children were drawn from: after the root, then after each node that may have some."""

    parents_BG: Tensor
    codes_BKG: Tensor
    heard_BKG: Tensor  # the codes as a model hears them
    present_BG: Tensor  # bool: False where no code was left to draw, and of what stands behind such a node
    laws: Sequence[Tensor]  # of each codebook float64 [B, at most G + 1, V_k]
    distinct: bool  # each sibling was drawn unlike those before it


class Shape(Protocol):
    """How a tree grows."""

    @property
    def nodes(self) -> int:
        """How many it has in the end."""
        ...

    @property
    def deepest(self) -> int:
        """The most positions on a way from the root."""
        ...

    @property
    def distinct(self) -> bool:
        """Whether siblings are drawn unlike each other."""
        ...

    def next(self, growth: "Growth") -> Tensor | None:
        """parents_BN of the next nodes, or None where the tree is whole."""
        ...


@dataclass(frozen=True)
class Chains:
    """`count` drafts of `length` positions, independent of each other: what of them begins alike is not shared."""

    count: int
    length: int
    distinct: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        _check(self.count >= 1 and self.length >= 1, f"chains are 1 or more, of 1 position or more; got {self.count} of {self.length}")

    @property
    def nodes(self) -> int:
        return self.count * self.length

    @property
    def deepest(self) -> int:
        return self.length

    def next(self, growth: "Growth") -> Tensor | None:
        if growth.nodes == self.nodes:
            return None
        first = growth.nodes - self.count
        parents_N = torch.arange(first, growth.nodes).clamp_min(ROOT) if growth.nodes else torch.full((self.count,), ROOT)
        return parents_N.to(growth.parents_BG).expand(len(growth.parents_BG), -1)


@dataclass(frozen=True)
class Levels:
    """A tree whose nodes at depth i have `widths[i]` children each, distinct from each other (SpecInfer, arXiv 2305.09781)."""

    widths: Sequence[int]
    distinct: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        _check(min(self.widths, default=0) >= 1, f"every level has at least one child a node; got {self.widths}")

    @property
    def nodes(self) -> int:
        return sum(self._sizes())

    @property
    def deepest(self) -> int:
        return len(self.widths)

    def _sizes(self) -> list[int]:
        """Nodes of each level."""
        sizes = [1]
        for width in self.widths:
            sizes.append(sizes[-1] * width)
        return sizes[1:]

    def next(self, growth: "Growth") -> Tensor | None:
        sizes = [1, *self._sizes()]
        ends = [sum(sizes[1 : level + 1]) for level in range(len(sizes))]
        level = ends.index(growth.nodes)
        if level == len(self.widths):
            return None
        parents_N = torch.arange(ends[level] - sizes[level], ends[level]).repeat_interleave(self.widths[level])
        return parents_N.to(growth.parents_BG).expand(len(growth.parents_BG), -1)


@dataclass(frozen=True)
class Best:
    """`nodes` nodes, each drawn where it is the likeliest to stand (DySpec, arXiv 2410.11744); no deeper than `deepest`.

    A node drawn with probability r, of what its siblings have left of the draft's law, is taken to be accepted with probability
    r ** `exponent`. A place is worth the product of the acceptances on its way times that of its siblings' rejections. DySpec has
    exponent 1. The probability of a position of K codebooks is a product of K, far below its acceptance: 1 / K puts it back in scale.
    """

    nodes: int
    deepest: int
    exponent: float
    distinct: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        _check(self.nodes >= 1 and self.deepest >= 1, f"a tree has at least one node and level; got {self.nodes} and {self.deepest}")
        _check(self.exponent > 0, f"exponent is {self.exponent!r}, wanted above 0")

    def next(self, growth: "Growth") -> Tensor | None:
        return None if growth.nodes == self.nodes else self._worth(growth).argmax(-1, keepdim=True) + ROOT

    def _worth(self, growth: "Growth") -> Tensor:
        """Of a further child of the root and of each node, [B, G + 1]."""
        rows_B = torch.arange(len(growth.parents_BG), device=growth.parents_BG.device)
        worth_BN = growth.shares_BG.new_zeros(len(rows_B), growth.nodes + 1)
        worth_BN[:, 0] = 1
        accepted_BG = growth.shares_BG**self.exponent
        for node, parent_B in enumerate(growth.parents_BG.unbind(1)):
            place_B, accepted_B = worth_BN[rows_B, parent_B + 1], accepted_BG[:, node]
            worth_BN[:, node + 1] = (place_B * accepted_B).where(growth.present_BG[:, node], 0)
            worth_BN[rows_B, parent_B + 1] = (place_B * (1 - accepted_B)).where(growth.present_BG[:, node], 0)
        return worth_BN.masked_fill(growth.depths_BN >= self.deepest, -1)


@dataclass
class Growth:
    """A tree as it grows, in the order of its nodes; `laws` reach as far as the drafter has heard."""

    parents_BG: Tensor
    codes_BKG: Tensor
    heard_BKG: Tensor
    present_BG: Tensor
    shares_BG: Tensor  # with which probability each was drawn, of what its siblings before it had left of the law
    depths_BN: Tensor  # of the root and the nodes
    laws: list[Tensor]

    @classmethod
    def of(cls, state: Rows, laws: list[Tensor]) -> "Growth":
        """A root with the laws [B, 1, V_k] of the position after it."""
        rows, codebooks = len(state.jobs_B), len(laws)
        none_BG, none_BKG = state.positions_B.new_empty(rows, 0), state.positions_B.new_empty(rows, codebooks, 0)
        return cls(none_BG, none_BKG, none_BKG, none_BG.bool(), none_BG.double(), none_BG.new_zeros(rows, 1), laws)

    @property
    def nodes(self) -> int:
        return self.parents_BG.shape[1]

    def tree(self, *, distinct: bool) -> Tree:
        """What has grown."""
        return Tree(self.parents_BG, self.codes_BKG, self.heard_BKG, self.present_BG, tuple(self.laws), distinct)

    def add(self, parent_B: Tensor, state: Rows, *, distinct: bool) -> None:
        """Draw a child of one node of each row, with the rows' own random numbers."""
        rows_B = torch.arange(len(parent_B), device=parent_B.device)
        law = [law_BNV[rows_B, parent_B + 1] for law_BNV in self.laws]
        tried_BG, tried_BGK = (self.parents_BG == parent_B[:, None]) & self.present_BG & distinct, self.codes_BKG.transpose(1, 2)
        left_B = 1 - (own_probabilities(law, tried_BGK).prod(-1) * tried_BG).sum(-1)
        code_BK = draw_unlike(law, tried_BGK, tried_BG, state.uniforms.draw(len(law))[0].to(parent_B.device))
        share_B = own_probabilities(law, code_BK[:, None]).prod(-1)[:, 0] / left_B.clamp_min(LEAST_LEFT)
        present_B = (left_B > LEAST_LEFT) & F.pad(self.present_BG, (1, 0), value=True)[rows_B, parent_B + 1]
        self.parents_BG = torch.cat([self.parents_BG, parent_B[:, None]], 1)
        self.codes_BKG = torch.cat([self.codes_BKG, code_BK[..., None]], 2)
        self.present_BG = torch.cat([self.present_BG, present_B[:, None]], 1)
        self.shares_BG = torch.cat([self.shares_BG, share_B.clamp_max(1)[:, None]], 1)
        self.depths_BN = torch.cat([self.depths_BN, self.depths_BN[rows_B, parent_B + 1][:, None] + 1], 1)
        [heard_BK1] = self.along(self.nodes - 1, lambda path_BKD: [state.ahead(path_BKD)[..., -1:]])
        self.heard_BKG = torch.cat([self.heard_BKG, heard_BK1], 2)

    def along(self, node: int, answer: Callable[[Tensor], Sequence[Tensor]]) -> list[Tensor]:
        """What `answer` says of path_BKD, the codes on the way to a node, its own the last; asked once for each depth that it has."""
        depth_B = self.depths_BN[:, node + 1]
        found: list[Tensor] = []
        for depth in depth_B.unique().tolist():
            said = answer(self._path(node, depth))
            which_B = depth_B == depth
            found = [torch.where(which_B.view(-1, *[1] * (new.ndim - 1)), new, old) for new, old in zip(said, found or said)]
        return found

    def _path(self, node: int, depth: int) -> Tensor:
        node_B = torch.full_like(self.parents_BG[:, 0], node)
        path = [node_B]
        while len(path) < depth:
            path.insert(0, self.parents_BG.gather(1, path[0].clamp_min(0)[:, None])[:, 0])
        index_BD = torch.stack(path, 1).clamp_min(0)  # a row whose node is less deep is not looked at
        return self.codes_BKG.gather(2, index_BD[:, None].expand(-1, self.codes_BKG.shape[1], -1))


class ByTree:
    """A drafter that draws trees of a shape from another model of the same codes, as a rule a small one.

    The first step that `begin` is asked for needs room for the longest job, a tree and its depth.
    """

    def __init__(self, state: Rows, *, begin: Begin, shape: Shape) -> None:
        self._state, self._session, self._shape = state, BranchingSession(begin, state), shape
        self._reach_B = torch.zeros_like(state.positions_B)  # inputs that it has heard of what stands

    def admit(self, rows: Sequence[int]) -> None:
        """Go on with the utterances that are new in these rows."""
        self._session.admit(rows)
        self._reach_B[list(rows)] = self._state.positions_B[list(rows)]

    def propose(self) -> Tree:
        """A tree of every row."""
        state = self._state
        growth = Growth.of(state, state.laws(self._catch_up(), state.codes_BKN[..., :0]))
        while (parents_BN := self._shape.next(growth)) is not None:
            self._hear(growth)
            for parent_B in parents_BN.unbind(1):
                growth.add(parent_B, state, distinct=self._shape.distinct)
        self._reach_B = state.positions_B + 1
        self._session.rewind(self._reach_B.where(state.active_B, 0))
        return growth.tree(distinct=self._shape.distinct)

    def _catch_up(self) -> Sequence[Tensor]:
        """Logits [B, 1, V_k] of the next position; it hears what has come to stand since the last tree."""
        state = self._state
        heard_B = torch.minimum(self._reach_B, state.positions_B).where(state.active_B, 0)
        self._session.rewind(heard_B)
        missing_B = (state.positions_B - heard_B).where(state.active_B, 0)
        logits = self._session.hear(state.inputs(heard_B, int(missing_B.max()) + 1))
        self._session.rewind((state.positions_B + 1).where(state.active_B, 1))
        rows_B = torch.arange(len(missing_B), device=missing_B.device)
        return [logits_BNV[rows_B, missing_B][:, None] for logits_BNV in logits]

    def _hear(self, growth: Growth) -> None:
        """The laws of the nodes that have not been heard."""
        first = growth.laws[0].shape[1] - 1
        if first == growth.nodes:
            return
        branches = Branches.of(growth.parents_BG).last(growth.nodes - first)
        logits = self._session.branch(growth.heard_BKG[..., first:], branches)
        for node in range(first, growth.nodes):
            here = [logits_BNV[:, node - first : node - first + 1] for logits_BNV in logits]
            law = growth.along(node, lambda path_BKD: self._state.laws(here, path_BKD))  # noqa: B023 (asked at once)
            growth.laws = [torch.cat(pair, 1) for pair in zip(growth.laws, law)]


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
