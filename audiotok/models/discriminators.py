"""Adversaries of a codec: networks that tell real speech from decoded speech, and the losses on both sides.

Each gives, for each of its views of a waveform, the feature maps of its layers; the last one holds the scores. All sizes are arguments, so
that the same classes are as large as in the papers on a GPU or small enough for a CPU: channels cost squared, strides save early.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from audiotok.models.spectra import stft

SLOPE = 0.1  # of the leaky ReLU below zero, as in HiFi-GAN
COMPRESSION = 0.3  # exponent of an STFT's magnitudes, so that quiet bands and silences count as well
QUIETEST = 1e-5  # squared magnitude at which the compression stops, where its gradient would run away

Maps = list[list[Tensor]]  # for each view of the waveform the feature maps of its layers, the scores last
AdversarialLoss = Literal["hinge", "least_squares"]


class PeriodView(nn.Module):
    """A waveform folded to rows of `period` samples, each column convolved in time."""

    def __init__(self, period: int, *, channels: Sequence[int], kernel: int, stride: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, *channels]
        self.layers = nn.ModuleList(weight_norm(nn.Conv1d(narrow, wide, kernel, stride, kernel // 2)) for narrow, wide in pairwise(widths))
        self.judge = weight_norm(nn.Conv1d(widths[-1], 1, 3, padding=1))

    def forward(self, wav_BT: Tensor) -> list[Tensor]:
        """Feature maps [B x period, channels, time], the scores last."""
        rows = F.pad(wav_BT, (0, -wav_BT.shape[1] % self.period)).unflatten(1, (-1, self.period))
        hidden = rows.transpose(1, 2).flatten(0, 1)[:, None]
        maps = []
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), SLOPE)
            maps.append(hidden)
        return [*maps, self.judge(hidden)]


class MultiPeriod(nn.Module):
    """HiFi-GAN's multi-period discriminator (arXiv 2010.05646): what repeats at each of several periods, prime to each other."""

    def __init__(self, *, periods: Sequence[int], channels: Sequence[int], kernel: int, stride: int) -> None:
        super().__init__()
        self.views = nn.ModuleList(PeriodView(period, channels=channels, kernel=kernel, stride=stride) for period in periods)

    def forward(self, wav_BT: Tensor) -> Maps:
        return [view(wav_BT) for view in self.views]


class SpectralView(nn.Module):
    """A short-time spectrum of compressed magnitudes, with or without phases, convolved over time and frequency."""

    def __init__(
        self,
        window: int,
        *,
        spectrum: Literal["magnitude", "complex"],
        channels: Sequence[int],
        strides: Sequence[tuple[int, int]],
        kernel: tuple[int, int],
    ) -> None:
        super().__init__()
        if len(channels) != len(strides):
            raise ValueError(f"spectral discriminator: {len(channels)} channels but {len(strides)} strides; a layer has one of each")
        if prod(stride[1] for stride in strides) > window // 2:
            raise ValueError(f"spectral discriminator: strides {strides} leave nothing of the {window // 2} bands of window {window}")
        self.window = window
        self.spectrum = spectrum
        widths = [1 if spectrum == "magnitude" else 2, *channels]
        tall, broad = kernel
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(narrow, wide, (tall, broad), (stride[0], stride[1]), (tall // 2, broad // 2)))
            for (narrow, wide), stride in zip(pairwise(widths), strides)
        )
        self.judge = weight_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, wav_BT: Tensor) -> list[Tensor]:
        """Feature maps [B, channels, frames, bands], the scores last."""
        hidden = self.view(wav_BT).to(memory_format=torch.channels_last)
        maps = []
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), SLOPE)
            maps.append(hidden)
        return [*maps, self.judge(hidden)]

    def view(self, wav_BT: Tensor) -> Tensor:
        """[B, 1 or 2, frames, bands] in float32; the band at half the sample rate is left out."""
        scale = (3 / 8 * self.window) ** -0.5  # by the energy of a Hann window: a level says the same in every view
        parts = scale * torch.view_as_real(stft(wav_BT.float(), self.window)[..., :-1]).permute(0, 3, 1, 2)
        power = parts.square().sum(dim=1, keepdim=True).clamp(min=QUIETEST)
        if self.spectrum == "magnitude":
            return power ** (COMPRESSION / 2)
        return parts * power ** ((COMPRESSION - 1) / 2)


class MultiResolution(nn.Module):
    """A discriminator of short-time spectra at several window lengths, of magnitudes (UnivNet, arXiv 2106.07889) or of complex values
    (EnCodec, arXiv 2210.13438)."""

    def __init__(
        self,
        *,
        windows: Sequence[int],
        spectrum: Literal["magnitude", "complex"],
        channels: Sequence[int],
        strides: Sequence[tuple[int, int]],
        kernel: tuple[int, int],
    ) -> None:
        """`strides` and `kernel` are in (frames, bands); one stride for each layer."""
        super().__init__()
        self.views = nn.ModuleList(
            SpectralView(window, spectrum=spectrum, channels=channels, strides=strides, kernel=kernel) for window in windows
        )

    def forward(self, wav_BT: Tensor) -> Maps:
        return [view(wav_BT) for view in self.views]


class Discriminators(nn.Module):
    """Several discriminators as one."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, wav_BT: Tensor) -> Maps:
        return [maps for member in self.members for maps in member(wav_BT)]


def discriminator_loss(real: Maps, fake: Maps, *, kind: AdversarialLoss) -> Tensor:
    """What the discriminators minimise, a mean over views: real speech scores high, decoded speech low."""
    if kind == "hinge":
        terms = [F.relu(1 - ours[-1]).mean() + F.relu(1 + theirs[-1]).mean() for ours, theirs in zip(real, fake)]
    else:
        terms = [(1 - ours[-1]).square().mean() + theirs[-1].square().mean() for ours, theirs in zip(real, fake)]
    return torch.stack([term.float() for term in terms]).mean()


def generator_loss(fake: Maps, *, kind: AdversarialLoss) -> Tensor:
    """What the decoder minimises, a mean over views: decoded speech scores high."""
    terms = [-maps[-1].mean() if kind == "hinge" else (1 - maps[-1]).square().mean() for maps in fake]
    return torch.stack([term.float() for term in terms]).mean()


def feature_matching(real: Maps, fake: Maps) -> Tensor:
    """The mean distance of feature maps, each relative to its mean magnitude on real speech (arXiv 2210.13438, equation 6)."""
    pairs = [pair for ours, theirs in zip(real, fake) for pair in zip(ours[:-1], theirs[:-1])]
    return torch.stack([(ours - theirs).abs().float().mean() / ours.abs().float().mean().clamp(min=1e-4) for ours, theirs in pairs]).mean()
