"""A continuous autoencoder whose latents are quantised once it has learnt (TokenBridge, arXiv 2503.16430)."""

import torch
from torch import Tensor, nn

from audiotok.tokenizers.quantisers import DimensionWise


class TrainableContinuous(nn.Module):
    """A variational bottleneck (arXiv 1312.6114) of `latent_dim` numbers: no codes while it learns.

    Training hears a sample of the posterior, validation its mean. The mean and deviation of every dimension are followed meanwhile;
    `plain` puts the dimensions into `levels` bins each by them, which no weight depends on.
    """

    mean: Tensor
    square: Tensor
    weight: Tensor

    def __init__(self, *, dim: int, latent_dim: int, levels: int, divergence: float, decay: float) -> None:
        """`divergence`: weight of the Kullback-Leibler divergence to a standard Gaussian, in nats a dimension; `decay` of the averages."""
        super().__init__()
        self.dim = dim
        self.levels = levels
        self.divergence = divergence
        self.decay = decay
        self.project_in = nn.Linear(dim, latent_dim)
        self.project_spread = nn.Linear(dim, latent_dim)
        self.project_out = nn.Linear(latent_dim, dim)
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("square", torch.zeros(latent_dim))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, latent_BND: Tensor) -> tuple[Tensor, Tensor]:
        """(latent_BND through the bottleneck, divergence loss)."""
        with torch.autocast(latent_BND.device.type, enabled=False):
            hidden_BND = latent_BND.float()
            centre_BND, log_variance_BND = self.project_in(hidden_BND), self.project_spread(hidden_BND).clamp(-20, 10)
            nats = 0.5 * (centre_BND.square() + log_variance_BND.exp() - 1 - log_variance_BND).mean()
            if self.training:
                self._follow(centre_BND.detach())
                centre_BND = centre_BND + (0.5 * log_variance_BND).exp() * torch.randn_like(centre_BND)
            return self.project_out(centre_BND), self.divergence * nats

    def _follow(self, centre_BND: Tensor) -> None:
        rest = 1 - self.decay
        self.mean.lerp_(centre_BND.mean(dim=(0, 1)), rest)
        self.square.lerp_(centre_BND.square().mean(dim=(0, 1)), rest)
        self.weight.lerp_(torch.ones_like(self.weight), rest)

    def plain(self) -> DimensionWise:
        """The bins of each dimension by what was seen so far. Raises ValueError before anything was."""
        if not self.weight:
            raise ValueError("a continuous latent is quantised by what training saw of it; train it first")
        plain = DimensionWise(levels=self.levels, latent_dim=len(self.mean), dim=self.dim).to(self.mean.device)
        plain.project_in.load_state_dict(self.project_in.state_dict())
        plain.project_out.load_state_dict(self.project_out.state_dict())
        mean = self.mean / self.weight
        plain.mean.copy_(mean)
        plain.deviation.copy_((self.square / self.weight - mean.square()).clamp(min=1e-8).sqrt())
        return plain
