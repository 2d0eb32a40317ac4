"""The engine that speaks position by position. It knows nothing of models: it calls a step and draws.

A row that ends makes room for the next utterance, so that a long list is spoken by full batches. Each utterance draws with random numbers
of its own: what is spoken does not depend on who else is in the batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from audiotok.decoding.rows import Job, Rows
from audiotok.decoding.samplers import Sampler
from audiotok.decoding.session import Session
from audiotok.decoding.step import Begin

Listen = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class Generated:
    """What was said of a job, codes_KN."""

    job: int
    codes_KN: Tensor


@torch.inference_mode()
def generate(
    begin: Begin,
    jobs: Sequence[Job],
    *,
    rows: int,
    codebook_sizes: Sequence[int],
    sampler: Sampler,
    device: torch.device | str,
    end: int | None = None,
    listen: Listen | None = None,
) -> Iterator[Generated]:
    """Each job as it ends, in the order in which they end; at most `rows` are spoken at once.

    `begin(indices)` gives a step for these of the jobs; the first that is asked for needs room for the longest of all. A job ends before
    the position at which codebook 0 is `end`, and after its `max_positions` at the latest. `listen(job, codes_KN)` hears a job's codes
    as they are chosen. Raises ValueError where sizes disagree, FloatingPointError where logits are not finite.
    """
    state = Rows(jobs, rows=rows, codebook_sizes=codebook_sizes, sampler=sampler, end=end, device=device)
    session = Session(begin, state)
    while not state.finished:
        session.admit(state.admit())
        if any(state.active):
            logits = session(state.inputs(state.positions_B, 1))
            chosen_BK = state.choose([logits_B1V[:, 0] for logits_B1V in logits])
            taken_B = state.commit(chosen_BK[..., None], torch.ones_like(state.positions_B))
            tell(listen, state, chosen_BK[..., None], taken_B)
            if not all(state.active):
                session.rewind(state.positions_B.where(state.active_B, 0))  # a row that has ended hears on while the others speak
        for _, job, codes_KN in state.ended():
            yield Generated(job, codes_KN)


def tell(listen: Listen | None, state: Rows, codes_BKN: Tensor, taken_B: Tensor) -> None:
    """Let a listener hear what each row has taken of the codes."""
    if listen is None:
        return
    for row, (job, taken) in enumerate(zip(state.jobs_B, taken_B.tolist())):
        if job is not None and taken:
            listen(job, codes_BKN[row, :, :taken].cpu())
