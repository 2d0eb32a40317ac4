"""Scores of the fixed mixes -> tables and a figure by signal-to-noise ratio.

Reads: EXP_DIR/evaluation/ of evaluate (with evaluate.mixes=true) and EXP_ROOT/mixes/NAME-FP/ of mix.
Writes: EXP_DIR/bands/ with bands.json (a summary of each system at each ratio, with bootstrap 95 % intervals), bands.md and bands.svg;
drawn anew where the scores have changed.
Told by: evaluate.bootstrap, seed; mix, data and prepare as for mix.
"""

from pathlib import Path

import pyarrow.parquet as pq
from omegaconf import DictConfig

from audiotok import files
from audiotok.data.manifests import load_cuts
from audiotok.evaluation import bands, results, scoring, sources
from audiotok.stages import paths

SECTIONS: tuple[str, ...] = ("data", "prepare", "mix", "evaluate")


def run(cfg: DictConfig) -> None:
    summaries, folder = results.read(paths.evaluation(cfg)), paths.bands(cfg)
    settings = {"mixes": paths.mixes_fingerprint(cfg), "results": files.fingerprint(summaries), "bootstrap": cfg.evaluate.bootstrap}
    outdated = (files.settings_of(folder) or settings) != settings  # it holds nothing of its own: nothing is lost
    made = files.build(folder, settings, lambda partial: _draw(cfg, summaries, partial), overwrite=cfg.overwrite or outdated)
    print(f"{folder} is {'there already' if made == 'present' else 'written'}")


def _draw(cfg: DictConfig, summaries: dict, folder: Path) -> None:
    told_of = {cut.id: (cut.custom or {}).get("snr") for cut in load_cuts(paths.mixes(cfg), "test")}
    snrs = {id: snr for id, snr in told_of.items() if snr is not None}
    if unknown := [id for id in told_of if id not in snrs]:
        told = f"of {len(unknown)} mixes no ratio of speech to noise is known, the first is {unknown[0]!r}"
        raise ValueError(f"{told}; bands are of mixes at several ratios: run `audiotok compare` or `audiotok report` for these")
    heard = {name: summary for name, summary in summaries.items() if name != sources.RECORDINGS}  # the clean ones are of no ratio
    scores = {name: pq.read_table(paths.evaluation(cfg) / name / scoring.SCORES) for name in heard}
    found = bands.by_band(scores, heard, snrs, resamplings=cfg.evaluate.bootstrap, seed=cfg.seed)
    files.write_json(folder / "bands.json", found)
    (folder / "bands.md").write_text(bands.markdown(found), encoding="utf-8")
    bands.draw(folder / "bands.svg", found)
