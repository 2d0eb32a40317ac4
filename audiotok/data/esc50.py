"""ESC-50 (ACM Multimedia 2015): 2000 sounds of five seconds in 50 classes, in five folds that share no source recording."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from audiotok.data.lhotse_recipes import corpus_folder
from audiotok.data.manifests import Utterance
from audiotok.data.splits import SPLITS

SOURCE = "https://github.com/karolpiczak/ESC-50"
TABLE, AUDIO = "meta/esc50.csv", "audio"


def esc50(*, root: str | None, folds: Mapping[str, Sequence[int]]) -> dict[str, list[Utterance]]:
    """The sounds of each split, `custom["label"]` their category. `folds` says which of 1 to 5 make each split, none in two.

    `root` holds meta/esc50.csv and audio/*.wav. Raises ValueError for what is missing.
    """
    named = [fold for chosen in folds.values() for fold in chosen]
    if len(set(named)) != len(named) or not set(named) <= set(range(1, 6)) or not set(folds) <= set(SPLITS):
        raise ValueError(f"data.folds={dict(folds)}: the folds 1 to 5, none in two splits of {', '.join(SPLITS)}, are wanted")
    folder = corpus_folder(root, "data.root", source=SOURCE, expects=[TABLE, AUDIO])
    rows = _rows(folder / TABLE)
    return {split: [_utterance(folder, row) for row in rows if int(row["fold"]) in chosen] for split, chosen in folds.items()}


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if missing := {"filename", "fold", "category"} - set(reader.fieldnames or ()):
            raise ValueError(f"{path} has no column {', '.join(sorted(missing))}; get it from {SOURCE}")
        return list(reader)


def _utterance(folder: Path, row: Mapping[str, str]) -> Utterance:
    sound = folder / AUDIO / row["filename"]
    return Utterance(id=sound.stem, sound=sound, custom={"label": row["category"], "fold": row["fold"]})
