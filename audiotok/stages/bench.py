"""A suite and a tokenizer -> a row of the leaderboard.

Reads: the corpora of the suite (prepared, and aligned where a task needs phones, if they are not yet).
Writes: BENCH/SUITE/TOKENIZER/ with cells/ (a Parquet row for each task and seed, with all that says where it comes from), items/ (what
each score is a mean of), tokens/, audio/ and tokenizer.json, the same for the suite's references (BENCH/SUITE/mel ...), and suite.json;
then the page BENCH/report/index.html, which `audiotok report BENCH` draws anew. A killed run goes on with the cells that are missing. A
tokenizer that misbehaves gets a verdict in place of a score, and the other cells finish.
Told by: tokenizer (tokenizer=dmel, tokenizer=one,another, tokenizer=my_package.MyTokenizer, tokenizer=mine.yaml), bench.label (its name
on the page), bench.tasks (some of the suite's), bench.seeds, bench.workers, bench.root, everything under tasks, device; engine (engine=ray
for a Ray cluster) and its keys.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from audiotok import distributed, files
from audiotok.bench import cells, grid, leaderboard, suite
from audiotok.bench.checks import Broken, Checked
from audiotok.bench.rows import Row, write
from audiotok.bench.subject import Selection, Subject
from audiotok.bench.suite import Cell
from audiotok.bench.task import Outcome, Task
from audiotok.data.engines import Asked
from audiotok.data.tokenization import bound_kernel_cache, encoder
from audiotok.data.workers import Pool
from audiotok.evaluation.metric import NotApplicable
from audiotok.stages import align, fit, paths, prepare
from audiotok.tokenizers.base import Fittable, WaveformCodec

SECTIONS: tuple[str, ...] = ("bench", "tokenizer", "engine")
WORTH_WORKERS = 5.0  # seconds: what takes no longer is done before processes have started

Folders = tuple[Mapping[str, Path], Mapping[str, Path]]  # of corpora and of alignments, by the suite's names


def run(cfg: DictConfig) -> None:
    console = Console()
    if "tasks" not in cfg:
        raise ValueError(f"{cfg.recipe} is no suite: it names no tasks; suites are recipes such as suites/mini")
    bound_kernel_cache()
    corpora = {name: folder for name in cfg.corpora if (folder := _corpus(cfg, name, console)) is not None}
    alignments = {name: _alignment(cfg, name) for name in cfg.bench.aligned if name in corpora}
    root = Path(cfg.bench.root) / cfg.recipe.rpartition("/")[2]
    files.write_json(root / suite.SUITE, files.redacted({"suite": cfg.recipe, "tasks": OmegaConf.to_container(cfg.tasks, resolve=True)}))
    references = {name: OmegaConf.to_container(node, resolve=True) for name, node in cfg.get("references", {}).items()}
    label = cfg.bench.label or cfg.choices.tokenizer
    if label in references or label == suite.RECORDINGS:
        raise ValueError(f"bench.label={label} is the name of a reference of this suite; choose another")
    tokenizer = _fitted(cfg)
    for name, node in {**references, label: tokenizer}.items():
        _bench(cfg, name, node, root=root, folders=(corpora, alignments), reference=name in references, console=console)
    page = leaderboard.write(Path(cfg.bench.root))
    console.print(f"written: {page}", soft_wrap=True, highlight=False)


def _corpus(cfg: DictConfig, name: str, console: Console) -> Path | None:
    """The manifests of one of the suite's corpora, prepared if they are not yet; None, said so, where nobody told where it is."""
    own = _of_corpus(cfg, name)
    try:
        prepare.run(own)
    except ValueError as error:
        if "is not set" not in str(error):
            raise
        told = str(error).replace("data.", f"corpora.{name}.")
        console.print(f"without the corpus {name}: {told}", soft_wrap=True, markup=False)
        return None
    return paths.manifests(own)


def _alignment(cfg: DictConfig, name: str) -> Path:
    """The phones of one of the suite's corpora."""
    own = _of_corpus(cfg, name)
    align.run(own)
    return paths.alignments(own)


def _of_corpus(cfg: DictConfig, name: str) -> DictConfig:
    own = cfg.copy()
    with open_dict(own):
        own.data = cfg.corpora[name]
    own.overwrite = False
    return own


