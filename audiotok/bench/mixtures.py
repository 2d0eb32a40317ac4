"""What an enhancement or separation task hears and wants: made from the suite's recordings, the same for every tokenizer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from zlib import crc32

import torch
from lhotse import MonoCut
from torch import Tensor

from audiotok.bench.subject import Selection, Subject, value_of
from audiotok.data.acoustics import mixed, repeated
from audiotok.data.tokenization import read_cut
from audiotok.evaluation.metric import NotApplicable


@dataclass(frozen=True, eq=False)
class Mixture:
    """Heard and wanted samples at one rate, as long as each other; one wanted signal for each speaker."""

    id: str
    cut: MonoCut  # of the (first) wanted signal: text, language, speaker
    heard_T: Tensor
    wanted: tuple[Tensor, ...]


@dataclass(frozen=True)
class Noisy:
    """Speech in recorded noise at a drawn signal-to-noise ratio in dB, cut to `max_seconds`."""

    speech: Selection
    noise: Selection
    snrs: Sequence[float]
    max_seconds: float

    def __call__(self, subject: Subject, sample_rate: int) -> Iterator[Mixture]:
        noises = [read_cut(cut, sample_rate) for cut in subject.cuts(self.noise)]
        for cut in subject.cuts(self.speech):
            wav_T = read_cut(cut, sample_rate)[: round(self.max_seconds * sample_rate)]
            draw = torch.Generator().manual_seed(crc32(cut.id.encode()))
            noise_T = noises[int(torch.randint(len(noises), (), generator=draw))]
            snr = self.snrs[int(torch.randint(len(self.snrs), (), generator=draw))]
            heard_T = mixed(wav_T, repeated(noise_T, len(wav_T), generator=draw), sample_rate, snr=snr)
            yield Mixture(cut.id, cut, heard_T, (wav_T,))


@dataclass(frozen=True)
class Pairs:
    """Recordings that are there noisy and clean: those of a selection whose id holds `noisy`, and the same id with `clean` in its place."""

    speech: Selection
    noisy: str
    clean: str

    def __call__(self, subject: Subject, sample_rate: int) -> Iterator[Mixture]:
        cuts = {cut.id: cut for cut in subject.cuts(self.speech)}
        found = [(cut, cuts.get(id.replace(self.noisy, self.clean))) for id, cut in cuts.items() if self.noisy in id]
        if not found:
            raise NotApplicable(f"no recording has {self.noisy!r} in its id")
        for noisy, clean in found:
            if clean is not None:
                heard_T, wanted_T = read_cut(noisy, sample_rate), read_cut(clean, sample_rate)
                length = min(len(heard_T), len(wanted_T))
                yield Mixture(clean.id, clean, heard_T[:length], (wanted_T[:length],))


@dataclass(frozen=True)
class TwoSpeakers:
    """Two recordings of different speakers at once, the second as loud as the first, as long as the shorter and `max_seconds` at most."""

    speech: Selection
    max_seconds: float

    def __call__(self, subject: Subject, sample_rate: int) -> Iterator[Mixture]:
        cuts = sorted(subject.cuts(self.speech), key=lambda cut: sha256(cut.id.encode()).hexdigest())
        for left, right in pairwise(cuts):
            if value_of(left, "speaker") == value_of(right, "speaker"):
                continue
            one_T, other_T = (read_cut(cut, sample_rate) for cut in (left, right))
            length = min(len(one_T), len(other_T), round(self.max_seconds * sample_rate))
            one_T, other_T = one_T[:length], other_T[:length]
            other_T = other_T * (one_T.square().mean() / other_T.square().mean().clamp(min=1e-9)).sqrt()
            yield Mixture(f"{left.id}+{right.id}", left, one_T + other_T, (one_T, other_T))
