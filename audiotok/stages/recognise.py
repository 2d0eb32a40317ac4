"""Checkpoint, test tokens -> what they say.

Reads: EXP_DIR/train/step_*/ (what train writes, of a model that writes down what it hears; synthesize.checkpoint=FOLDER for another), and
of the chosen utterances of the test split the tokens.
Writes: EXP_DIR/recognised/ with recognised.jsonl, a row {id, text, reference, language, ended} for each utterance, and rates.json with the
word and character error rates and their bootstrap 95 % intervals. What the model did not end is cut, and scored as it is.
Texts are compared as those of evaluate are, by Whisper's normaliser.
Told by: everything under recognise (its own sampling, greedy in the recipe), select (which utterances), evaluate.bootstrap,
synthesize.checkpoint, synthesize.weights, tokenizer, transform and model as trained, seed, device.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from audiotok import distributed, files
from audiotok.data.selection import select_utterances
from audiotok.evaluation.recognition import RATES, error_rates
from audiotok.stages import paths
from audiotok.stages.voices import load_voice, made_by
from audiotok.store.reader import TokenStore
from audiotok.synthesis.transcribing import transcribe

SECTIONS: tuple[str, ...] = ("tokenizer", "transform", "model", "select", "recognise")


def run(cfg: DictConfig) -> None:
    if "recognise" not in cfg:
        raise ValueError(f"the recipe {cfg.recipe} says nothing of `recognise`; take prompts/speech_text, or copy that section of it")
    console, folder = Console(), paths.recognised(cfg)
    settings = {"train": made_by(cfg), **paths.settings(cfg, "tokenizer", "select", "seed", "recognise")}
    settings |= {"weights": cfg.synthesize.weights, "bootstrap": cfg.evaluate.bootstrap}
    made = files.build(folder, settings, lambda partial: _recognise(cfg, partial, console), overwrite=cfg.overwrite)
    console.print(f"{folder} is {'there already' if made == 'present' else 'written'}: {_told(files.read_json(folder / 'rates.json'))}")


def _recognise(cfg: DictConfig, folder: Path, console: Console) -> None:
    rows = sorted(_rows(cfg, console), key=lambda row: row["id"])
    files.write_jsonl(folder / "recognised.jsonl", rows)
    files.write_json(folder / "rates.json", error_rates(rows, resamplings=cfg.evaluate.bootstrap, seed=cfg.seed))


def _rows(cfg: DictConfig, console: Console) -> Iterator[dict[str, Any]]:
    voice, told = load_voice(cfg), cfg.recognise
    store = TokenStore(paths.tokens(cfg, voice.tokenizer.spec.fingerprint) / "test")
    chosen = {row.id: row for row in select_utterances(store.descriptions(), **cfg.select)}
    utterances = [utterance for utterance in store if utterance.id in chosen]
    written = transcribe(
        utterances,
        voice.model,
        layout=voice.transform,
        spec=store.spec,
        sampler=instantiate(told.sampling),
        seed=cfg.seed,
        batch_size=told.batch_size,
        letters_per_second=told.letters_per_second,
        device=distributed.device(cfg.device),
    )
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        for each in progress.track(written, total=len(utterances), description="recognising"):
            about = chosen[each.id]
            yield {"id": each.id, "text": each.text, "reference": about.text or "", "language": about.language or "", "ended": each.ended}


def _told(rates: dict[str, Any]) -> str:
    """The rates with their intervals, in per cent."""
    told = ", ".join(f"{name.upper()} {_percent(rates[name])}" for name in RATES)
    return f"{told} of {rates['utterances'] - rates['wordless']} utterances, {rates['unended']} not ended"


def _percent(rate: dict[str, float | None]) -> str:
    value, low, high = ("–" if share is None else f"{100 * share:.1f}" for share in (rate["value"], rate["low"], rate["high"]))
    return f"{value} % ({low} to {high})"
