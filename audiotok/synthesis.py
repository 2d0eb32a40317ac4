"""Text to audio with a trained model: the one place where a model, the engine, a transform and a tokenizer meet."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from audiotok.data.aligned import FrontEnd, Line, boundaries, laid_out
from audiotok.data.phonemes import SILENCE, phonemize
from audiotok.decoding.autoregressive import generate
from audiotok.decoding.rows import Job
from audiotok.decoding.samplers import Sampler, seed_of
from audiotok.decoding.step import Step
from audiotok.models.ar_tts import ArTts, Path, Text
from audiotok.tokenizers.base import Decoder
from audiotok.transforms.base import Layout


@dataclass(frozen=True)
class Request:
    """A sentence to speak; `id` names it, and with the seed decides its random numbers."""

    id: str
    text: str
    speaker: str
    language: str


@dataclass(frozen=True)
class Spoken:
    """A request with its codes [K, N] and audio [T]."""

    request: Request
    codes_KN: Tensor
    wav_T: Tensor


@dataclass(frozen=True)
class Failed:
    """A request that could not be spoken, with the reason; the others go on."""

    request: Request
    reason: str


@dataclass(frozen=True)
class Voice:
    """A trained model with all it needs to speak."""

    model: ArTts
    front_end: FrontEnd
    transform: Layout
    tokenizer: Decoder

    def line(self, request: Request) -> Line:
        phonemes = [phoneme for word in phonemize(request.text, request.language) for phoneme in word]
        return self.front_end.line([SILENCE, *phonemes], request.speaker, request.language)


@dataclass(frozen=True)
class Planned:
    """A request about to be spoken: its line, and the frame at which each of its phonemes will end."""

    request: Request
    line: Line
    ends: list[int]


def speak(
    requests: Iterable[Request],
    voice: Voice,
    *,
    sampler: Sampler,
    seed: int,
    batch_size: int,
    max_seconds: float,
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[Spoken | Failed]:
    """Each request spoken, or failed with its reason, in order. A result does not depend on the others that are spoken with it.

    A sentence whose predicted length exceeds `max_seconds` fails: the model has seen nothing like it.
    """
    plans = _plan(list(requests), voice, batch_size=batch_size, max_seconds=max_seconds, device=device)
    places = [i for i, plan in enumerate(plans) if isinstance(plan, Planned)]
    planned = [plan for plan in plans if isinstance(plan, Planned)]
    made = _spoken(planned, voice, sampler=sampler, seed=seed, rows=batch_size, device=device)
    failed = ((i, plan) for i, plan in enumerate(plans) if isinstance(plan, Failed))
    for result in _in_order(chain(failed, ((places[n], spoken) for n, spoken in made))):
        progress(1)
        yield result


def _in_order(results: Iterable[tuple[int, Spoken | Failed]]) -> Iterator[Spoken | Failed]:
    waiting: dict[int, Spoken | Failed] = {}
    place = 0
    for i, result in results:
        waiting[i] = result
        while place in waiting:
            yield waiting.pop(place)
            place += 1


def _plan(
    requests: Sequence[Request], voice: Voice, *, batch_size: int, max_seconds: float, device: torch.device
) -> list[Planned | Failed]:
    lines = [_line(request, voice) for request in requests]
    durations = iter(_durations([line for line in lines if isinstance(line, Line)], voice, batch_size=batch_size, device=device))
    frame_rate = float(voice.tokenizer.spec.frame_rate)
    plans: list[Planned | Failed] = []
    for request, line in zip(requests, lines):
        if isinstance(line, Failed):
            plans.append(line)
            continue
        row = next(durations)
        frames = max(1, round(sum(row)))
        if frames > max_seconds * frame_rate:
            reason = f"would last {frames / frame_rate:.0f} s, the longest allowed is {max_seconds:.0f} s; split the text"
            plans.append(Failed(request, reason))
        else:
            plans.append(Planned(request, line, boundaries(row, frames)))
    return plans


def _line(request: Request, voice: Voice) -> Line | Failed:
    try:
        return voice.line(request)
    except ValueError as error:
        return Failed(request, str(error))


def _durations(lines: Sequence[Line], voice: Voice, *, batch_size: int, device: torch.device) -> Iterator[list[float]]:
    for start in range(0, len(lines), batch_size):
        text = Text.of(lines[start : start + batch_size]).to(device)
        yield from (row.tolist() for row in voice.model.predict_durations(text))


def _spoken(
    planned: Sequence[Planned], voice: Voice, *, sampler: Sampler, seed: int, rows: int, device: torch.device
) -> Iterator[tuple[int, Spoken]]:
    """(index, what was spoken), in the order in which they end."""
    if not planned:
        return
    spec, transform = voice.tokenizer.spec, voice.transform
    jobs = [_job(plan, voice, seed=seed) for plan in planned]
    text, longest = Text.of([plan.line for plan in planned]), max(job.max_positions for job in jobs)

    def begin(indices: Sequence[int]) -> Step:
        path = Path.of([laid_out(planned[i].ends, transform, spec) for i in indices])
        return voice.model.begin(text.rows(indices).to(device), path.to(device), positions=longest)

    sizes = voice.model.spec.codebook_sizes
    for made in generate(begin, jobs, rows=rows, codebook_sizes=sizes, sampler=sampler, device=device):
        codes_KN = transform.invert(made.codes_KN.cpu(), spec)
        wav_BT, lengths_B = voice.tokenizer.decode(codes_KN[None], torch.tensor([codes_KN.shape[1]]))
        yield made.job, Spoken(planned[made.job].request, codes_KN, wav_BT[0, : lengths_B[0]])


def _job(plan: Planned, voice: Voice, *, seed: int) -> Job:
    """What the engine is told: how many positions the frames take in the layout, and what may stand at each."""
    spec, transform, frames = voice.tokenizer.spec, voice.transform, plan.ends[-1]
    return Job(
        seed=seed_of(seed, plan.request.id),
        max_positions=len(transform.frame_index(frames, spec)),
        legal=transform.legal_ids(frames, spec),
        holes_KN=~transform.legal(frames, spec),
    )
