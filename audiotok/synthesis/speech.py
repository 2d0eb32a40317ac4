"""Text to audio with a trained model: the one place where a model, the engine, a transform and a tokenizer meet."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import torch

from audiotok.data.aligned import Line
from audiotok.decoding.acceptance import Rule
from audiotok.decoding.autoregressive import Generated
from audiotok.decoding.samplers import Sampler, seed_of
from audiotok.decoding.speculative import Speculated
from audiotok.synthesis.drafting import Drafting
from audiotok.synthesis.scripts import Manner, Script, script
from audiotok.synthesis.voice import Failed, Request, Spoken, Voice


def speak(
    requests: Iterable[Request],
    voice: Voice,
    *,
    sampler: Sampler,
    seed: int,
    manner: Manner,
    drafting: Drafting,
    rule: Rule,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[Spoken | Failed]:
    """Each request spoken, or failed with its reason, in order. A result does not depend on the others that are spoken with it."""
    requests = list(requests)
    lines = [_line(request, voice) for request in requests]
    places = [i for i, line in enumerate(lines) if isinstance(line, Line)]
    plan = script(
        voice.model,
        [line for line in lines if isinstance(line, Line)],
        seeds=[seed_of(seed, requests[i].id) for i in places],
        layout=voice.transform,
        spec=voice.tokenizer.spec,
        manner=manner,
    )
    refused = {places[n]: reason for n, reason in plan.refused.items()} | {
        i: line for i, line in enumerate(lines) if not isinstance(line, Line)
    }
    made = drafting.speak(plan, voice.model, rule=rule, rows=manner.batch_size, sampler=sampler, device=manner.device)
    spoken = ((place := places[plan.lines[one.job]], _spoken(requests[place], one, plan, voice)) for one in made)
    for result in _in_order(chain(((i, Failed(requests[i], reason)) for i, reason in refused.items()), spoken)):
        progress(1)
        yield result


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
    return Spoken(request, codes_KN, wav_BT[0, : lengths_B[0]], made.rounds if isinstance(made, Speculated) else ())


def _in_order(results: Iterable[tuple[int, Spoken | Failed]]) -> Iterator[Spoken | Failed]:
    waiting: dict[int, Spoken | Failed] = {}
    place = 0
    for i, result in results:
        waiting[i] = result
        while place in waiting:
            yield waiting.pop(place)
            place += 1
