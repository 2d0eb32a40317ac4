"""Heads that foretell several positions from one hidden state of the model, which its verification of the draft before has given already.

A model that has heard inputs up to p has said position p. Head 0 tells p + 1, head 1 then p + 2 ...; each takes the state of the one before
and the input that the model would hear there, so that a draft follows from itself (Hydra, arXiv 2402.05109; the heads of Medusa, arXiv
2401.10774, hear nothing of it, those of Llasa+, arXiv 2508.06262, are layers of a transformer):

    hidden p --head 0--> state --head 1--> state --head 2--> state        the model's own head reads each state
                  |           |      |            |
              input p+1   says p+1  input p+2   says p+2
"""

import copy
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.models.early_exit import DIGEST_BYTES, digest, refuse_others
from audiotok.models.lesson import Lesson, Sayer, sayer, states
from audiotok.models.text import Batch
from audiotok.nn.matrix import Weights, with_matrices
from audiotok.nn.ranked import head


class Head(nn.Module):
    """state + what a gated layer makes of it and of the input; nothing at first, so that a head begins as the one before it."""

    def __init__(self, width: int, *, hidden: int) -> None:
        super().__init__()
        self.state_norm, self.input_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.input = nn.Linear(2 * width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, state_BND: Tensor, input_BND: Tensor) -> Tensor:
        gate, up = self.input(torch.cat([self.state_norm(state_BND), self.input_norm(input_BND)], -1)).chunk(2, dim=-1)
        return state_BND + self.down(F.silu(gate) * up)


class Heads(nn.Module):
    """`count` of them, for drafts of that many positions. What else a model is told when it is made is nothing to them."""

    made_for: Tensor

    def __init__(self, spec: object, *, width: int, count: int, hidden: int, **_: object) -> None:
        super().__init__()
        if count < 1:
            raise ValueError(f"drafter.count is at least 1; got {count}")
        self.heads = nn.ModuleList(Head(width, hidden=hidden) for _ in range(count))
        self.nothing = nn.Parameter(torch.zeros(width))  # the state before anything was heard
        self.register_buffer("made_for", torch.zeros(DIGEST_BYTES, dtype=torch.uint8))

    def meet(self, target: Any) -> None:
        """Remember whose drafter this is to be. Raises ValueError where it cannot be one of this model."""
        if (width := sayer(target).start.shape[0]) != len(self.nothing):
            raise ValueError(f"a drafter {len(self.nothing)} wide for a model of {width}; set its width to the model's")
        self.made_for.copy_(digest(target))

    def foretell(self, target: Sayer, lesson: Lesson, batch: Batch) -> list[Sequence[Tensor]]:
        """The logits [B, N, V_k] of each codebook at every place, once by each head; those of head j count from place j on."""
        state_BND, told = states(target.transformer, lesson), []
        for each in self.heads:
            state_BND = each(self._before(state_BND), lesson.inputs_BND)
            told.append(target.logits(state_BND))
        return told

    def _before(self, state_BND: Tensor) -> Tensor:
        return torch.cat([self.nothing.to(state_BND.dtype).expand(len(state_BND), 1, -1), state_BND[:, :-1]], 1)

    def as_read(self, weights: Weights) -> "Heads":
        """The same with smaller weights, to draft with."""
        twin = copy.copy(self)
        twin._modules = {"heads": with_matrices(self.heads, weights)}
        return twin

    def of(self, model: Any, *, kept_R: Tensor | None, weights: Weights) -> tuple["Overheard", "Foretelling"]:
        """(the model to be spoken with, its drafter), for one script. Raises ValueError where these heads were not distilled for it."""
        refuse_others(self.made_for, model)
        overheard = Overheard(model)
        return overheard, Foretelling(self, overheard, kept_R=kept_R, weights=weights)


class Overheard:
    """A model whose steps keep their hidden states for a drafter; `begun` are those that no step of the drafter has met yet."""

    def __init__(self, model: Sayer) -> None:
        self.model, self.begun = model, deque[OverheardStep]()

    @torch.inference_mode()
    def begin(self, *told: Any, positions: int, **more: Any) -> "OverheardStep":
        self.begun.append(OverheardStep(self.model.begin(*told, positions=positions, **more), positions=positions))
        return self.begun[-1]


