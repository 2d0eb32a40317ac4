"""Speculative decoding (arXiv 2211.17192): a drafter speaks ahead, the model hears it all at once, a rule decides how much of it stands.

Drafter, rule and sampler are free to be combined. The sampler acts on both models alike, and on what a forced or legal place allows. Rows
accept different numbers of positions; none waits for another.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from audiotok.decoding.acceptance import Rule
from audiotok.decoding.autoregressive import Generated, Listen, tell
from audiotok.decoding.rows import Job, Rows
from audiotok.decoding.samplers import Sampler
from audiotok.decoding.session import Session
from audiotok.decoding.step import Begin


@dataclass(frozen=True)
class Proposal:
    """Codes_BKG of the next G positions, and the laws that they were drawn from: of each codebook float64 [B, G, V_k]."""

    codes_BKG: Tensor
    laws: Sequence[Tensor]


class Drafting(Protocol):
    """A drafter in the midst of its work. It follows the rows, which the engine changes between two drafts."""

    def admit(self, rows: Sequence[int]) -> None:
        """Go on with the utterances that are new in these rows."""
        ...

    def propose(self) -> Proposal:
        """Codes for the next positions of every row, drawn with the rows' own random numbers."""
        ...

    def learn(self, drafted: int, accepted: Sequence[int]) -> None:
        """Hear how many of the drafted positions stand, of each row that is active."""
        ...


Drafter = Callable[[Rows], Drafting]


@dataclass(frozen=True)
class Round:
    """How many positions were drafted, how many of them stand. One more follows, which the model itself has chosen, if there is room."""

    drafted: int
    accepted: int


@dataclass(frozen=True)
class Speculated(Generated):
    """What was said of a job, and how; `start` is the length of its prompt. The last round may be cut short by the job's end."""

    start: int
    rounds: tuple[Round, ...]


@torch.inference_mode()
def speculate(
    begin: Begin,
    jobs: Sequence[Job],
    drafter: Drafter,
    rule: Rule,
    *,
    rows: int,
    codebook_sizes: Sequence[int],
    sampler: Sampler,
    device: torch.device | str,
    end: int | None = None,
    listen: Listen | None = None,
) -> Iterator[Speculated]:
    """Each job as it ends, as `generate` would say it where the rule is exact: not code for code, but with the same probabilities.

    The first step that `begin` is asked for needs room for the longest job and a draft.
    """
    state = Rows(jobs, rows=rows, codebook_sizes=codebook_sizes, sampler=sampler, end=end, device=device)
    model, drafting = Session(begin, state), drafter(state)
    told: dict[int, tuple[int, list[Round]]] = {}  # of each row
    while not state.finished:
        new = state.admit()
        told |= {row: (int(state.positions_B[row]), []) for row in new}
        model.admit(new)
        drafting.admit(new)
        if any(state.active):
            draft = drafting.propose()
            codes_BKN, counts_B = _verified(draft, model, state, rule)
            accepted = [(row, count - 1) for row, count in enumerate(counts_B.tolist()) if state.active[row]]
            taken_B = state.commit(codes_BKN, counts_B)
            tell(listen, state, codes_BKN, taken_B)
            model.rewind(state.positions_B.where(state.active_B, 0))
            drafting.learn(draft.codes_BKG.shape[2], [count for _, count in accepted])
            for row, count in accepted:
                told[row][1].append(Round(draft.codes_BKG.shape[2], count))
        for row, job, codes_KN in state.ended():
            start, rounds = told.pop(row)
            yield Speculated(job, codes_KN, start, tuple(rounds))


def _verified(draft: Proposal, model: Session, state: Rows, rule: Rule) -> tuple[Tensor, Tensor]:
    """Codes [B, K, G + 1], and how many of them stand, from 1 on: those that are accepted and the one that the model adds."""
    heard_BKN = torch.cat([state.inputs(state.positions_B, 1), state.ahead(draft.codes_BKG)], dim=2)
    laws = state.laws(model(heard_BKN), draft.codes_BKG)
    accepted_B, next_BK = rule.verify(laws, draft.laws, draft.codes_BKG, state.uniforms, active_B=state.active_B)
    codes_BKN = torch.cat([draft.codes_BKG, next_BK[..., None]], dim=2)
    place_B11 = accepted_B[:, None, None].expand(-1, codes_BKN.shape[1], 1)
    return codes_BKN.scatter(2, place_B11, next_BK[..., None]), accepted_B + 1
