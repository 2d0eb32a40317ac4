"""A corpus, aligned: for each utterance its phonemes and how long each takes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from lhotse import MonoCut
from torch import Tensor

from audiotok.data import alignment
from audiotok.data.alignment import Aligner, Features, Segment, close_short_pauses, segments
from audiotok.data.phonemes import phonemize
from audiotok.data.tokenization import read_cut

SAMPLE_RATE = 16_000  # what the aligner hears


@dataclass(frozen=True)
class Failure:
    id: str
    reason: str


def fit_aligners(
    cuts: Iterable[MonoCut],
    *,
    hours: float,
    states: int,
    gaussians: int,
    iterations: int,
    progress: Callable[[int], None] = lambda iteration: None,
) -> dict[str, Aligner]:
    """An aligner for each language, fitted to the first `hours` of the cuts that have a text. Memory grows with `hours` only."""
    features = Features(SAMPLE_RATE)
    heard: dict[str, list[tuple[Tensor, list[Segment]]]] = {}
    seconds, reason = 0.0, "there is none"
    for cut in cuts:
        if seconds >= 3600 * hours:
            break
        try:
            pair = _frames(cut, features), _segments(cut)
        except ValueError as error:
            reason = str(error)  # each one's is reported by `align_cuts`
            continue
        heard.setdefault(cut.supervisions[0].language, []).append(pair)
        seconds += cut.duration
    if not heard:
        raise ValueError(f"no utterance of the training split can be aligned; the last one because: {reason}")
    return {
        language: alignment.train(*zip(*pairs), states=states, gaussians=gaussians, iterations=iterations, progress=progress)
        for language, pairs in sorted(heard.items())
    }


def align_cuts(cuts: Iterable[MonoCut], aligners: dict[str, Aligner]) -> Iterator[dict | Failure]:
    """A row for each cut: id, phonemes, durations in seconds; a `Failure` for one whose text cannot be laid over its audio."""
    features = Features(SAMPLE_RATE)
    for cut in cuts:
        try:
            chain = _segments(cut)
            aligner = _aligner(aligners, cut.supervisions[0].language)
            counts = aligner.align(_frames(cut, features), chain).tolist()
        except ValueError as error:
            yield Failure(cut.id, str(error))
            continue
        kept = list(close_short_pauses(chain, counts))
        yield {
            "id": cut.id,
            "phonemes": [phoneme for phoneme, _ in kept],
            "durations": [round(count * alignment.HOP_SECONDS, 2) for _, count in kept],
        }


def _segments(cut: MonoCut) -> list[Segment]:
    supervision = cut.supervisions[0]
    if not supervision.text:
        raise ValueError("no text")
    return segments(phonemize(supervision.text, supervision.language))


def _frames(cut: MonoCut, features: Features) -> Tensor:
    return features(read_cut(cut, SAMPLE_RATE))


def _aligner(aligners: dict[str, Aligner], language: str) -> Aligner:
    if language not in aligners:
        raise ValueError(f"no utterance in {language!r} was in the training split; aligners there are for: {', '.join(aligners)}")
    return aligners[language]
