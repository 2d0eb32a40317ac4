"""Libri1Mix (LibriMix's `mix_single`, arXiv 2005.11262), 16 kHz: the first voice of each mixture of Libri2Mix, clean and in WHAM! noise.

Both are as loud as in the mixture and cut to the shorter of voice and noise, as LibriMix's "min" cuts what it sums. Nothing is generated
beforehand: they are rendered from LibriSpeech, WHAM! and Libri2Mix's tables when they are checked.

    clean/1-2-0000_3-4-0000    LibriSpeech 1-2-0000 by the table's gain
    noisy/1-2-0000_3-4-0000    that, and the first channel of the noise by its gain
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from lhotse import MonoCut, Recording

from audiotok.data.lhotse_recipes import corpus_folder
from audiotok.data.libri2mix import header, spoken_texts
from audiotok.data.librimix import LIBRISPEECH, METADATA, WHAM
from audiotok.data.manifests import Utterance


def libri1mix(
    *, librispeech: str | None, wham: str | None, metadata: str | None, splits: Mapping[str, Sequence[str]]
) -> dict[str, list[Utterance]]:
    """The pairs of each split, each as two utterances; `custom["label"]` says which is noisy.

    `librispeech` holds the parts that `splits` lists, `wham` the folders tr, cv and tt, `metadata` Libri2Mix/libri2mix_PART.csv. Raises
    ValueError for what is missing or has no readable header, saying where to get it.
    """
    parts = [part for listed in splits.values() for part in listed]
    speech = corpus_folder(librispeech, "data.librispeech", source=LIBRISPEECH, expects=parts)
    noise = corpus_folder(wham, "data.wham", source=WHAM, expects=["tr", "cv", "tt"])
    described = corpus_folder(metadata, "data.metadata", source=METADATA, expects=[_table(part) for part in parts])
    return {split: [one for part in listed for one in _pairs(speech, noise, described / _table(part))] for split, listed in splits.items()}


def _table(part: str) -> str:
    return f"Libri2Mix/libri2mix_{part}.csv"


def _pairs(speech: Path, noise: Path, table: Path) -> Iterator[Utterance]:
    texts = cache(spoken_texts)
    with open(table, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            path = speech / row["source_1_path"]
            voice, sound = header(path), noise_recording(noise / row["noise_path"])
            seconds = min(voice.num_samples, sound.num_samples) / voice.sampling_rate
            louder = [each.perturb_volume(float(row[gain])) for each, gain in ((voice, "source_1_gain"), (sound, "noise_gain"))]
            clean, around = (
                MonoCut(f"{kind}/{row['mixture_ID']}", start=0, duration=seconds, channel=0, recording=each)
                for kind, each in zip(("clean", "noise"), louder)
            )
            for label, cut in (("clean", clean), ("noisy", clean.mix(around))):
                yield Utterance(
                    id=f"{label}/{row['mixture_ID']}",
                    sound=cut,
                    text=texts(path.parent).get(path.stem),
                    speaker=path.stem.partition("-")[0],
                    language="en",
                    custom={"label": label},
                )


def noise_recording(path: Path) -> Recording:
    """A noise of WHAM!; one that LibriMix would have made by playing another faster is made of that: Xsp12.wav is X.wav at 1.2."""
    faster = re.fullmatch(r"(.+)sp(08|12)", path.stem)
    if path.exists() or faster is None:
        return header(path)
    return header(path.with_stem(faster[1])).perturb_speed(int(faster[2]) / 10)
