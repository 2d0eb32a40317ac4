"""Checkpoint, texts -> wavs.

Reads: EXP_DIR/train/step_*/ (what train writes; synthesize.checkpoint=FOLDER for another, or the name of a voice that comes with the
package), and the texts of the chosen test utterances.
Writes: EXP_DIR/audio/synthesis/ with a WAV and the codes of each, and utterances.jsonl; failed.jsonl names what could not be spoken.
With synthesize.text="A sentence." or a .txt file with a text on each line, writes to synthesize.out instead: a .wav, or a folder. A text
of several sentences is spoken sentence by sentence, and joined; synthesize.carry=true lets each go on from the one before it. out=- writes
a WAV to standard output, as it is spoken. synthesize.prompt=RECORDING is gone on from, in its voice, whether the model ever heard it or
not; synthesize.prosody=RECORDING of the same text says how long its sounds last.
The same seed gives the same audio, whatever the batch size.
Told by: sampling, drafting, acceptance and their keys, select (which test sentences), everything under synthesize, seed, device.
"""

import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from torch import Tensor

from audiotok import audio, distributed, files
from audiotok.data.aligned import ANYONE
from audiotok.data.manifests import file_name
from audiotok.data.selection import select_utterances
from audiotok.evaluation.metric import JUDGE_RATE, NotApplicable
from audiotok.evaluation.sources import UTTERANCES
from audiotok.stages import paths
from audiotok.stages.voices import checkpoint_folder, chosen, load_drafting, load_rule, load_voice, made_by, own_speakers
from audiotok.store.reader import TokenStore
from audiotok.synthesis.carrying import carried
from audiotok.synthesis.enhanced_files import READ
from audiotok.synthesis.live import Pieces, stream
from audiotok.synthesis.openings import Lead
from audiotok.synthesis.recordings import Bounds, opening, prosody
from audiotok.synthesis.scripts import Manner
from audiotok.synthesis.speech import in_sentences, parts_of, speak
from audiotok.synthesis.streaming import pcm16, wav_header
from audiotok.synthesis.voice import Failed, Request, Spoken, Voice

SECTIONS: tuple[str, ...] = ("tokenizer", "transform", "model", "sampling", "drafting", "acceptance", "select", "synthesize")
OF_A_TEXT = ("speaker", "language", "prompt", "prompt_text", "prosody", "carry", "out")
ALOUD = "-"


def run(cfg: DictConfig) -> None:
    if cfg.synthesize.text is not None:
        _speak_text(cfg)
        return
    if given := [key for key in OF_A_TEXT if cfg.synthesize[key]]:
        raise ValueError(f"synthesize.{given[0]} goes with synthesize.text; test sentences are spoken as their own speakers, one by one")
    console = Console()
    settings = {"train": made_by(cfg), **paths.settings(cfg, "tokenizer", "sampling", "drafting", "acceptance", "select", "seed")}
    settings |= {key: cfg.synthesize[key] for key in ("checkpoint", "max_seconds", "guidance", "weights")}

    def work(partial: Path) -> None:
        tokens = paths.tokens(cfg, instantiate(cfg.tokenizer).spec.fingerprint)
        rows = select_utterances(TokenStore(tokens / "test").descriptions(), **cfg.select)
        voice = load_voice(cfg)
        requests = [Request(row.id, row.text or "", voice.front_end.known_speaker(row.speaker), row.language or ANYONE) for row in rows]
        _write(partial, _results(requests, voice, cfg, console), console, voice=voice)

    made = files.build(_folder(cfg), settings, work, overwrite=cfg.overwrite)
    console.print(f"{_folder(cfg)} is {'there already' if made == 'present' else 'written'}")


def _folder(cfg: DictConfig) -> Path:
    return paths.audio(cfg) / "synthesis"


def _speak_text(cfg: DictConfig) -> None:
    texts, out = _texts(cfg), str(cfg.synthesize.out or "synthesis.wav")
    single = Path(out).suffix.lower() in (".wav", ".flac")
    if single and len(texts) > 1:
        raise ValueError(f"{cfg.synthesize.text} has {len(texts)} lines; set synthesize.out to a folder for them, not to {out}")
    if out != ALOUD:
        _refuse_to_lose(Path(out), single=single, overwrite=cfg.overwrite)
    console, voice = Console(stderr=out == ALOUD), load_voice(cfg)
    speaker, language = _who(cfg, voice)
    requests = [Request(f"{i:05d}", text, speaker, language) for i, text in enumerate(texts)]
    lead = _lead(requests, voice, cfg)
    if out == ALOUD:
        _speak_aloud(requests, lead, voice, cfg, console)
        return
    _write_spoken(Path(out), _spoken(requests, lead, voice, cfg, console), console, voice=voice, single=single)
    console.print(f"{out} is written")


