"""Checkpoint, texts -> wavs.

Reads: EXP_DIR/train/step_*/ (what train writes; synthesize.checkpoint=FOLDER for another), and the texts of the chosen test utterances.
Writes: EXP_DIR/audio/synthesis/ with a WAV and the codes of each, and utterances.jsonl; failed.jsonl names what could not be spoken.
With synthesize.text="A sentence." or a .txt file with a text on each line, writes to synthesize.out instead: a .wav, or a folder. A text
of several sentences is spoken sentence by sentence, and joined.
The same seed gives the same audio, whatever the batch size.
Told by: sampling, drafting, acceptance and their keys, select (which test sentences), everything under synthesize, seed, device.
"""

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from audiotok import audio, distributed, files
from audiotok.data.aligned import ANYONE, FrontEnd
from audiotok.data.code_vectors import code_vectors
from audiotok.data.manifests import file_name
from audiotok.data.selection import select_utterances
from audiotok.decoding.acceptance import Coarse, Rule
from audiotok.nn.inference import quickened
from audiotok.stages import paths
from audiotok.store.reader import TokenStore
from audiotok.synthesis.drafting import Drafting
from audiotok.synthesis.scripts import Manner
from audiotok.synthesis.speech import in_sentences, speak
from audiotok.synthesis.voice import Failed, Request, Spoken, Voice
from audiotok.training import checkpoint
from audiotok.transforms.base import Layout, as_layout
from audiotok.types import TokenSpec

SECTIONS: tuple[str, ...] = ("tokenizer", "transform", "model", "sampling", "drafting", "acceptance", "select", "synthesize")


def run(cfg: DictConfig) -> None:
    console = Console()
    trained = files.fingerprint_of(paths.train(cfg), made_by=f"train {cfg.recipe}")
    if cfg.synthesize.text is not None:
        _speak_text(cfg, console)
        return
    if cfg.synthesize.speaker or cfg.synthesize.language:
        raise ValueError(
            "synthesize.speaker and synthesize.language go with synthesize.text; test sentences are spoken as their own speakers"
        )
    settings = {"train": trained, **paths.settings(cfg, "tokenizer", "sampling", "drafting", "acceptance", "select", "seed")}
    settings |= {key: cfg.synthesize[key] for key in ("checkpoint", "max_seconds", "guidance", "weights")}
    folder = paths.audio(cfg) / "synthesis"

    def work(partial: Path) -> None:
        tokens = paths.tokens(cfg, instantiate(cfg.tokenizer).spec.fingerprint)
        rows = select_utterances(TokenStore(tokens / "test").descriptions(), **cfg.select)
        voice = _voice(cfg)
        requests = [Request(row.id, row.text or "", voice.front_end.known_speaker(row.speaker), row.language or ANYONE) for row in rows]
        _write(partial, _results(requests, voice, cfg, console), console, voice=voice)

    made = files.build(folder, settings, work, overwrite=cfg.overwrite)
    console.print(f"{folder} is {'there already' if made == 'present' else 'written'}")


def _speak_text(cfg: DictConfig, console: Console) -> None:
    given, out = str(cfg.synthesize.text), Path(cfg.synthesize.out or "synthesis.wav")
    lines = Path(given).read_text(encoding="utf-8").splitlines() if given.endswith(".txt") else [given]
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"{given} holds no text to speak")
    single = out.suffix.lower() in (".wav", ".flac")
    if single and len(texts) > 1:
        raise ValueError(f"{given} has {len(texts)} lines; set synthesize.out to a folder for them, not to {out}")
    if out.exists() and not cfg.overwrite:
        raise ValueError(f"{out} exists; set synthesize.out to another path, or overwrite=true")
    voice = _voice(cfg)
    speaker, language = (
        _chosen(cfg.synthesize[kind], known, kind)
        for kind, known in (("speaker", voice.front_end.speakers), ("language", voice.front_end.languages))
    )
    requests = [Request(f"{i:05d}", text, speaker, language) for i, text in enumerate(texts)]
    results = in_sentences(requests, lambda parts: _results(parts, voice, cfg, console))
    if not single:
        with files.whole_folder(out) as partial:
            _write(partial, results, console, voice=voice)
    else:
        (result,) = results
        if isinstance(result, Failed):
            raise ValueError(f"{result.request.text!r}: {result.reason}")
        audio.write(out, result.wav_T, voice.tokenizer.spec.sample_rate)
    console.print(f"{out} is written")


def _chosen(name: str | None, known: tuple[str, ...], kind: str) -> str:
    known = tuple(one for one in known if one != ANYONE) or known
    if name is None and len(known) > 1:
        raise ValueError(f"this model has {len(known)} {kind}s; set synthesize.{kind} to one of {', '.join(known[:20])}")
    if name is not None and name not in known:
        raise ValueError(f"no {kind} {name!r} in this model; there are: {', '.join(known[:20])}")
    return known[0] if name is None else name


def _voice(cfg: DictConfig) -> Voice:
    """The averaged weights of a checkpoint in the recipe's model; nothing in the checkpoint names code."""
    folder = Path(cfg.synthesize.checkpoint) if cfg.synthesize.checkpoint else checkpoint.latest(paths.train(cfg))
    if folder is None:
        raise ValueError(f"no checkpoint in {paths.train(cfg)}; run `audiotok train {cfg.recipe}` with the same settings first")
    front_end = FrontEnd.from_dict(files.read_json(folder / "front_end.json"))
    tokenizer, transform = instantiate(cfg.tokenizer), as_layout(instantiate(cfg.transform))
    _refuse_other_settings(folder, cfg, tokenizer.spec)
    model = _loaded(instantiate(cfg.model, _partial_=True), folder, front_end, transform, tokenizer, cfg)
    return Voice(model, front_end, transform, tokenizer)


def _loaded(make: Callable[..., Any], folder: Path, front_end: FrontEnd, transform: Layout, tokenizer: Any, cfg: DictConfig) -> Any:
    """A model with the averaged weights of a checkpoint, ready to speak."""
    model = make(  # not by instantiate: OmegaConf would make a config of the spec
        spec=transform.out_spec(tokenizer.spec),
        num_phonemes=len(front_end.vocabulary),
        num_speakers=len(front_end.speakers),
        num_languages=len(front_end.languages),
        vectors=functools.partial(code_vectors, tokenizer, transform),
    )
    checkpoint.load_weights(folder / "ema.safetensors", model)
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


def _results(requests: list[Request], voice: Voice, cfg: DictConfig, console: Console) -> Iterator[Spoken | Failed]:
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        task = progress.add_task("speaking", total=len(requests))
        device, sampler = distributed.device(cfg.device), instantiate(cfg.sampling)
        yield from speak(
            requests,
            voice,
            sampler=sampler,
            seed=cfg.seed,
            manner=Manner(cfg.synthesize.max_seconds, sampler.temperature, cfg.synthesize.guidance, cfg.synthesize.batch_size, device),
            drafting=_drafting(cfg, voice),
            rule=_rule(cfg, voice),
            progress=lambda more: progress.advance(task, more),
        )


def _write(folder: Path, results: Iterable[Spoken | Failed], console: Console, *, voice: Voice) -> None:
    (folder / "codes").mkdir()
    failed: list[Failed] = []
    files.write_jsonl(folder / "utterances.jsonl", _rows(folder, results, voice, failed))
    files.write_jsonl(folder / "failed.jsonl", ({**asdict(item.request), "reason": item.reason} for item in failed))
    for item in failed:
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
