"""What the stages that speak have in common: a trained voice as the config chooses it, who drafts for it, what of a draft stands."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from audiotok import distributed, files
from audiotok.data.aligned import ANYONE, FrontEnd
from audiotok.data.code_vectors import code_vectors
from audiotok.decoding.acceptance import Coarse, Rule
from audiotok.nn.inference import quickened
from audiotok.stages import paths, trained
from audiotok.synthesis.drafting import Drafting
from audiotok.synthesis.voice import Voice
from audiotok.tokenizers import weights as shipped
from audiotok.training import checkpoint
from audiotok.transforms.base import Layout, as_layout
from audiotok.types import TokenSpec

SPEAKERS = "speakers.json"


def load_voice(cfg: DictConfig) -> Voice:
    """The averaged weights of a checkpoint in the recipe's model; nothing in the checkpoint names code."""
    folder = checkpoint_folder(cfg)
    front_end = FrontEnd.from_dict(files.read_json(folder / "front_end.json"))
    tokenizer, transform = instantiate(cfg.tokenizer), as_layout(instantiate(cfg.transform))
    refuse_other_settings(folder, cfg, tokenizer.spec)
    model = _loaded(instantiate(cfg.model, _partial_=True), folder, front_end, transform, tokenizer, cfg)
    return Voice(model, front_end, transform, tokenizer)


def checkpoint_folder(cfg: DictConfig) -> Path:
    """The folder of what speaks."""
    if cfg.synthesize.checkpoint is not None:
        return shipped.located(cfg.synthesize.checkpoint)
    files.fingerprint_of(paths.train(cfg), made_by=f"train {cfg.recipe}")
    folder = checkpoint.latest(paths.train(cfg))
    if folder is None:
        raise ValueError(f"no checkpoint in {paths.train(cfg)}; run `audiotok train {cfg.recipe}` with the same settings first")
    return folder


def made_by(cfg: DictConfig) -> str:
    """The fingerprint of the training run, or of the weights that were named."""
    if cfg.synthesize.checkpoint is None:
        return files.fingerprint_of(paths.train(cfg), made_by=f"train {cfg.recipe}")
    return trained.digest(checkpoint_folder(cfg))


def own_speakers(folder: Path) -> dict[str, str]:
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
    trained.load(folder, model)
    return quickened(model.eval().to(distributed.device(cfg.device)), cfg.synthesize.weights, compiled=cfg.synthesize.compiled)


def load_drafting(cfg: DictConfig, voice: Voice) -> Drafting:
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


def load_rule(cfg: DictConfig, voice: Voice) -> Rule:
    """The rule of acceptance, with groups by the codes' vectors in the codec where it needs any."""
    rule: Rule = instantiate(cfg.acceptance)
    tokenizer: Any = voice.tokenizer
    return rule.bind(code_vectors(tokenizer, voice.transform)) if isinstance(rule, Coarse) else rule


def refuse_other_settings(folder: Path, cfg: DictConfig, spec: TokenSpec) -> None:
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


def chosen(name: str | int | None, known: tuple[str, ...], kind: str) -> str:
    """The speaker or language that was named, or the only one there is; a name of digits arrives as a number."""
    known = tuple(one for one in known if one != ANYONE) or known
    if name is None and len(known) > 1:
        raise ValueError(f"this model has {len(known)} {kind}s; set synthesize.{kind} to one of {', '.join(known[:20])}")
    if name is not None and str(name) not in known:
        raise ValueError(f"no {kind} {str(name)!r} in this model; there are: {', '.join(known[:20])}")
    return known[0] if name is None else str(name)
