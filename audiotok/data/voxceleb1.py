"""VoxCeleb 1 (arXiv 1706.08612) by its published lists: whose voice is it (of people heard in training), are two of one person.

vox1_meta.csv     the speakers, 1211 for training ("dev") and 40 for test
iden_split.txt    `1 id10001/1zcIwhmdeo4/00001.wav`: train (1), dev (2) or test (3), of all 1251 speakers
veri_test2.txt    `1 id10270/x6uYqmx31kE/00001.wav id10270/8jEAjG6SegY/00008.wav`: a trial, of one person (1) or two (0)
wav/SPEAKER/VIDEO/NUMBER.wav
"""

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from audiotok.data.lhotse_recipes import corpus_folder, spread
from audiotok.data.manifests import Utterance
from audiotok.data.splits import SPLITS

SOURCE = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb (with the lists of its folder `meta`)"
AUDIO, SPEAKERS, IDENTIFICATION = "wav", "vox1_meta.csv", "iden_split.txt"
MARKS = {"1": "train", "2": "dev", "3": "test"}


def identification(*, root: str | None, fractions: Mapping[str, float] | None) -> dict[str, list[Utterance]]:
    """Recordings of the same speakers in every split.

    Without `fractions` those of iden_split.txt, in which no video is in two splits; with it the 1211 training speakers', each recording by
    the hash of its name, which is speechbrain's and DASB's way and easier: the rest of a video may be in train. Raises ValueError for what
    is missing.
    """
    folder = corpus_folder(root, "data.root", source=SOURCE, expects=[AUDIO, SPEAKERS if fractions is not None else IDENTIFICATION])
    if fractions is not None:
        return spread({"train": _of_speakers(folder, "dev")}, fractions, by="id")
    splits: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    for mark, name in _fields(folder / IDENTIFICATION, 2):
        if mark not in MARKS:
            raise ValueError(f"{folder / IDENTIFICATION}: {mark} {name}: the first field is 1, 2 or 3; get the list from {SOURCE}")
        splits[MARKS[mark]].append(_utterance(folder, name))
    return splits


def verification(*, root: str | None, trials: str) -> dict[str, list[Utterance]]:
    """The 1211 training speakers (train), and the recordings that the list `trials` compares (test).

    Each trial is told of its first recording: `custom["same"]` and `custom["different"]` are the ids it is compared with. Raises ValueError
    for what is missing.
    """
    folder = corpus_folder(root, "data.root", source=SOURCE, expects=[AUDIO, SPEAKERS, trials])
    told: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"same": [], "different": []})
    for mark, first, second in _fields(folder / trials, 3):
        told[first]["same" if mark == "1" else "different"].append(_id(second))
        told[second]  # a recording, of which no trial may be told
    return {"train": _of_speakers(folder, "dev"), "test": [_utterance(folder, name, custom) for name, custom in sorted(told.items())]}


def _of_speakers(folder: Path, part: str) -> list[Utterance]:
    """Every recording of the speakers that vox1_meta.csv has in this part."""
    with open(folder / SPEAKERS, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    chosen = [row["VoxCeleb1 ID"] for row in rows if row.get("Set") == part]
    if not chosen:
        raise ValueError(f"{folder / SPEAKERS} has no speaker whose `Set` is {part}; get it from {SOURCE}")
    names = [path.relative_to(folder / AUDIO).as_posix() for speaker in chosen for path in (folder / AUDIO / speaker).glob("*/*.wav")]
    return [_utterance(folder, name) for name in sorted(names)]


def _utterance(folder: Path, name: str, custom: Mapping[str, Any] | None = None) -> Utterance:
    return Utterance(_id(name), folder / AUDIO / name, speaker=name.partition("/")[0], custom=custom or {})


def _id(name: str) -> str:
    return name.removesuffix(".wav").replace("/", "-")


def _fields(path: Path, number: int) -> Iterator[list[str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if len(fields := line.split()) != number:
            raise ValueError(f"{path}: {line!r}: {number} fields are wanted; get the list from {SOURCE}")
        yield fields
