"""Results, training log, audio, codes -> report.html.

Reads: EXP_DIR/evaluation/ of evaluate, EXP_DIR/audio/, the manifests of prepare, and, where they are there, EXP_DIR/train/log.jsonl and the
token stores that the systems were made of. Of a suite, or of a FOLDER that
`audiotok bench` filled (`audiotok report bench`): its leaderboard, drawn anew. Where there is EXP_DIR/account/: the fronts
of its transforms, EXP_DIR/account_report/ with account.html, account.json, account.md and a figure a tokenizer.
Writes: EXP_DIR/report/ with report.html, one self-contained page with the results, where rates are known a figure of quality against bits,
the training curves and the first test sentences to hear and see in every version, and results.json and results.md with the same numbers.
Told by: report.examples (how many sentences); data, prepare and tokenizer as for prepare and tokenize.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from audiotok import files
from audiotok.bench import leaderboard
from audiotok.data.manifests import load_cuts
from audiotok.evaluation import fronts, fronts_page, rates, report, results, scoring, sources, table
from audiotok.stages import paths
from audiotok.store.reader import TokenStore
from audiotok.training import logging

SECTIONS: tuple[str, ...] = ("data", "prepare", "tokenizer", "report", "account")


def run(cfg: DictConfig) -> None:
    if "tasks" in cfg:
        draw(Path(cfg.bench.root), [])
        return
    if paths.account(cfg).is_dir():
        _draw_account(cfg)
        if not paths.evaluation(cfg).is_dir():
            return
    evaluation, folder = paths.evaluation(cfg), paths.report(cfg)
    summaries = results.read(evaluation)
    log = logging.read(paths.train(cfg))
    settings = paths.settings(cfg, "report") | {
        "results": files.fingerprint(summaries),
        "log": files.fingerprint(log),
        "scores": {name: files.fingerprint_of(evaluation / name, made_by="evaluate") for name in summaries},
    }

    def work(partial: Path) -> None:
        (partial / "results.md").write_text(table.markdown(summaries), encoding="utf-8")
        shown = list(_examples(cfg, summaries))
        report.write(
            partial,
            recipe=cfg.recipe,
            facts=_facts(cfg, summaries, log),
            settings=OmegaConf.to_yaml(cfg, resolve=True),
            summaries=summaries,
            families=_families(cfg, summaries),
            log=log,
            examples=track(shown, description="drawing examples", transient=True),
        )

    overwrite = cfg.overwrite or _outdated(folder, settings)
    made = files.build(folder, settings, work, overwrite=overwrite)
    console = Console()
    console.print(table.results_table(summaries, title=f"Results of {cfg.recipe}"))
    console.print(f"{'is there already' if made == 'present' else 'written'}: {folder / report.PAGE}", soft_wrap=True, highlight=False)


def _draw_account(cfg: DictConfig) -> None:
    """The fronts of all transforms that `account` has been through, drawn anew."""
    told = fronts_page.Settings(
        plain=cfg.account.baseline,
        solved_by=cfg.account.solved_by,
        words=cfg.account.words,
        resamplings=cfg.evaluate.bootstrap,
        seed=cfg.seed,
    )
    found = fronts.read(paths.account(cfg), OmegaConf.to_container(cfg.account.families))  # type: ignore[arg-type]
    page = fronts_page.write(paths.report(cfg).with_name("account_report"), found, recipe=cfg.recipe, told=told)
    Console().print(f"written: {page}", soft_wrap=True, highlight=False)


def draw(folder: Path, overrides: Sequence[str]) -> None:
    """The leaderboard of a folder that `audiotok bench` filled. Raises ValueError for settings: there is nothing to be told."""
    if overrides:
        raise ValueError(f"the page of {folder} shows what is there; got {overrides[0]!r}")
    Console().print(f"written: {leaderboard.write(folder)}", soft_wrap=True, highlight=False)


def _outdated(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the same page was drawn of earlier scores: it holds nothing of its own, so that drawing it anew loses nothing."""
    found = files.settings_of(folder)
    return found is not None and found != settings and found["report"] == settings["report"]


def _facts(cfg: DictConfig, summaries: Mapping[str, dict[str, Any]], log: list[dict]) -> dict[str, str]:
    utterances, seconds = (max(summary[key] for summary in summaries.values()) for key in ("utterances", "seconds"))
    facts = {
        "Date": datetime.now().strftime("%-d %B %Y, %H:%M"),
        "Corpus": str(cfg.data.name),
        "Tested on": f"{utterances} utterances, {seconds:.0f} seconds",
        "Seed": str(cfg.seed),
    }
    if log:
        facts |= {"Tokenizer": cfg.choices.tokenizer, "Trained for": f"{log[-1]['step']} steps"}
    return facts


def _families(cfg: DictConfig, summaries: Mapping[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Which systems are one tokenizer at several rates, as what decode recorded of them says."""
    return rates.families({name: (files.settings_of(paths.audio(cfg) / name) or {}).get("tokenizer") for name in summaries})


def _examples(cfg: DictConfig, summaries: Mapping[str, dict[str, Any]]) -> Iterator[report.Example]:
    """The first sentences of the test set, each by everyone who spoke it."""
    scores = {name: pq.read_table(paths.evaluation(cfg) / name / scoring.SCORES).to_pylist() for name in summaries}
    rows = {name: {row["id"]: row for row in system_rows} for name, system_rows in scores.items()}
    systems, recordings = sources.systems(paths.audio(cfg)), sources.Recordings(load_cuts(paths.test_set(cfg), "test"))
    if gone := summaries.keys() - systems.keys() - {sources.RECORDINGS}:
        raise ValueError(f"{paths.audio(cfg) / min(gone)} is scored but not there any more; run `audiotok evaluate {cfg.recipe}` again")
    stores = _stores(cfg, systems)
    for id in list(rows[sources.RECORDINGS])[: cfg.report.examples]:
        versions = []
        for name in (name for name in summaries if id in rows[name]):
            utterance = systems[name].load(id) if name in systems else recordings.load(id)
            codes, sizes = _codes(systems.get(name), stores.get(name), id)
            rounds = systems[name].rounds(id) if name in systems else ()
            versions.append(report.Version(name, utterance, rows[name][id], codes, sizes, rounds))
        yield report.Example(id, rows[sources.RECORDINGS][id]["text"] or id, versions)


def _stores(cfg: DictConfig, systems: Mapping[str, sources.AudioFolder]) -> dict[str, TokenStore]:
    """The test split's tokens that each system was made of: those its record names, else those that the model learned from."""
    folders = paths.tokens(cfg, "").parent.glob("*/test")
    by_fingerprint = {files.fingerprint_of(folder.parent, made_by="tokenize"): folder for folder in folders}
    learned = (files.settings_of(paths.train(cfg)) or {}).get("tokens")
    records = {name: files.settings_of(system.path) or {} for name, system in systems.items()}
    named = {sources.RECORDINGS: learned} | {name: record.get("tokens", learned) for name, record in records.items()}
    return {name: TokenStore(by_fingerprint[found]) for name, found in named.items() if found in by_fingerprint}


def _codes(system: sources.AudioFolder | None, store: TokenStore | None, id: str) -> tuple[np.ndarray | None, tuple[int, ...]]:
    codes = system.codes(id) if system else None
    if codes is None and store is not None and id in store:
        codes = store[id].codes_KN.numpy()
    if codes is None:
        return None, ()
    return codes, store.spec.codebook_sizes if store else (int(codes.max()) + 1,) * len(codes)
