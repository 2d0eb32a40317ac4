"""More losses of a codec's latents, each by itself: `CodecModel(terms=[...])` adds them up."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.models.codec import CodecModel, Coded
from audiotok.tokenizers.features import Features


class SemanticDistillation(nn.Module):
    """The first dimensions of the quantised latent drawn towards the features of a speech encoder, by their cosine
    (SpeechTokenizer, arXiv 2308.16692; Mimi, arXiv 2410.00037).

    With a product quantiser whose first part is as wide as `dims`, that part's codes become semantic; gradients pass its quantiser to the
    encoder. Features at another rate are interpolated to the latents'. The speech encoder itself is no part of the model: it is neither
    trained nor saved.
    """

    def __init__(self, *, features: Features, feature_dim: int, dims: int, weight: float) -> None:
        super().__init__()
        self.features = _Shared(features)
        self.dims = dims
        self.weight = weight
        self.project = nn.Linear(dims, feature_dim)

    def forward(self, codec: CodecModel, wav_BT: Tensor, coded: Coded) -> dict[str, Tensor]:
        """`semantic`: weight times 1 - cosine, a mean over frames. Raises ValueError for features of another sample rate or width."""
        features: Features = self.features.value
        if features.sample_rate != codec.sample_rate:
            raise ValueError(f"distillation: features of {features.sample_rate} Hz, a codec of {codec.sample_rate} Hz; they must agree")
        with torch.no_grad(), torch.autocast(wav_BT.device.type, enabled=False):
            target_BND = torch.stack([features(wav_T) for wav_T in wav_BT.float()])
        ours_BND = self.project(coded.quantised_BND[..., : self.dims].float())
        if target_BND.shape[-1] != ours_BND.shape[-1]:
            raise ValueError(f"distillation: features of {target_BND.shape[-1]} dimensions, feature_dim={ours_BND.shape[-1]}")
        target_BND = at_rate(target_BND, hop=features.hop, other=codec.encoder.hop, frames=ours_BND.shape[1])
        return {"semantic": self.weight * (1 - F.cosine_similarity(ours_BND.float(), target_BND.float(), dim=-1)).mean()}


class _Shared:
    """Something that a copy of a model shares with it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict) -> "_Shared":
        return copy.copy(self)


def at_rate(frames_BND: Tensor, *, hop: int, other: int, frames: int) -> Tensor:
    """frames_BND at the middles of `frames` frames of `other` samples, linearly between the middles of those of `hop` samples."""
    place_N = ((torch.arange(frames, device=frames_BND.device) + 0.5) * other / hop - 0.5).clamp(0, frames_BND.shape[1] - 1)
    below_N = place_N.floor().long()
    above_N = (below_N + 1).clamp(max=frames_BND.shape[1] - 1)
    return frames_BND[:, below_N].lerp(frames_BND[:, above_N], (place_N - below_N)[:, None].to(frames_BND))


class SliceConsistency(nn.Module):
    """A slice of the audio by itself is to have the latents that it has within the whole (ACL 2025, long.1498).

    One slice of `frames` latents is cut out of each batch, at a random place, and encoded alone; the loss is the squared distance to the
    whole's latents there, which stand still, relative to their variance. `edge` latents at either end of the slice are not compared.
    """

    def __init__(self, *, frames: int, edge: int, weight: float) -> None:
        super().__init__()
        if not 0 <= 2 * edge < frames:
            raise ValueError(f"slice consistency: of {frames} frames, {edge} at either end are left out; nothing remains")
        self.frames = frames
        self.edge = edge
        self.weight = weight

    def forward(self, codec: CodecModel, wav_BT: Tensor, coded: Coded) -> dict[str, Tensor]:
        """`slice`. Raises ValueError for audio that is shorter than a slice."""
        spare, hop = coded.latent_BND.shape[1] - self.frames, codec.encoder.hop
        if spare < 0:
            raise ValueError(f"slice consistency: slices of {self.frames} frames, crops of {coded.latent_BND.shape[1]}; take longer crops")
        first = int(torch.randint(spare + 1, ()))
        alone_BND = codec.encoder(wav_BT[:, first * hop : (first + self.frames) * hop]).float()
        compared = slice(self.edge, self.frames - self.edge)
        within_BND = coded.latent_BND.detach().float()[:, first : first + self.frames]
        spread = within_BND.var(dim=(0, 1)).mean().clamp(min=1e-6)
        return {"slice": self.weight * (alone_BND - within_BND)[:, compared].square().mean() / spread}
