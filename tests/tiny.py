"""A tiny corpus of real speech for end-to-end tests: a folder as the corpus `speech` reads it."""

import csv
import shutil
from pathlib import Path


def tiny_speech_folder(folder: Path, speech: Path, *, utterances: int) -> Path:
    """`folder`, filled with the shortest transcribed utterances of LibriSpeech test-other and a manifest.tsv.

    The first is test, the second dev, then two train, one test, and so on train; at least three are needed for every split to have one.
    """
    with open(speech / "manifest.tsv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["path"].startswith("librispeech/test-other/") and row["text"]]
    rows = sorted(rows, key=lambda row: (float(row["seconds"]), row["path"]))[:utterances]
    if len(rows) < utterances or utterances < 3:
        raise ValueError(f"{utterances} utterances wanted, at least 3; {speech} has {len(rows)} with a transcript")
    folder.mkdir(parents=True, exist_ok=True)
    for index, row in enumerate(rows):
        name = Path(row["path"]).name
        shutil.copy(speech / row["path"], folder / name)
        row |= {"path": name, "split": ("test", "dev", "train", "train")[index] if index < 4 else "test" if index == 4 else "train"}
    with open(folder / "manifest.tsv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder
