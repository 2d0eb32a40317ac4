"""Scores -> what a study claims, held against them, and quality against bits.

Reads: EXP_DIR/evaluation/ of evaluate, and the test set that it was scored on.
Writes: EXP_DIR/comparison/ with claims.json and claims.md: each of compare.claims as the differences of two systems on the same utterances,
with bootstrap 95 % intervals over recordings, over all and at each noise level of the mixes, and whether it holds, does not hold, or the
two are not told apart. A system NAME@WHAT is another training of NAME: claims are of all trainings of a system, and the intervals over
these too; two that were not trained alike, but for the seed, are refused. A claim of a system that is not scored is listed as not
measured. Where two systems or more tell their rate:
rates.json and rates.svg, a panel a metric over bits per second, a line for NAME-1, NAME-2 ... Drawn anew where the scores have changed.
Told by: everything under compare, evaluate.bootstrap, seed; data, prepare and mix as for evaluate.
"""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from lhotse import MonoCut
from omegaconf import DictConfig
from rich.console import Console

from audiotok import files
from audiotok.data.manifests import load_cuts
from audiotok.data.mixes import recording_of
from audiotok.evaluation import claims, rate_lines, results, scoring
from audiotok.stages import enhance, paths

SECTIONS: tuple[str, ...] = ("data", "prepare", "mix", "evaluate", "compare")
CHANCE = {"seed", "train.start_from", "train.save_every", "train.keep", "train.log_every", "train.validate_every"}  # and what is kept of it


def run(cfg: DictConfig) -> None:
    summaries, folder = results.read(paths.evaluation(cfg)), paths.comparison(cfg)
    settings = {"test_set": paths.test_set_fingerprint(cfg), "results": files.fingerprint(summaries), **paths.settings(cfg, "compare")}
    settings["bootstrap"] = cfg.evaluate.bootstrap
    outdated = (files.settings_of(folder) or settings) != settings  # it holds nothing of its own: nothing is lost
    made = files.build(folder, settings, lambda partial: _write(cfg, summaries, partial), overwrite=cfg.overwrite or outdated)
    Console().print(f"{folder} is {'there already' if made == 'present' else 'written'}", soft_wrap=True)


def _write(cfg: DictConfig, summaries: dict[str, dict[str, Any]], folder: Path) -> None:
    told = {text: claims.Claim(**claim) for text, claim in paths.settings(cfg, "compare")["compare"]["claims"].items()}
    _refuse_unlike(cfg, list(summaries))
    scores = {name: pq.read_table(paths.evaluation(cfg) / name / scoring.SCORES) for name in summaries}
    origins = {cut.id: _origin(cut) for cut in load_cuts(paths.test_set(cfg), "test")}
    found = claims.held(told, scores, summaries, origins, resamplings=cfg.evaluate.bootstrap, seed=cfg.seed)
    files.write_json(folder / "claims.json", found)
    (folder / "claims.md").write_text(claims.markdown(found), encoding="utf-8")
    if len(rate_lines.rates(summaries)) > 1:
        numbers = rate_lines.numbers(summaries)
        files.write_json(folder / "rates.json", numbers)
        rate_lines.draw(folder / "rates.svg", numbers)


def _refuse_unlike(cfg: DictConfig, names: list[str]) -> None:
    """Trainings of one system, as far as enhance wrote down how they were trained, may differ in what chance they took alone."""
    told = dict[str, tuple[str, Any]]()
    for name in names:
        record = paths.audio(cfg) / name / enhance.MADE
        if not (record.exists() and (training := files.read_json(record)["training"])):
            continue
        first, then = told.setdefault(name.partition("@")[0], (name, training))
        if differing := [each for each in files.differences(then, training) if each[0] not in CHANCE]:
            differences = "; ".join(f"{key}: {old!r} and {new!r}" for key, old, new in differing)
            raise ValueError(
                f"{first} and {name} were not trained alike ({differences}); a name behind the @ is of another training of the same "
                "recipe: give what was trained otherwise another name"
            )


def _origin(cut: MonoCut) -> claims.Origin:
    return claims.Origin(recording_of(cut), (cut.custom or {}).get("snr"))
