"""Codes made wrong on purpose while a decoder learns, so that it forgives a language model's wrong ones."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from audiotok.models.quantisers import TrainableResidual

Corruption = Callable[[Tensor, Any], Tensor]  # (codes_BKN, the plain quantiser) -> codes_BKN; -1 stays -1


@dataclass(frozen=True)
class NearNeighbours:
    """Some codes replaced by one of the codewords nearest to theirs (RobustTok, arXiv 2503.08354).

    In a share `utterances` of the utterances, a share `codes` of the codes becomes one of the `neighbours` nearest others of its codebook.
    """

    utterances: float
    codes: float
    neighbours: int

    @torch.no_grad()
    def __call__(self, codes_BKN: Tensor, quantiser: Any) -> Tensor:
        """codes_BKN, those of a left-out codebook (-1) as they were."""
        batch = codes_BKN.shape[0]
        chosen_BKN = torch.rand(codes_BKN.shape, device=codes_BKN.device) < self.codes
        chosen_BKN &= (torch.rand(batch, 1, 1, device=codes_BKN.device) < self.utterances) & (codes_BKN >= 0)
        result_BKN = codes_BKN.clone()
        for column in range(codes_BKN.shape[1]):
            if (chosen_BN := chosen_BKN[:, column]).any():
                table_VD = codewords(quantiser, column)
                result_BKN[:, column][chosen_BN] = self._moved(codes_BKN[:, column][chosen_BN], table_VD)
        return result_BKN

    def _moved(self, codes_N: Tensor, table_VD: Tensor) -> Tensor:
        distance_NV = torch.cdist(table_VD[codes_N], table_VD)
        distance_NV.scatter_(1, codes_N[:, None], torch.inf)
        near_NV = distance_NV.topk(min(self.neighbours, len(table_VD) - 1), largest=False).indices
        drawn_N = torch.randint(near_NV.shape[1], (len(codes_N), 1), device=codes_N.device)
        return near_NV.gather(1, drawn_N)[:, 0]


def codewords(quantiser: Any, column: int) -> Tensor:
    """table_VD, what each code of a column adds to the latent."""
    size, device = quantiser.codebook_sizes[column], next(iter(quantiser.state_dict().values())).device
    codes_BKN = torch.zeros(1, column + 1, size, dtype=torch.int64, device=device)
    codes_BKN[0, column] = torch.arange(size, device=device)
    return quantiser.embed(codes_BKN)[0, column]


class Perturbed(nn.Module):
    """A residual quantiser whose decoder hears some of the codes wrong while all three learn (RobustTok, arXiv 2503.08354).

    The encoder gets the gradient at the latent that was decoded; codebooks and commitment learn from the codes as they were.
    """

    def __init__(self, quantiser: TrainableResidual, corrupt: Corruption, *, dim: int) -> None:
        super().__init__()
        if dim != quantiser.dim:
            raise ValueError(f"perturbed quantiser: a latent of {dim} dimensions, the quantiser takes {quantiser.dim}; they must agree")
        self.quantiser = quantiser
        self.corrupt = corrupt
        self.dim = dim

    def forward(self, latent_BND: Tensor) -> tuple[Tensor, Tensor]:
        """(quantised_BND through which gradients pass, commitment loss)."""
        quantised_BND, codes_BKN, commitment = self.quantiser.quantise(latent_BND)
        if not self.training:
            return quantised_BND, commitment
        plain = self.quantiser.plain()
        wrong_BKN = self.corrupt(codes_BKN, plain)
        # Where a codebook was left out, both are -1: what is taken for it cancels out.
        moved_BND = (plain.embed(wrong_BKN.clamp(min=0)) - plain.embed(codes_BKN.clamp(min=0))).sum(dim=1)
        return quantised_BND + moved_BND, commitment

    def plain(self) -> nn.Module:
        """The codebooks as they are now."""
        return self.quantiser.plain()
