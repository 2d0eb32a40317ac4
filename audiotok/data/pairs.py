"""Corpora that hold every recording twice, noisy and clean: nothing is mixed, and both are cut alike."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from lhotse import MonoCut

from audiotok.data.batching import ALONE, Share
from audiotok.data.crops import RandomCrops, one_ahead
from audiotok.data.noisy import NoisyBatch


@dataclass(frozen=True)
class Pair:
    """A recording both ways, as long and aligned to the sample."""

    noisy: MonoCut
    clean: MonoCut


def paired(cuts: Iterable[MonoCut], *, noisy: str, clean: str) -> list[Pair]:
    """The recordings whose id holds `noisy`, each with the one whose id holds `clean` in its place.

    Raises ValueError where there is none, where one is alone, and where the two are not as long as each other.
    """
    known = {cut.id: cut for cut in cuts}
    pairs = [Pair(cut, _other(cut, known, noisy=noisy, clean=clean)) for id, cut in known.items() if noisy in id]
    if not pairs:
        raise ValueError(f"no recording of {len(known)} has {noisy!r} in its id; set pairs.noisy and pairs.clean, or pairs=null to mix")
    return pairs


def _other(cut: MonoCut, known: dict[str, MonoCut], *, noisy: str, clean: str) -> MonoCut:
    wanted = cut.id.replace(noisy, clean)
    if wanted not in known or wanted == cut.id:
        raise ValueError(f"{cut.id} is there without {wanted}; a noisy recording needs its clean one in the same split")
    other = known[wanted]
    lengths = [(each.num_samples, each.sampling_rate) for each in (cut, other)]
    if lengths[0] != lengths[1]:
        told = " and ".join(f"{samples} samples at {rate} Hz" for samples, rate in lengths)
        raise ValueError(f"{cut.id} and {wanted} have {told}; a pair is aligned to the sample: leave it out, or cut both alike")
    return other


class PairCrops:
    """The crops that `speech` takes of the clean recordings, and the same of the noisy ones; a pure function of (seed, step, rank).

    The peak that a crop is brought to is that of the noisy one, the clean one goes with it.
    """

    def __init__(self, speech: RandomCrops, pairs: Sequence[Pair]) -> None:
        self.speech, self._noisy = speech, {pair.clean.id: pair.noisy for pair in pairs}

    def from_step(self, step: int, *, share: Share = ALONE) -> Iterator[NoisyBatch]:
        """A rank's batches from step `step` on (counted from 0), the next being made while the caller works on one."""
        return one_ahead(lambda place: self.batch(place[0], rank=place[1]), share.places(step))

    def batch(self, step: int, *, rank: int = 0) -> NoisyBatch:
        noisy, clean = [], []
        for cut, piece in self.speech.pieces(step, rank=rank):
            noisy_T, clean_T = (self.speech.cut_out(each, piece) for each in (self._noisy[cut.id], cut))
            noisy.append(noisy_T * piece.gain(noisy_T))
            clean.append(clean_T * piece.gain(noisy_T))
        return NoisyBatch(torch.stack(noisy), torch.stack(clean), torch.full((len(clean),), len(clean[0])))
