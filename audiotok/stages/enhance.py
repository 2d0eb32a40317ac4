"""Checkpoint, noisy recordings -> clean ones.

Reads: EXP_DIR/train/step_*/ of an enhancer (enhance.checkpoint=FOLDER for another, or the name of a shipped one), and the
recordings in enhance.input, a folder, of any rate and length; where none is given, the noisy recordings of mix.
Writes: enhance.out, a folder: each recording under its own name, mono, at its own rate and as long as it was (.wav and .flac as they are,
others as .flac), and enhanced.json: how they were made; of the mixes also their list, and system.json with the bits per second of an
enhancer that says codes. What is there already is kept, so that a run that was stopped goes on, and refused where other weights or other
settings made it; overwrite=true makes it anew. A recording that cannot be read stops no other; its reason is said at the end.
enhance.input=- enhance.out=- is a filter: a mono 16-bit WAV at the codec's rate from standard input, made clean as it comes, to standard
output (enhancer=transducer), sample for sample what the file becomes.
Told by: enhancer and its keys (as it was trained, but for what only tells how it learns), tokenizer, sampling (of those that say codes
one after another), everything under enhance, seed, device, overwrite.
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from audiotok import distributed, files
from audiotok.data.resynthesis import SYSTEM, UTTERANCES
from audiotok.models.enhancement.conformer import ConformerEnhancer
from audiotok.models.enhancement.transducer import Transducer
from audiotok.stages import paths, trained
from audiotok.synthesis.enhanced_files import enhance_file, plan
from audiotok.synthesis.enhancing import Enhancer, Speaking
from audiotok.synthesis.long_stream import long_stream
from audiotok.synthesis.own_voice import OwnVoice
from audiotok.synthesis.pipes import wav_pieces
from audiotok.synthesis.separating import Separator
from audiotok.synthesis.streaming import pcm16, wav_header
from audiotok.tokenizers import weights as shipped
from audiotok.training import checkpoint
from audiotok.types import TokenSpec

SECTIONS: tuple[str, ...] = ("tokenizer", "enhancer", "sampling", "enhance")
MADE = "enhanced.json"
ALOUD, PIECE_SECONDS = "-", 0.5
VOICES = ("given", "heard")
OPEN = {"dropout", "replace_codes", "own_history", "free_running", "regression", "sound", "distance", "phase", "said_band"}  # to change


def run(cfg: DictConfig) -> None:
    console = Console()
    if not 0 <= cfg.enhance.left_in < 1:
        raise ValueError(f"enhance.left_in is a share of the noisy recording, from 0 to below 1; got {cfg.enhance.left_in}")
    if cfg.enhance.voice not in VOICES:
        raise ValueError(f"enhance.voice is one of {', '.join(VOICES)}; got {cfg.enhance.voice}")
    if ALOUD in (cfg.enhance.input, cfg.enhance.out):
        _filter(cfg)
        return
    source, out = folders(cfg)
    pairs = plan(source, out)
    wanted = [pair for pair in pairs if cfg.overwrite or not pair[1].exists()]
    enhancer = _enhancer(cfg) if wanted else None
    begin(cfg, [target for _, target in pairs], sections=("tokenizer", "enhancer", "sampling", "seed"))
    if len(wanted) < len(pairs):
        console.print(f"{len(pairs) - len(wanted)} of {len(pairs)} recordings are there already and are kept")
    failed = _made(cfg, enhancer, wanted, console) if enhancer else []
    if failed:
        raise ValueError(f"{len(failed)} of {len(wanted)} recordings were not enhanced: {'; '.join(failed)}")
    if not cfg.enhance.input:  # of the fixed mixes: with their list the enhanced ones are a system that evaluate finds
        shutil.copy(source / UTTERANCES, out / UTTERANCES)
    console.print(f"{out} is written", soft_wrap=True)


def _filter(cfg: DictConfig) -> None:
    """Standard input made clean, to standard output; what is to be read goes to standard error."""
    told, console, device = cfg.enhance, Console(stderr=True), distributed.device(cfg.device)
    if told.input != told.out:
        raise ValueError(f"enhance.input=- and enhance.out=- go together; got enhance.input={told.input} enhance.out={told.out}")
    enhancer = _enhancer(cfg)
    if not (isinstance(enhancer, Speaking) and isinstance(enhancer.model, Transducer)) or told.left_in or told.beams:
        raise ValueError(f"streaming: enhancer={cfg.choices.enhancer} enhances whole files like this; take transducer, no beams, left_in=0")
    rate = enhancer.codec.spec.sample_rate
    stream = long_stream(
        enhancer.model, sampler=enhancer.sampler, seed=cfg.seed, seconds=told.seconds, overlap_seconds=told.overlap_seconds
    )
    console.print(f"what comes in goes out {stream.latency_samples / rate + PIECE_SECONDS:.2f} s later at most", highlight=False)
    heard, busy = 0, 0.0
    for wav_T in wav_pieces(sys.stdin.buffer, sample_rate=rate, seconds=PIECE_SECONDS):
        if not heard:
            sys.stdout.buffer.write(wav_header(rate))
        begun = perf_counter()
        made_T = stream.push(wav_T.to(device)).cpu()
        heard, busy = heard + len(wav_T), busy + perf_counter() - begun
        sys.stdout.buffer.write(pcm16(made_T.clamp(-1, 1)))
        sys.stdout.buffer.flush()
    if not heard:
        raise ValueError("standard input: got a WAV without samples")
    sys.stdout.buffer.write(pcm16(stream.close().cpu().clamp(-1, 1)))
    sys.stdout.buffer.flush()
    console.print(f"{heard / rate:.1f} s made clean in {busy:.1f} s", highlight=False)


def folders(cfg: DictConfig) -> tuple[Path, Path]:
    """(what is read, what is written). Raises ValueError where nothing is to be written, or there is nothing to read."""
    if not cfg.enhance.out:
        raise ValueError("enhance wants a folder to write, and one to read if not the mixes: set enhance.input=FOLDER enhance.out=FOLDER")
    if cfg.enhance.input:
        return Path(cfg.enhance.input), Path(cfg.enhance.out)
    paths.mixes_fingerprint(cfg)  # raises ValueError where there are none
    return paths.mixes(cfg) / "noisy", Path(cfg.enhance.out)


def begin(cfg: DictConfig, targets: Sequence[Path], *, sections: Sequence[str]) -> None:
    """Write down how enhance.out is made, and hold what is there against it; with overwrite=true remove that first.

    Raises ValueError where files are there that were made otherwise, or nobody knows how: a folder holds what one model made in one way.
    """
    out = Path(cfg.enhance.out)
    there, record = [target for target in targets if target.exists()], out / MADE
    settings = json.loads(json.dumps(_settings(cfg, sections), default=str))
    if cfg.overwrite:
        for path in (*there, out / SYSTEM, out / UTTERANCES):
            path.unlink(missing_ok=True)
    elif there and not record.exists():
        raise ValueError(
            f"{there[0]} is there, and no {MADE} says how it was made; move it away, set another enhance.out, or overwrite=true"
        )
    elif there and (differing := list(files.differences(_but_training(files.read_json(record)), _but_training(settings)))):
        told = "; ".join(f"{key}: {old!r} there, {new!r} now" for key, old, new in differing)
        raise ValueError(f"{out} was made otherwise ({told}); set another enhance.out, or overwrite=true")
    if not record.exists() or files.read_json(record) != settings:
        files.write_json(record, settings)


def _but_training(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How weights were trained is told by their digest."""
    return {key: value for key, value in settings.items() if key != "training"}


