#!/usr/bin/env python3
"""How systems speak sentences that nobody has recorded: words, stumbles and quality in a table, and a page of what went wrong.

    tools/score_texts.py egs/prompts/tts/sentences_200.tsv --system one=FOLDER two=FOLDER --language en --out FOLDER [key=value ...]

A system's folder is what `audiotok synthesize ... synthesize.text=` writes of the same texts, line by line. Writes FOLDER/SYSTEM/ with the
scores of each utterance and their summary, report.html, results.json, and categories.md: stumbles by the texts' categories. What is scored
already is not scored again. key=value are settings of metrics, evaluate, seed (metrics=stumbles where not given).
"""

import argparse
import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from audiotok import cli, files
from audiotok.evaluation import report, results, scoring, sources, table
from audiotok.evaluation.metric import JUDGE_RATE, Metric, Utterance
from audiotok.evaluation.stumbles import non_stops

STUMBLES = "stumbling"
CATEGORIES = "categories.md"


def main() -> None:
    options = _options()
    cfg = cli.load("prompts/tts", ["metrics=stumbles", *options.overrides])
    texts = _texts(options.texts)
    systems = {name: sources.AudioFolder(Path(folder)) for name, folder in (pair.split("=", 1) for pair in options.system)}
    metrics: dict[str, Metric] = instantiate(cfg.metrics, _convert_="all")
    tables = {name: _scored(name, system, texts, metrics, options) for name, system in systems.items()}
    summaries = {name: _summary(rows, systems[name], metrics, cfg) for name, rows in tables.items()}
    for name, summary in summaries.items():
        files.write_json(options.out / name / results.SUMMARY, summary)
    _write_text(options.out / CATEGORIES, _by_category(tables, texts))
    page = report.write(
        options.out,
        recipe=options.texts.stem,
        facts={"Texts": str(len(texts)), "Systems": ", ".join(systems), "Seed": str(cfg.seed)},
        settings=OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, ["metrics", "evaluate", "seed"]), resolve=False),
        summaries=summaries,
        families={name: [name] for name in systems},
        log=[],
        examples=_stumbled(tables, systems, texts, most=options.examples),
    )
    console = Console()
    console.print(table.results_table(summaries, title=f"Results of {options.texts.name}"))
    console.print(f"written: {page}", soft_wrap=True, highlight=False)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="a .tsv with the columns category and text")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--system", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--language", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=40, help="sentences on the page, at most")
    options = parser.parse_intermixed_args()
    if bad := [pair for pair in options.system if not re.fullmatch(r"[\w.-]+=.+", pair)]:
        parser.error(f"--system {bad[0]}: NAME=FOLDER is wanted")
    return options


def _texts(path: Path) -> dict[str, tuple[str, str]]:
    """(category, text) by the id that `synthesize` gives to the text's line."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if not rows or not {"category", "text"} <= rows[0].keys():
        raise SystemExit(f"{path}: a .tsv with the columns category and text is wanted, and a text on each line")
    return {f"{index:05d}": (row["category"], row["text"]) for index, row in enumerate(rows)}


def _scored(
    name: str, system: sources.AudioFolder, texts: Mapping[str, tuple[str, str]], metrics: Mapping[str, Metric], options: argparse.Namespace
) -> pa.Table:
    _check(system, texts)
    about = {"audio": system.fingerprint(), "metrics": {metric: one.judge for metric, one in metrics.items()}, "language": options.language}
    folder, marks = options.out / name, options.out / name / "scored.json"
    if marks.exists() and files.read_json(marks) != about:
        raise SystemExit(f"{folder} holds scores of other audio or by other judges; remove it, or set --out to another folder")
    files.write_json(marks, about)

    def load(id: str) -> scoring.Pair:
        estimate = replace(system.load(id), language=options.language).at(JUDGE_RATE)
        return unrecorded(estimate), estimate

    ids = list(system.rows)
    return scoring.score_all(ids, track_load(load, len(ids), name), metrics, folder=folder)


def unrecorded(estimate: Utterance) -> Utterance:
    """The reference where there is no recording: silence, which a metric that needs one fails on by name."""
    return replace(estimate, wav_T=estimate.wav_T.new_zeros(estimate.wav_T.shape))


def track_load(load: Any, total: int, name: str) -> Any:
    """`load`, saying now and then how far it is."""
    done = iter(track(range(total), description=f"scoring {name}"))

    def loaded(id: str) -> scoring.Pair:
        next(done, None)
        return load(id)

    return loaded


def _check(system: sources.AudioFolder, texts: Mapping[str, tuple[str, str]]) -> None:
    other = [id for id, row in system.rows.items() if id not in texts or row.get("text") != texts[id][1]]
    if other:
        raise SystemExit(f"{system.path}: utterance {other[0]!r} is not that line of the texts; speak the same file")


def _summary(rows: pa.Table, system: sources.AudioFolder, metrics: Mapping[str, Metric], cfg: DictConfig) -> dict[str, Any]:
    reasons, settings = list(system.unspoken.values()), {"resamplings": cfg.evaluate.bootstrap, "seed": cfg.seed}
    summary = results.summarise(rows, metrics, unspoken=reasons, **settings)
    summary["columns"].append(non_stops(spoken=len(rows), reasons=reasons, **settings))
    return summary


def _by_category(tables: Mapping[str, pa.Table], texts: Mapping[str, tuple[str, str]]) -> str:
    """Markdown: of each category the share of sentences that stumble, a column a system."""
    found = {name: {row["id"]: row[STUMBLES] for row in rows.to_pylist()} for name, rows in tables.items()}
    lines = [f"| sentences that stumble (%) | texts | {' | '.join(found)} |", f"|---|{'---:|' * (len(found) + 1)}"]
    for category in dict.fromkeys(category for category, _ in texts.values()):
        ids = [id for id, (own, _) in texts.items() if own == category]
        cells = [_share([scores[id] for id in ids if scores.get(id) is not None]) for scores in found.values()]
        lines.append(f"| {category} | {len(ids)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _share(values: Sequence[float]) -> str:
    return f"{100 * sum(values) / len(values):.0f}" if values else "–"


def _stumbled(
    tables: Mapping[str, pa.Table], systems: Mapping[str, sources.AudioFolder], texts: Mapping[str, tuple[str, str]], *, most: int
) -> list[report.Example]:
    """The sentences over which any system stumbles, those first over which the most stumble, as all of them spoke them."""
    rows = {name: {row["id"]: row for row in found.to_pylist()} for name, found in tables.items()}
    badness = {id: sum(found[id][STUMBLES] or 0 for found in rows.values() if id in found) for id in texts}
    chosen = sorted((id for id in texts if badness[id]), key=lambda id: -badness[id])[:most]
    return [
        report.Example(
            id,
            f"{texts[id][0]}: {texts[id][1]}",
            [report.Version(name, systems[name].load(id), found[id]) for name, found in rows.items() if id in found],
        )
        for id in chosen
    ]


def _write_text(path: Path, text: str) -> None:
    with files.whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
