"""Speech Commands 2 (arXiv 1804.03209) in 12 classes: ten words, `unknown` for a share of the other 25, and `silence` cut from noise.

The splits are the release's own lists. speechbrain, and DASB with it, uses the hash of the names that the lists were made with.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lhotse import MonoCut, Recording

from audiotok import audio
from audiotok.data.lhotse_recipes import corpus_folder
from audiotok.data.manifests import Utterance
from audiotok.data.splits import SPLITS
from audiotok.files import fingerprint

SOURCE = "https://download.tensorflow.org/data/speech_commands_v0.02.tar.gz, into a folder of its name"
RELEASE = "speech_commands_v0.02"
LISTS = {"dev": "validation_list.txt", "test": "testing_list.txt"}
NOISE = "_background_noise_"


@dataclass(frozen=True)
class _Spoken:
    split: str
    known: bool
    utterance: Utterance


def keywords(
    *, root: str | None, words: Sequence[str], unknown_share: float, silence_share: float, seed: int
) -> dict[str, list[Utterance]]:
    """The recordings of each split, `custom["label"]` one of `words`, "unknown" or "silence".

    `unknown_share` and `silence_share` are numbers of recordings relative to those of `words`: of all other words, drawn by the hash of
    seed and name; and in each split, a second of each noise at drawn places, so that the splits share the noises but not the places.
    `root` holds speech_commands_v0.02. Raises ValueError for what is missing.
    """
    wanted = [f"{RELEASE}/{name}" for name in (*LISTS.values(), NOISE, *words)]
    folder = corpus_folder(root, "data.root", source=SOURCE, expects=wanted) / RELEASE
    spoken = list(_spoken(folder, set(words)))
    known = sum(row.known for row in spoken)
    kept = unknown_share * known / max(1, len(spoken) - known)
    splits: dict[str, list[Utterance]] = {}
    for split in SPLITS:
        of_split = [row for row in spoken if row.split == split]
        silences = int(silence_share * sum(row.known for row in of_split))
        splits[split] = [row.utterance for row in of_split if row.known or _place(seed, row.utterance.id) < kept]
        splits[split] += _silence(folder / NOISE, split, silences, seed)
    return splits


def _spoken(folder: Path, words: set[str]) -> Iterator[_Spoken]:
    listed = {name: split for split, file in LISTS.items() for name in (folder / file).read_text(encoding="utf-8").split()}
    for path in sorted(folder.glob("*/*.wav")):
        word = path.parent.name
        if word != NOISE:
            known = word in words
            label = {"label": word if known else "unknown"}
            speaker = path.stem.partition("_")[0]
            utterance = Utterance(f"{word}_{path.stem}", path, text=word, speaker=speaker, language="en", custom=label)
            yield _Spoken(listed.get(f"{word}/{path.name}", "train"), known, utterance)


def _place(seed: int, name: str) -> float:
    return int(fingerprint([seed, name])[:8], 16) / 16**8


def _silence(folder: Path, split: str, count: int, seed: int) -> Iterator[Utterance]:
    """Of `count` seconds as many from each noise; what is left over of the division is left out, as speechbrain does."""
    noises = sorted(folder.glob("*.wav"))
    if not noises:
        raise ValueError(f"{folder} holds no .wav to cut silence from; get the corpus from {SOURCE}")
    for path in noises:
        wav_CT, sample_rate = audio.read_channels(path)
        if wav_CT.shape[1] <= sample_rate:
            raise ValueError(f"{path}: a second and more is wanted, to cut silence from; get the corpus from {SOURCE}")
        draw = random.Random(f"{seed} {split} {path.stem}")
        whole = MonoCut(path.stem, start=0, duration=1.0, channel=0, recording=Recording.from_file(path))
        for number in range(count // len(noises)):
            start = draw.randrange(wav_CT.shape[1] - sample_rate) / sample_rate
            name = f"silence_{path.stem}_{split}_{number}"
            yield Utterance(name, replace(whole, id=name, start=start), custom={"label": "silence"})