def _fitted(cfg: DictConfig) -> dict[str, Any]:
    """The tokenizer's settings; fitted to the suite's training speech, where it has to be."""
    own = _of_corpus(cfg, cfg.bench.fit_on)  # `fitted: ${fitted:}` depends on the corpus
    system = instantiate(own.tokenizer)
    if isinstance(system, Fittable) and not _has_spec(system):
        fit.run(own)
    found = OmegaConf.to_container(own.tokenizer, resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _has_spec(system: Any) -> bool:
    try:
        return system.spec is not None
    except ValueError:
        return False


def _bench(cfg: DictConfig, label: str, node: Any, *, root: Path, folders: Folders, reference: bool, console: Console) -> None:
    """Every cell of one tokenizer, or of one reference, that is not there yet."""
    folder, device = root / label, distributed.device(cfg.device)
    subject = _subject(node, label, folders, folder / "tokens", device)
    overwrite = cfg.overwrite and not reference
    suite.describe(folder, _told(cfg, subject, node, reference), overwrite=overwrite)
    if overwrite:
        shutil.rmtree(folder / "audio", ignore_errors=True)
    settings: Any = OmegaConf.to_container(cfg.tasks, resolve=True)
    wanted = cfg.bench.tasks or list(cfg.tasks)
    if unknown := sorted(set(wanted) - set(cfg.tasks)):
        raise ValueError(f"bench.tasks: {cfg.recipe} has no {', '.join(unknown)}; it has {', '.join(cfg.tasks)}")
    tasks: dict[str, Task] = {name: instantiate(cfg.tasks[name], _convert_="all") for name in wanted}
    around = suite.surroundings(device)
    about = {name: files.fingerprint_of(path, made_by="prepare") for name, path in folders[0].items()}
    own = node if not isinstance(subject.system, Checked) else subject.spec.fingerprint
    told = {
        cell: {"tokenizer": own, "task": settings[cell.task], "corpora": about, "seed": cell.seed}
        for cell in suite.planned(tasks, list(cfg.bench.seeds))
    }
    fingerprints = {cell: files.fingerprint(value) for cell, value in told.items()}
    missing = [cell for cell in told if cell not in suite.done(folder, fingerprints, overwrite=overwrite)]
    if not missing and suite.is_written(folder / "audio"):
        console.print(f"{folder} is there already", soft_wrap=True)
        return
    provenance = {cell: files.redacted(told[cell]) | around | {"cell": fingerprints[cell]} for cell in missing}
    alive = _survives(cfg, subject, node, console)
    if alive and missing:
        _codes(cfg, subject, node, tasks, console)
    make = partial(_worker, node, label, folders, folder / "tokens", cfg.device, settings, cfg.recipe, provenance)
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        bar = progress.add_task(f"benching {label}", total=len(missing))
        for cell, result in _results(cfg, make, missing, asked=cfg.bench.workers) if missing else ():
            lost = isinstance(result, Broken)
            about_it = {"suite": cfg.recipe, "label": label, "provenance": provenance[cell]}
            row = suite.ended(tasks[cell.task], cell, result, **about_it) if lost else result
            write(row, folder)
            if row.verdict not in ("ok", "not_applicable"):
                console.print(f"{label}: {row.task}: {row.verdict}: {row.reason}", soft_wrap=True, markup=False)
            progress.advance(bar)
    if alive:
        _listen(cfg, subject, root, folder, console)
    else:
        suite.write_utterances([], folder / "audio")


def _subject(node: Any, label: str, folders: Folders, tokens: Path, device: Any) -> Subject:
    return Subject(instantiate(node), label=label, corpora=folders[0], alignments=folders[1], folder=tokens, device=device)


def _worker(
    node: Any, label: str, folders: Folders, tokens: Path, device: str, tasks: Any, recipe: str,
    provenance: Mapping[Cell, Mapping[str, Any]],
) -> Callable[[Cell], Row]:  # fmt: skip
    """What a process does: the cells it is given, each task made once. A row that it ends names the machine that it was measured on."""
    bound_kernel_cache()
    around = suite.surroundings(distributed.device(device))
    subject = _subject(node, label, folders, tokens, distributed.device(device))
    task = cache(lambda name: instantiate(tasks[name], _convert_="all"))
    about = {"suite": recipe}

    def measured(cell: Cell) -> Row:
        told = {**provenance[cell], **around}
        return cells.run_cell(task(cell.task), subject, name=cell.task, seed=cell.seed, provenance=told, **about)

    return measured


def _results(cfg: DictConfig, make: Callable[[], Callable[[Any], Any]], cells: list[Any], *, asked: Asked) -> Iterator[tuple[Any, Any]]:
    return grid.outcomes(instantiate(cfg.engine), make, cells, asked=asked, seconds=60 * cfg.bench.cell_minutes)


def _survives(cfg: DictConfig, subject: Subject, node: Any, console: Console) -> bool:
    """Whether a process outlives a second of sound in this tokenizer: one that does not is asked in the cells' processes alone."""
    if cfg.bench.workers == 0 or not isinstance(subject.system, Checked):
        return True
    ((_, result),) = _results(cfg, partial(_trial, node, cfg.device), ["a second of sound"], asked=1)
    if isinstance(result, Broken):
        console.print(f"{subject.label}: {result.verdict}: {result.reason}, at a second of sound", soft_wrap=True, markup=False)
    return not isinstance(result, Broken)


def _trial(node: Any, choice: str) -> Callable[[str], Outcome]:
    """There and back once. Whatever it raises, the cells will find and name: only its life is asked for here."""
    tokenizer, device = Checked(instantiate(node)), distributed.device(choice)

    def there_and_back() -> Outcome:
        rate = tokenizer.spec.sample_rate
        wav_1T = torch.randn(1, rate, generator=torch.Generator().manual_seed(0)) * 0.1
        codes_1KN, frames_1 = tokenizer.encode(wav_1T.to(device), torch.tensor([rate], device=device))
        if tokenizer.decodes:
            tokenizer.decode(codes_1KN, frames_1)
        return Outcome(())

    return lambda _: cells.attempted(there_and_back)


def _codes(cfg: DictConfig, subject: Subject, node: Any, tasks: Mapping[str, Task], console: Console) -> None:
    """All that the tasks read of the tokenizer's codes, made once. What is wrong with it the cells will find again, and say."""
    if not isinstance(subject.system, Checked):
        return
    selections = [selection for task in tasks.values() for selection in getattr(task, "selections", ())]
    try:
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress, _encoders(cfg, node) as workers:
            bar = progress.add_task(f"encoding with {subject.label}", total=None)
            failed = subject.store(
                selections,
                batch_seconds=cfg.bench.batch_seconds,
                workers=workers,
                progress=lambda more: progress.advance(bar, more),
            )
    except (Broken, ValueError) as error:
        console.print(f"{subject.label} could not encode the corpora: {error}", soft_wrap=True, markup=False)
        return
    for id, reason in list(failed.items())[:3]:
        console.print(f"{subject.label}: {id}: {reason}", soft_wrap=True, markup=False)


def _encoders(cfg: DictConfig, node: Any) -> AbstractContextManager[Pool | None]:
    return instantiate(cfg.engine).workers(
        partial(_encoder, node, cfg.device),
        asked=cfg.bench.workers or 1,
        setting="bench.workers",
        after=WORTH_WORKERS,
        gpu=distributed.device(cfg.device).type != "cpu",
    )


def _encoder(node: Any, device: str) -> Callable[[Any], Any]:
    """What a worker does, on the device that is its own."""
    bound_kernel_cache()
    return encoder(partial(_checked, node), distributed.device(device))


def _checked(node: Any) -> Any:
    return Checked(instantiate(node))


def _listen(cfg: DictConfig, subject: Subject, root: Path, folder: Path, console: Console) -> None:
    """The sound of the page. What fails for good is left without any, and not tried again before overwrite=true."""
    selection = instantiate(cfg.bench.listen, _convert_="all")
    assert isinstance(selection, Selection)
    try:
        suite.write_recordings(subject, selection, root / suite.RECORDINGS / "audio")
        suite.write_audio(subject, selection, folder / "audio")
    except NotApplicable as reason:
        console.print(f"{subject.label}: no audio for the page: {reason}; see bench.listen", soft_wrap=True, markup=False)
    except (Broken, ValueError, RuntimeError) as error:
        console.print(f"{subject.label}: no audio for the page: {error}", soft_wrap=True, markup=False)
        suite.write_utterances([], folder / "audio")


def _taxonomy(cfg: DictConfig, label: str, *, reference: bool) -> Any:
    """What the suite says of the tokenizer, by its label or its choice."""
    known = cfg.get("taxonomy", {})
    found = known.get(label) or (None if reference else known.get(cfg.choices.tokenizer))
    return {} if found is None else OmegaConf.to_container(found)


def _told(cfg: DictConfig, subject: Subject, node: Any, reference: bool) -> dict[str, Any]:
    """tokenizer.json."""
    told: dict[str, Any] = {"label": subject.label, "settings": node, "reference": reference, "family": None}
    told["taxonomy"] = _taxonomy(cfg, subject.label, reference=reference)
    if isinstance(subject.system, Checked):
        spec = subject.system.spec
        told["spec"] = {"sample_rate": spec.sample_rate, "frame_rate": str(spec.frame_rate), "codebook_sizes": list(spec.codebook_sizes)}
        told |= {"bits_per_second": spec.bits_per_second, "fingerprint": spec.fingerprint}
    elif isinstance(subject.system, WaveformCodec):
        told["bits_per_second"] = subject.system.bits_per_second
    return told
