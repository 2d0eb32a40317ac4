"""A text spoken sentence by sentence, each going on from the one before it, as one who reads a page does (arXiv 2301.02111).

Sentences follow each other, texts are spoken side by side. What one text says does not depend on the others.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from audiotok.synthesis.openings import Lead, Opening
from audiotok.synthesis.speech import joined, parts_of
from audiotok.synthesis.voice import Failed, Request, Spoken, Voice

Say = Callable[[list[Request], Mapping[str, Lead]], Iterable[Spoken | Failed]]  # leads by the requests' ids


def carried(requests: Iterable[Request], say: Say, *, voice: Voice, first: Lead, max_seconds: float) -> Iterator[Spoken | Failed]:
    """Each request, its sentences spoken one after another and joined with pauses; failed where one of its sentences fails.

    A sentence goes on from the last one before it that was spoken and lasts `max_seconds` at most; those before there is any, from what
    `first` says.
    """
    parts = [(request, parts_of(request)) for request in requests]
    leads = [first] * len(parts)
    said: list[list[Spoken | Failed]] = [[] for _ in parts]
    for turn in range(max((len(some) for _, some in parts), default=0)):
        speaking = [i for i, (_, some) in enumerate(parts) if turn < len(some)]
        asked = [parts[i][1][turn] for i in speaking]
        for i, result in zip(speaking, say(asked, {one.id: leads[i] for i, one in zip(speaking, asked)}), strict=True):
            said[i].append(result)
            codes_KN, durations_P = (None, None) if isinstance(result, Failed) else (result.codes_KN, result.durations_P)
            leads[i] = onward(result.request, codes_KN, durations_P, leads[i], voice=voice, max_seconds=max_seconds)
    for (request, _), results in zip(parts, said):
        yield joined(request, results)


def onward(
    request: Request, codes_KN: Tensor | None, durations_P: Sequence[float] | None, before: Lead, *, voice: Voice, max_seconds: float
) -> Lead:
    """What stands before the sentence after this one: this one, or what stood before it where it failed or is too long."""
    if codes_KN is None or codes_KN.shape[1] > max_seconds * voice.tokenizer.spec.frame_rate:
        return before
    return Lead(Opening(voice.line(request), codes_KN, durations_P))
