"""Residual vector quantisation as arithmetic on codebooks [K, V, D]."""

import torch
from torch import Tensor


def nearest_codes(latent_ND: Tensor, codebooks_KVD: Tensor) -> Tensor:
    """codes_KN, greedily: each stage takes the codeword nearest to what the stages before it left over."""
    residual_ND, rows = latent_ND, []
    for codebook_VD in codebooks_KVD:
        codes_N = (residual_ND[:, None] - codebook_VD).square().sum(dim=-1).argmin(dim=-1)
        rows.append(codes_N)
        residual_ND = residual_ND - codebook_VD[codes_N]
    return torch.stack(rows)


def sum_of_codewords(codes_KN: Tensor, codebooks_KVD: Tensor) -> Tensor:
    """latent_ND that the codes stand for."""
    latent_ND = torch.zeros(codes_KN.shape[1], codebooks_KVD.shape[2], device=codes_KN.device)
    for codes_N, codebook_VD in zip(codes_KN, codebooks_KVD):
        latent_ND = latent_ND + codebook_VD[codes_N]
    return latent_ND