def _refuse_to_lose(out: Path, *, single: bool, overwrite: bool) -> None:
    """A folder is written whole, so that of one that is there only what was spoken before may be lost, and only where that is told."""
    if not single and Path(out).suffix.lower() in READ:
        raise ValueError(f"synthesize.out={out}: {out.suffix} is not written; name it .wav or .flac, or give a folder")
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists; set synthesize.out to another path, or overwrite=true")
    if out.exists() and out.is_dir() == single:
        raise ValueError(f"{out} is {'a folder' if single else 'a file'}; set synthesize.out to another path")
    if not single and out.exists() and any(out.iterdir()) and not (out / UTTERANCES).exists():
        raise ValueError(f"{out} holds other things than `audiotok synthesize` wrote (no {UTTERANCES}); set synthesize.out to another")


def _texts(cfg: DictConfig) -> list[str]:
    given = str(cfg.synthesize.text)
    lines = Path(given).read_text(encoding="utf-8").splitlines() if given.endswith(".txt") else [given]
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"{given} holds no text to speak")
    if cfg.synthesize.prosody and len(texts) > 1:
        raise ValueError(f"{given} has {len(texts)} lines; synthesize.prosody is the recording of one")
    return texts


def _who(cfg: DictConfig, voice: Voice) -> tuple[str, str]:
    """(speaker, language): those asked for; else the only ones, the language's own speaker, and anyone where a recording says the voice."""
    language = chosen(cfg.synthesize.language, voice.front_end.languages, "language")
    speaker = cfg.synthesize.speaker
    if speaker is None:
        speaker = ANYONE if cfg.synthesize.prompt else own_speakers(checkpoint_folder(cfg)).get(language)
    return chosen(speaker, voice.front_end.speakers, "speaker") if speaker != ANYONE else ANYONE, language


def _lead(requests: list[Request], voice: Voice, cfg: DictConfig) -> Lead:
    """What stands before each of the requests, and how long the sounds of the only one are, where recordings say so."""
    told, device, request = cfg.synthesize, distributed.device(cfg.device), requests[0]
    before = durations = None
    if told.prompt:
        bounds, hear = Bounds(**told.prompt_seconds), functools.partial(_hear, cfg)
        before = opening(Path(told.prompt), request, voice, bounds=bounds, text=told.prompt_text, hear=hear, device=device)
    elif told.prompt_text:
        raise ValueError("synthesize.prompt_text is what a recording says; set synthesize.prompt to it")
    if told.prosody:
        durations = prosody(Path(told.prosody), request, voice, device=device)
    return Lead(before, durations)


def _hear(cfg: DictConfig, wav_T: Tensor, sample_rate: int, language: str) -> str:
    """What the recogniser of the scores hears in a recording without a text."""
    try:
        if cfg.metrics.get("words") is None:
            raise ValueError("the chosen metrics have no words")
        recogniser = instantiate(cfg.metrics.words).recogniser
        language = recogniser.check(language)
    except (ValueError, InstantiationException, NotApplicable) as error:
        raise ValueError(f"nobody hears what {cfg.synthesize.prompt} says ({error}); set synthesize.prompt_text to it") from error
    return recogniser.hear(audio.resample(wav_T, sample_rate, JUDGE_RATE).numpy(), language=language)


def _spoken(requests: list[Request], lead: Lead, voice: Voice, cfg: DictConfig, console: Console) -> Iterator[Spoken | Failed]:
    if lead.durations_P is not None:
        return _results(requests, voice, cfg, console, leads={requests[0].id: lead})
    if cfg.synthesize.carry:
        say = functools.partial(_results_of, voice, cfg, console)
        return carried(requests, say, voice=voice, first=lead, max_seconds=cfg.synthesize.carry_seconds)
    return in_sentences(requests, lambda parts: _results_of(voice, cfg, console, parts, {part.id: lead for part in parts}))


