"""Which estimate is of which voice, where nobody said: the order that fits best over the whole of an utterance (arXiv 1703.06284)."""

from itertools import permutations

import torch
from torch import Tensor

BOUND = 1e-10  # of what is left of 1 in a squared correlation, and of the correlation itself: ratios end at 100 dB either way


def least(losses_BST: Tensor) -> tuple[Tensor, Tensor]:
    """(loss_B, order_BS): the mean loss over voices in the order in which it is least; output order_BS[b, t] stands for voice t of row b.

    `losses_BST[b, s, t]` is the loss of output s held against voice t.
    """
    voices = losses_BST.shape[1]
    orders_OS = torch.tensor(list(permutations(range(voices))), device=losses_BST.device)
    losses_BO = torch.stack([losses_BST[:, order_S, range(voices)].mean(dim=1) for order_S in orders_OS], dim=1)
    loss_B, best_B = losses_BO.min(dim=1)
    return loss_B, orders_OS[best_B]


def ratios(estimates_ST: Tensor, references_ST: Tensor) -> Tensor:
    """The scale-invariant signal-to-distortion ratio in dB (arXiv 1811.02508) of each estimate to each reference, between -100 and 100."""
    estimates_ST, references_ST = (wav_ST.double() - wav_ST.double().mean(dim=1, keepdim=True) for wav_ST in (estimates_ST, references_ST))
    power_SR = estimates_ST.square().sum(dim=1)[:, None] * references_ST.square().sum(dim=1)
    share_SR = ((estimates_ST @ references_ST.T).square() / power_SR.clamp_min(1e-30)).clamp(BOUND, 1 - BOUND)
    return 10 * torch.log10(share_SR / (1 - share_SR))


def best_order(estimates_ST: Tensor, references_ST: Tensor) -> Tensor:
    """order_S of the ratios that sum up to most: estimate order_S[t] stands for reference t."""
    return least(-ratios(estimates_ST, references_ST)[None])[1][0]
