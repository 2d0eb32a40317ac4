"""Libri2Mix (arXiv 2005.11262), clean, "min", 16 kHz, as its two voices: each as loud as in the mixture, cut to the shorter.

Their sum is the mixture, so nothing else is kept, and neither LibriMix's own 430 GB nor WHAM! is needed.

    1-2-0000_3-4-0000/s1    LibriSpeech 1-2-0000 by the table's gain, the first min(T1, T2) samples
    1-2-0000_3-4-0000/s2    LibriSpeech 3-4-0000 likewise
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from lhotse import MonoCut, Recording
from lhotse.audio import AudioLoadingError

from audiotok.data.lhotse_recipes import corpus_folder
from audiotok.data.librimix import LIBRISPEECH, METADATA
from audiotok.data.manifests import Utterance


def libri2mix(*, librispeech: str | None, metadata: str | None, splits: Mapping[str, Sequence[str]]) -> dict[str, list[Utterance]]:
    """The voices of each split; `custom["mixture"]` is the pair's id, `custom["place"]` 1 or 2.

    `librispeech` holds the parts that `splits` lists, `metadata` Libri2Mix/libri2mix_PART.csv. Raises ValueError for what is missing or
    has no readable header, saying where to get it.
    """
    parts = [part for listed in splits.values() for part in listed]
    speech = corpus_folder(librispeech, "data.librispeech", source=LIBRISPEECH, expects=parts)
    described = corpus_folder(metadata, "data.metadata", source=METADATA, expects=[_table(part) for part in parts])
    return {split: [voice for part in listed for voice in _voices(speech, described / _table(part))] for split, listed in splits.items()}


def _table(part: str) -> str:
    return f"Libri2Mix/libri2mix_{part}.csv"


def _voices(speech: Path, table: Path) -> Iterator[Utterance]:
    texts = cache(spoken_texts)
    with open(table, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            paths = [speech / row[f"source_{place}_path"] for place in (1, 2)]
            recordings = [header(path) for path in paths]
            shorter = min(recordings, key=lambda recording: recording.num_samples)
            for place, (path, recording) in enumerate(zip(paths, recordings), start=1):
                name = f"{row['mixture_ID']}/s{place}"
                louder = recording.perturb_volume(float(row[f"source_{place}_gain"]))
                yield Utterance(
                    id=name,
                    sound=MonoCut(name, start=0, duration=shorter.duration, channel=0, recording=louder),
                    text=texts(path.parent).get(path.stem),
                    speaker=path.stem.partition("-")[0],
                    language="en",
                    custom={"mixture": row["mixture_ID"], "place": place},
                )


def header(path: Path) -> Recording:
    """What a file's header says. Raises ValueError where it cannot be read."""
    try:
        return Recording.from_file(path)
    except (AudioLoadingError, OSError) as error:
        raise ValueError(f"{path}: Lhotse cannot read its header; get the part again from {LIBRISPEECH}") from error


def spoken_texts(chapter: Path) -> dict[str, str]:
    """What is said in a chapter's folder of LibriSpeech, by utterance."""
    lines = [line.partition(" ") for path in chapter.glob("*.trans.txt") for line in path.read_text(encoding="utf-8").splitlines()]
    return {name: text for name, _, text in lines}
