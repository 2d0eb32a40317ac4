"""Spoken digits (FSDD, 8 kHz) as log-mel features and as codes, and small settings, for all probe tests."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from audiotok import audio
from audiotok.evaluation.probes.embedding import EmbeddingSettings
from audiotok.evaluation.probes.fitting import FitSettings
from audiotok.evaluation.probes.heads import Convolutions, Pooled
from audiotok.evaluation.probes.inputs import Labelled, ProbeInput
from audiotok.tokenizers.mel import LogMel

MEL = LogMel(sample_rate=8000, n_fft=256, window=256, hop=128, num_mels=40, low_hz=0.0, high_hz=4000.0, floor=1e-5)
RATE = 8000 / 128  # Hz

FIT = FitSettings(
    optimizer="adam",
    learning_rate=2e-3,
    betas=(0.9, 0.999),
    weight_decay=0.0,
    schedule="constant",
    newbob_threshold=0.0025,
    newbob_factor=0.8,
    newbob_patience=0,
    batch_size=25,
    accumulate=1,
    max_norm=None,
    epochs=10,
    max_seconds=None,
    patience=None,
    precision="fp32",
)
EMBEDDING = EmbeddingSettings(width=64, mixing="attention", codebooks=None, max_frame_rate=100.0)
SMALL = partial(Pooled, frames=partial(Convolutions, channels=64, kernel=5, layers=2, dropout=0.0))
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Digits:
    """The train part and the test part: other takes of the same digits by the same speakers."""

    train: list[Labelled]
    test: list[Labelled]


def mel_input(path: Path) -> ProbeInput:
    wav_T, rate = audio.read(path)
    assert rate == MEL.sample_rate
    return ProbeInput(MEL(wav_T), RATE)


def banded(examples: Sequence[Labelled], *, bands: int, levels: int) -> list[Labelled]:
    """The examples as codes: the mean of each of `bands` parts of the mel scale, as one of `levels` steps of 5 decades."""

    def codes(mel_NM: Tensor) -> Tensor:
        means_NK = mel_NM.unflatten(1, (bands, -1)).mean(dim=-1)
        return ((means_NK + 4.0) / 5.0 * levels).long().clamp(0, levels - 1).T

    return [replace(each, input=ProbeInput(codes(each.input.frames), RATE, (levels,) * bands)) for each in examples]
