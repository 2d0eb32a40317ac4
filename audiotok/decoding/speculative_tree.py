"""Speculative decoding with several candidates a position: a drafter grows a tree, the model hears all of it at once, one path stands."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from audiotok.decoding.autoregressive import Listen, tell
from audiotok.decoding.branching import BranchingSession
from audiotok.decoding.rows import Job, Rows
from audiotok.decoding.samplers import Sampler
from audiotok.decoding.speculative import Round, Speculated
from audiotok.decoding.step import Begin
from audiotok.decoding.tree_verification import Candidates, Verifier
from audiotok.decoding.trees import Tree
from audiotok.nn.branching import Branches


class Growing(Protocol):
    """A drafter of trees in the midst of its work. It follows the rows, which the engine changes between two trees."""

    def admit(self, rows: Sequence[int]) -> None: ...

    def propose(self) -> Tree: ...


@dataclass(frozen=True)
class Walked:
    """What stands of a tree: codes [B, K, D], the first `counts_B` of each row, and the inputs (0 the root) that led there, [B, D]."""

    codes_BKD: Tensor
    counts_B: Tensor
    path_BD: Tensor


@torch.inference_mode()
def speculate_tree(
    begin: Begin,
    jobs: Sequence[Job],
    drafter: Callable[[Rows], Growing],
    verifier: Verifier,
    *,
    rows: int,
    codebook_sizes: Sequence[int],
    sampler: Sampler,
    device: torch.device | str,
    end: int | None = None,
    listen: Listen | None = None,
) -> Iterator[Speculated]:
    """Each job as it ends, with the probabilities of `generate`. In its rounds `drafted` counts all nodes, `accepted` those that stand.

    The first step that `begin` is asked for needs room for the longest job and a tree. Raises ValueError where a step cannot branch.
    """
    state = Rows(jobs, rows=rows, codebook_sizes=codebook_sizes, sampler=sampler, end=end, device=device)
    model, drafting = BranchingSession(begin, state), drafter(state)
    told: dict[int, tuple[int, list[Round]]] = {}  # of each row
    while not state.finished:
        new = state.admit()
        told |= {row: (int(state.positions_B[row]), []) for row in new}
        model.admit(new)
        drafting.admit(new)
        if any(state.active):
            tree = drafting.propose()
            walked = _heard_and_walked(tree, model, state, verifier)
            for row in [row for row, active in enumerate(state.active) if active]:
                told[row][1].append(Round(tree.parents_BG.shape[1], int(walked.counts_B[row]) - 1))
            first_B = state.positions_B.where(state.active_B, 0)
            taken_B = state.commit(walked.codes_BKD, walked.counts_B)
            tell(listen, state, walked.codes_BKD, taken_B)
            model.keep(first_B, walked.path_BD)
            model.rewind(state.positions_B.where(state.active_B, 0))
        for row, job, codes_KN in state.ended():
            start, rounds = told.pop(row)
            yield Speculated(job, codes_KN, start, tuple(rounds))


def _heard_and_walked(tree: Tree, model: BranchingSession, state: Rows, verifier: Verifier) -> Walked:
    heard_BKN = torch.cat([state.inputs(state.positions_B, 1), tree.heard_BKG], dim=2)
    return walk(tree, model.branch(heard_BKN, Branches.of(tree.parents_BG)), state, verifier)


def walk(tree: Tree, logits: Sequence[Tensor], state: Rows, verifier: Verifier) -> Walked:
    """From the root on, level by level in all rows, for as long as a node stands.

    Independent chains may begin alike: then all that did so are candidates for the next position, and `live` has more than one input.
    """
    walking_B = state.active_B.clone()
    live_BN = F.pad(torch.zeros_like(tree.present_BG), (1, 0), value=True)
    codes_BKD, path = state.codes_BKN[..., :0], []
    counts_B = torch.zeros_like(state.positions_B)
    while walking_B.any():
        path.append(live_BN.int().argmax(1))
        laws = state.laws(_at(logits, path[-1]), codes_BKD)
        children_BG = live_BN.gather(1, tree.parents_BG + 1) & tree.present_BG
        rows_R = walking_B.nonzero().flatten()
        chosen_R, next_RK = verifier.choose(_candidates(tree, laws, children_BG, path[-1], rows_R, state))
        next_BK = torch.zeros_like(state.codes_BKN[..., 0]).index_copy(0, rows_R, next_RK)
        codes_BKD = torch.cat([codes_BKD, next_BK[..., None]], dim=2)
        counts_B = counts_B + walking_B
        walking_B = torch.zeros_like(walking_B).index_copy(0, rows_R, chosen_R >= 0)
        alike_BG = (tree.codes_BKG == next_BK[..., None]).all(1)
        live_BN = F.pad(children_BG & alike_BG & walking_B[:, None], (1, 0), value=False)
    return Walked(codes_BKD, counts_B, torch.stack(path, dim=1))


def _at(logits: Sequence[Tensor], input_B: Tensor) -> list[Tensor]:
    """Of each row what follows one input, [B, 1, V_k]."""
    rows_B = torch.arange(len(input_B), device=input_B.device)
    return [logits_BNV[rows_B, input_B][:, None] for logits_BNV in logits]


def _candidates(tree: Tree, laws: Sequence[Tensor], children_BG: Tensor, input_B: Tensor, rows_R: Tensor, state: Rows) -> Candidates:
    """The children of what lives in some rows, in the order in which they were drawn."""
    children_RG = children_BG[rows_R]
    counts_R = children_RG.sum(-1)
    index_RM = (~children_RG).int().argsort(dim=-1, stable=True)[:, : int(counts_R.max())]
    codes_RMK = tree.codes_BKG[rows_R].transpose(1, 2).gather(1, index_RM[..., None].expand(-1, -1, tree.codes_BKG.shape[1]))
    heard_R = input_B[rows_R].clamp_max(tree.laws[0].shape[1] - 1)  # what the drafter has not heard has no children
    return Candidates(
        p=[law_B1V[rows_R, 0] for law_B1V in laws],
        q=[law_BNV[rows_R, heard_R] for law_BNV in tree.laws],
        codes_RMK=codes_RMK,
        counts_R=counts_R,
        distinct=tree.distinct,
        rows=rows_R.tolist(),
        uniforms=state.uniforms,
    )
