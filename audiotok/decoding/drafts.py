"""Drafters: who says ahead what a model is then asked to confirm."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from audiotok.decoding.rows import Rows
from audiotok.decoding.samplers import invert_cdf
from audiotok.decoding.session import Session
from audiotok.decoding.speculative import Proposal
from audiotok.decoding.step import Begin


class Lengths(Protocol):
    """How far ahead a drafter speaks."""

    @property
    def longest(self) -> int:
        """The most positions that a draft can have."""
        ...

    def next(self) -> int:
        """Positions of the next draft."""
        ...

    def learn(self, drafted: int, accepted: Sequence[int]) -> None:
        """Hear how many of the drafted positions stand, of each row."""
        ...


class Fixed:
    """The same length always."""

    def __init__(self, length: int) -> None:
        if length < 1:
            raise ValueError(f"a draft has at least one position; got {length}")
        self.longest = length

    def next(self) -> int:
        return self.longest

    def learn(self, drafted: int, accepted: Sequence[int]) -> None:
        pass


class Thompson:
    """The length that pays most at an acceptance drawn from what is believed of it (EESD, arXiv 2406.03853).

    A draft of G positions, each accepted with probability a, gives (1 - a^(G+1)) / (1 - a) positions at the cost of one step of the model
    and of G steps of the drafter, `cost` of the model's each. The belief is a Beta distribution, uniform at first. All rows share a length,
    so that with it an utterance's codes depend on its batch, though not their probabilities.
    """

    def __init__(self, longest: int, *, cost: float, seed: int) -> None:
        if longest < 1 or cost < 0:
            raise ValueError(f"a draft has at least one position, and costs at least nothing; got {longest} and {cost}")
        self.longest, self.cost = longest, cost
        self._accepted, self._rejected = 1.0, 1.0
        self._generator = torch.Generator().manual_seed(seed)

    def next(self) -> int:
        acceptance = float(_beta(self._accepted, self._rejected, self._generator))
        gains = [sum(acceptance**i for i in range(length + 1)) / (1 + length * self.cost) for length in range(1, self.longest + 1)]
        return 1 + gains.index(max(gains))

    def learn(self, drafted: int, accepted: Sequence[int]) -> None:
        self._accepted += sum(accepted)
        self._rejected += sum(count < drafted for count in accepted)


class ByModel:
    """Another model of the same codes, as a rule a small one, speaks ahead. The first step of `begin` needs room for a draft besides."""

    def __init__(self, state: Rows, *, begin: Begin, lengths: Lengths) -> None:
        self._state, self._session, self._lengths = state, Session(begin, state), lengths
        self._reach_B = torch.zeros_like(state.positions_B)  # inputs that it has heard, its own draft's included

    def admit(self, rows: Sequence[int]) -> None:
        self._session.admit(rows)
        self._reach_B[list(rows)] = self._state.positions_B[list(rows)]

    def propose(self) -> Proposal:
        state, length = self._state, self._lengths.next()
        logits, codes_BKG, laws = self._catch_up(), state.positions_B.new_empty(len(state.jobs_B), len(state.codebook_sizes), 0), []
        for ahead in range(length):
            if ahead:
                logits = self._session(state.ahead(codes_BKG)[..., -1:])
            law = state.laws(logits, codes_BKG)
            codes_BKG = torch.cat([codes_BKG, _draw(law, state)[..., None]], dim=2)
            laws.append(law)
        self._reach_B = state.positions_B + length
        return Proposal(codes_BKG, [torch.cat(each, dim=1) for each in zip(*laws)])

    def _catch_up(self) -> Sequence[Tensor]:
        """Logits [B, 1, V_k] of the next position. Of what stands it has not heard the last code, or the last two if all were accepted."""
        state = self._state
        heard_B = torch.minimum(self._reach_B, state.positions_B).where(state.active_B, 0)
        self._session.rewind(heard_B)
        logits = self._session(state.inputs(heard_B, 2))
        self._session.rewind((state.positions_B + 1).where(state.active_B, 0))
        last_B = (state.positions_B - heard_B).clamp_max(1)
        rows_B = torch.arange(len(last_B), device=last_B.device)
        return [logits_BNV[rows_B, last_B][:, None] for logits_BNV in logits]

    def learn(self, drafted: int, accepted: Sequence[int]) -> None:
        self._lengths.learn(drafted, accepted)


class ByRepetition:
    """What followed the last time that the row's last `order` positions stood there (prompt lookup); else its last position again.

    It costs nothing and knows silences and held sounds. A position of several codebooks must agree in all of them.
    """

    def __init__(self, state: Rows, *, order: int, lengths: Lengths) -> None:
        if order < 1:
            raise ValueError(f"a repetition is known by at least one position; got order={order}")
        self._state, self._order, self._lengths = state, order, lengths

    def admit(self, rows: Sequence[int]) -> None:
        pass

    def propose(self) -> Proposal:
        state, length = self._state, self._lengths.next()
        distance_B1 = self._distance()[:, None]
        ahead_BG = state.positions_B[:, None] - distance_B1 + torch.arange(length, device=distance_B1.device) % distance_B1
        index_B1G = ahead_BG.clamp_min(0)[:, None].expand(-1, len(state.codebook_sizes), -1)
        codes_BKG = state.codes_BKN.gather(2, index_B1G).clamp_min(0)
        return Proposal(codes_BKG, [_certain(codes_BG, size) for codes_BG, size in zip(codes_BKG.unbind(1), state.codebook_sizes)])

    def _distance(self) -> Tensor:
        """How many positions ago the last ones stood before, [B]; 1 where they never did."""
        state, order = self._state, self._order
        if state.codes_BKN.shape[2] <= order:
            return torch.ones_like(state.positions_B)
        windows_BKNO = state.codes_BKN.unfold(2, order, 1)
        last_B = (state.positions_B - order).clamp_min(0)
        key_BKO = windows_BKNO[torch.arange(len(last_B), device=last_B.device), :, last_B]
        same_BN = (windows_BKNO == key_BKO[:, :, None]).all(3).all(1)
        place_N = torch.arange(same_BN.shape[1], device=last_B.device)
        latest_B = torch.where(same_BN & (place_N < last_B[:, None]), place_N, -1).amax(1)
        return torch.where(latest_B >= 0, last_B - latest_B, 1)

    def learn(self, drafted: int, accepted: Sequence[int]) -> None:
        self._lengths.learn(drafted, accepted)


def _draw(law: Sequence[Tensor], state: Rows) -> Tensor:
    """codes_BK, one of each law [B, 1, V_k]."""
    uniforms_BK = state.uniforms.draw(len(law))[0].to(state.device)
    return torch.stack([invert_cdf(law_B1V[:, 0], uniforms_BK[:, k]) for k, law_B1V in enumerate(law)], dim=1)


def _certain(codes_BG: Tensor, size: int) -> Tensor:
    return torch.nn.functional.one_hot(codes_BG, size).double()


def _beta(a: float, b: float, generator: torch.Generator) -> Tensor:
    """A draw from Beta(a, b), by two from Gamma."""
    one, other = (torch._standard_gamma(torch.tensor(value, dtype=torch.float64), generator=generator) for value in (a, b))
    return one / (one + other)
