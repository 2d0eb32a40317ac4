"""What a metric is: a callable of a reference and an estimate, the columns it fills and the judge that fills them.

A metric that cannot score an utterance says why: `MetricFailure` for a known limit of the judge (silence, too short), `NotApplicable`
where there is nothing to score (a language that the judge does not know). Both are counted and shown with their reasons; neither becomes a
score. Any other exception is a defect and ends the run.
"""

import hashlib
import importlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol

import numpy as np
from torch import Tensor

from audiotok import audio
from audiotok.files import file_digest

JUDGE_RATE = 16_000  # Hz: what every judge of speech here was trained on; all audio is converted to it once, by `audio.resample`


class MetricFailure(Exception):
    """A metric could not score this utterance, for a reason that is known."""


class NotApplicable(Exception):
    """There is nothing to score here with this metric."""


@dataclass(frozen=True)
class Utterance:
    """One utterance, spoken by a person or a system. `language` is a two-letter code."""

    id: str
    wav_T: Tensor
    sample_rate: int
    text: str | None = None
    language: str | None = None
    speaker: str | None = None

    @property
    def seconds(self) -> float:
        return len(self.wav_T) / self.sample_rate

    def at(self, sample_rate: int) -> "Utterance":
        """The same utterance at another sample rate."""
        wav_T = audio.resample(self.wav_T, self.sample_rate, sample_rate)
        return replace(self, wav_T=wav_T, sample_rate=sample_rate)


@dataclass(frozen=True)
class Ratio:
    """A score whose mean over a corpus is the sum of numerators over the sum of denominators: word errors over words."""

    numerator: float
    denominator: float


@dataclass(frozen=True)
class Column:
    """One column of results: how it is averaged, named and written."""

    name: str
    label: str
    kind: Literal["mean", "ratio", "text"]
    better: Literal["higher", "lower", "neither"] = "neither"
    unit: str = ""
    scale: float = 1.0  # of the number as people read it: 100 for a ratio shown in percent
    digits: int = 2


Value = float | Ratio | str


class Metric(Protocol):
    """Scores an estimate against a reference; `judge` says which model or program, with version and digest, gave the score."""

    @property
    def columns(self) -> tuple[Column, ...]: ...

    @property
    def judge(self) -> str: ...

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict[str, Value]: ...


def speech_of(utterance: Utterance, *, min_seconds: float) -> np.ndarray:
    """Float32 samples [T] at `JUDGE_RATE`. Raises MetricFailure for silence and for less than `min_seconds`."""
    if utterance.seconds < min_seconds:
        raise MetricFailure(f"too short: {utterance.seconds:.2f} s, the judge needs {min_seconds:g} s")
    wav_T = utterance.at(JUDGE_RATE).wav_T.numpy().astype(np.float32, copy=False)
    if not np.abs(wav_T).max() > 1e-4:  # -80 dB of full scale: three steps of 16 bits
        raise MetricFailure("silence")
    return wav_T


def package(name: str, *, module: str | None = None) -> ModuleType:
    """An optional package. Raises ValueError naming the extra that brings it."""
    try:
        return importlib.import_module(module or name)
    except ImportError as error:
        raise ValueError(f"this metric needs the package {name} ({error}); pip install 'audiotok[eval]'") from error


def identity(name: str, weights: Iterable[Path] = ()) -> str:
    """Name and version of a package, and a digest of the weights it judges with."""
    digests = [file_digest(path) for path in weights]
    suffix = f" sha256:{hashlib.sha256(''.join(digests).encode()).hexdigest()[:12]}" if digests else ""
    return f"{name} {version(name)}{suffix}"
