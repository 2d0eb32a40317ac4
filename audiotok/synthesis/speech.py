"""Text to audio with a trained model: the one place where a model, the engine, a transform and a tokenizer meet."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import torch

from audiotok.data.aligned import Line
from audiotok.decoding.acceptance import Rule
from audiotok.decoding.autoregressive import Generated
from audiotok.decoding.samplers import Sampler, seed_of
from audiotok.decoding.speculative import Speculated
from audiotok.synthesis.drafting import Drafting
from audiotok.synthesis.openings import Lead
from audiotok.synthesis.scripts import Manner, Script, script
from audiotok.synthesis.voice import Failed, Request, Spoken, Voice

SENTENCE_END = re.compile(r"(?<=[.!?…])(?<!\b[A-Z]\.)(?<!\b[A-Z][a-z]\.)(?<!\bMrs\.)\s+(?![a-zà-ÿа-я\s])")
PAUSE_SECONDS = 0.25  # between two sentences of one text, besides the silence that the model begins with


def speak(
    requests: Iterable[Request],
    voice: Voice,
    *,
    sampler: Sampler,
    seed: int,
    manner: Manner,
    drafting: Drafting,
    rule: Rule,
    leads: Mapping[str, Lead] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[Spoken | Failed]:
    """Each request spoken, or failed with its reason, in order. A result does not depend on the others that are spoken with it.

    `leads` tells of some requests, by their ids, what stands before them or how long their sounds are.
    """
    requests, leads = list(requests), leads or {}
    lines = [_line(request, voice) for request in requests]
    places = [i for i, line in enumerate(lines) if isinstance(line, Line)]
    plan = script(
        voice.model,
        [line for line in lines if isinstance(line, Line)],
        seeds=[seed_of(seed, requests[i].id) for i in places],
        layout=voice.transform,
        spec=voice.tokenizer.spec,
        manner=manner,
        leads=[leads.get(requests[i].id, Lead()) for i in places],
    )
    refused = {places[n]: reason for n, reason in plan.refused.items()} | {
        i: line for i, line in enumerate(lines) if not isinstance(line, Line)
    }
    made = drafting.speak(plan, voice.model, rule=rule, rows=manner.batch_size, sampler=sampler, device=manner.device)
    spoken = ((place := places[plan.lines[one.job]], _spoken(requests[place], one, plan, voice)) for one in made)
    for result in _in_order(chain(((i, Failed(requests[i], reason)) for i, reason in refused.items()), spoken)):
        progress(1)
        yield result


def in_sentences(requests: Iterable[Request], say: Callable[[list[Request]], Iterable[Spoken | Failed]]) -> Iterator[Spoken | Failed]:
    """Each request, spoken sentence by sentence by `say` and joined with pauses; failed where one of its sentences fails.

    A model has heard single sentences: a long text spoken as one is like nothing that it knows.
    """
    parts = [(request, parts_of(request)) for request in requests]
    results = iter(say([part for _, some in parts for part in some]))
    for request, some in parts:
        yield joined(request, [next(results) for _ in some])


def parts_of(request: Request) -> list[Request]:
    """A request for each of its sentences."""
    return [replace(request, id=f"{request.id}/{n}", text=text) for n, text in enumerate(sentences(request.text))]


def sentences(text: str) -> list[str]:
    """The text cut behind full stops, question and exclamation marks, but not within a sentence: 5 p.m. in, Mr. So."""
    return [part for part in SENTENCE_END.split(text.strip()) if part] or [text]


def joined(request: Request, results: Sequence[Spoken | Failed]) -> Spoken | Failed:
    """A request of which these are the sentences; failed where one of them is."""
    spoken = [result for result in results if isinstance(result, Spoken)]
    if len(spoken) < len(results):
        failed = next(result for result in results if isinstance(result, Failed))
        return Failed(request, failed.reason if len(results) == 1 else f"{failed.request.text!r} {failed.reason}")
    if len(spoken) == 1:
        return replace(spoken[0], request=request)
    pieces = [piece for one in spoken for piece in (one.wav_T, one.wav_T.new_zeros(round(PAUSE_SECONDS * one.sample_rate)))]
    rounds = tuple(made for one in spoken for made in one.rounds)
    return Spoken(request, torch.cat([one.codes_KN for one in spoken], 1), torch.cat(pieces[:-1]), spoken[0].sample_rate, rounds)


def _line(request: Request, voice: Voice) -> Line | str:
    """What is to be spoken, or why it cannot be."""
    try:
        return voice.line(request)
    except ValueError as error:
        return str(error)


def _spoken(request: Request, made: Generated, plan: Script, voice: Voice) -> Spoken | Failed:
    try:
        codes_KN = plan.codes(made.job, made.codes_KN.cpu())
    except ValueError as error:
        return Failed(request, str(error))
    wav_BT, lengths_B = voice.tokenizer.decode(codes_KN[None], torch.tensor([codes_KN.shape[1]]))
    rounds = made.rounds if isinstance(made, Speculated) else ()
    durations = plan.durations(made.job, made.codes_KN.cpu())
    wav_T, rate = wav_BT[0, : lengths_B[0]], voice.tokenizer.spec.sample_rate
    return Spoken(request, codes_KN, wav_T, rate, rounds, None if durations is None else tuple(durations))


def _in_order(results: Iterable[tuple[int, Spoken | Failed]]) -> Iterator[Spoken | Failed]:
    waiting: dict[int, Spoken | Failed] = {}
    place = 0
    for i, result in results:
        waiting[i] = result
        while place in waiting:
            yield waiting.pop(place)
            place += 1
