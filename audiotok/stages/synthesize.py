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
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from audiotok.data.aligned import ANYONE, FrontEnd
from audiotok.data.code_vectors import code_vectors
from audiotok.data.manifests import file_name
from audiotok.data.selection import select_utterances
from audiotok.decoding.acceptance import Coarse, Rule
from audiotok.evaluation.metric import JUDGE_RATE, NotApplicable
from audiotok.nn.inference import quickened
from audiotok.stages import paths
from audiotok.store.reader import TokenStore
from audiotok.synthesis.carrying import carried
from audiotok.synthesis.drafting import Drafting
from audiotok.synthesis.live import Pieces, stream
from audiotok.synthesis.openings import Lead
from audiotok.synthesis.recordings import Bounds, opening, prosody
from audiotok.synthesis.scripts import Manner
from audiotok.synthesis.speech import in_sentences, parts_of, speak
from audiotok.synthesis.streaming import pcm16, wav_header
from audiotok.synthesis.voice import Failed, Request, Spoken, Voice
from audiotok.tokenizers import weights as shipped
from audiotok.training import checkpoint
from audiotok.transforms.base import Layout, as_layout
from audiotok.types import TokenSpec

SECTIONS: tuple[str, ...] = ("tokenizer", "transform", "model", "sampling", "drafting", "acceptance", "select", "synthesize")
OF_A_TEXT = ("speaker", "language", "prompt", "prompt_text", "prosody", "carry", "out")
ALOUD = "-"
SPEAKERS = "speakers.json"


def run(cfg: DictConfig) -> None:
    if cfg.synthesize.text is not None:
        _speak_text(cfg)
        return
    if given := [key for key in OF_A_TEXT if cfg.synthesize[key]]:
        raise ValueError(f"synthesize.{given[0]} goes with synthesize.text; test sentences are spoken as their own speakers, one by one")
    console = Console()
    settings = {"train": _made_by(cfg), **paths.settings(cfg, "tokenizer", "sampling", "drafting", "acceptance", "select", "seed")}
    settings |= {key: cfg.synthesize[key] for key in ("checkpoint", "max_seconds", "guidance", "weights")}

    def work(partial: Path) -> None:
        tokens = paths.tokens(cfg, instantiate(cfg.tokenizer).spec.fingerprint)
        rows = select_utterances(TokenStore(tokens / "test").descriptions(), **cfg.select)
        voice = _voice(cfg)
        requests = [Request(row.id, row.text or "", voice.front_end.known_speaker(row.speaker), row.language or ANYONE) for row in rows]
        _write(partial, _results(requests, voice, cfg, console), console, voice=voice)

    made = files.build(_folder(cfg), settings, work, overwrite=cfg.overwrite)
    console.print(f"{_folder(cfg)} is {'there already' if made == 'present' else 'written'}")


def _folder(cfg: DictConfig) -> Path:
    return paths.audio(cfg) / "synthesis"


def _made_by(cfg: DictConfig) -> str:
    """The fingerprint of the training run, or of the weights that were named."""
    if cfg.synthesize.checkpoint is None:
        return files.fingerprint_of(paths.train(cfg), made_by=f"train {cfg.recipe}")
    return files.file_digest(_weights(_checkpoint(cfg)))


def _speak_text(cfg: DictConfig) -> None:
    texts, out = _texts(cfg), str(cfg.synthesize.out or "synthesis.wav")
    single = Path(out).suffix.lower() in (".wav", ".flac")
    if single and len(texts) > 1:
        raise ValueError(f"{cfg.synthesize.text} has {len(texts)} lines; set synthesize.out to a folder for them, not to {out}")
    if out != ALOUD and Path(out).exists() and not cfg.overwrite:
        raise ValueError(f"{out} exists; set synthesize.out to another path, or overwrite=true")
    console, voice = Console(stderr=out == ALOUD), _voice(cfg)
    speaker, language = _who(cfg, voice)
    requests = [Request(f"{i:05d}", text, speaker, language) for i, text in enumerate(texts)]
    lead = _lead(requests, voice, cfg)
    if out == ALOUD:
        _speak_aloud(requests, lead, voice, cfg, console)
        return
    _write_spoken(Path(out), _spoken(requests, lead, voice, cfg, console), console, voice=voice, single=single)
    console.print(f"{out} is written")


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
    language = _chosen(cfg.synthesize.language, voice.front_end.languages, "language")
    speaker = cfg.synthesize.speaker
    if speaker is None:
        speaker = ANYONE if cfg.synthesize.prompt else _speakers(_checkpoint(cfg)).get(language)
    return _chosen(speaker, voice.front_end.speakers, "speaker") if speaker != ANYONE else ANYONE, language


def _chosen(name: str | None, known: tuple[str, ...], kind: str) -> str:
    known = tuple(one for one in known if one != ANYONE) or known
    if name is None and len(known) > 1:
        raise ValueError(f"this model has {len(known)} {kind}s; set synthesize.{kind} to one of {', '.join(known[:20])}")
    if name is not None and name not in known:
        raise ValueError(f"no {kind} {name!r} in this model; there are: {', '.join(known[:20])}")
    return known[0] if name is None else name


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


