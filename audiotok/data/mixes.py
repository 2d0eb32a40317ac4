"""Fixed mixes: speech of people whom no model has heard, in noise that none has heard, at each of several ratios.

clean/ID.flac  noisy/ID.flac    aligned to the sample, 16 bits; ID is the utterance's with the ratio: 1688-142285-0000_-5dB
noisy/utterances.jsonl          id, path, text, speaker and language as of any system's audio, and snr (dB), noise and room
cuts_test.jsonl.gz              the clean recordings as Lhotse cuts, as `prepare` writes a corpus; snr, noise and room in `custom`

Of a corpus that holds its recordings noisy and clean, the same of these pairs as they are: snr, noise and room are then not known.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse import MonoCut, SupervisionSegment
from torch import Tensor

from audiotok import audio, files
from audiotok.data.acoustics import SLOPES, colored_noise, levelled, repeated
from audiotok.data.manifests import cut_of_file, file_name, speaker_of, write_cuts
from audiotok.data.noisy import BABBLE, RECORDED, heard
from audiotok.data.pairs import Pair
from audiotok.data.resynthesis import UTTERANCES
from audiotok.data.rooms import Rooms
from audiotok.data.tokenization import read_cut

KINDS = (RECORDED, BABBLE, *SLOPES)


@dataclass(frozen=True)
class Mix:
    """An utterance in noise and alone, aligned to the sample; `snr` in dB, `noise` and `room` by kind and name, None where not known."""

    id: str
    noisy_T: Tensor
    clean_T: Tensor
    snr: float | None
    noise: str | None
    room: str | None
    about: SupervisionSegment


class Mixer:
    """Mixes of utterances, each a pure function of the seed, the utterance's id and the ratio. An utterance is in one room at all ratios.

    `kinds` are shares as `NoisyCrops` has them: recorded is one of the `noises` from a random place on, babble `num_voices` of the
    `voices` at once that another person speaks. Raises ValueError for an unknown kind, and for one that there is no sound for.
    """

    def __init__(
        self,
        noises: Sequence[MonoCut],
        voices: Sequence[MonoCut],
        *,
        sample_rate: int,
        kinds: Mapping[str, float],
        num_voices: int,
        rooms: Rooms,
        seed: int,
    ) -> None:
        if unknown := set(kinds) - set(KINDS):
            raise ValueError(f"mix.kinds: {', '.join(sorted(unknown))} is unknown; known are {', '.join(KINDS)}")
        if kinds.get(RECORDED) and not noises:
            raise ValueError(
                "mix.kinds wants recorded noise, and every recording of noise is in the training split; set mix.kinds.recorded=0"
            )
        if kinds.get(BABBLE) and len({speaker_of(cut) for cut in voices}) < 2:
            raise ValueError("mix.kinds wants babble, and fewer than two people speak in the test split; set mix.kinds.babble=0")
        self.noises, self.voices, self.sample_rate = list(noises), list(voices), sample_rate
        self.num_voices, self.rooms, self.seed = num_voices, rooms, seed
        self._kinds, weights = list(kinds), np.array(list(kinds.values()), dtype=np.float64)
        self._shares = weights / weights.sum()

    def mix(self, cut: MonoCut, snr: float) -> Mix:
        """At `snr` dB of the speech as it is heard, where it speaks, to the noise over all; both are turned down where the sum is too loud.

        Raises ValueError where the speech or the noise is silent.
        """
        random, rooms = self._random(cut.id, snr), self._random(cut.id, "room")
        clean_T, room = read_cut(cut, self.sample_rate), self.rooms.draw(rooms)
        noise_T, name = self._noise(str(random.choice(self._kinds, p=self._shares)), cut, len(clean_T), random)
        if not (clean_T.any() and noise_T.any()):
            raise ValueError(f"{cut.id}: a ratio to silence is not defined, the speech or the noise ({name}) is silent; leave it out")
        noisy_T, clean_T = heard(clean_T, noise_T, room, self.sample_rate, snr=snr)
        return Mix(f"{cut.id}{_ending(snr)}", noisy_T, clean_T, snr, name, room.name if room else None, cut.supervisions[0])

    def _random(self, *told: Any) -> np.random.Generator:
        return np.random.default_rng(int(files.fingerprint([self.seed, *told])[:16], 16))

    def _noise(self, kind: str, cut: MonoCut, samples: int, random: np.random.Generator) -> tuple[Tensor, str]:
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        if kind == RECORDED:
            chosen = self.noises[int(random.integers(len(self.noises)))]
            return repeated(read_cut(chosen, self.sample_rate), samples, generator=generator), f"{RECORDED}: {chosen.id}"
        if kind == BABBLE:
            others = [voice for voice in self.voices if speaker_of(voice) != speaker_of(cut)]
            said = [others[index] for index in random.permutation(len(others))[: self.num_voices]]
            parts = [repeated(levelled(read_cut(voice, self.sample_rate)), samples, generator=generator) for voice in said]
            return torch.stack(parts).sum(dim=0), f"{BABBLE}: {', '.join(sorted(voice.id for voice in said))}"
        return colored_noise(kind, samples, self.sample_rate, generator=generator), kind  # type: ignore[arg-type]


def mix_of(pair: Pair, sample_rate: int) -> Mix:
    """A pair as it was recorded; what resampling brings out of full scale is turned down, both alike."""
    noisy_T, clean_T = (read_cut(cut, sample_rate) for cut in (pair.noisy, pair.clean))
    loudest = max(1.0, float(noisy_T.abs().max()), float(clean_T.abs().max()))
    return Mix(pair.clean.id, noisy_T / loudest, clean_T / loudest, None, None, None, pair.clean.supervisions[0])


def recording_of(cut: MonoCut) -> str:
    """The utterance that a cut of the mixes is of, the same at every ratio; the mixture that a voice is of; of any other cut its own id."""
    snr, mixture = ((cut.custom or {}).get(key) for key in ("snr", "mixture"))
    if mixture is not None:
        return str(mixture)
    return cut.id if snr is None else cut.id.removesuffix(_ending(snr))


def _ending(snr: float) -> str:
    return f"_{snr:g}dB"


def unheard(test: Iterable[MonoCut], train: Iterable[MonoCut]) -> list[MonoCut]:
    """What people say in the test split who say nothing in the training split. Raises ValueError where nobody is left."""
    known = {speaker_of(cut) for cut in train}
    left = [cut for cut in test if speaker_of(cut) not in known]
    if not left:
        raise ValueError("everyone who speaks in the test split speaks in the training split too, or nobody does; see mix.datasets")
    return left


def spread(cuts: Iterable[MonoCut], num: int | None, *, shortest: float, longest: float) -> list[MonoCut]:
    """At most `num` cuts (None: all) that last between so many seconds, by turns of each speaker, in the order of their ids."""
    turns: dict[str, list[MonoCut]] = {}
    for cut in sorted(cuts, key=lambda cut: cut.id):
        if shortest <= cut.duration <= longest:
            turns.setdefault(speaker_of(cut), []).append(cut)
    chosen = [cut for cut in chain.from_iterable(zip_longest(*turns.values())) if cut is not None]
    if not chosen:
        raise ValueError(f"no utterance lasts between {shortest:g} and {longest:g} s; set mix.seconds")
    return chosen[:num]


def write_mixes(folder: Path, mixes: Iterable[Mix], sample_rate: int, *, progress: Callable[[int], None] = lambda done: None) -> None:
    """Fill `folder` as the module says."""
    rows, cuts = [], []
    for mix in mixes:
        name = f"{file_name(mix.id)}.flac"
        for kind, wav_T in (("noisy", mix.noisy_T), ("clean", mix.clean_T)):
            audio.write(folder / kind / name, wav_T, sample_rate)
        said = {"text": mix.about.text, "speaker": mix.about.speaker, "language": mix.about.language}
        rows.append({"id": mix.id, "path": name, **said, "snr": mix.snr, "noise": mix.noise, "room": mix.room})
        custom = {"snr": mix.snr, "noise": mix.noise, "room": mix.room}
        told = {"samples": len(mix.clean_T), "sample_rate": sample_rate, "about": mix.about, "custom": custom}
        cuts.append(cut_of_file(mix.id, f"clean/{name}", **told))
        progress(1)
    files.write_jsonl(folder / "noisy" / UTTERANCES, rows)
    write_cuts(folder / "cuts_test.jsonl.gz", cuts)
