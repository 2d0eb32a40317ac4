"""A recording as what a voice goes on from, or follows: its codes, its text, and how long each phoneme of it is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from audiotok import audio
from audiotok.synthesis.following import followed, is_told_phonemes
from audiotok.synthesis.openings import Opening
from audiotok.synthesis.voice import Request, Voice
from audiotok.tokenizers.base import Encoder

QUIET = 10 ** (-50 / 20)  # of full scale: the level that some part of a recording of speech is above
WINDOW_SECONDS = 0.05

Hear = Callable[[Tensor, int, str], str]  # (wav_T, sample rate, language) -> text


@dataclass(frozen=True)
class Bounds:
    """How long a prompt may be, in seconds: a shorter one tells little of a voice, a longer one leaves what the model has ever heard."""

    shortest: float
    longest: float


def opening(path: Path, request: Request, voice: Voice, *, bounds: Bounds, text: str | None, hear: Hear, device: torch.device) -> Opening:
    """The recording as what stands before what `request` says, in whose language its `text` is; `hear` says it where that is None.

    Raises ValueError with what is wrong with the recording or its text.
    """
    wav_T, rate = _speech(path, voice)
    if not bounds.shortest <= (seconds := len(wav_T) / rate) <= bounds.longest:
        raise ValueError(f"{path}: {seconds:.1f} s, a prompt lasts {bounds.shortest:g} to {bounds.longest:g} s; cut it")
    return _said(path, wav_T, replace(request, text=text or hear(wav_T, rate, request.language)), voice, device=device)


def prosody(path: Path, request: Request, voice: Voice, *, device: torch.device) -> list[float]:
    """The frames of each phoneme of the request's line in another recording of the same text.

    Raises ValueError where the model is not told how long sounds are, or the recording cannot hold the text.
    """
    if not is_told_phonemes(voice.model):
        raise ValueError(f"{type(voice.model).__name__} is not told how long sounds are; synthesize.prosody needs a model that is")
    said = _said(path, _speech(path, voice)[0], request, voice, device=device)
    assert said.durations_P is not None
    return list(said.durations_P)


def _speech(path: Path, voice: Voice) -> tuple[Tensor, int]:
    """(wav_T, the tokenizer's sample rate). Raises ValueError where it is silent."""
    wav_T, rate = audio.read(path)
    wanted = voice.tokenizer.spec.sample_rate
    wav_T = audio.resample(wav_T, rate, wanted)
    window = min(len(wav_T), round(WINDOW_SECONDS * wanted))
    loudest = float(wav_T[: len(wav_T) // window * window].unflatten(0, (-1, window)).square().mean(1).max().sqrt())
    if loudest < QUIET:
        raise ValueError(f"{path}: silent, its loudest {1000 * WINDOW_SECONDS:.0f} ms are below -50 dB; give a recording of speech")
    return wav_T, wanted


def _said(path: Path, wav_T: Tensor, request: Request, voice: Voice, *, device: torch.device) -> Opening:
    tokenizer, spec = voice.tokenizer, voice.tokenizer.spec
    if not isinstance(tokenizer, Encoder):
        raise ValueError(f"{type(tokenizer).__name__} has no way from sound to codes; a recording needs a tokenizer that has")
    try:
        line = voice.line(request)
        codes_1KN, _ = tokenizer.encode(wav_T[None], torch.tensor([len(wav_T)]))
        durations = (
            followed(voice.model, line, codes_1KN[0], layout=voice.transform, spec=spec, device=device)
            if is_told_phonemes(voice.model)
            else None
        )
    except ValueError as error:
        raise ValueError(f"{path}, read as {request.text!r}: {error}") from error
    return Opening(line, codes_1KN[0], durations)
