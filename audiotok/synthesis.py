"""Text to audio with a trained model: the one place where a model, the engine, a transform and a tokenizer meet."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from audiotok.data.aligned import FrontEnd, Line, boundaries, laid_out, pad_rows
from audiotok.data.phonemes import SILENCE, phonemize
from audiotok.decoding.autoregressive import NONE, Step, generate
from audiotok.decoding.samplers import Sampler, seed_of
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
    """Each request spoken, or failed with its reason, in order. A result does not depend on the others in its batch.

    A sentence whose predicted length exceeds `max_seconds` fails: the model has seen nothing like it.
    """
    waiting = iter(requests)
    while batch := list(islice(waiting, batch_size)):
        lines: list[Line | Failed] = [_line(request, voice) for request in batch]
        spoken = iter(
            _batch(
                [(request, line) for request, line in zip(batch, lines) if not isinstance(line, Failed)],
                voice,
                sampler=sampler,
                seed=seed,
                max_seconds=max_seconds,
                device=device,
            )
        )
        yield from (line if isinstance(line, Failed) else next(spoken) for line in lines)
        progress(len(batch))


def _line(request: Request, voice: Voice) -> Line | Failed:
    try:
        return voice.line(request)
    except ValueError as error:
        return Failed(request, str(error))


def _batch(
    pairs: Sequence[tuple[Request, Line]], voice: Voice, *, sampler: Sampler, seed: int, max_seconds: float, device: torch.device
) -> Iterator[Spoken | Failed]:
    if not pairs:
        return
    spec = voice.tokenizer.spec
    text = Text.of([line for _, line in pairs]).to(device)
    durations = [row.tolist() for row in voice.model.predict_durations(text)]
    frames = [max(1, round(sum(row))) for row in durations]
    limit = int(max_seconds * spec.frame_rate)
    spoken = [i for i, count in enumerate(frames) if count <= limit]
    codes: dict[int, Tensor] = {}
    if spoken:
        ends = [boundaries(durations[i], frames[i]) for i in spoken]
        seeds = [seed_of(seed, pairs[i][0].id) for i in spoken]
        codes = dict(zip(spoken, _codes(text.rows(spoken), ends, voice, sampler=sampler, seeds=seeds, device=device)))
    for i, (request, _) in enumerate(pairs):
        if i in codes:
            wav_BT, lengths_B = voice.tokenizer.decode(codes[i][None], torch.tensor([codes[i].shape[1]]))
            yield Spoken(request, codes[i], wav_BT[0, : lengths_B[0]])
        else:
            seconds = frames[i] / float(spec.frame_rate)
            yield Failed(request, f"would last {seconds:.0f} s, the longest allowed is {max_seconds:.0f} s; split the text")


def _codes(
    text: Text, ends: Sequence[Sequence[int]], voice: Voice, *, sampler: Sampler, seeds: Sequence[int], device: torch.device
) -> Iterator[Tensor]:
    """Codes [K, N] of each row in the tokenizer's own layout."""
    spec, transform = voice.tokenizer.spec, voice.transform
    path = Path.of([laid_out(row, transform, spec) for row in ends]).to(device)
    positions_B = torch.tensor([len(transform.frame_index(row[-1], spec)) for row in ends])
    legal = zip(*(transform.legal_ids(row[-1], spec) for row in ends))
    first_BKN, end_BKN = (pad_rows([ids_KN.T for ids_KN in ids], value).transpose(1, 2).to(device) for ids, value in zip(legal, (0, 1)))
    holes_BNK = pad_rows([~transform.legal(row[-1], spec).T for row in ends]).to(device)
    codes_BKN, _ = generate(
        _without_holes(voice.model.stepper(text, path), holes_BNK),
        num_rows=len(ends),
        codebook_sizes=voice.model.spec.codebook_sizes,
        max_positions_B=positions_B,
        sampler=sampler,
        seeds=seeds,
        device=device,
        legal=(first_BKN, end_BKN),
    )
    for codes_KN, length in zip(codes_BKN.cpu(), positions_B.tolist()):
        yield transform.invert(codes_KN[:, :length], spec)


def _without_holes(step: Step, holes_BNK: Tensor) -> Step:
    """The step with the layout's holes shown to the model as they were in training: as no code."""

    def seen(previous_BK: Tensor, position: int) -> Sequence[Tensor]:
        return step(previous_BK.masked_fill(holes_BNK[:, position - 1], NONE) if position else previous_BK, position)

    return seen
