"""Drawing positions one after the other from one product of laws, each unlike those before it."""

from collections.abc import Sequence

import torch
from torch import Tensor

LEAST_LEFT = 1e-9  # of a law, for another code to be drawn from what is left: below it rounding decides


def draw_unlike(laws: Sequence[Tensor], tried_RMK: Tensor, tried_RM: Tensor, uniforms_RK: Tensor) -> Tensor:
    """codes_RK from the product of K laws [R, V_k], given that they are none of those at `tried_RMK` where `tried_RM` (distinct ones).

    Codebook by codebook. With T the positions tried that begin with the codes drawn so far, code v is drawn in proportion to

        q_k(v) - sum over t in T with t_k = v of q_k(t_k) q_{k+1}(t_{k+1}) ... q_K(t_K),

    so that nothing is drawn twice over, however little of the law is left. Where nothing is left, some codes.
    """
    own_RMK = own_probabilities(laws, tried_RMK)
    behind_RMK = own_RMK.flip(-1).cumprod(-1).flip(-1)  # of the codes from k on
    possible_RM, codes = tried_RM, []
    for k, law_RV in enumerate(laws):
        left_RV = law_RV.scatter_add(-1, tried_RMK[..., k], -behind_RMK[..., k] * possible_RM).clamp(min=0)
        cumulative_RV = left_RV.cumsum(-1)
        target_R1 = uniforms_RK[:, k, None] * cumulative_RV[:, -1:]
        code_R = torch.searchsorted(cumulative_RV, target_R1, right=True).squeeze(-1).clamp_max(law_RV.shape[-1] - 1)
        possible_RM = possible_RM & (tried_RMK[..., k] == code_R[:, None])
        codes.append(code_R)
    return torch.stack(codes, dim=-1)


def own_probabilities(laws: Sequence[Tensor], codes_RMK: Tensor) -> Tensor:
    """Of each code its probability under the row's law of its codebook, [R, M, K]."""
    return torch.stack([law_RV.gather(-1, codes_RMK[..., k]) for k, law_RV in enumerate(laws)], dim=-1)