def _voice(cfg: DictConfig) -> Voice:
    """The averaged weights of a checkpoint in the recipe's model; nothing in the checkpoint names code."""
    folder = _checkpoint(cfg)
    front_end = FrontEnd.from_dict(files.read_json(folder / "front_end.json"))
    tokenizer, transform = instantiate(cfg.tokenizer), as_layout(instantiate(cfg.transform))
    _refuse_other_settings(folder, cfg, tokenizer.spec)
    model = _loaded(instantiate(cfg.model, _partial_=True), folder, front_end, transform, tokenizer, cfg)
    return Voice(model, front_end, transform, tokenizer)


def _checkpoint(cfg: DictConfig) -> Path:
    """The folder of what speaks."""
    if cfg.synthesize.checkpoint is not None:
        return shipped.located(cfg.synthesize.checkpoint)
    files.fingerprint_of(paths.train(cfg), made_by=f"train {cfg.recipe}")
    folder = checkpoint.latest(paths.train(cfg))
    if folder is None:
        raise ValueError(f"no checkpoint in {paths.train(cfg)}; run `audiotok train {cfg.recipe}` with the same settings first")
    return folder


def _weights(folder: Path) -> Path:
    """The averaged weights of a step_* folder, or those of a voice that was made of one (tools/ship_voice.py)."""
    return folder / ("model.safetensors" if (folder / SPEAKERS).exists() else "ema.safetensors")


def _speakers(folder: Path) -> dict[str, str]:
    """Who speaks a language where nobody is named, as a voice says that was made to be shipped."""
    return files.read_json(folder / SPEAKERS) if (folder / SPEAKERS).exists() else {}


def _loaded(make: Callable[..., Any], folder: Path, front_end: FrontEnd, transform: Layout, tokenizer: Any, cfg: DictConfig) -> Any:
    """A model with the averaged weights of a checkpoint, ready to speak."""
    model = make(  # not by instantiate: OmegaConf would make a config of the spec
        spec=transform.out_spec(tokenizer.spec),
        num_phonemes=len(front_end.vocabulary),
        num_speakers=len(front_end.speakers),
        num_languages=len(front_end.languages),
        vectors=functools.partial(code_vectors, tokenizer, transform),
    )
    if (weights := _weights(folder)).name == "ema.safetensors":
        checkpoint.load_weights(weights, model)
    else:
        shipped.load(model, weights)
    return quickened(model.eval().to(distributed.device(cfg.device)), cfg.synthesize.weights)


def _drafting(cfg: DictConfig, voice: Voice) -> Drafting:
    """Who speaks ahead. Raises ValueError where that model was trained on other tokens, or with other texts."""

    def make(model: Callable[..., Any], folder: Path) -> Any:
        spec, front_end = voice.tokenizer.spec, FrontEnd.from_dict(files.read_json(folder / "front_end.json"))
        trained_on = TokenSpec.from_json(json.dumps(files.read_json(folder / "spec.json")))
        if trained_on.fingerprint != spec.fingerprint or front_end != voice.front_end:
            raise ValueError(
                f"{folder}: a drafter of other tokens or texts than the model's; train it with the same tokenizer, transform and data"
            )
        return _loaded(model, folder, front_end, voice.transform, voice.tokenizer, cfg)

    drafting: Drafting = instantiate(cfg.drafting).prepare(make)
    return drafting


def _rule(cfg: DictConfig, voice: Voice) -> Rule:
    """The rule of acceptance, with groups by the codes' vectors in the codec where it needs any."""
    rule: Rule = instantiate(cfg.acceptance)
    tokenizer: Any = voice.tokenizer
    return rule.bind(code_vectors(tokenizer, voice.transform)) if isinstance(rule, Coarse) else rule


def _refuse_other_settings(folder: Path, cfg: DictConfig, spec: TokenSpec) -> None:
    """Codebooks of one shape may mean other things: a checkpoint speaks only through what it was trained with."""
    trained_on = TokenSpec.from_json(json.dumps(files.read_json(folder / "spec.json")))
    made, parts = files.read_json(folder / "config.json"), ("transform", "model")
    then = {part: made[part] for part in parts} | {"tokens": trained_on.fingerprint[:8]}
    differing = list(files.differences(then, paths.settings(cfg, *parts) | {"tokens": spec.fingerprint[:8]}))
    if differing:
        raise ValueError(
            f"{folder} was trained with other settings ("
            + "; ".join(f"{key}: {old!r} there, {new!r} now" for key, old, new in differing)
            + "); give the same, tokenizer included"
        )


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
        "drafting": _drafting(cfg, voice),
        "rule": _rule(cfg, voice),
    }


def _write(folder: Path, results: Iterable[Spoken | Failed], console: Console, *, voice: Voice) -> None:
    (folder / "codes").mkdir()
    failed: list[Failed] = []
    files.write_jsonl(folder / "utterances.jsonl", _rows(folder, results, voice, failed))
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
