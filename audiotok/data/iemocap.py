"""IEMOCAP (Language Resources and Evaluation 2008): ten actors in five sessions of two; four emotions."""

import re
from collections.abc import Iterator
from pathlib import Path

from audiotok.data.lhotse_recipes import corpus_folder
from audiotok.data.manifests import Utterance
from audiotok.data.splits import SPLITS

SOURCE = "https://sail.usc.edu/iemocap (by request; its folder IEMOCAP_full_release)"
EMOTIONS = {"ang": "anger", "hap": "happiness", "exc": "happiness", "sad": "sadness", "neu": "neutral"}
TURN = re.compile(r"^\[[\d. -]+\]\t(\w+)\t(\w{3})\t", re.MULTILINE)  # [6.2901 - 8.2357]	Ses01F_impro01_F000	neu	[2.5, 2.5, 2.5]


def iemocap(*, root: str | None, test_speaker: int) -> dict[str, list[Utterance]]:
    """The turns that most annotators found angry, happy or excited (one label), sad or neutral, as `custom["label"]`.

    Speaker 1 is the woman of session 1, 2 its man, and so on to 10. `test_speaker` is test, who plays with him or her is dev, the other
    eight are train. `root` holds Session1 to Session5, each with dialog/EmoEvaluation/*.txt and sentences/wav/DIALOG/TURN.wav. Raises
    ValueError for what is missing.
    """
    if not 1 <= test_speaker <= 10:
        raise ValueError(f"data.test_speaker={test_speaker}; IEMOCAP has the speakers 1 to 10")
    parts = [f"Session{session}/{part}" for session in range(1, 6) for part in ("dialog/EmoEvaluation", "sentences/wav")]
    folder = corpus_folder(root, "data.root", source=SOURCE, expects=parts)
    splits: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    for session in range(1, 6):
        for number, utterance in _turns(folder / f"Session{session}", session):
            splits[_split(number, test_speaker)].append(utterance)
    return splits


def _split(speaker: int, test_speaker: int) -> str:
    if speaker == test_speaker:
        return "test"
    return "dev" if (speaker + 1) // 2 == (test_speaker + 1) // 2 else "train"


def _turns(folder: Path, session: int) -> Iterator[tuple[int, Utterance]]:
    """The speaker's number, and the turn.

    Who speaks is the letter before the turn's last number. speechbrain takes the letter at a fixed place and so has the women of dialogs
    such as Ses03M_impro05a and Ses05M_script01_1b among the men.
    """
    for table in sorted(folder.glob("dialog/EmoEvaluation/Ses*.txt")):
        for turn, emotion in TURN.findall(table.read_text(encoding="utf-8")):
            if emotion in EMOTIONS:
                dialog, _, last = turn.rpartition("_")
                speaker = f"Ses{session:02d}{last[0]}"
                sound = folder / "sentences" / "wav" / dialog / f"{turn}.wav"
                label = {"label": EMOTIONS[emotion]}
                yield 2 * session - (last[0] == "F"), Utterance(id=turn, sound=sound, speaker=speaker, language="en", custom=label)
