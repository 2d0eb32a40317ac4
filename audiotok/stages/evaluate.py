"""Audio -> scores of every utterance, and results.json.

Reads: every folder in EXP_DIR/audio (what synthesize and decode write, or any other with an utterances.jsonl with id, path, text,
speaker and language), and from EXP_ROOT/data/NAME-FP/ the recordings of the same utterances, scored beside the systems as recordings; where
evaluate.mixes=true these are the clean recordings in EXP_ROOT/mixes/NAME-FP/.
Writes: for each, EXP_DIR/evaluation/SYSTEM/ with utterances.parquet (a row an utterance) and summary.json (means with bootstrap 95 %
intervals, failures with their reasons, the judges' names and digests), and EXP_DIR/evaluation/results.json with all of them and with what
decode says of their costs (bits, parameters, time). A killed run goes on where it stopped, and only what is new is scored.
Told by: metrics (speech, resynthesis, codec, enhancement) and its keys, such as metrics.words.model=FOLDER, evaluate.bootstrap,
evaluate.mixes, evaluate.workers (each of the processes needs about 1.4 GB), seed; engine (engine=ray for a Ray cluster) and its keys; data
and prepare as for prepare.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import Progress

from audiotok import files
from audiotok.data.manifests import load_cuts
from audiotok.data.workers import Pool
from audiotok.evaluation import costs, results, scoring, sources, table
from audiotok.evaluation.metric import Metric
from audiotok.stages import paths

SECTIONS: tuple[str, ...] = ("data", "prepare", "metrics", "evaluate", "engine")
WORTH_WORKERS = 10.0  # seconds: what takes no longer is done before worker processes have started


def run(cfg: DictConfig) -> None:
    systems = sources.systems(paths.audio(cfg))
    ids = {name: list(system.rows) for name, system in systems.items()}
    ids = {sources.RECORDINGS: list(dict.fromkeys(id for system_ids in ids.values() for id in system_ids)), **ids}
    manifests = paths.test_set_fingerprint(cfg)
    metrics = cache(lambda: instantiate(cfg.metrics, _convert_="all"))
    recordings = cache(lambda: sources.Recordings(load_cuts(paths.test_set(cfg), "test")))
    with _workers(cfg) as workers:
        for name in ids:
            audio = systems[name].fingerprint() if name in systems else None
            about = {"manifests": manifests, "ids": files.fingerprint(ids[name]), "audio": audio}
            work = partial(
                _score, cfg, name, ids=ids[name], system=systems.get(name), recordings=recordings, metrics=metrics, workers=workers
            )
            folder = paths.evaluation(cfg) / name
            if files.build(folder, _settings(cfg) | about, work, overwrite=cfg.overwrite, resumable="**/*.parquet") == "present":
                print(f"{name} is scored already: {folder}")
    summaries = costs.with_costs({name: files.read_json(paths.evaluation(cfg) / name / results.SUMMARY) for name in ids}, systems)
    found, collected = paths.evaluation(cfg) / results.RESULTS, {"recipe": cfg.recipe, "systems": summaries}
    if not found.exists() or files.read_json(found) != collected:
        files.write_json(found, collected)
    Console().print(table.results_table(summaries, title=f"Results of {cfg.recipe}"))


def _settings(cfg: DictConfig) -> dict:
    """What the scores depend on: not on the number of threads and processes."""
    settings = paths.settings(cfg, "evaluate", "seed", "metrics")
    del settings["evaluate"]["workers"], settings["evaluate"]["mixes"]  # of the second, the fingerprint of the test set tells
    settings["metrics"] = {
        metric: {key: value for key, value in told.items() if key != "threads"} for metric, told in settings["metrics"].items()
    }
    return settings


def _workers(cfg: DictConfig) -> AbstractContextManager[Pool | None]:
    """The workers that evaluate.workers asks for; None where this process is enough."""
    make = partial(instantiate, OmegaConf.to_container(cfg.metrics, resolve=True), _convert_="all")
    return instantiate(cfg.engine).workers(
        partial(scoring.scorer, make, paths.test_set(cfg)),
        asked=cfg.evaluate.workers,
        setting="evaluate.workers",
        after=WORTH_WORKERS,
        gpu=False,
    )


def _score(
    cfg: DictConfig,
    name: str,
    folder: Path,
    *,
    ids: list[str],
    system: sources.AudioFolder | None,
    recordings: Callable[[], sources.Recordings],
    metrics: Callable[[], Mapping[str, Metric]],
    workers: Pool | None,
) -> None:
    recordings().check(ids, system=name)

    def load(id: str) -> scoring.Pair:
        reference = recordings().load(id)
        return sources.pair(reference, system.load(id) if system else reference)

    with Progress() as progress:
        task = progress.add_task(f"scoring {name}", total=len(ids))
        rows = scoring.score_all(
            ids,
            load,
            metrics(),
            folder=folder,
            system=system.path if system else None,
            workers=workers,
            progress=lambda done: progress.advance(task, done),
        )
    unspoken = system.unspoken.values() if system else ()
    summary = results.summarise(rows, metrics(), unspoken=unspoken, resamplings=cfg.evaluate.bootstrap, seed=cfg.seed)
    files.write_json(folder / results.SUMMARY, summary)
