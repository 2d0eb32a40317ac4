"""A text spoken aloud: sentence after sentence, each in pieces of sound as the model chooses its codes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import Queue

import torch
from torch import Tensor

from audiotok.decoding.acceptance import Rule
from audiotok.decoding.autoregressive import Generated
from audiotok.decoding.samplers import Sampler, seed_of
from audiotok.synthesis.carrying import onward
from audiotok.synthesis.drafting import Drafting
from audiotok.synthesis.openings import Lead
from audiotok.synthesis.scripts import Manner, Refining, Script, script
from audiotok.synthesis.speech import PAUSE_SECONDS
from audiotok.synthesis.streaming import FrameStream, SoundStream, comes_in_order, decoder_reach
from audiotok.synthesis.voice import Failed, Request, Voice


@dataclass(frozen=True)
class Pieces:
    """How sound is cut, in frames: as long as a block, decoded once `ahead` frames more are there; None for all that the decoder hears."""

    block: int
    ahead: int | None


@dataclass(frozen=True)
class Piece:
    """Sound [T] of a request, the next in order."""

    request: Request
    wav_T: Tensor


def stream(
    requests: Sequence[Request],
    voice: Voice,
    *,
    sampler: Sampler,
    seed: int,
    manner: Manner,
    drafting: Drafting,
    rule: Rule,
    pieces: Pieces,
    first: Lead,
    carry_seconds: float | None,
) -> Iterator[Piece | Failed]:
    """The sound of sentences, one after the other with pauses between, as it is spoken; the pieces of one are what `speak` gives of it.

    A sentence that fails gives its reason in its turn, after what was heard of it already, and the others go on. `first` is what stands
    before the first; with `carry_seconds` each goes on from the one before it, as `carried` does. A layout whose codes of a frame come in
    no order, and a model that adds to its codes afterwards, give a sentence in one piece.
    """
    lead, begun = first, False
    for request in requests:
        plan = _plan(request, voice, lead, seed=seed, manner=manner)
        if isinstance(plan, Failed):
            yield plan
            continue
        if begun:
            yield Piece(request, torch.zeros(round(PAUSE_SECONDS * voice.tokenizer.spec.sample_rate)))
        begun = True

        def made(plan: Script) -> Iterator[Generated]:
            return drafting.speak(plan, voice.model, rule=rule, rows=1, sampler=sampler, device=manner.device)

        said = _Sentence(request, plan, voice, pieces)
        yield from said.pieces(made)
        if carry_seconds is not None:
            lead = onward(request, said.codes_KN, said.durations_P, lead, voice=voice, max_seconds=carry_seconds)


def _plan(request: Request, voice: Voice, lead: Lead, *, seed: int, manner: Manner) -> Script | Failed:
    try:
        line = voice.line(request)
    except ValueError as error:
        return Failed(request, str(error))
    plan = script(
        voice.model,
        [line],
        seeds=[seed_of(seed, request.id)],
        layout=voice.transform,
        spec=voice.tokenizer.spec,
        manner=manner,
        leads=[lead],
    )
    return Failed(request, plan.refused[0]) if plan.refused else plan


class _Sentence:
    """One sentence; `codes_KN` of it, and `durations_P` where the model knows them, once its pieces have come. None where it failed."""

    def __init__(self, request: Request, plan: Script, voice: Voice, pieces: Pieces) -> None:
        self.request, self.plan, self.voice = request, plan, voice
        self.codes_KN: Tensor | None = None
        self.durations_P: list[float] | None = None
        layout, spec, skipped = voice.transform, voice.tokenizer.spec, plan.leads[0].frames
        in_order = not isinstance(voice.model, Refining) and comes_in_order(layout, spec)
        self._frames = FrameStream(layout, spec, skipped=skipped) if in_order else None
        self._sound = SoundStream(voice.tokenizer, reach=decoder_reach(voice.tokenizer), ahead=pieces.ahead, block=pieces.block)
        self._skipped = skipped

    def pieces(self, made: Callable[[Script], Iterator[Generated]]) -> Iterator[Piece | Failed]:
        """Its sound as it comes, and at last why it failed, if it did."""
        self._heard(self.plan.prompt(0))
        for heard in overheard(self.plan, made):
            if isinstance(heard, Tensor):
                yield from self._piece(self._heard(heard))
                continue
            try:
                self.codes_KN = self.plan.codes(heard.job, heard.codes_KN.cpu())
            except ValueError as error:
                yield from self._piece(self._sound.close())
                yield Failed(self.request, str(error))
                return
            self.durations_P = self.plan.durations(heard.job, heard.codes_KN.cpu())
        assert self.codes_KN is not None
        given = self._frames.given - self._skipped if self._frames else 0
        yield from self._piece(torch.cat([self._sound.push(self.codes_KN[:, given:]), self._sound.close()]))

    def _heard(self, laid_KN: Tensor) -> Tensor:
        if self._frames is None:
            return torch.zeros(0)
        return self._sound.push(self._frames.push(laid_KN[: self.voice.model.spec.num_codebooks]))

    def _piece(self, wav_T: Tensor) -> Iterator[Piece]:
        if len(wav_T):
            yield Piece(self.request, wav_T)


def overheard(plan: Script, made: Callable[[Script], Iterator[Generated]]) -> Iterator[Tensor | Generated]:
    """What is chosen of a script's only job as it is chosen, codes_KN, and at last what was generated.

    The engine speaks in a thread of its own, which ends when nobody listens any more; what it raises is raised here.
    """
    queue: Queue[Tensor | Generated | None] = Queue()
    left = False

    def hear(job: int, codes_KN: Tensor) -> None:
        if left:
            raise _Left
        queue.put(codes_KN)

    def speak() -> None:
        try:
            for one in made(replace(plan, listen=hear)):
                queue.put(one)
        finally:
            queue.put(None)

    with ThreadPoolExecutor(max_workers=1) as pool:
        speaking = pool.submit(speak)
        try:
            while (one := queue.get()) is not None:
                yield one
            speaking.result()  # raises what the engine raised
        finally:
            left = True


class _Left(Exception):
    """Nobody listens any more."""