def _settings(cfg: DictConfig, sections: Sequence[str]) -> dict[str, Any]:
    """What the enhanced files depend on, and of what training the weights are."""
    folder = _checkpoint(cfg)
    elsewhere = ("input", "out", "checkpoint", "ceiling", "floor")
    manner = {key: value for key, value in paths.settings(cfg, "enhance")["enhance"].items() if key not in elsewhere}
    mixes = None if cfg.enhance.input else paths.mixes_fingerprint(cfg)
    told = {"weights": trained.digest(folder), "mixes": mixes, "enhance": manner}
    return files.redacted(told | paths.settings(cfg, *sections) | {"training": files.settings_of(folder.parent)})


def _made(cfg: DictConfig, enhancer: Enhancer, pairs: Sequence[tuple[Path, Path]], console: Console) -> list[str]:
    """Why some could not be enhanced."""
    all_in_codes = isinstance(enhancer, Speaking | OwnVoice | ConformerEnhancer) and not cfg.enhance.left_in
    if not cfg.enhance.input and all_in_codes:
        spec = enhancer.codec.spec
        files.write_json(Path(cfg.enhance.out) / SYSTEM, {"sample_rate": spec.sample_rate, "bits_per_second": spec.bits_per_second})
    return _enhance(cfg, enhancer, pairs, console)


