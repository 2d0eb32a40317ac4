"""Tiny corpora of real speech for end-to-end tests, laid out as the corpora `speech` and `libritts` read them."""

import csv
import shutil
from pathlib import Path

import soundfile


def tiny_speech_folder(folder: Path, speech: Path, *, utterances: int) -> Path:
    """`folder`, filled with the shortest transcribed utterances of LibriSpeech test-other and a manifest.tsv.

    The first is test, the second dev, then two train, one test, and so on train; at least three are needed for every split to have one.
    """
    rows = shortest_transcribed(speech, utterances)
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


def tiny_libritts(folder: Path, speech: Path, *, utterances: int) -> Path:
    """`folder`, laid out as LibriTTS: train-clean-100, dev-clean and test-clean, `utterances` in each, and SPEAKERS.txt.

    The audio is LibriSpeech's at 16 kHz where LibriTTS has 24 kHz; the texts are upper case.
    """
    rows = shortest_transcribed(speech, 3 * utterances)
    for index, row in enumerate(rows):
        speaker, chapter, number = Path(row["path"]).stem.split("-")
        part = folder / ("train-clean-100", "dev-clean", "test-clean")[index % 3] / speaker / chapter
        name = f"{speaker}_{chapter}_{int(number):06d}_000000"
        part.mkdir(parents=True, exist_ok=True)
        wav_T, rate = soundfile.read(speech / row["path"], dtype="int16")
        soundfile.write(part / f"{name}.wav", wav_T, rate)
        (part / f"{name}.normalized.txt").write_text(row["text"], encoding="utf-8")
        with open(part / f"{speaker}_{chapter}.trans.tsv", "a", encoding="utf-8") as file:
            file.write(f"{name}\t{row['text'].capitalize()}\t{row['text']}\n")
        with open(part / f"{speaker}_{chapter}.book.tsv", "a", encoding="utf-8") as file:
            file.write(f"{name}\t{row['text'].capitalize()}\t0.0\t0.0\t20.5\n")
    speakers = sorted({Path(row["path"]).stem.split("-")[0] for row in rows})
    (folder / "SPEAKERS.txt").write_text(
        ";ID  |SEX| SUBSET           |MINUTES| NAME\n" + "".join(f"{name} | F | tiny | 1.0 | Reader {name}\n" for name in speakers)
    )
    return folder


def shortest_transcribed(speech: Path, utterances: int) -> list[dict[str, str]]:
    """Rows of the manifest for the shortest transcribed utterances of LibriSpeech test-other."""
    with open(speech / "manifest.tsv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["path"].startswith("librispeech/test-other/") and row["text"]]
    if len(rows) < utterances or utterances < 3:
        raise ValueError(f"{utterances} utterances wanted, at least 3; {speech} has {len(rows)} with a transcript")
    return sorted(rows, key=lambda row: (float(row["seconds"]), row["path"]))[:utterances]
