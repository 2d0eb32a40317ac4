#!/usr/bin/env python3
"""What speaking ahead saves and what it costs in sound, against the model by itself on the same sentences; one JSON object, and a page.

    tools/bench_speculation.py prompts/tts --drafting small_model repetition --drafter-checkpoint FOLDER/train/step_00000600 \\
        --acceptance exact tolerance,tolerance=0.2 top_k,k=5 coarse_hard --utterances 12 --rounds 2 --out exp/speculation [key=value ...]

Test sentences are spoken one at a time, by the model itself and with each drafter under each rule in turn, round by round (each with a seed
of its own); the times are those of generation alone. NAME,key=value,... chooses a component of configs/drafting or configs/acceptance and
its settings. The scores are those of metrics=; their differences to the plain engine have paired bootstrap intervals over sentences.
"""

import argparse
import copy
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from audiotok import cli, distributed
from audiotok.bench import speculation, speculation_page
from audiotok.bench.speculation import PLAIN, Speaker, Trial, Way
from audiotok.data.aligned import ANYONE
from audiotok.data.costs import machine
from audiotok.data.manifests import load_cuts
from audiotok.data.selection import select_utterances
from audiotok.decoding.acceptance import Exact
from audiotok.evaluation import scoring, sources
from audiotok.evaluation.metric import Metric, Utterance
from audiotok.stages import paths
from audiotok.stages.voices import load_drafting, load_rule, load_voice
from audiotok.store.reader import TokenStore
from audiotok.synthesis.drafting import Drafting, Nobody
from audiotok.synthesis.scripts import Manner
from audiotok.synthesis.voice import Request, Spoken, Voice


@dataclass(frozen=True)
class Choice:
    """A component by its name, with settings: NAME,key=value,..."""

    group: str
    text: str

    @property
    def overrides(self) -> list[str]:
        name, *settings = re.split(r",(?=[\w.]+=)", self.text)  # a comma within a value, [0.5,0.4], is not before key=
        return [f"{self.group}={name}", *(f"{self.group}.{setting}" for setting in settings)]


