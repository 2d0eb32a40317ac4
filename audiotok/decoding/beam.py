"""Beam search: the likeliest codes rather than drawn ones, position by position.

The codebooks of a position are foretold apart from each other, so that its law is a product; the best of a product are found without
looking at all of it. With as many beams as there are sequences the search is exact, with one it is greedy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from audiotok.decoding.samplers import within
from audiotok.decoding.step import NONE, Step


class Branching(Step, Protocol):
    """A step whose rows can go on from where other rows are."""

    def reorder(self, rows_B: Tensor) -> None:
        """Go on in row b with what row `rows_B[b]` has heard."""
        ...

    def put(self, row: int, other: Self) -> None: ...


@dataclass(frozen=True)
class Beam:
    """A sequence codes_KN, its log-probability in nats."""

    codes_KN: Tensor
    score: float


@torch.inference_mode()
def search(step: Branching, *, beams: int, legal: tuple[Tensor, Tensor]) -> list[Beam]:
    """The best sequences of one utterance that were found, best first; at each place only codes first <= code < end are chosen.

    `step` has one row for each of `beams`, all of the same utterance, and has heard nothing. `legal` is (first_KN, end_KN), N the length.
    Raises ValueError for no beam, FloatingPointError where logits are not finite.
    """
    if beams < 1:
        raise ValueError(f"beam search keeps at least one sequence; got beams={beams}")
    first_KN, end_KN = legal
    codes_BKN = torch.full((beams, first_KN.shape[0], 0), NONE, device=first_KN.device)
    score_B = torch.full((beams,), -torch.inf, dtype=torch.float64, device=first_KN.device)
    score_B[0] = 0.0  # all rows are the same sequence yet
    for position in range(first_KN.shape[1]):
        laws = _laws(step(_last(codes_BKN)), first_KN[:, position], end_KN[:, position])
        rows_B, chosen_BK, score_B = _best(score_B, laws)
        step.reorder(rows_B)
        codes_BKN = torch.cat([codes_BKN[rows_B], chosen_BK[..., None]], dim=2)
    return [Beam(codes_KN, score) for codes_KN, score in zip(codes_BKN, score_B.tolist()) if score > -torch.inf]


def _last(codes_BKN: Tensor) -> Tensor:
    return codes_BKN[..., -1:] if codes_BKN.shape[2] else codes_BKN.new_full((*codes_BKN.shape[:2], 1), NONE)


def _laws(logits: Sequence[Tensor], first_K: Tensor, end_K: Tensor) -> list[Tensor]:
    """Of each codebook, log-probabilities [B, V_k] of what may stand."""
    if not all(bool(torch.isfinite(logits_B1V).all()) for logits_B1V in logits):
        raise FloatingPointError("the model's logits are not finite; its training has diverged: take an earlier checkpoint")
    kept = [within(logits_B1V[:, 0].double(), *limits) for logits_B1V, limits in zip(logits, zip(first_K[:, None], end_K[:, None]))]
    return [logits_BV.log_softmax(-1) for logits_BV in kept]


def _best(score_B: Tensor, laws: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """(rows they go on from, codes_BK, scores) of the B best continuations of B sequences.

    A prefix of a best product is among the B best prefixes of its row: so many are kept of each row, codebook by codebook, then of all.
    """
    beams = len(score_B)
    total_BM, codes_BMK = score_B[:, None], torch.zeros(beams, 1, 0, dtype=torch.int64, device=score_B.device)
    for law_BV in laws:
        size = law_BV.shape[1]
        total_BM, index_BM = _top((total_BM[..., None] + law_BV[:, None]).flatten(1), beams)
        before_BMK = codes_BMK.gather(1, (index_BM // size)[..., None].expand(-1, -1, codes_BMK.shape[2]))
        codes_BMK = torch.cat([before_BMK, (index_BM % size)[..., None]], dim=2)
    score_M, index_M = _top(total_BM.flatten(), beams)
    short = beams - len(score_M)  # fewer continuations than beams: the last ones stand for nothing
    score_M = torch.cat([score_M, score_M.new_full((short,), -torch.inf)])
    index_M = torch.cat([index_M, index_M.new_zeros(short)])
    return index_M // total_BM.shape[1], codes_BMK.flatten(0, 1)[index_M], score_M


def _top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest scores along the last axis, of equals the first, and where they are."""
    ordered = scores.sort(dim=-1, descending=True, stable=True)
    return ordered.values[..., :count], ordered.indices[..., :count]