class OverheardStep:
    """A step that keeps the hidden state after each input, hidden_BSD; what stands past `heard_B` is of what was taken back."""

    def __init__(self, step: Any, *, positions: int) -> None:
        self.step, self.positions = step, positions
        self.hidden_BSD: Tensor | None = None

    @property
    def heard_B(self) -> Tensor:
        return self.step.heard_B

    @torch.inference_mode()
    def __call__(self, heard_BKN: Tensor) -> Sequence[Tensor]:
        place_BN = self.step.places(heard_BKN.shape[2])
        hidden_BND = self.step.hear(self.step.embed(heard_BKN, place_BN))
        memory_BSD = self._memory(hidden_BND)
        index_BND = place_BN.clamp_max(self.positions - 1)[..., None].expand_as(hidden_BND)
        memory_BSD.scatter_(1, index_BND, hidden_BND)
        return self.step.logits(hidden_BND)

    def _memory(self, hidden_BND: Tensor) -> Tensor:
        if self.hidden_BSD is None:
            self.hidden_BSD = hidden_BND.new_zeros(len(hidden_BND), self.positions, hidden_BND.shape[2])
        return self.hidden_BSD

    def rewind(self, heard_B: Tensor) -> None:
        self.step.rewind(heard_B)

    def put(self, row: int, other: "OverheardStep") -> None:
        self.step.put(row, other.step)
        if self.hidden_BSD is not None and other.hidden_BSD is not None:
            self.hidden_BSD[row, : other.positions] = other.hidden_BSD[0]


class Foretelling:
    """The drafter of an overheard model. Its steps are begun after the model's and as often: the n-th goes with the model's n-th."""

    def __init__(self, heads: Heads, overheard: Overheard, *, kept_R: Tensor | None, weights: Weights) -> None:
        self.heads, self.overheard, self.model = heads, overheard, overheard.model
        self._head = head(self.model.transformer, self.model.heads(), kept_R=kept_R, weights=weights)

    def begin(self, *told: Any, positions: int, **more: Any) -> "ForetellingStep":
        return ForetellingStep(self, self.overheard.begun.popleft())

    def logits(self, state_BND: Tensor) -> Sequence[Tensor]:
        return (self._head(state_BND) + self.model.bias).split(self.model.codebook_sizes, dim=-1)


class ForetellingStep:
    """Utterances whose model's step keeps what is known of them (`audiotok.decoding.step.Step`).

    An input right behind those that the model has heard is told by the first head, the one after it by the second, and so on.
    """

    def __init__(self, model: Foretelling, overheard: OverheardStep) -> None:
        self.model, self.overheard = model, overheard
        self.heard_B = torch.zeros_like(overheard.heard_B)
        self.state_BD = model.heads.nothing.expand(len(self.heard_B), -1).clone()

    @torch.inference_mode()
    def __call__(self, heard_BKN: Tensor) -> Sequence[Tensor]:
        states = [self._next(heard_BKN[..., n : n + 1]) for n in range(heard_BKN.shape[2])]
        return self.model.logits(torch.cat(states, 1))  # the head is what costs: it is read once

    def _next(self, heard_BK1: Tensor) -> Tensor:
        heads, ahead_B = self.model.heads.heads, self.heard_B - self.overheard.heard_B
        input_B1D = self.overheard.step.embed(heard_BK1, self.heard_B[:, None])
        state_B1D = self._known().where((ahead_B <= 0)[:, None], self.state_BD)[:, None]
        # A row that is further ahead than there are heads has heard what does not stand, and what it says is not looked at.
        number_B = ahead_B.clamp(0, len(heads) - 1)
        for number in number_B.unique().tolist():
            state_B1D = torch.where((number_B == number)[:, None, None], heads[number](state_B1D, input_B1D), state_B1D)
        self.state_BD, self.heard_B = state_B1D[:, 0], self.heard_B + 1
        return state_B1D

    def _known(self) -> Tensor:
        """The model's state before the next input, [B, D], where it has one."""
        nothing, hidden_BSD = self.model.heads.nothing, self.overheard.hidden_BSD
        if hidden_BSD is None:
            return nothing.expand(len(self.heard_B), -1)
        place_B = (self.heard_B - 1).clamp(0, hidden_BSD.shape[1] - 1)
        known_BD = hidden_BSD[torch.arange(len(place_B), device=place_B.device), place_B]
        return known_BD.where((self.heard_B > 0)[:, None], nothing)

    def rewind(self, heard_B: Tensor) -> None:
        self.heard_B = heard_B.clone()

    def put(self, row: int, other: "ForetellingStep") -> None:
        self.heard_B[row], self.state_BD[row] = other.heard_B[0], other.state_BD[0]
