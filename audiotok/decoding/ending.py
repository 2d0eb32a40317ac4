"""Where an utterance ends whose length is not known beforehand: what may stand at each place, given what stands before it.

A model of codes says the end on codebook 0, as an id behind all others, where codebook 0 has no code left. What is left of the layout
follows: in a delay the other codebooks' last codes, with pad ids in the holes. The engine, which ends a row where codebook 0 says the end,
is shown the layout as it is, and the end behind it. Two codebooks, delayed; E the end:

    what the model says   1 2 3 4 E        what the engine sees   1 2 3 4 _ E
                          _ 5 6 7 8                               _ 5 6 7 8

In a stack the end may be within a position: its pad ids may be chosen on the codebooks that say so, and the end has to follow.
So `invert` takes whatever has been generated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from audiotok.decoding.samplers import within
from audiotok.decoding.step import Step
from audiotok.transforms.base import Layout
from audiotok.types import TokenSpec

PROBED = 64  # lengths at which a layout is looked at: more than the frames that any puts into one position
OPEN = 2**40  # where a row is closed that is not closed yet


@dataclass(frozen=True)
class Limits:
    """Which ids may stand at each position of a layout whose end is free; see `limits`."""

    first_KN: Tensor  # ids first <= id < end
    end_KN: Tensor
    may_end_N: Tensor  # bool: the positions at which codebook 0 may have ended
    closes_K: Tensor  # bool: the codebooks whose pad id says that the utterance ends, within the position where it is not codebook 0's
    tail_KR: Tensor  # bool: the holes of the positions that are left from where codebook 0 has ended
    pads_K: Tensor
    ending: int  # the id of codebook 0 that is the end

    def to(self, device: torch.device | str) -> "Limits":
        codes = (self.first_KN, self.end_KN, self.may_end_N, self.closes_K, self.tail_KR, self.pads_K)
        first_KN, end_KN, may_end_N, closes_K, tail_KR, pads_K = (tensor.to(device) for tensor in codes)
        return Limits(first_KN, end_KN, may_end_N, closes_K, tail_KR, pads_K, ending=self.ending)


def limits(transform: Layout, spec: TokenSpec, *, max_frames: int) -> Limits:
    """Of utterances of 1 to `max_frames` frames, or as many as its last position holds; `spec` is the original one.

    The last position is that of the longest one's end: a row that is still there without having said it has not come to its end. Raises
    ValueError where what stands before the end depends on where the end is (`CoarseFirst`), or the end is said in two ways at once.
    """
    sizes = transform.out_spec(spec).codebook_sizes
    longest = _Shape.of(transform, spec, max_frames)
    beyond = max_frames + PROBED + longest.legal_KN.shape[1] - longest.ended
    endless, positions = _Shape.of(transform, spec, beyond), longest.legal_KN.shape[1] + 1
    tail_KR, pads_K = ~endless.legal_KN[:, endless.ended :], torch.tensor(sizes) - 1
    closes_K = torch.zeros(len(sizes), dtype=torch.bool)
    for num_frames in range(max(1, max_frames - PROBED), beyond):
        closes_K |= _closing(_Shape.of(transform, spec, num_frames), endless, tail_KR, transform=transform)
    may_end_N = F.pad(transform.frame_index(beyond, spec)[:positions].diff() != 0, (1, 0))
    if closes_K.any() and (tail_KR.shape[1] or not may_end_N[1:].all()):
        raise _refusal(transform)
    end_KN = torch.where(closes_K[:, None], pads_K[:, None] + 1, endless.end_KN)
    closes_K[0] = tail_KR.shape[1] > 0
    return Limits(endless.first_KN[:, :positions], end_KN[:, :positions], may_end_N, closes_K, tail_KR, pads_K, ending=sizes[0])


def with_moves(codes: Limits) -> Limits:
    """The same with a codebook behind the others that says whether the pointer at a text moves on after a position (`ValleR`).

    It may move where a frame ends. As where the pointer is says where the end is, no pad id within a position does.
    """
    held_K = codes.closes_K.clone()
    held_K[0] = False
    end_KN = torch.where(held_K[:, None], codes.pads_K[:, None], codes.end_KN)
    moves_1N = 1 + torch.cat([codes.may_end_N[1:], codes.may_end_N[-1:]])[None].long()
    return Limits(
        F.pad(codes.first_KN, (0, 0, 0, 1)),
        torch.cat([end_KN, moves_1N]),
        codes.may_end_N,
        F.pad(codes.closes_K & ~held_K, (0, 1)),
        F.pad(codes.tail_KR, (0, 0, 0, 1)),
        F.pad(codes.pads_K, (0, 1), value=2),
        ending=codes.ending,
    )


@dataclass(frozen=True)
class _Shape:
    """The layout of so many frames: where codes stand, of which ids, and at which position codebook 0 has ended."""

    legal_KN: Tensor
    first_KN: Tensor
    end_KN: Tensor
    ended: int

    @classmethod
    def of(cls, transform: Layout, spec: TokenSpec, num_frames: int) -> "_Shape":
        legal_KN = transform.legal(num_frames, spec)
        return cls(legal_KN, *transform.legal_ids(num_frames, spec), ended=int(legal_KN[0].sum()))


def _closing(shape: _Shape, endless: _Shape, tail_KR: Tensor, *, transform: Layout) -> Tensor:
    """bool_K: the codebook, if any, whose hole says that an utterance ends within its last position. Raises ValueError as `limits`."""
    length, ended = shape.legal_KN.shape[1], shape.ended
    same_KN = (shape.first_KN == endless.first_KN[:, :length]) & (shape.end_KN == endless.end_KN[:, :length])
    if length - ended != tail_KR.shape[1] or not (same_KN | ~shape.legal_KN).all() or not same_KN[:, : ended - 1].all():
        raise _refusal(transform)
    if not torch.equal(shape.legal_KN[:, ended:], endless.legal_KN[:, ended:length] & ~tail_KR):
        raise _refusal(transform)
    differs_K = ~same_KN[:, ended - 1]
    return differs_K & (differs_K.cumsum(0) == 1)


def _refusal(transform: Layout) -> ValueError:
    return ValueError(
        f"{transform!r}: where its codes stand depends on how many frames there will be, which this model does not know beforehand; "
        "choose transform=parallel, delay, flatten, stack2 or merge2"
    )


class Limited:
    """A step that says -inf of what may not stand: logits as `step` has them, within limits (`audiotok.decoding.step.Step`)."""

    def __init__(self, step: Step, limits: Limits, *, rows: int) -> None:
        self.step, self.limits = step, limits
        self.heard_B = torch.zeros(rows, dtype=torch.int64, device=limits.pads_K.device)
        self.closed_B = torch.full_like(self.heard_B, OPEN)  # the position that has closed the utterance
        self._hole = int(limits.pads_K[0]) if limits.closes_K[0] else None  # behind the codes of codebook 0

    def __call__(self, heard_BKN: Tensor) -> Sequence[Tensor]:
        place_BN = self.heard_B[:, None] + torch.arange(heard_BKN.shape[2], device=self.heard_B.device)
        closing_BN = ((heard_BKN == self.limits.pads_K[:, None]) & self.limits.closes_K[:, None]).any(1)
        closed_BN = torch.where(closing_BN, place_BN - 1, OPEN).cummin(1).values.minimum(self.closed_B[:, None])
        logits = self.step(self._told(heard_BKN))
        self.heard_B, self.closed_B = self.heard_B + heard_BKN.shape[2], closed_BN[:, -1]
        return self._within(logits, place_BN, closed_BN)

    def rewind(self, heard_B: Tensor) -> None:
        self.step.rewind(heard_B)
        self.heard_B = heard_B.clone()
        self.closed_B = self.closed_B.where(self.closed_B < heard_B - 1, OPEN)

    def put(self, row: int, other: "Limited") -> None:
        self.step.put(row, other.step)
        self.heard_B[row], self.closed_B[row] = other.heard_B[0], other.closed_B[0]

    def _told(self, heard_BKN: Tensor) -> Tensor:
        """What the model hears: the end where codebook 0 has a hole behind its codes."""
        if self._hole is None:
            return heard_BKN
        first_B1N = heard_BKN[:, :1]
        return torch.cat([first_B1N.masked_fill(first_B1N == self._hole, self.limits.ending), heard_BKN[:, 1:]], 1)

    def _within(self, logits: Sequence[Tensor], place_BN: Tensor, closed_BN: Tensor) -> list[Tensor]:
        known, tail = self.limits, self.limits.tail_KR.shape[1]
        column_BN, since_BN = place_BN.clamp_max(known.may_end_N.shape[0] - 1), (place_BN - closed_BN).clamp_min(-1)
        first_KBN, end_KBN = known.first_KN[:, column_BN], known.end_KN[:, column_BN]
        if tail:
            pads_K11 = known.pads_K[:, None, None]
            hole_KBN = known.tail_KR[:, since_BN.clamp(0, tail - 1)] & (since_BN > 0)
            first_KBN, end_KBN = torch.where(hole_KBN, pads_K11, first_KBN), torch.where(hole_KBN, pads_K11 + 1, end_KBN)
        kept = [within(logits_BNV, first_BN, end_BN) for logits_BNV, first_BN, end_BN in zip(logits, first_KBN, end_KBN)]
        may_BN = known.may_end_N[column_BN] & (since_BN < 0)
        return [self._with_end(kept[0], logits[0][..., known.ending], may_BN, since_BN >= max(tail, 1)), *kept[1:]]

    def _with_end(self, kept_BNV: Tensor, end_BN: Tensor, may_BN: Tensor, over_BN: Tensor) -> Tensor:
        """Codebook 0, where it may say its end, shown as its first hole if there is one, and where nothing else is left to say."""
        shown_V = torch.arange(kept_BNV.shape[-1], device=kept_BNV.device)
        shown_as = self.limits.ending if self._hole is None else self._hole
        kept_BNV = torch.where(may_BN[..., None] & (shown_V == shown_as), end_BN[..., None], kept_BNV)
        last_BNV = end_BN[..., None].masked_fill(shown_V != self.limits.ending, float("-inf"))
        return torch.where(over_BN[..., None], last_BNV, kept_BNV)