def _enhance(cfg: DictConfig, enhancer: Enhancer, pairs: Sequence[tuple[Path, Path]], console: Console) -> list[str]:
    """Why some could not be enhanced."""
    failed, manner = [], {key: cfg.enhance[key] for key in ("seconds", "overlap_seconds", "left_in")}
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        for path, target in progress.track(pairs, description="enhancing"):
            try:
                enhance_file(enhancer, path, target, **manner, device=distributed.device(cfg.device))
            except ValueError as error:
                failed.append(str(error))
    return failed


def _enhancer(cfg: DictConfig) -> Enhancer:
    model = loaded(cfg)
    if isinstance(model, Separator):
        raise ValueError(f"enhancer={cfg.choices.enhancer} tells voices apart; run `audiotok separate` with the same settings")
    if isinstance(model, Enhancer) and cfg.enhance.voice != "given":
        raise ValueError(f"enhancer={cfg.choices.enhancer} speaks no units one after another; leave enhance.voice as it is, given")
    if isinstance(model, Enhancer):
        return model
    speaking = Speaking(model, instantiate(cfg.sampling), cfg.enhance.beams, cfg.seed)
    return OwnVoice(speaking) if cfg.enhance.voice == "heard" else speaking


def loaded(cfg: DictConfig) -> Any:
    """The averaged weights of a checkpoint in the recipe's enhancer. Raises ValueError where there is none, or of other settings."""
    folder = _checkpoint(cfg)
    codec = instantiate(cfg.tokenizer)
    _refuse_other_settings(folder, cfg, codec.spec)
    model = instantiate(cfg.enhancer, _partial_=True)(codec)  # not by instantiate: OmegaConf would make a config of the codec
    trained.load(folder, model)
    return model.eval().to(distributed.device(cfg.device))


def _checkpoint(cfg: DictConfig) -> Path:
    folder = shipped.located(cfg.enhance.checkpoint) if cfg.enhance.checkpoint else checkpoint.latest(paths.train(cfg))
    if folder is None:
        raise ValueError(f"no checkpoint in {paths.train(cfg)}; train an enhancer with the same recipe, or set enhance.checkpoint=FOLDER")
    return folder


def _refuse_other_settings(folder: Path, cfg: DictConfig, spec: TokenSpec) -> None:
    """Weights of one shape may mean other things: a checkpoint enhances only as it was trained to."""
    then = files.read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    if "enhancer" not in then:
        raise ValueError(f"{folder} holds no enhancer; give a step_* folder of train_enhancer, or a name that tools/ship_model.py gave one")
    trained_on = TokenSpec.from_json(json.dumps(files.read_json(folder / "spec.json")))
    then = {"enhancer": then["enhancer"], "tokens": trained_on.fingerprint[:8]}
    differences = files.differences(then, paths.settings(cfg, "enhancer") | {"tokens": spec.fingerprint[:8]})
    differing = [each for each in differences if not OPEN.intersection(each[0].split("."))]
    if differing:
        told = "; ".join(f"{key}: {old!r} there, {new!r} now" for key, old, new in differing)
        raise ValueError(f"{folder} was trained with other settings ({told}); give the same, tokenizer included")
