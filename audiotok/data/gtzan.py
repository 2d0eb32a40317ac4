"""GTZAN (IEEE Transactions on Speech and Audio Processing 2002): 1000 excerpts of 30 seconds in ten genres."""

from collections.abc import Mapping
from pathlib import Path

from torchaudio.datasets import gtzan as published

from audiotok.data.lhotse_recipes import corpus_folder
from audiotok.data.manifests import Utterance
from audiotok.data.splits import SPLITS, hashed_split

SOURCE = "https://huggingface.co/datasets/marsyas/gtzan"
AUDIO = "genres_original"
GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")


def gtzan(*, root: str | None, fractions: Mapping[str, float] | None) -> dict[str, list[Utterance]]:
    """The excerpts of each split, `custom["label"]` their genre.

    Without `fractions` the splits are the fault-filtered ones (arXiv 1507.04761; 443, 197 and 290 excerpts), in which no artist is in two
    and repetitions are left out; with it, all excerpts by the hash of their names. `root` holds genres_original/GENRE/*.wav. jazz.00054 is
    broken in the usual release; whoever reads it says so. Raises ValueError for what is missing.
    """
    folder = corpus_folder(root, "data.root", source=SOURCE, expects=[f"{AUDIO}/{genre}" for genre in GENRES])
    listed = _fault_filtered() if fractions is None else {}
    splits: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    for path in sorted((folder / AUDIO).glob("*/*.wav")):
        split = listed.get(path.stem) if fractions is None else hashed_split(path.stem, fractions)
        if split is not None:
            splits[split].append(_utterance(path))
    return splits


def _fault_filtered() -> dict[str, str]:
    """The split of each excerpt that Kereliuk, Sturm and Larsen kept."""
    lists = {"train": published.filtered_train, "dev": published.filtered_valid, "test": published.filtered_test}
    return {name: split for split, names in lists.items() for name in names}


def _utterance(path: Path) -> Utterance:
    return Utterance(id=path.stem, sound=path, custom={"label": path.parent.name})
