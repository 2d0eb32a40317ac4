"""Codes of real speech for the tests of token metrics, made once a session."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from audiotok import audio
from audiotok.tokenizers.codec import Codec
from audiotok.tokenizers.dmel import DMel
from audiotok.tokenizers.griffin_lim import GriffinLimVocoder
from audiotok.tokenizers.mel import LogMel

UTTERANCES = ("1688-142285-0000", "1688-142285-0001", "1688-142285-0002")


@dataclass(frozen=True)
class Corpus:
    codes: list[np.ndarray]  # codes_KN of each utterance
    sizes: tuple[int, ...]
    frame_rate: Fraction
    seconds: float

    def streams(self, codebook: int) -> list[np.ndarray]:
        return [codes_KN[codebook] for codes_KN in self.codes]


@dataclass(frozen=True)
class Labelled:
    speaker: str
    label: str
    codes_KN: np.ndarray


@lru_cache
def codec() -> Codec:
    return Codec.from_pretrained("codec_50hz")


@lru_cache
def dmel() -> DMel:
    """The shipped setting (configs/tokenizer/dmel.yaml): 80 bands of 16 levels at 40 Hz."""
    mel = LogMel(sample_rate=16000, n_fft=1024, window=800, hop=400, num_mels=80, low_hz=80, high_hz=7600, floor=1e-10)
    return DMel(mel=mel, low=-7.0, high=2.0, num_levels=16, vocoder=GriffinLimVocoder(iterations=1, momentum=0.99, upsample=4))


def encoded(tokenizer: Codec | DMel, wav_T: Tensor) -> np.ndarray:
    return tokenizer.encode(wav_T[None], torch.tensor([len(wav_T)]))[0][0].numpy()


def sound(path: Path) -> Tensor:
    samples, sample_rate = soundfile.read(path, dtype="float32")
    return audio.resample(torch.from_numpy(samples), sample_rate, 16000)


@lru_cache
def corpus(speech: Path, tokenizer: Codec | DMel) -> Corpus:
    """Thirty seconds of test-other."""
    wavs = [sound(speech / "librispeech" / "test-other" / f"{name}.flac") for name in UTTERANCES]
    spec = tokenizer.spec
    codes = [encoded(tokenizer, wav_T) for wav_T in wavs]
    return Corpus(codes, spec.codebook_sizes, spec.frame_rate, sum(map(len, wavs)) / 16000)


@lru_cache
def sentences(speech: Path) -> list[Labelled]:
    """Ten German sentences, each by the same three women of EmoDB, through the codec."""
    return list(_labelled(speech, codec(), "emodb", speakers=("08", "09", "13"), each=1))


@lru_cache
def digits(speech: Path) -> list[Labelled]:
    """Ten English digits, four times each by three speakers of the Free Spoken Digit Dataset, as dMel."""
    return list(_labelled(speech, dmel(), "fsdd", speakers=("george", "jackson", "theo"), each=4))


def _labelled(speech: Path, tokenizer: Codec | DMel, dataset: str, *, speakers: tuple[str, ...], each: int) -> Iterator[Labelled]:
    taken: dict[tuple[str, str], int] = {}
    for row in (speech / "manifest.tsv").read_text().splitlines()[1:]:
        name, path, _, _, speaker, label, text, _ = row.split("\t")
        key = speaker, label if dataset == "fsdd" else text
        if name == dataset and speaker in speakers and taken.get(key, 0) < each:
            taken[key] = taken.get(key, 0) + 1
            yield Labelled(*key, encoded(tokenizer, sound(speech / path)))
