"""People who speak at once, and each of them alone: what separation learns from and is tested on.

Of fixed mixtures, in a folder like that of `audiotok.data.mixes`, each voice an utterance of its own; both are cut to the shorter one:

noisy/ID.flac                   both at once                            ID is 1688-142285-0000+4350-10919-0001
clean/ID_1.flac  ID_2.flac      each as loud as in it
noisy/utterances.jsonl          id (ID_1, ID_2), path (of what is heard, the same for both), text, speaker, language, mixture, level (dB)
cuts_test.jsonl.gz              the voices as Lhotse cuts, `mixture` in `custom`
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lhotse import MonoCut, SupervisionSegment
from torch import Tensor

from audiotok import audio, files
from audiotok.data.acoustics import active_power
from audiotok.data.batching import ALONE, Share
from audiotok.data.crops import RandomCrops, one_ahead
from audiotok.data.manifests import cut_of_file, file_name, speaker_of, write_cuts
from audiotok.data.resynthesis import UTTERANCES
from audiotok.data.tokenization import read_cut


@dataclass(frozen=True)
class MixedBatch:
    """Voices at once and alone, aligned to the sample; zeros past a row's length."""

    mixed_BT: Tensor
    wanted_BST: Tensor
    lengths_B: Tensor

    def to(self, device: torch.device) -> "MixedBatch":
        return MixedBatch(*(part.to(device, non_blocking=True) for part in (self.mixed_BT, self.wanted_BST, self.lengths_B)))


@dataclass(frozen=True)
class Together:
    """How many speak at once, and by how many dB the others are louder than the first where they speak, between two bounds."""

    voices: int
    levels: tuple[float, float]

    def __post_init__(self) -> None:
        if self.voices < 2 or self.levels[0] > self.levels[1]:
            raise ValueError(f"together: voices is 2 or more, levels the lowest and the highest in dB; got {self.voices} and {self.levels}")

    def draw(self, random: np.random.Generator) -> list[float]:
        """The levels of one mixture: the first voice is at 0 dB."""
        return [0.0, *(float(random.uniform(*self.levels)) for _ in range(self.voices - 1))]


def at_once(voices: Sequence[Tensor], levels: Sequence[float], sample_rate: int) -> tuple[Tensor, Tensor]:
    """(mixed_T, wanted_ST) of voices as long as each other, each so many dB louder than the first where it speaks.

    All are turned down alike where the sum would leave full scale. A silent voice stays so, and beside a silent first one all are as they
    were.
    """
    first = active_power(voices[0], sample_rate)
    powers = [active_power(wav_T, sample_rate) for wav_T in voices]
    gains = [(first / power * 10 ** (level / 10)) ** 0.5 if first and power else 1.0 for power, level in zip(powers, levels)]
    wanted_ST = torch.stack([wav_T * gain for wav_T, gain in zip(voices, gains)])
    mixed_T = wanted_ST.sum(dim=0)
    loudest = max(1.0, float(mixed_T.abs().max()), float(wanted_ST.abs().max()))
    return mixed_T / loudest, wanted_ST / loudest


class VoiceCrops:
    """The crops of `speech`, each with others' speech at once; a pure function of (seed, step, rank)."""

    def __init__(self, speech: RandomCrops, together: Together) -> None:
        self.speech, self.together = speech, together

    def from_step(self, step: int, *, share: Share = ALONE) -> Iterator[MixedBatch]:
        """A rank's batches from step `step` on (counted from 0), the next being made while the caller works on one."""
        return one_ahead(lambda place: self.batch(place[0], rank=place[1]), share.places(step))

    def batch(self, step: int, *, rank: int = 0) -> MixedBatch:
        """Raises ValueError where too few people speak in all."""
        random = np.random.default_rng([self.speech.seed, step, rank, 1])
        rows = [
            self._row(cut, piece.levelled(self.speech.cut_out(cut, piece)), random) for cut, piece in self.speech.pieces(step, rank=rank)
        ]
        mixed, wanted = (torch.stack(part) for part in zip(*rows))
        return MixedBatch(mixed, wanted, torch.full((len(mixed),), mixed.shape[1]))

    def _row(self, cut: MonoCut, first_T: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        voices, heard = [first_T], {speaker_of(cut)}
        while len(voices) < self.together.voices:
            other, piece = self.speech.another(heard, random)
            voices.append(self.speech.cut_out(other, piece))
            heard.add(speaker_of(other))
        return at_once(voices, self.together.draw(random), self.speech.sample_rate)


@dataclass(frozen=True)
class Mixture:
    """Utterances at once and alone; `about` says who says what, without the text of what was cut."""

    id: str
    mixed_T: Tensor
    wanted_ST: Tensor
    levels: Sequence[float]
    about: Sequence[SupervisionSegment]


def mixtures(cuts: Sequence[MonoCut], together: Together, *, sample_rate: int, seed: int) -> Iterator[Mixture]:
    """Each utterance in one mixture, with those that come next; where two of them are of one person, in none.

    A mixture is a pure function of the seed and its utterances. Raises ValueError where there is none.
    """
    groups = [cuts[start : start + together.voices] for start in range(0, len(cuts) - together.voices + 1, together.voices)]
    wanted = [group for group in groups if len({speaker_of(cut) for cut in group}) == together.voices]
    if not wanted:
        raise ValueError(
            f"no {together.voices} utterances of different people are there to be heard at once; see mix.datasets and mix.seconds"
        )
    for group in wanted:
        random = np.random.default_rng(int(files.fingerprint([seed, *(cut.id for cut in group)])[:16], 16))
        wavs, levels = [read_cut(cut, sample_rate) for cut in group], together.draw(random)
        shortest = min(map(len, wavs))
        mixed_T, wanted_ST = at_once([wav_T[:shortest] for wav_T in wavs], levels, sample_rate)
        about = [
            replace(cut.supervisions[0], text=cut.supervisions[0].text if len(wav_T) == shortest else None)
            for cut, wav_T in zip(group, wavs)
        ]
        yield Mixture("+".join(cut.id for cut in group), mixed_T, wanted_ST, levels, about)


def write_mixtures(folder: Path, made: Iterable[Mixture], sample_rate: int) -> None:
    """Fill `folder` as the module says."""
    rows, cuts = [], []
    for mixture in made:
        heard = f"{file_name(mixture.id)}.flac"
        audio.write(folder / "noisy" / heard, mixture.mixed_T, sample_rate)
        for number, (wav_T, level, about) in enumerate(zip(mixture.wanted_ST, mixture.levels, mixture.about), start=1):
            id = f"{mixture.id}_{number}"
            path = f"clean/{file_name(id)}.flac"
            audio.write(folder / path, wav_T, sample_rate)
            said = {"text": about.text, "speaker": about.speaker, "language": about.language}
            rows.append({"id": id, "path": heard, **said, "mixture": mixture.id, "level": round(level, 2)})
            told = {"samples": len(wav_T), "sample_rate": sample_rate, "about": about, "custom": {"mixture": mixture.id}}
            cuts.append(cut_of_file(id, path, **told))
    files.write_jsonl(folder / "noisy" / UTTERANCES, rows)
    write_cuts(folder / "cuts_test.jsonl.gz", cuts)
