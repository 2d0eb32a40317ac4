"""A learned compressor of latents: convolutions that say several frames in one, and others that say them again.

One network serves every rate: how many frames become one is drawn anew at each step of training, and told to it. What is stored are codes
of the tokenizer's own codebooks, so the compressed stream is of the same ids at a lower frame rate.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok import files
from audiotok.nn.convnext import ConvNeXt
from audiotok.reductions.requantise import CodeVectors
from audiotok.tokenizers import weights
from audiotok.transforms.codes import checked, column, each_alone, marked
from audiotok.types import TokenSpec

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MAX_NORM = 1.0  # of the gradient (arXiv 2005.14165)


class Change(nn.Module):
    """What is to be added to frames that `rate` of make, or come of, one token: ConvNeXt blocks, which before training add nothing.

    They are told the rate, and the place of each frame within its token.
    """

    def __init__(self, *, dim: int, widest: int, width: int, layers: int, kernel: int, expansion: int) -> None:
        super().__init__()
        self.widest = widest
        self.enter = nn.Linear(dim, width)
        self.told = nn.Embedding((widest + 1) * widest, width)
        self.blocks = nn.Sequential(*(ConvNeXt(width, kernel=kernel, expansion=expansion) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, hidden_BND: Tensor, rate: int) -> Tensor:
        """hidden_BND with the change."""
        place_N = torch.arange(hidden_BND.shape[1], device=hidden_BND.device) % rate
        told_ND = self.told(rate * self.widest + place_N)
        return hidden_BND + self.leave(self.norm(self.blocks(self.enter(hidden_BND) + told_ND)))


class CompressorNetwork(nn.Module):
    """hidden_BND to hidden_BMD of a lower rate, and back. Untrained it takes means, and repeats them.

    Latents are shifted and scaled by `mean` and `deviation`, of the corpus that it learnt from.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, *, dim: int, rates: Sequence[int], width: int, layers: int, kernel: int, expansion: int) -> None:
        super().__init__()
        self.rates = tuple(int(rate) for rate in rates)
        size = {"dim": dim, "widest": max(rates), "width": width, "layers": layers, "kernel": kernel, "expansion": expansion}
        self.encoder = Change(**size)
        self.decoder = Change(**size)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(()))

    def compress(self, hidden_BND: Tensor, rate: int) -> Tensor:
        """hidden_BMD; N is a multiple of the rate."""
        changed_BND = self.encoder((hidden_BND - self.mean) / self.deviation, rate)
        return changed_BND.unflatten(1, (-1, rate)).mean(dim=2) * self.deviation + self.mean

    def expand(self, hidden_BMD: Tensor, rate: int) -> Tensor:
        """hidden_BND of `rate` frames for each token."""
        repeated_BND = ((hidden_BMD - self.mean) / self.deviation).repeat_interleave(rate, dim=1)
        return self.decoder(repeated_BND, rate) * self.deviation + self.mean


@dataclass(frozen=True)
class Training:
    """`steps` updates, each on `rows` crops of `frames` frames, the learning rate in one cycle of a rise and half a cosine."""

    steps: int
    rows: int
    frames: int
    learning_rate: float
    weight_decay: float
    commitment: float  # weight of the distance between what the encoder says and the codes that are taken for it
    seed: int


