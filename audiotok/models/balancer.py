"""How the losses of one output become one: by their weights, or by the share of the gradient that each is to have there."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Losses = Callable[[Tensor], dict[str, Tensor]]  # of an output, by name
EPSILON = 1e-12  # of a gradient's norm: a loss that has none stays without


class WeightedSum(nn.Module):
    """Each loss times its weight."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)

    def forward(self, output_BT: Tensor, losses: Losses) -> tuple[Tensor, dict[str, Tensor]]:
        """(the sum, the losses as they were). Raises ValueError for a loss without a weight."""
        found = losses(output_BT)
        check_names(found, self.weights)
        return _weighted(found, self.weights), found


class Balancer(nn.Module):
    """Each loss's gradient at the output rescaled to its share of `total_norm` (arXiv 2210.13438, section 3.4).

    g_i is loss i's gradient at the output, |g_i| the median over the batch of its norms, <|g_i|> the moving average of that over steps:

        gradient at the output = sum_i  total_norm * weight_i / (sum of weights) * g_i / <|g_i|>

    The paper takes the mean: crops with silence in them, where a logarithm's gradient is a hundred times the others', would rule it. So a
    weight says how much a loss has to say, whatever its scale. Only losses of the output can be balanced; a loss of the latents is
    added outside. The averages are buffers: a run that goes on from a checkpoint goes on with them. Each process has its own.
    """

    norms: Tensor
    counts: Tensor

    def __init__(self, weights: Mapping[str, float], *, total_norm: float, decay: float) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.total_norm = total_norm
        self.decay = decay
        self.register_buffer("norms", torch.zeros(len(self.weights)))
        self.register_buffer("counts", torch.zeros(len(self.weights)))

    def forward(self, output_BT: Tensor, losses: Losses) -> tuple[Tensor, dict[str, Tensor]]:
        """(a loss whose gradient is the balanced one, the losses as they were). Its value is the sum of weight times loss.

        Raises ValueError for a loss without a weight. Where no gradient is wanted, nothing is measured.
        """
        if not (torch.is_grad_enabled() and output_BT.requires_grad):
            found = losses(output_BT)
            check_names(found, self.weights)
            return _weighted(found, self.weights), found
        # A leaf, so that no loss's own backward goes on into the network: that is walked once, by the surrogate.
        leaf_BT = output_BT.detach().requires_grad_()
        found = losses(leaf_BT)
        check_names(found, self.weights)
        surrogate = (output_BT * self._gradient(leaf_BT, found)).sum()
        return surrogate - surrogate.detach() + _weighted(found, self.weights).detach(), {
            name: loss.detach() for name, loss in found.items()
        }

    def _gradient(self, leaf_BT: Tensor, losses: dict[str, Tensor]) -> Tensor:
        total, places = sum(self.weights[name] for name in losses), {name: place for place, name in enumerate(self.weights)}
        balanced_BT = torch.zeros_like(leaf_BT)
        for name, loss in losses.items():
            (gradient_BT,) = torch.autograd.grad(loss, leaf_BT, retain_graph=True)
            norm = self._average(places[name], gradient_BT.flatten(1).norm(dim=1).quantile(0.5))
            balanced_BT += gradient_BT * (self.total_norm * self.weights[name] / total / (norm + EPSILON))
        return balanced_BT

    def _average(self, place: int, norm: Tensor) -> Tensor:
        """The moving average of a norm, of as many steps as there were."""
        if self.training:
            self.norms[place] = self.decay * self.norms[place] + norm
            self.counts[place] = self.decay * self.counts[place] + 1
        return self.norms[place] / self.counts[place] if self.counts[place] else norm


def check_names(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> None:
    if missing := losses.keys() - weights.keys():
        raise ValueError(f"no weight for the losses {', '.join(sorted(missing))}; weights are given for {', '.join(weights) or 'none'}")


def _weighted(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
