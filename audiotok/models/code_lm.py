"""A language model of a codec's codes, and the codes it would have said: what a decoder is to make sound of in the end.

A decoder that learns on the codec's own codes hears others when a language model speaks. So it may learn on codes drawn from one that is
told the true ones before: they are as likely wrong as its own, and stand at the same place in the same recording.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok import files
from audiotok.models.codec import Crops
from audiotok.nn.transformer import Transformer
from audiotok.tokenizers import weights
from audiotok.tokenizers.codec import CONFIG, WEIGHTS, Codec, read_settings


class CodeNetwork(nn.Module):
    """p(code k of frame n | all codes of the frames before n, codes before k of frame n)."""

    def __init__(self, *, codebook_sizes: Sequence[int], width: int, layers: int, heads: int) -> None:
        super().__init__()
        sizes = [int(size) for size in codebook_sizes]
        self.settings: dict[str, Any] = {"codebook_sizes": sizes, "width": width, "layers": layers, "heads": heads}
        self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.transformer = Transformer(width, layers=layers, heads=heads, feed_forward=3 * width, dropout=0.0)
        self.mixers = nn.ModuleList(nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.LayerNorm(width)) for _ in sizes)
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in sizes)

    def forward(self, codes_BKN: Tensor) -> list[Tensor]:
        """Of each codebook, logits_BNV, given the true codes before."""
        vectors = [embed(codes_BN) for embed, codes_BN in zip(self.embeddings, codes_BKN.unbind(dim=1))]
        frames_BND = torch.stack(vectors).sum(dim=0)
        history_BND = torch.cat([self.start.expand(len(frames_BND), -1, -1), frames_BND[:, :-1]], dim=1)
        hidden_BND = self.transformer(history_BND)
        within_BND, logits = torch.zeros_like(frames_BND), []
        for mix, head, vector_BND in zip(self.mixers, self.heads, vectors):
            logits.append(head(mix(torch.cat([hidden_BND, within_BND], dim=-1))))
            within_BND = within_BND + vector_BND
        return logits


class CodeLanguageModel(nn.Module):
    """The language model as it learns from recordings; the codec does not."""

    def __init__(self, *, codec: Codec, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self._codec = lambda: codec  # a function is shared by copies of the model, where the codec itself would be copied
        self.network = CodeNetwork(codebook_sizes=codec.spec.codebook_sizes, width=width, layers=layers, heads=heads)

    @property
    def sample_rate(self) -> int:
        """Hz of the audio it learns from."""
        return self._codec().spec.sample_rate

    def loss(self, batch: Crops) -> tuple[Tensor, dict[str, Tensor]]:
        """(nats a code, those of the first and of the last codebook)."""
        lengths_B = torch.full((len(batch.wav_BT),), batch.wav_BT.shape[1], device=batch.wav_BT.device)
        with torch.no_grad(), torch.autocast(batch.wav_BT.device.type, enabled=False):
            codes_BKN, _ = self._codec().encode(batch.wav_BT, lengths_B)
        logits = self.network(codes_BKN)
        nats = [F.cross_entropy(logits_BNV.float().transpose(1, 2), codes_BKN[:, k]) for k, logits_BNV in enumerate(logits)]
        return torch.stack(nats).mean(), {"first": nats[0], "last": nats[-1]}

    def export(self, folder: Path) -> None:
        """Write the language model that has been learnt, as `LikelyCodes.from_pretrained` reads it."""
        folder.mkdir(parents=True, exist_ok=True)
        weights.save(self.network, folder / WEIGHTS)
        files.write_json(folder / CONFIG, {"network": self.network.settings, "made_for": self._codec().spec.fingerprint})


class LikelyCodes:
    """Some codes replaced by what a language model would have said there, told the true ones before.

    In a share `utterances` of the utterances, a share `codes` of the codes is drawn anew, at a temperature.
    """

    def __init__(self, network: CodeNetwork, *, utterances: float, codes: float, temperature: float) -> None:
        if temperature <= 0:
            raise ValueError(f"likely codes: a temperature is positive; got {temperature}")
        self.network = network.eval().requires_grad_(False)
        self.utterances = utterances
        self.codes = codes
        self.temperature = temperature

    @classmethod
    def from_pretrained(cls, path: str, *, codec: str, utterances: float, codes: float, temperature: float) -> "LikelyCodes":
        """From what `CodeLanguageModel.export` wrote. Raises ValueError where that was for another codec than that of `codec`."""
        folder = Path(path)
        settings = read_settings(folder)
        ours = Codec.from_pretrained(codec).spec.fingerprint
        if settings.get("made_for") != ours:
            raise ValueError(f"{folder}: a language model of other codes ({str(settings.get('made_for'))[:8]}) than {codec}'s ({ours[:8]})")
        try:
            network = CodeNetwork(**settings["network"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{folder / CONFIG} describes no language model of codes ({type(error).__name__}: {error})") from error
        weights.load(network, folder / WEIGHTS)
        return cls(network, utterances=utterances, codes=codes, temperature=temperature)

    @torch.no_grad()
    def __call__(self, codes_BKN: Tensor, quantiser: Any) -> Tensor:
        """codes_BKN. Raises ValueError where the quantiser has other codebooks than the language model."""
        sizes = self.network.settings["codebook_sizes"]
        if list(quantiser.codebook_sizes) != sizes:
            raise ValueError(f"likely codes: a language model of codebooks {sizes}, a quantiser of {list(quantiser.codebook_sizes)}")
        logits = self.network.to(codes_BKN.device)(codes_BKN)
        drawn_BKN = torch.stack([draw(logits_BNV.float() / self.temperature) for logits_BNV in logits], dim=1)
        chosen_BKN = torch.rand(codes_BKN.shape, device=codes_BKN.device) < self.codes
        chosen_BKN &= torch.rand(len(codes_BKN), 1, 1, device=codes_BKN.device) < self.utterances
        return torch.where(chosen_BKN, drawn_BKN, codes_BKN)


def draw(logits_BNV: Tensor) -> Tensor:
    """A code of each distribution."""
    return torch.distributions.Categorical(logits=logits_BNV).sample()
