"""Verification of a drafted block as one: exact like `acceptance.Exact`, and never shorter on average (arXiv 2403.10444)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from audiotok.decoding.acceptance import Draft
from audiotok.decoding.samplers import Uniforms, invert_cdf


@dataclass(frozen=True)
class Block:
    """The emitted codes follow the target's joint law; a code may stand although its own ratio is small, where those before it had room.

    For one codebook. With p(x_i), q(x_i) the probabilities of the i-th drafted code given those before it,

        p_0 = 1,  p_i = min(p_{i-1} p(x_i) / q(x_i), 1),  S_i = sum over x of (p_i p(x) - q(x))+ at the position after i codes,
        h_i = S_i / (S_i + 1 - p_i) for i < G,  h_G = p_G:

    the largest i with u_i < h_i codes stand, and the next follows norm((p_i p - q)+), or p where i = G. Costs a pass over q and p of the
    whole block, where the rules that go code by code look up a code each.
    """

    def verify(
        self, p: Sequence[Tensor], q: Sequence[Tensor], drafted_BKG: Tensor, uniforms: Uniforms, *, active_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `acceptance.Rule` says. Raises ValueError for more than one codebook."""
        if len(p) != 1:
            raise ValueError(f"block verification is for one codebook, got {len(p)}; choose acceptance=exact")
        draft = Draft.of(p, q, drafted_BKG, uniforms, active_B)
        p_RGV, q_RGV, codes_RG = draft.by_row(draft.p[0]), draft.by_row(draft.q[0]), draft.codes_RGK[..., 0]
        reached_RG = _reached(p_RGV, q_RGV, codes_RG)
        accepted_R = _longest(reached_RG, p_RGV, q_RGV, draft.numbers(draft.length))
        last_R1 = reached_RG.gather(-1, accepted_R[:, None])

        def residual(stopped: Draft, accepted_S: Tensor) -> Tensor:
            [p_SV], [q_SV] = stopped.laws_at(accepted_S)
            left_SV = (last_R1[accepted_R < draft.length] * p_SV - q_SV).clamp(min=0)
            # Nothing is left only where rounding alone told p from q.
            left_SV = left_SV.where(left_SV.sum(-1, keepdim=True) > 0, p_SV)
            return invert_cdf(left_SV, stopped.numbers(1)[:, 0])[:, None]

        return draft.follow(accepted_R, residual)

    def bind(self, vectors: Sequence[Tensor]) -> "Block":
        return self


def _reached(p_RGV: Tensor, q_RGV: Tensor, codes_RG: Tensor) -> Tensor:
    """p_0 ... p_G, [R, G + 1]."""
    own_RG1 = codes_RG[..., None]
    ratio_RG = (p_RGV[:, :-1].gather(-1, own_RG1) / q_RGV.gather(-1, own_RG1)).squeeze(-1).nan_to_num(nan=0.0)
    reached = [torch.ones_like(p_RGV[:, 0, 0])]
    for ratio_R in ratio_RG.unbind(-1):
        reached.append((reached[-1] * ratio_R).clamp(max=1))
    return torch.stack(reached, dim=-1)


def _longest(reached_RG: Tensor, p_RGV: Tensor, q_RGV: Tensor, numbers_RG: Tensor) -> Tensor:
    """The largest i with u_i < h_i, 0 where there is none. The fraction is multiplied out, for it is 0/0 where p = q."""
    length = q_RGV.shape[1]
    left_RG = (reached_RG[:, 1:length, None] * p_RGV[:, 1:length] - q_RGV[:, 1:]).clamp(min=0).sum(-1)
    left_RG = torch.cat([left_RG, reached_RG[:, -1:]], dim=1)[:, :length]  # past the block q is 0, so that S_G = p_G and h_G = p_G
    stands_RG = numbers_RG * (left_RG + 1 - reached_RG[:, 1:]) < left_RG
    return F.pad(stands_RG * torch.arange(1, length + 1, device=numbers_RG.device), (1, 0)).amax(-1)
