"""Fewer frames at a fixed rate: every token stands for `frames` frames, the last one for what is left.

Most weights look at the frames' latents and are the same over a frame's width, since a plan has one weight for a frame; where a paper
weights each number by itself, the departure is named.
"""

from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

from audiotok.reductions.plan import Plan, means, picks, weighted


@dataclass(frozen=True)
class First:
    """The first frame of each group: plain downsampling, against which all else is held."""

    frames: int

    causal = True

    def __post_init__(self) -> None:
        _check_frames(self.frames)

    @property
    def uniform(self) -> int:
        return self.frames

    def plan(self, hidden_ND: Tensor) -> Plan:
        return picks(torch.arange(0, len(hidden_ND), self.frames, device=hidden_ND.device), _durations(hidden_ND, self.frames))


@dataclass(frozen=True)
class Average:
    """The mean of each group."""

    frames: int

    causal = True

    def __post_init__(self) -> None:
        _check_frames(self.frames)

    @property
    def uniform(self) -> int:
        return self.frames

    def plan(self, hidden_ND: Tensor) -> Plan:
        return means(_durations(hidden_ND, self.frames))


@dataclass(frozen=True)
class Max:
    """The frame of each group that is furthest from the centre of all codes; the first of equals.

    Max pooling takes the largest of each dimension, and so of several frames at once; here one frame is taken whole.
    """

    frames: int

    causal = True

    def __post_init__(self) -> None:
        _check_frames(self.frames)

    @property
    def uniform(self) -> int:
        return self.frames

    def plan(self, hidden_ND: Tensor) -> Plan:
        size_MF = _grouped(_size(hidden_ND), self.frames, beyond=-1)
        starts_M = self.frames * torch.arange(len(size_MF), device=size_MF.device)
        return picks(starts_M + size_MF.argmax(dim=1), _durations(hidden_ND, self.frames))


@dataclass(frozen=True)
class Soft:
    """A mean of each group in which large frames count more, by the exponential of their size (SoftPool, arXiv 2101.00440).

    SoftPool weights each number by its own exponential. The signs and axes of a latent mean nothing, so a frame's size is here the root of
    the mean square of its numbers, which is of the order of one of them.
    """

    frames: int

    causal = True

    def __post_init__(self) -> None:
        _check_frames(self.frames)

    @property
    def uniform(self) -> int:
        return self.frames

    def plan(self, hidden_ND: Tensor) -> Plan:
        return _of_weights(_soft(hidden_ND, self.frames), hidden_ND)


@dataclass(frozen=True)
class Adaptive:
    """Between `Soft` and a mean in which frames count more the nearer they are to the group's mean (AdaPool, arXiv 2111.00772).

    Nearness is the Dice-Sorensen coefficient, 2 |a . b| / (|a|^2 + |b|^2), of the frame and the mean, and weights are its exponential;
    `near` is their share in the mixture, which AdaPool learns for each place of an image, and which is one number here. Its way back needs
    weights that are not sent, and is not here.
    """

    frames: int
    near: float

    causal = True

    def __post_init__(self) -> None:
        _check_frames(self.frames)
        if not 0 <= self.near <= 1:
            raise ValueError(f"got near={self.near}, want the share of a mixture, from 0 (soft alone) to 1")

    @property
    def uniform(self) -> int:
        return self.frames

    def plan(self, hidden_ND: Tensor) -> Plan:
        mean_ND = self._means(hidden_ND)
        squares_N = hidden_ND.double().square().sum(dim=1) + mean_ND.square().sum(dim=1)
        dice_N = 2 * (hidden_ND.double() * mean_ND).sum(dim=1).abs() / squares_N.clamp(min=torch.finfo(torch.float64).tiny)
        near_MF = _grouped(dice_N, self.frames, beyond=-torch.inf).softmax(dim=1)
        return _of_weights(self.near * near_MF + (1 - self.near) * _soft(hidden_ND, self.frames), hidden_ND)

    def _means(self, hidden_ND: Tensor) -> Tensor:
        plan = means(_durations(hidden_ND, self.frames))
        return plan.frames(plan.tokens(hidden_ND.double()))


@dataclass(frozen=True)
class Blur:
    """A binomial filter before downsampling, so that a shift of the frames is a shift of the tokens (BlurPool, arXiv 1904.11486).

    The filter of `taps` numbers, 1 3 3 1 for four, stands over the middle of each group and hears frames around it; beyond the ends of the
    utterance its weights are left out. It covers the group, and is as even or odd as it is, to have the same middle.
    """

    frames: int
    taps: int

    causal = False

    def __post_init__(self) -> None:
        _check_frames(self.frames)
        if self.taps < self.frames or (self.taps - self.frames) % 2:
            raise ValueError(f"got {self.taps} taps for groups of {self.frames} frames, want as many or an even number more")

    @property
    def uniform(self) -> int:
        return self.frames

    def plan(self, hidden_ND: Tensor) -> Plan:
        durations_M, places = _durations(hidden_ND, self.frames), torch.arange(self.taps, device=hidden_ND.device)
        first_M = torch.arange(len(durations_M), device=hidden_ND.device) * self.frames - (self.taps - self.frames) // 2
        frame_ME = first_M[:, None] + places
        heights_E = torch.tensor([comb(self.taps - 1, tap) for tap in range(self.taps)], dtype=torch.float64, device=hidden_ND.device)
        inside_ME = (frame_ME >= 0) & (frame_ME < len(hidden_ND))
        token, tap = inside_ME.nonzero().T
        return weighted(token, frame_ME[inside_ME], heights_E[tap], durations_M)


def _check_frames(frames: int) -> None:
    if frames < 1:
        raise ValueError(f"got tokens of {frames} frames, want 1 or more")


def _durations(hidden_ND: Tensor, frames: int) -> Tensor:
    starts_M = torch.arange(0, len(hidden_ND), frames, device=hidden_ND.device)
    return (len(hidden_ND) - starts_M).clamp(max=frames)


def _grouped(values_N: Tensor, frames: int, *, beyond: float) -> Tensor:
    """[M, frames], with `beyond` for the frames that the last group has not."""
    return torch.nn.functional.pad(values_N, (0, -len(values_N) % frames), value=beyond).view(-1, frames)


def _size(hidden_ND: Tensor) -> Tensor:
    return hidden_ND.double().square().mean(dim=1).sqrt()


def _soft(hidden_ND: Tensor, frames: int) -> Tensor:
    return _grouped(_size(hidden_ND), frames, beyond=-torch.inf).softmax(dim=1)


def _of_weights(weights_MF: Tensor, hidden_ND: Tensor) -> Plan:
    """The plan of each group's weights, those beyond the last frame being 0."""
    frame_N = torch.arange(len(hidden_ND), device=hidden_ND.device)
    frames = weights_MF.shape[1]
    return weighted(frame_N // frames, frame_N, weights_MF.flatten()[: len(hidden_ND)], _durations(hidden_ND, frames))
