"""Common Voice (arXiv 1912.06670): sentences read by volunteers, in many languages, with the release's own splits."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from audiotok.data.lhotse_recipes import corpus_folder
from audiotok.data.manifests import Utterance
from audiotok.data.splits import SPLITS

SOURCE = "https://commonvoice.mozilla.org/datasets"
DURATIONS = "clip_durations.tsv"


def common_voice(*, root: str | None, language: str, max_seconds: Mapping[str, float] | None, min_words: int) -> dict[str, list[Utterance]]:
    """The sentences of one language that have `min_words` words or more.

    `root` holds LANGUAGE/train.tsv, dev.tsv, test.tsv and clips/*.mp3, which are decoded once. `max_seconds` is the longest clip of each
    split it names (None: any), by the release's clip_durations.tsv: nothing is decoded to leave one out. Raises ValueError for what is
    missing.
    """
    tables = [f"{split}.tsv" for split in SPLITS] + ([DURATIONS] if max_seconds else [])
    wanted = [f"{language}/{name}" for name in [*tables, "clips"]]
    folder = corpus_folder(root, "data.root", source=SOURCE, expects=wanted) / language
    seconds = _seconds(folder / DURATIONS) if max_seconds else {}
    longest = max_seconds or {}
    return {split: list(_utterances(folder, split, language, seconds, longest.get(split), min_words)) for split in SPLITS}


def _utterances(
    folder: Path, split: str, language: str, seconds: Mapping[str, float], longest: float | None, min_words: int
) -> Iterator[Utterance]:
    for row in _rows(folder / f"{split}.tsv", "path", "client_id", "sentence"):
        if longest is not None and row["path"] not in seconds:
            raise ValueError(f"{folder / DURATIONS} has no {row['path']}; get the whole release, or set data.max_seconds=null")
        if len(row["sentence"].split()) >= min_words and (longest is None or seconds[row["path"]] <= longest):
            yield Utterance(
                id=Path(row["path"]).stem,
                sound=folder / "clips" / row["path"],
                text=row["sentence"],
                speaker=row["client_id"],
                language=language.partition("-")[0],
            )


def _seconds(path: Path) -> dict[str, float]:
    return {row["clip"]: float(row["duration[ms]"]) / 1000 for row in _rows(path, "clip", "duration[ms]")}


def _rows(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)  # sentences hold single quotation marks
        if missing := set(columns) - set(reader.fieldnames or ()):
            raise ValueError(f"{path} has no column {', '.join(sorted(missing))}; get the release from {SOURCE}")
        yield from reader
