"""Libri2Mix as a separation task hears it: the sum of the two voices that the corpus `libri2mix` lists."""

from collections.abc import Iterator
from dataclasses import dataclass

from lhotse import MonoCut

from audiotok.bench.mixtures import Mixture
from audiotok.bench.subject import Selection, Subject, value_of
from audiotok.data.tokenization import read_cut
from audiotok.evaluation.metric import NotApplicable


@dataclass(frozen=True)
class Libri2Mix:
    """The mixtures of a selection, both voices wanted; `max_mixtures` (None: all) of them, the first by id."""

    voices: Selection
    max_mixtures: int | None

    def __call__(self, subject: Subject, sample_rate: int) -> Iterator[Mixture]:
        pairs: dict[str, dict[str, MonoCut]] = {}
        for cut in subject.cuts(self.voices):
            pairs.setdefault(value_of(cut, "mixture") or "", {})[value_of(cut, "place") or ""] = cut
        whole = [(name, pair["1"], pair["2"]) for name, pair in sorted(pairs.items()) if set(pair) == {"1", "2"}]
        if not whole:
            raise NotApplicable(f"the corpus {self.voices.corpus} lists no mixture with both its voices")
        for name, one, other in whole[: self.max_mixtures]:
            one_T, other_T = (read_cut(cut, sample_rate) for cut in (one, other))
            yield Mixture(name, one, one_T + other_T, (one_T, other_T))