class Compressor:
    """`frames` frames become one, by a network that learns from the tokenizer's codes; `invert` gives whole tokens.

    A folder of what was learnt serves each of `rates`, of which `frames` is one. Not causal: a token hears about `layers * kernel / 2`
    frames to each side. Lossy; what `invert` gives are again the tokenizer's codes, whatever decodes them.
    """

    lossless = False

    def __init__(
        self,
        tokenizer: Any,
        frames: int,
        *,
        rates: Sequence[int],
        width: int,
        layers: int,
        kernel: int,
        expansion: int,
        beam: int,
        training: Training,
        fitted: str | Path | None,
    ) -> None:
        """`beam`: of the search for codes (`CodeVectors`); while it learns the search is greedy."""
        if frames not in rates or min(rates) < 1:
            raise ValueError(f"got frames={frames}, want one of the rates {list(rates)} that the compressor learns, all 1 or more")
        self.tokenizer = tokenizer
        self.frames = frames
        self.vectors = CodeVectors.of(tokenizer, beam=beam)
        self.sizes: dict[str, Any] = {
            "rates": [int(rate) for rate in rates],
            "width": width,
            "layers": layers,
            "kernel": kernel,
            "expansion": expansion,
        }
        self.training = training
        self.fitted = None if fitted is None else Path(fitted)
        self._network: CompressorNetwork | None = None
        if self.fitted is not None and self.fitted.exists():
            self._network = _load(self.fitted, self._settings())

    @property
    def network(self) -> CompressorNetwork:
        if self._network is None:
            where = self.fitted or "no folder named"
            raise ValueError(f"the compressor has not learnt yet ({where}); run `audiotok reduce RECIPE transform=NAME` first, or call fit")
        return self._network

    def fit(self, corpus: Iterable[Tensor], spec: TokenSpec) -> None:
        """Learn from utterances codes_KN, all of which are kept in memory. Raises ValueError where there are none."""
        self._check(spec)
        utterances = [checked(codes_KN, spec.codebook_sizes) for codes_KN in corpus]
        if not sum(codes_KN.shape[1] for codes_KN in utterances):
            raise ValueError("compressor: no frames to learn from; give it a split that has some")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            network = CompressorNetwork(dim=self.vectors.centre_D.shape[0], **self.sizes)
        mean_D, deviation = _moments(utterances, self.vectors)
        network.mean.copy_(mean_D)
        network.deviation.copy_(deviation.clamp(min=1e-8))
        _learn(network, utterances, replace(self.vectors, beam=1), self.training)
        self._network = network.eval().requires_grad_(False)

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        weights.save(self.network, folder / WEIGHTS)
        files.write_json(folder / CONFIG, self._settings())

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        self._check(spec)
        return replace(spec, frame_rate=spec.frame_rate / self.frames, fingerprint=marked(spec.fingerprint, self))

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        self._check(spec)
        return self.vectors.nearest(self.compressed(self.vectors.latent(checked(codes_KN, spec.codebook_sizes))))

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        self._check(spec)
        return self.vectors.nearest(self.expanded(self.vectors.latent(checked(codes_KN, spec.codebook_sizes))))

    @torch.no_grad()
    def compressed(self, hidden_ND: Tensor) -> Tensor:
        """hidden_MD before it is made codes; the last frame is repeated until there is a whole token."""
        if not len(hidden_ND):
            return hidden_ND
        missing = -len(hidden_ND) % self.frames
        whole_ND = torch.cat([hidden_ND, hidden_ND[-1:].expand(missing, -1)])
        return self.network.to(hidden_ND.device).compress(whole_ND[None], self.frames)[0]

    @torch.no_grad()
    def expanded(self, hidden_MD: Tensor) -> Tensor:
        """hidden_ND before it is made codes."""
        return self.network.to(hidden_MD.device).expand(hidden_MD[None], self.frames)[0] if len(hidden_MD) else hidden_MD

    def frame_index(self, num_frames: int, spec: TokenSpec) -> Tensor:
        return torch.arange(0, num_frames, self.frames)

    def legal(self, num_frames: int, spec: TokenSpec) -> Tensor:
        return torch.ones(spec.num_codebooks, -(-num_frames // self.frames), dtype=torch.bool)

    def legal_ids(self, num_frames: int, spec: TokenSpec) -> tuple[Tensor, Tensor]:
        first_KN = torch.zeros_like(self.legal(num_frames, spec), dtype=torch.int64)
        return first_KN, first_KN + column(spec.codebook_sizes)

    def sources(self, spec: TokenSpec) -> tuple[tuple[int, ...], ...]:
        return each_alone(spec.num_codebooks)

    def __repr__(self) -> str:
        learnt = weights.digest(self.network)[:12]
        return f"Compressor({self.tokenizer.spec.fingerprint[:12]}, frames={self.frames}, beam={self.vectors.beam}, learnt={learnt})"

    def _settings(self) -> dict[str, Any]:
        return {"codes": self.tokenizer.spec.fingerprint, "network": self.sizes | {"dim": self.vectors.centre_D.shape[0]}}

    def _check(self, spec: TokenSpec) -> None:
        if spec.codebook_sizes != (wanted := self.tokenizer.spec.codebook_sizes):
            raise ValueError(
                f"got codes of codebooks {spec.codebook_sizes}, want the tokenizer's {wanted}; put the compressor before other transforms"
            )


def _moments(utterances: Iterable[Tensor], vectors: CodeVectors) -> tuple[Tensor, Tensor]:
    """(mean_D of the latents, the root of their mean square distance from it in a dimension), float64; an utterance's latents at a time."""
    total_D, squares, frames = torch.zeros(()), torch.zeros(()), 0
    for codes_KN in utterances:
        latent_ND = vectors.latent(codes_KN).double()
        total_D, squares, frames = total_D + latent_ND.sum(dim=0), squares + latent_ND.square().sum(), frames + len(latent_ND)
    mean_D = total_D / frames
    return mean_D, ((squares / frames - mean_D.square().sum()) / len(mean_D)).clamp(min=0).sqrt()


def _learn(network: CompressorNetwork, utterances: list[Tensor], vectors: CodeVectors, training: Training) -> None:
    """Make what comes back of crops like them, in squared distance."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.learning_rate, total_steps=training.steps, pct_start=0.05)
    generator = torch.Generator().manual_seed(training.seed)
    rates = network.rates
    for _ in range(training.steps):
        rate = rates[int(torch.randint(len(rates), (), generator=generator))]
        hidden_BND = vectors.latent(_crops(utterances, training, rate, generator).flatten(1)).unflatten(0, (training.rows, -1))
        loss = _loss(network, hidden_BND, rate, vectors, training.commitment)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
        optimizer.step()
        schedule.step()


def _loss(network: CompressorNetwork, hidden_BND: Tensor, rate: int, vectors: CodeVectors, commitment: float) -> Tensor:
    """Both distances as shares of the latents' variance; gradients pass the codes as if they were not there."""
    said_BMD = network.compress(hidden_BND, rate)
    with torch.no_grad():
        taken_BMD = vectors.latent(vectors.nearest(said_BMD.flatten(0, 1))).view_as(said_BMD)
    heard_BND = network.expand(said_BMD + (taken_BMD - said_BMD).detach(), rate)
    distances = F.mse_loss(heard_BND, hidden_BND) + commitment * F.mse_loss(said_BMD, taken_BMD)
    return distances / network.deviation.square()


def _crops(utterances: list[Tensor], training: Training, rate: int, generator: torch.Generator) -> Tensor:
    """codes_KBN, utterances drawn by length; of one that is shorter than a crop the last frame is repeated. Whole tokens of the rate."""
    frames = max(training.frames // rate, 1) * rate
    lengths = torch.tensor([codes_KN.shape[1] for codes_KN in utterances])
    rows = []
    for index in torch.multinomial(lengths.double(), training.rows, replacement=True, generator=generator).tolist():
        start = int(torch.randint(max(1, int(lengths[index]) - frames + 1), (), generator=generator))
        place_N = (start + torch.arange(frames)).clamp(max=int(lengths[index]) - 1)
        rows.append(utterances[index][:, place_N])
    return torch.stack(rows, dim=1)


def _load(folder: Path, settings: dict[str, Any]) -> CompressorNetwork:
    """What `save` wrote. Raises ValueError where it is not whole, or was learnt from other codes or with another network."""
    try:
        found = files.read_json(folder / CONFIG)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG}: cannot be read ({error}); learn again with overwrite=true") from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{folder / CONFIG}: holds a {type(found).__name__}, not the settings of a compressor; learn again with overwrite=true"
        )
    if found != settings:
        differing = "; ".join(f"{key}: {old!r} there, {new!r} now" for key, old, new in files.differences(found, settings))
        raise ValueError(f"{folder} was learnt with other settings ({differing}); learn again with overwrite=true")
    network = CompressorNetwork(**settings["network"])
    weights.load(network, folder / WEIGHTS)
    return network.eval().requires_grad_(False)
