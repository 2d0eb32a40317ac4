"""A corpus -> manifests.

Reads: the corpus that `data` chooses (below, what data= may be), every recording once.
Writes: EXP_ROOT/data/NAME-FP/ with cuts_train.jsonl.gz, cuts_dev.jsonl.gz, cuts_test.jsonl.gz, audio/ (what was converted),
rejected.jsonl (what was left out, with the reason) and summary.json.
Told by: data (data=libritts data.root=FOLDER), prepare.max_rejected, prepare.max_seconds, prepare.workers.
"""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from audiotok import files
from audiotok.data.manifests import write_manifests
from audiotok.stages import paths

SECTIONS: tuple[str, ...] = ("data", "prepare")


def run(cfg: DictConfig) -> None:
    folder = paths.manifests(cfg)
    console = Console()

    def work(partial: Path) -> None:
        console.print(f"reading the corpus {cfg.data.name}")
        utterances = {split: list(items) for split, items in instantiate(cfg.data.corpus, _convert_="all")().items()}
        with Progress(console=console) as progress:
            task = progress.add_task("checking recordings", total=sum(map(len, utterances.values())))
            write_manifests(partial, utterances, **cfg.prepare, progress=lambda more: progress.advance(task, more))

    if files.build(folder, paths.data_settings(cfg), work, overwrite=cfg.overwrite) == "present":
        console.print(f"{folder} is there already")
        return
    show(console, folder, files.read_json(folder / "summary.json"))


def show(console: Console, folder: Path, rows: list[dict[str, Any]]) -> None:
    """The table of splits, and where to read why recordings were left out."""
    table = Table("split", "utterances", "hours", "speakers", "languages", "rejected", title=str(folder))
    for row in rows:
        table.add_row(
            row["split"],
            str(row["utterances"]),
            f"{row['hours']:.2f}",
            str(row["speakers"]),
            " ".join(row["languages"]),
            str(row["rejected"]),
        )
    console.print(table)
    if rejected := sum(row["rejected"] for row in rows):
        console.print(f"left out: {rejected}; the reasons are in {folder / 'rejected.jsonl'}")