def _results_of(
    voice: Voice, cfg: DictConfig, console: Console, parts: list[Request], leads: Mapping[str, Lead]
) -> Iterator[Spoken | Failed]:
    return _results(parts, voice, cfg, console, leads=leads)


def _write_spoken(out: Path, results: Iterable[Spoken | Failed], console: Console, *, voice: Voice, single: bool) -> None:
    if not single:
        with files.whole_folder(out) as partial:
            _write(partial, results, console, voice=voice)
        return
    (result,) = results
    if isinstance(result, Failed):
        raise ValueError(f"{result.request.text!r}: {result.reason}")
    audio.write(out, result.wav_T, voice.tokenizer.spec.sample_rate)


def _speak_aloud(requests: list[Request], lead: Lead, voice: Voice, cfg: DictConfig, console: Console) -> None:
    """A WAV to standard output as it is spoken; what is to be read goes to standard error."""
    asked = requests if lead.durations_P is not None else [part for request in requests for part in parts_of(request)]
    carry = cfg.synthesize.carry_seconds if cfg.synthesize.carry else None
    told = _told(voice, cfg) | {"pieces": Pieces(**cfg.synthesize.pieces), "first": lead, "carry_seconds": carry}
    begun, heard, rate = perf_counter(), 0.0, voice.tokenizer.spec.sample_rate
    sys.stdout.buffer.write(wav_header(rate))
    for piece in stream(asked, voice, **told):
        if isinstance(piece, Failed):
            _report(piece, console)
            continue
        sys.stdout.buffer.write(pcm16(piece.wav_T))
        sys.stdout.buffer.flush()
        if not heard:
            console.print(f"first sound after {perf_counter() - begun:.2f} s")
        heard += len(piece.wav_T) / rate
    if not heard:
        raise ValueError("nothing could be spoken; the reasons are above")
    console.print(f"{heard:.1f} s spoken in {perf_counter() - begun:.1f} s")


def _results(
    requests: list[Request], voice: Voice, cfg: DictConfig, console: Console, *, leads: Mapping[str, Lead] | None = None
) -> Iterator[Spoken | Failed]:
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        task = progress.add_task("speaking", total=len(requests))
        yield from speak(requests, voice, **_told(voice, cfg), leads=leads, progress=lambda more: progress.advance(task, more))


def _told(voice: Voice, cfg: DictConfig) -> dict[str, Any]:
    """How anything is spoken."""
    device, sampler, told = distributed.device(cfg.device), instantiate(cfg.sampling), cfg.synthesize
    return {
        "sampler": sampler,
        "seed": cfg.seed,
        "manner": Manner(told.max_seconds, sampler.temperature, told.guidance, told.batch_size, device),
        "drafting": load_drafting(cfg, voice),
        "rule": load_rule(cfg, voice),
    }


def _write(folder: Path, results: Iterable[Spoken | Failed], console: Console, *, voice: Voice) -> None:
    (folder / "codes").mkdir()
    failed: list[Failed] = []
    files.write_jsonl(folder / UTTERANCES, _rows(folder, results, voice, failed))
    files.write_jsonl(folder / "failed.jsonl", ({**asdict(item.request), "reason": item.reason} for item in failed))
    for item in failed:
        _report(item, console)


def _report(item: Failed, console: Console) -> None:
    console.print(f"could not be spoken: {item.request.id} {item.request.text!r}: {item.reason}")


def _rows(folder: Path, results: Iterable[Spoken | Failed], voice: Voice, failed: list[Failed]) -> Iterator[Mapping]:
    """Audio and codes of what was spoken, as it is spoken; the rest goes to `failed`."""
    for result in results:
        if isinstance(result, Failed):
            failed.append(result)
            continue
        name = file_name(result.request.id)
        audio.write(folder / f"{name}.wav", result.wav_T, voice.tokenizer.spec.sample_rate)
        np.save(
            folder / "codes" / f"{name}.npy", result.codes_KN.numpy().astype(np.min_scalar_type(max(voice.tokenizer.spec.codebook_sizes)))
        )
        rounds = {"rounds": [[one.drafted, one.accepted] for one in result.rounds]} if result.rounds else {}
        yield {**asdict(result.request), "path": f"{name}.wav", "codes": f"codes/{name}.npy", **rounds}
