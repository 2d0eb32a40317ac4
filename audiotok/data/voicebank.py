"""VoiceBank-DEMAND (SSW 2016): the same recordings clean and in noise, 28 speakers for training and two others for test, 48 kHz."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from audiotok.data.lhotse_recipes import corpus_folder
from audiotok.data.manifests import Utterance

SOURCE = "https://datashare.ed.ac.uk/handle/10283/2791"
KINDS = ("clean", "noisy")
TRAIN, TEST = "trainset_28spk", "testset"


def voicebank(*, root: str | None, dev_speakers: Sequence[str]) -> dict[str, list[Utterance]]:
    """Every recording twice, as clean/p226_001 and noisy/p226_001; `custom["label"]` says which.

    `dev_speakers` are dev instead of train. `root` holds {clean,noisy}_trainset_28spk_wav, {clean,noisy}_testset_wav and, for the texts,
    trainset_28spk_txt and testset_txt. Raises ValueError for what is missing, and for a recording that is not there both ways.
    """
    folder = corpus_folder(root, "data.root", source=SOURCE, expects=[f"{kind}_{part}_wav" for part in (TRAIN, TEST) for kind in KINDS])
    train = list(_utterances(folder, TRAIN))
    return {
        "train": [utterance for utterance in train if utterance.speaker not in dev_speakers],
        "dev": [utterance for utterance in train if utterance.speaker in dev_speakers],
        "test": list(_utterances(folder, TEST)),
    }


def _utterances(folder: Path, part: str) -> Iterator[Utterance]:
    names = {kind: {path.stem for path in (folder / f"{kind}_{part}_wav").glob("*.wav")} for kind in KINDS}
    if alone := sorted(names["clean"] ^ names["noisy"]):
        raise ValueError(f"{folder}: {alone[0]} and {len(alone) - 1} others of {part} are not both clean and noisy; get them from {SOURCE}")
    for name in sorted(names["clean"]):
        for kind in KINDS:
            yield Utterance(
                id=f"{kind}/{name}",
                sound=folder / f"{kind}_{part}_wav" / f"{name}.wav",
                text=_text(folder / f"{part}_txt" / f"{name}.txt"),
                speaker=name.partition("_")[0],
                language="en",
                custom={"label": kind},
            )


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8").strip() if path.exists() else None
