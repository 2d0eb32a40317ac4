"""A drafter learns to say what the model would say: from the codes, and from the model's laws of them.

Per code (1 - k) times its cross-entropy plus k times KL(model || drafter) of the two laws, k being `divergence`. A drafter is too small to
learn everything: with a reference, a drafter of the same kind that was distilled before, only the codes count that can be learnt and have
not been yet, the `selected` share with the largest KL(model || drafter) - KL(model || reference) in the batch (AdaSPEC, arXiv 2510.19779).
"""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from audiotok.models.lesson import Lesson, Sayer, sayer, states
from audiotok.models.text import Batch
from audiotok.nn.ragged import follow


class Drafter(Protocol):
    """What can be distilled; an nn.Module whose state_dict is what is kept."""

    def meet(self, target: Any) -> None:
        """Remember whose drafter this is to be. Raises ValueError where it cannot be one of this model."""
        ...

    def foretell(self, target: Sayer, lesson: Lesson, batch: Batch) -> list[Sequence[Tensor]]:
        """Logits [B, N, V_k] of each codebook at every place, in one or several ways; those of way j count from place j on."""
        ...


class Alone(nn.Module):
    """A drafter that is a model of its own and needs nothing of the other's; what is kept of it is what training it would have kept."""

    def __init__(self, spec: Any, *, model: Callable[..., nn.Module], **told: Any) -> None:
        super().__init__()
        self.model = model(spec=spec, **told)

    def meet(self, target: Any) -> None:
        if (own := tuple(sayer(self.model).codebook_sizes)) != (wanted := tuple(sayer(target).codebook_sizes)):
            raise ValueError(f"a drafter of codebooks of {own} for a model of {wanted}; choose drafter.model of the model's kind")

    def foretell(self, target: Sayer, lesson: Lesson, batch: Batch) -> list[Sequence[Tensor]]:
        model: Any = self.model
        heard = model.lesson(batch)
        return [model.logits(follow(model.transformer, heard.text_BPD, heard.lengths_B, model.dropout(heard.inputs_BND)))]

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.load_state_dict(*args, **kwargs)


class Frozen:
    """A model that teaches and never learns; copies of what holds it share it."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict) -> "Frozen":
        return self


class Nats(NamedTuple):
    """Of each code [B, K, N]: its cross-entropy, the divergence of the drafter's law from the model's, and half the distance of the two."""

    codes: Tensor
    divergence: Tensor
    distance: Tensor


class Distilled(nn.Module):
    """A drafter in training (`audiotok.training.loop.fit`). Its weights are the drafter's, and so is what a checkpoint holds."""

    def __init__(self, drafter: Any, target: Any, *, reference: Any | None, divergence: float, selected: float) -> None:
        super().__init__()
        if not (0 < selected <= 1 and 0 <= divergence <= 1):
            raise ValueError(f"distil.selected is above 0 and at most 1, distil.divergence 0 to 1; got {selected} and {divergence}")
        drafter.meet(target)
        self.drafter, self.target = drafter, Frozen(target)
        self.reference = None if reference is None else Frozen(reference)
        self.divergence, self.selected = divergence, selected

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean nats per code that counts, of all ways in which the drafter foretells; told apart are means over all codes."""
        target, lesson = self.target.model, self._lesson(batch)
        with torch.no_grad():
            logits = [each.float() for each in target.logits(states(target.transformer, lesson))]
            references = self.reference.model.foretell(target, lesson, batch) if self.reference is not None else None
        losses, means = [], []
        for way, own in enumerate(self.drafter.foretell(target, lesson, batch)):
            real_BKN = (lesson.codes_BKN >= 0) & (torch.arange(lesson.codes_BKN.shape[2], device=lesson.codes_BKN.device) >= way)
            nats = compared(own, logits, lesson.codes_BKN)
            counted_BKN = real_BKN
            if references is not None:
                gap_BKN = nats.divergence.detach() - compared(references[way], logits, lesson.codes_BKN).divergence
                counted_BKN = learnable(gap_BKN, real_BKN, share=self.selected)
            losses.append(_mean(torch.lerp(nats.codes, nats.divergence, self.divergence), counted_BKN))
            means.append(torch.stack([_mean(each.detach(), real_BKN) for each in nats]))
        codes, divergence, distance = torch.stack(means).mean(0)
        return torch.stack(losses).mean(), {"codes": codes, "divergence": divergence, "distance": distance}

    @torch.no_grad()
    def _lesson(self, batch: Batch) -> Lesson:
        return self.target.model.lesson(batch)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.drafter.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.drafter.load_state_dict(*args, **kwargs)


def compared(own: Sequence[Tensor], wanted: Sequence[Tensor], codes_BKN: Tensor) -> Nats:
    """A drafter's logits [B, N, V_k] of each codebook against the model's; where no code stands the cross-entropy is of code 0."""
    found = []
    for own_BNV, wanted_BNV, codes_BN in zip(own, wanted, codes_BKN.unbind(1), strict=True):
        log_q_BNV, log_p_BNV = own_BNV.float().log_softmax(-1), wanted_BNV.float().log_softmax(-1)
        p_BNV = log_p_BNV.exp()
        codes = -log_q_BNV.gather(-1, codes_BN.clamp_min(0)[..., None])[..., 0]
        divergence = (p_BNV * (log_p_BNV - log_q_BNV)).sum(-1)
        found.append(torch.stack([codes, divergence, (p_BNV - log_q_BNV.detach().exp()).abs().sum(-1) / 2]))
    return Nats(*torch.stack(found, dim=2))


def learnable(gap_BKN: Tensor, real_BKN: Tensor, *, share: float) -> Tensor:
    """bool_BKN: the `share` of the real codes with the largest gaps, at least one where there are any."""
    gaps_R = gap_BKN[real_BKN]
    chosen_R = torch.zeros_like(gaps_R, dtype=torch.bool)
    chosen_R[gaps_R.topk(ceil(share * len(gaps_R))).indices] = True
    return real_BKN.masked_scatter(real_BKN, chosen_R)


def _mean(nats_BKN: Tensor, counted_BKN: Tensor) -> Tensor:
    return (nats_BKN * counted_BKN).sum() / counted_BKN.sum().clamp_min(1)