def main() -> None:
    options = _options()
    cfg = _config(options, [])
    voice, test = load_voice(cfg), _test(cfg)
    requests = [Request(row.id, row.text or "", voice.front_end.known_speaker(row.speaker), row.language or ANYONE) for row in test]
    ways = [Way(PLAIN, Nobody(), Exact()), *_ways(options, voice)]
    found = _said(ways, requests, _speaker(cfg, voice), options.rounds)
    metrics: dict[str, Metric] = instantiate(cfg.metrics, _convert_="all")
    recordings = sources.Recordings(load_cuts(paths.manifests(cfg), "test"))
    rows = [_row(one, recordings, metrics) for one in found]
    told = speculation.compared(found, rows, metrics, resamplings=cfg.evaluate.bootstrap, seed=cfg.seed)
    told = {
        "title": cfg.recipe,
        "facts": _facts(cfg, sentences=len(requests), rounds=options.rounds),
        "judges": {name: one.judge for name, one in metrics.items()},
        **told,
    }
    told["machine"] = machine(torch.device("cpu")) | {"threads": torch.get_num_threads()}
    page = speculation_page.write(options.out, told, found, listen=options.listen)
    print(json.dumps(told, indent=2))
    print(f"written: {page}", file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--drafting", nargs="+", required=True, metavar="NAME[,key=value...]")
    parser.add_argument("--acceptance", nargs="+", required=True, metavar="NAME[,key=value...]")
    parser.add_argument("--utterances", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--checkpoint", type=Path, help="a step_* folder of the model; the newest where not given")
    parser.add_argument("--drafter-checkpoint", type=Path, help="a step_* folder of the drafter, for drafting that has a model")
    parser.add_argument("--weights", choices=("fp32", "bf16", "int8"), help="as which both are read; the recipe's where not given")
    parser.add_argument("--listen", type=int, default=3, help="sentences on the page to listen to")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the page and its data")
    options = parser.parse_intermixed_args()
    if min(options.utterances, options.rounds) < 1:
        parser.error("--utterances and --rounds are 1 or more")
    return options


def _config(options: argparse.Namespace, chosen: Sequence[str]) -> DictConfig:
    """The recipe's, as the synthesize stage would read it."""
    told = {"synthesize.checkpoint": options.checkpoint, "synthesize.weights": options.weights, "select.max_utterances": options.utterances}
    given = [f"{key}={value}" for key, value in told.items() if value is not None]
    return cli.load(options.recipe, [*given, *options.overrides, *chosen])


def _ways(options: argparse.Namespace, voice: Voice) -> list[Way]:
    """Each drafter under each rule. A drafter's weights and a rule's groups are in memory once, whatever they meet."""
    rules = {told: load_rule(_config(options, Choice("acceptance", told).overrides), voice) for told in options.acceptance}
    ways = []
    for told in options.drafting:
        cfg = _config(options, [*Choice("drafting", told).overrides, *_checkpoint(told, options)])
        if cfg.choices.drafting == "none":
            raise SystemExit("--drafting none is the plain engine, which is always there; name who speaks ahead")
        drafting = load_drafting(cfg, voice)
        ways += [Way(f"{told}, {name}", _unlearnt(drafting), rule) for name, rule in rules.items()]
    return ways


def _unlearnt(drafting: Drafting) -> Drafting:
    """The same drafter, whose lengths learn for themselves."""
    same = copy.copy(drafting)
    if hasattr(same, "lengths"):
        same.lengths = copy.deepcopy(same.lengths)
    return same


def _checkpoint(drafting: str, options: argparse.Namespace) -> list[str]:
    """Of a drafter that wants one and was not told its own."""
    wanted = drafting.partition(",")[0] == "small_model" and "checkpoint=" not in drafting
    if wanted and options.drafter_checkpoint is None:
        raise SystemExit("--drafting small_model needs the drafter's weights; set --drafter-checkpoint to a step_* folder")
    return [f"drafting.checkpoint={options.drafter_checkpoint}"] if wanted else []


def _test(cfg: DictConfig) -> Sequence[Any]:
    tokens = paths.tokens(cfg, instantiate(cfg.tokenizer).spec.fingerprint)
    return select_utterances(TokenStore(tokens / "test").descriptions(), **cfg.select)


def _speaker(cfg: DictConfig, voice: Voice) -> Speaker:
    sampler, device = instantiate(cfg.sampling), distributed.device(cfg.device)
    return Speaker(voice, sampler, Manner(cfg.synthesize.max_seconds, sampler.temperature, cfg.synthesize.guidance, 1, device), cfg.seed)


def _said(ways: Sequence[Way], requests: Sequence[Request], speaker: Speaker, rounds: int) -> list[Trial]:
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("speaking", total=len(ways) * len(requests) * rounds)
        return list(speculation.trials(ways, requests, speaker, rounds=rounds, progress=lambda more: progress.advance(task, more)))


def _row(trial: Trial, recordings: sources.Recordings, metrics: dict[str, Metric]) -> scoring.Row | None:
    if not isinstance(trial.result, Spoken):
        return None
    reference, said = recordings.load(trial.result.request.id), trial.result
    estimate = Utterance(reference.id, said.wav_T, said.sample_rate, reference.text, reference.language, reference.speaker)
    return scoring.score(metrics, *sources.pair(reference, estimate))


def _facts(cfg: DictConfig, *, sentences: int, rounds: int) -> dict[str, str]:
    return {
        "Date": f"{date.today():%-d %B %Y}",
        "Tokenizer": cfg.choices.tokenizer,
        "Sentences": str(sentences),
        "Rounds": str(rounds),
        "Weights": cfg.synthesize.weights,
        "Seed": str(cfg.seed),
    }


if __name__ == "__main__":
    main()
