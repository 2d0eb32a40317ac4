"""More encoders of the project's own codec: spectra whose rate falls within the network, and samples.

All that mixes frames or channels is a linear layer or a sum of shifted products, so that a frame rounds alike in any company.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.nn.convnext import ConvNeXt
from audiotok.nn.pooling import Adaptive, AntiAliased, Soft, Stacked
from audiotok.tokenizers.base import Reach
from audiotok.tokenizers.mel import LogMel

LEVEL = 2.0  # minus the usual log10 magnitude of a mel band of speech
POOLS: dict[str, Any] = {"stacked": Stacked, "anti_aliased": AntiAliased, "soft": Soft, "adaptive": Adaptive}


class PooledMelEncoder(nn.Module):
    """Log-mel spectra to latents: `early` ConvNeXt blocks at their rate, every `stride` pooled, `layers` blocks at the frames' rate."""

    def __init__(
        self, *, mel: LogMel | dict[str, Any], stride: int, pool: dict[str, Any], width: int, early: int, layers: int, kernel: int,
        expansion: int, dim: int,
    ) -> None:  # fmt: skip
        """`pool`: its kind (stacked, anti_aliased, soft, adaptive) and what `audiotok.nn.pooling` takes for it."""
        super().__init__()
        pool = dict(pool)
        if stride < 1 or pool.get("kind") not in POOLS:
            raise ValueError(f"mel encoder: stride is at least 1 and pool.kind one of {', '.join(POOLS)}; got {stride=}, {pool=}")
        self.mel = mel if isinstance(mel, LogMel) else LogMel(**mel)
        self.stride = stride
        self.sample_rate = self.mel.sample_rate
        self.hop = self.mel.hop * stride
        self.settings: dict[str, Any] = {
            "kind": "pooled_mel", "mel": self.mel.settings, "stride": stride, "pool": pool, "width": width, "early": early,
            "layers": layers, "kernel": kernel, "expansion": expansion, "dim": dim,
        }  # fmt: skip
        self.enter = nn.Linear(self.mel.num_mels, width)
        self.early = nn.Sequential(*(ConvNeXt(width, kernel=kernel, expansion=expansion) for _ in range(early)))
        self.pool = POOLS[pool["kind"]](width, stride=stride, **{key: value for key, value in pool.items() if key != "kind"})
        self.blocks = nn.Sequential(*(ConvNeXt(width, kernel=kernel, expansion=expansion) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, dim)

    @property
    def reach(self) -> Reach:
        """Of a latent: what its spectra hear, the early blocks and the pool of spectra, the others of latents."""
        half = self.settings["kernel"] // 2
        spectra = len(self.early) * half + self.pool.around + len(self.blocks) * half * self.stride
        around = spectra * self.mel.hop
        return Reach((self.mel.reach.before or 0) + around, (self.mel.reach.after or 0) + around, period=self.hop)

    def forward(self, wav_BT: Tensor) -> Tensor:
        """latent_BND, ceil(T / hop) frames."""
        with torch.autocast(wav_BT.device.type, enabled=False):
            log_mel_BNM = self.mel(F.pad(wav_BT.float(), (0, -wav_BT.shape[1] % self.hop)))
        hidden_BND = self.pool(self.early(self.enter(log_mel_BNM + LEVEL)))
        return self.leave(self.norm(self.blocks(hidden_BND)))


class Downsample(nn.Module):
    """A strided convolution over two strides, half a stride to each side of the frame it stands for; zeros beyond the ends."""

    def __init__(self, narrow: int, wide: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = stride // 2
        self.mix = nn.Linear(2 * stride * narrow, wide)

    def forward(self, hidden_BND: Tensor) -> Tensor:
        """[B, N / stride, wide]."""
        padded_BND = F.pad(hidden_BND, (0, 0, self.before, self.stride - self.before))
        windows = padded_BND.unfold(1, 2 * self.stride, self.stride)  # batch, frame, width, place
        return self.mix(windows.transpose(2, 3).flatten(2))


class WaveEncoder(nn.Module):
    """Samples to latents: strided convolutions, ConvNeXt blocks after each (as SoundStream's and DAC's encoders fall in rate and widen)."""

    def __init__(
        self,
        *,
        sample_rate: int,
        strides: Sequence[int],
        widths: Sequence[int],
        layers: Sequence[int],
        kernel: int,
        expansion: int,
        dim: int,
    ) -> None:
        """`strides`, `widths` and `layers` (blocks at that rate) have one entry for each stage."""
        super().__init__()
        if not len(strides) == len(widths) == len(layers) or not strides or min(strides) < 1:
            raise ValueError(f"wave encoder: one stride, width and number of layers a stage; got {strides=}, {widths=}, {layers=}")
        self.sample_rate = sample_rate
        self.strides = [int(stride) for stride in strides]
        self.hop = prod(self.strides)
        self.settings: dict[str, Any] = {
            "kind": "wave", "sample_rate": sample_rate, "strides": self.strides, "widths": list(widths), "layers": list(layers),
            "kernel": kernel, "expansion": expansion, "dim": dim,
        }  # fmt: skip
        stages, narrow = list[nn.Module](), 1
        for stride, wide, blocks in zip(self.strides, widths, layers):
            stages.append(Downsample(narrow, wide, stride=stride))
            stages += [ConvNeXt(wide, kernel=kernel, expansion=expansion) for _ in range(blocks)]
            narrow = wide
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(narrow)
        self.leave = nn.Linear(narrow, dim)

    @property
    def reach(self) -> Reach:
        """Half a stride at each stage's own input rate, half a kernel at its output rate for each block."""
        before = after = 0
        hop = 1
        for stride, blocks in zip(self.strides, self.settings["layers"]):
            before, after = before + stride // 2 * hop, after + (stride - stride // 2) * hop
            hop *= stride
            around = blocks * (self.settings["kernel"] // 2) * hop
            before, after = before + around, after + around
        return Reach(before, after, period=self.hop)

    def forward(self, wav_BT: Tensor) -> Tensor:
        """latent_BND, ceil(T / hop) frames."""
        padded_BT = F.pad(wav_BT, (0, -wav_BT.shape[1] % self.hop))
        return self.leave(self.norm(self.stages(padded_BT[..., None])))
