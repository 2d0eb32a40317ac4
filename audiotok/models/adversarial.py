"""A codec against adversaries, in one loss with one backward pass, so that the one training loop serves."""

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from audiotok.models.balancer import Balancer, WeightedSum
from audiotok.models.codec import Crops
from audiotok.models.discriminators import AdversarialLoss, Maps, discriminator_loss, feature_matching, generator_loss
from audiotok.models.reconstruction import SpectralDistance


class Reconstructing(Protocol):
    """What can be trained against adversaries: a `CodecModel`, or a `VocoderModel`."""

    distance: SpectralDistance

    @property
    def sample_rate(self) -> int: ...

    def reconstruct(self, wav_BT: Tensor) -> tuple[Tensor, dict[str, Tensor]]: ...

    def export(self, folder: Path) -> None: ...


class AdversarialCodec(nn.Module):
    """A codec, or a vocoder, that learns to sound like speech from discriminators that learn to tell the two apart.

    The loss is the codec's plus the discriminators', each blind to the other's weights: the codec is judged by discriminators whose
    weights are detached, the discriminators by decoded speech that is detached. So one optimiser makes both steps at once; the
    discriminators learn at `rate` times the codec's learning rate, and neither's gradient is cut for the other's.

    `balance` makes one loss of those at the decoded waveform: `mel`, `stft`, `adversarial`, `matching` (of feature maps). For the first
    `quiet_steps` steps discriminators learn and are not heard. In a share `update_share` of the steps they learn, in all of them they are
    heard (arXiv 2210.13438 updates in two steps of three).
    """

    steps: Tensor

    def __init__(
        self, *, codec: Reconstructing, adversary: nn.Module, balance: WeightedSum | Balancer, kind: AdversarialLoss, rate: float,
        update_share: float, quiet_steps: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.codec: Any = codec
        self.adversary = adversary
        self.balance = balance
        self.kind: AdversarialLoss = kind
        self.rate = rate
        self.update_share = update_share
        self.quiet_steps = quiet_steps
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def sample_rate(self) -> int:
        """Hz of the audio it learns from."""
        return self.codec.sample_rate

    def learners(self) -> list[tuple[nn.Module, float]]:
        """The two sides, each with its factor of the learning rate."""
        return [(self.codec, 1.0), (self.adversary, self.rate)]

    def loss(self, batch: Crops) -> tuple[Tensor, dict[str, Tensor]]:
        """(the loss, its parts)."""
        wav_BT, hidden = self.codec.reconstruct(batch.wav_BT)
        real, discriminator = self._learn(batch.wav_BT, wav_BT.detach())
        audible, parts = self.balance(wav_BT, lambda wav_BT: self._heard(wav_BT, batch.wav_BT, real))
        self.steps += int(self.training)
        return sum((*hidden.values(), *discriminator.values()), audible), parts | hidden | discriminator

    def export(self, folder: Path) -> None:
        """Write the codec that has been learnt, as `Codec.from_pretrained` reads it."""
        self.codec.export(folder)

    def _learn(self, real_BT: Tensor, fake_BT: Tensor) -> tuple[Maps, dict[str, Tensor]]:
        """(feature maps of real speech, the discriminators' loss where they are to learn)."""
        if self.training and torch.rand(()).item() >= self.update_share:
            with torch.no_grad():
                return self.adversary(real_BT), {}
        real = self.adversary(real_BT)
        loss = discriminator_loss(real, self.adversary(fake_BT), kind=self.kind)
        return [[layer.detach() for layer in view] for view in real], {"discriminator": loss}

    def _heard(self, wav_BT: Tensor, reference_BT: Tensor, real: Maps) -> dict[str, Tensor]:
        losses = self.codec.distance(wav_BT, reference_BT)
        if self.training and self.steps < self.quiet_steps:
            return losses
        blind = {name: weight.detach() for name, weight in self.adversary.named_parameters()}
        fake = functional_call(self.adversary, blind, (wav_BT,))
        return losses | {"adversarial": generator_loss(fake, kind=self.kind), "matching": feature_matching(real, fake)}
