"""What models of speech are told: texts, which phoneme each position speaks, and batches of utterances with their codes."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.data.aligned import AlignedUtterance, Line, pad_rows

PLACES = 32  # frames from the start of a phoneme, and to its end, that are told apart


@dataclass(frozen=True)
class Text:
    """What is to be spoken, padded with 0: phoneme ids and stress [B, P], lengths [B], speaker and language ids [B]."""

    phonemes_BP: Tensor
    stress_BP: Tensor
    lengths_B: Tensor
    speaker_B: Tensor
    language_B: Tensor

    @classmethod
    def of(cls, lines: Sequence[Line]) -> "Text":
        return cls(
            pad_rows([line.phonemes for line in lines]),
            pad_rows([line.stress for line in lines]),
            torch.tensor([len(line.phonemes) for line in lines]),
            torch.tensor([line.speaker for line in lines]),
            torch.tensor([line.language for line in lines]),
        )

    def rows(self, rows: Sequence[int]) -> "Text":
        """Some of the rows, at the same width."""
        return replace(self, **{field.name: getattr(self, field.name)[list(rows)] for field in fields(self)})

    def to(self, device: torch.device | str) -> "Text":
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True)
class Path:
    """Which phoneme each position speaks: its index, the frames since the phoneme's start and to its end, all [B, N]."""

    phoneme_BN: Tensor
    since_BN: Tensor
    until_BN: Tensor

    @classmethod
    def of(cls, rows: Sequence[tuple[Tensor, Tensor, Tensor]]) -> "Path":
        return cls(*(pad_rows(parts) for parts in zip(*rows)))

    def to(self, device: torch.device | str) -> "Path":
        return Path(self.phoneme_BN.to(device), self.since_BN.to(device), self.until_BN.to(device))


def withheld(text: Text, path: Path, rows_B: Tensor) -> tuple[Text, Path]:
    """The text and path of which the rows that bool `rows_B` names tell nothing: one phoneme of 0, which no text has, by nobody."""
    told = {field.name: getattr(text, field.name) for field in fields(text)}
    told = {name: ids.masked_fill(rows_B if ids.ndim == 1 else rows_B[:, None], 0) for name, ids in told.items()}
    told["lengths_B"] = text.lengths_B.masked_fill(rows_B, 1)
    return Text(**told), Path(*(ids_BN.masked_fill(rows_B[:, None], 0) for ids_BN in (path.phoneme_BN, path.since_BN, path.until_BN)))


@dataclass(frozen=True)
class Batch:
    """Utterances with their codes [B, K, N] in the transform's layout (-1 past the end and where the layout has a hole)."""

    text: Text
    path: Path
    codes_BKN: Tensor
    durations_BP: Tensor  # frames, fractional
    texts: tuple[str | None, ...]  # as they were written

    @classmethod
    def of(cls, utterances: Sequence[AlignedUtterance]) -> "Batch":
        codes_BNK = pad_rows([utterance.codes_KN.T for utterance in utterances], -1)
        durations_BP = pad_rows([torch.tensor(utterance.durations_P) for utterance in utterances])
        return cls(
            Text.of([utterance.line for utterance in utterances]),
            Path.of([utterance.path for utterance in utterances]),
            codes_BNK.transpose(1, 2),
            durations_BP,
            tuple(utterance.text for utterance in utterances),
        )

    def to(self, device: torch.device | str) -> "Batch":
        tensors = self.text.to(device), self.path.to(device), self.codes_BKN.to(device), self.durations_BP.to(device)
        return Batch(*tensors, self.texts)


class TextEncoder(nn.Module):
    """Embeddings of phonemes and stress, each mixed with its neighbours by residual convolutions: [B, P, D]."""

    def __init__(self, num_phonemes: int, *, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.phoneme = nn.Embedding(num_phonemes, width)
        self.stress = nn.Embedding(3, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, phonemes_BP: Tensor, stress_BP: Tensor, *, lengths_B: Tensor) -> Tensor:
        inside_BP1 = (torch.arange(phonemes_BP.shape[1], device=phonemes_BP.device) < lengths_B[:, None])[..., None]
        hidden_BPD = self.phoneme(phonemes_BP) + self.stress(stress_BP)
        for norm, convolution in zip(self.norms, self.convolutions):
            mixed_BPD = convolution((norm(hidden_BPD) * inside_BP1).transpose(1, 2)).transpose(1, 2)
            hidden_BPD = hidden_BPD + self.dropout(F.gelu(mixed_BPD))
        return hidden_BPD * inside_BP1
