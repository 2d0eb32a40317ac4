"""Corpus `speech`: any folder with a `manifest.tsv`.

Tab-separated, one header line. `path` (relative to the folder) is needed; `dataset`, `speaker`, `language`, `text`, `label` and `split` are
used where they are there, and an empty field means that it is not known. Every column but path, text, speaker, language and split is kept
in `custom`.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from audiotok import files, storage
from audiotok.data.manifests import Utterance
from audiotok.data.splits import SPLITS, hashed_split

MANIFEST = "manifest.tsv"
OWN_FIELDS = {"path", "text", "speaker", "language", "split"}


def speech(
    *,
    root: str | None,
    datasets: Sequence[str] | None,
    without: Sequence[str],
    language: str | None,
    languages: Mapping[str, str],
    fractions: Mapping[str, float],
) -> dict[str, list[Utterance]]:
    """The utterances of each split: by the column `split`, where that is empty by the hash of the path.

    `datasets` chooses by the column of that name (None: all), less those in `without`, which need not be there. The language, in two
    letters, is that of the column `language`, where that is empty the one that `languages` names for the dataset, and where it names none
    `language`. Raises ValueError for a missing folder or column, an unknown dataset or split, and a row without a path.
    """
    folder = _folder(root)
    rows = list(_rows(folder / MANIFEST))
    splits: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    for number, row in _chosen(rows, datasets):
        if row.get("dataset") in without:
            continue
        split = row.get("split") or hashed_split(row["path"], fractions)
        if split not in splits:
            raise ValueError(f"{folder / MANIFEST}, line {number}: the split is {split!r}, wanted {', '.join(SPLITS)} or nothing")
        spoken = row.get("language") or languages.get(row.get("dataset", ""), language)
        splits[split].append(_utterance(folder, row, spoken))
    return splits


def _folder(root: str | None) -> Path:
    if root is None:
        raise ValueError(f"data.root is not set: a folder with a {MANIFEST}; set data.root=FOLDER, or AUDIOTOK_SPEECH in the environment")
    folder = storage.located(root).expanduser()
    if not files.here(folder / MANIFEST).is_file():
        wanted = "path, dataset, speaker, language, text, split"
        raise ValueError(f"{root} has no {MANIFEST}; set data.root=FOLDER to one that has (columns: {wanted})")
    return folder


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", restval="")
        try:
            if "path" not in (reader.fieldnames or ()):
                raise ValueError(f"it has no column `path`; the first line must name the columns, it has {reader.fieldnames}")
            for row in reader:
                if not row["path"]:
                    raise ValueError("no path")
                if None in row:
                    raise ValueError("more fields than the first line names columns")
                yield reader.line_num, row
        except (ValueError, csv.Error) as error:  # csv's of a field that never ends, and of bytes that are no UTF-8
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def _chosen(rows: Sequence[tuple[int, dict[str, str]]], datasets: Sequence[str] | None) -> Iterable[tuple[int, dict[str, str]]]:
    if datasets is None:
        return rows
    known = {row.get("dataset", "") for _, row in rows}
    if unknown := sorted(set(datasets) - known):
        raise ValueError(f"{MANIFEST} has no dataset {', '.join(unknown)}; it has {', '.join(sorted(known))}; set data.datasets")
    return [(number, row) for number, row in rows if row["dataset"] in datasets]


def _utterance(folder: Path, row: Mapping[str, str], language: str | None) -> Utterance:
    path = Path(row["path"])
    return Utterance(
        id=(path.with_suffix("") if path.name else path).as_posix().replace("/", "_"),
        sound=folder / row["path"],
        text=row.get("text") or None,
        speaker=row.get("speaker") or None,
        language=language,
        custom={name: value for name, value in row.items() if value and name not in OWN_FIELDS},
    )
