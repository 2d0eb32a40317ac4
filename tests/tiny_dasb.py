"""The corpora of the suite dasb in miniature: real recordings under the names and in the layout of the real releases."""

import csv
import json
from collections.abc import Iterable
from itertools import chain, cycle, islice
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000
GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
EXCERPTS = {  # of the fault-filtered lists
    "train": ["blues.00029", "blues.00030", "blues.00031", "jazz.00000", "jazz.00001", "jazz.00011"],
    "dev": ["blues.00000", "jazz.00002"],
    "test": ["blues.00012", "jazz.00073"],
}
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")

Clip = dict[str, str]  # a row of the manifest, its path absolute


def clips(speech: Path, dataset: str, **fields: str) -> list[Clip]:
    """The recordings of one dataset that have these fields, shortest first."""
    with open(speech / "manifest.tsv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["dataset"] == dataset]
    chosen = [row | {"path": str(speech / row["path"])} for row in rows if all(row[name] == value for name, value in fields.items())]
    return sorted(chosen, key=lambda row: (float(row["seconds"]), row["path"]))


def put(path: Path, clip: Clip, *, seconds: float | None = None) -> np.ndarray:
    """Write a clip under another name, cut to `seconds`, in the format that the name says; its samples."""
    wav_T, rate = soundfile.read(clip["path"], dtype="float32")
    wav_T = wav_T if seconds is None else wav_T[: round(seconds * rate)]
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav_T, rate)
    return wav_T


def write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def tiny_librispeech(folder: Path, speech: Path) -> Path:
    """Three utterances of each of two speakers in each part."""
    parts = ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "test-clean", "test-other")
    spoken = {name: clips(speech, "librispeech", split="test", speaker=name) for name in ("1688", "1998", "2033", "2414", "2609", "3005")}
    for number, part in enumerate(parts):
        for place, speaker in enumerate(list(spoken)[number : number + 2]):
            stems = {Path(clip["path"]).stem: clip for clip in spoken[speaker][3 * place : 3 * place + 3]}
            for stem, clip in stems.items():
                put(folder / part / speaker / stem.split("-")[1] / f"{stem}.flac", clip)
            for chapter in {stem.split("-")[1] for stem in stems}:
                told = [f"{stem} {clip['text']}" for stem, clip in stems.items() if stem.split("-")[1] == chapter]
                write(folder / part / speaker / chapter / f"{speaker}-{chapter}.trans.txt", told)
    return folder


def tiny_libri2mix(folder: Path, librispeech: Path) -> Path:
    """LibriMix's tables for that LibriSpeech: in each part the three pairs of its two speakers, at gains of 0.5 and 0.25."""
    for part in ("train-clean-100", "dev-clean", "test-clean"):
        one, other = (sorted(speaker.rglob("*.flac")) for speaker in sorted((librispeech / part).iterdir()))
        lines = ["mixture_ID,source_1_path,source_1_gain,source_2_path,source_2_gain,noise_path,noise_gain"]
        for left, right in zip(one, other):
            paths = [path.relative_to(librispeech).as_posix() for path in (left, right)]
            lines.append(f"{left.stem}_{right.stem},{paths[0]},0.5,{paths[1]},0.25,train/none.wav,0.1")
        write(folder / "Libri2Mix" / f"libri2mix_{part}.csv", lines)
    return folder


def tiny_common_voice(folder: Path, speech: Path, language: str) -> Path:
    """Four sentences in each split, the last of train said to last eleven seconds, and one of two words."""
    read = [clip for clip in clips(speech, "librispeech", split="test") if len(clip["text"].split()) > 2]
    columns = (
        "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\taccents\tvariant\tlocale\tsegment"
    )
    durations = ["clip\tduration[ms]"]
    for number, split in enumerate(("train", "dev", "test")):
        lines = [columns]
        for place, clip in enumerate(read[4 * number : 4 * number + 4]):
            name = f"common_voice_{language}_{number}{place}.mp3"
            put(folder / language / "clips" / name, clip)
            durations.append(f"{name}\t{11000 if place == 3 else round(1000 * float(clip['seconds']))}")
            lines.append(f'{clip["speaker"]}\t{name}\tx\t"{clip["text"].capitalize()}\t\t2\t0\t\t\t\t\t{language}\t')
        name = f"common_voice_{language}_{number}9.mp3"
        put(folder / language / "clips" / name, read[0])
        durations.append(f"{name}\t2000")
        write(folder / language / f"{split}.tsv", [*lines, f"a\t{name}\tx\tTwo words\t\t2\t0\t\t\t\t\t{language}\t"])
    write(folder / language / "clip_durations.tsv", durations)
    return folder


def tiny_slurp(folder: Path, speech: Path) -> Path:
    """Two scenarios; in each split two requests of each, of two recordings."""
    spoken = iter(clips(speech, "barista"))
    for number, split in enumerate(("train", "devel", "test")):
        requests = []
        for place in range(4):
            scenario, action = (("calendar", "set"), ("music", "likeness"))[place % 2]
            heard = [next(spoken), next(spoken)]
            files = [f"audio-{number}{place}{take}.flac" for take in range(2)]
            for name, clip in zip(files, heard):
                put(folder / "slurp_real" / name, clip)
            request = {"slurp_id": 10 * number + place, "sentence": heard[0]["text"], "scenario": scenario, "action": action}
            recordings = [{"file": name, "wer": 0.0, "ent_wer": 0.0, "status": "correct"} for name in files]
            requests.append(json.dumps(request | {"intent": f"{scenario}_{action}", "recordings": recordings}))
        write(folder / "dataset" / "slurp" / f"{split}.jsonl", requests)
    return folder


def tiny_iemocap(folder: Path, speech: Path) -> Path:
    """Each of the ten speakers angry, excited, sad and neutral, and once frustrated, which is none of the four."""
    moods = {"ang": "anger", "exc": "happiness", "sad": "sadness", "neu": "neutral", "fru": "anger"}
    acted = {mood: cycle(clips(speech, "emodb", label=label)) for mood, label in moods.items()}
    for session in range(1, 6):
        dialog = f"Ses{session:02d}F_impro05a" if session % 2 else f"Ses{session:02d}M_script01_1b"
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for who in "FM":
            for number, mood in enumerate(moods):
                turn = f"{dialog}_{who}{number:03d}"
                put(folder / f"Session{session}/sentences/wav" / dialog / f"{turn}.wav", next(acted[mood]))
                lines += [f"[6.2901 - 8.2357]\t{turn}\t{mood}\t[2.5000, 2.5000, 2.5000]", f"C-E2:\tNeutral;\t()\t({turn})", ""]
        write(folder / f"Session{session}/dialog/EmoEvaluation/{dialog}.txt", lines)
        write(folder / f"Session{session}/dialog/EmoEvaluation/Categorical/{dialog}_e1_cat.txt", ["not read"])
    return folder


def tiny_voicebank(folder: Path, speech: Path) -> Path:
    """Recordings of p227 and p228 (train), p226 (dev) and p232 (test), of all but one the text."""
    pairs = list(zip(clips(speech, "voicebank", label="clean"), clips(speech, "voicebank", label="noisy")))
    for number, (name, (clean, noisy)) in enumerate(
        zip(("p227_001", "p227_002", "p228_001", "p228_002", "p226_001", "p232_001", "p232_002"), cycle(pairs[:3]))
    ):
        part = "testset" if name.startswith("p232") else "trainset_28spk"
        put(folder / f"clean_{part}_wav" / f"{name}.wav", clean)
        put(folder / f"noisy_{part}_wav" / f"{name}.wav", noisy)
        if number:
            write(folder / f"{part}_txt" / f"{name}.txt", ["Please call Stella."])
    return folder


def tiny_esc50(folder: Path, speech: Path) -> Path:
    """Two categories, two sounds of each in every fold."""
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    sounds = {"rain": cycle(clips(speech, "noise")), "laughing": cycle(clips(speech, "librispeech", split="test")[:4])}
    for fold in range(1, 6):
        for target, (category, found) in enumerate(sounds.items()):
            for take, clip in enumerate(islice(found, 2)):
                name = f"{fold}-{1000 + take}-A-{target}.wav"
                put(folder / "audio" / name, clip, seconds=2)
                lines.append(f"{name},{fold},{target},{category},True,{1000 + take},A")
    write(folder / "meta" / "esc50.csv", lines)
    return folder


def tiny_gtzan(folder: Path, speech: Path) -> Path:
    """Excerpts of two genres under names of the fault-filtered lists, one under a name of none, and a folder for each genre."""
    for genre in GENRES:
        (folder / "genres_original" / genre).mkdir(parents=True, exist_ok=True)
    names = [*chain.from_iterable(EXCERPTS.values()), "jazz.00033"]
    for name, clip in zip(names, cycle(clips(speech, "librispeech", split="test")[:20])):
        put(folder / "genres_original" / name.split(".")[0] / f"{name}.wav", clip, seconds=2)
    return folder


def tiny_speech_commands(folder: Path, speech: Path) -> Path:
    """Of each word three recordings for training and one for dev and test, of three words that are unknown likewise, and two noises."""
    release = folder / "speech_commands_v0.02"
    said = cycle(clips(speech, "fsdd"))
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    for word in (*WORDS, "bed", "cat", "zero"):
        for take in range(5):
            name = f"{word}/{take:08x}_nohash_0.wav"
            put(release / name, next(said))
            if take > 2:
                lists["testing_list.txt" if take == 3 else "validation_list.txt"].append(name)
    for name, clip in zip(("running_tap", "white_noise"), clips(speech, "noise")):
        put(release / "_background_noise_" / f"{name}.wav", clip)
    for file, names in lists.items():
        write(release / file, names)
    return folder


def tiny_voxceleb1(folder: Path, speech: Path) -> Path:
    """Three training speakers and two for test, two recordings of each of two videos, with the lists."""
    speakers = ("id10001", "id10002", "id10003", "id10270", "id10271")
    names: dict[str, list[str]] = {}
    for speaker, reader in zip(speakers, ("1688", "1998", "2033", "2414", "2609")):
        names[speaker] = [f"{speaker}/{video}/{number:05d}.wav" for video in ("1zcIwhmdeo4", "7w0IBEWc9Qw") for number in (1, 2)]
        for name, clip in zip(names[speaker], clips(speech, "librispeech", split="test", speaker=reader)):
            put(folder / "wav" / name, clip, seconds=4)
    meta = [f"{name}\tA_B\tf\tUK\t{'dev' if name < 'id10270' else 'test'}" for name in speakers]
    write(folder / "vox1_meta.csv", ["VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet", *meta])
    write(folder / "iden_split.txt", [f"{1 if '1zc' in name else 3} {name}" for listed in names.values() for name in listed])
    one, other = names["id10270"], names["id10271"]
    write(
        folder / "veri_test2.txt", [f"1 {one[0]} {one[2]}", f"0 {one[0]} {other[1]}", f"1 {other[0]} {other[3]}", f"0 {other[0]} {one[1]}"]
    )
    return folder


def tiny_ljspeech(folder: Path, speech: Path) -> Path:
    """Twelve sentences."""
    lines = []
    for number, clip in enumerate(islice(cycle([*clips(speech, "ljspeech")[:4], *clips(speech, "harvard")]), 12)):
        name = f"LJ001-{number:04d}"
        put(folder / "wavs" / f"{name}.wav", clip)
        text = clip["text"] or "The birch canoe slid on the smooth planks."
        lines.append(f"{name}|{text}|{text}")
    write(folder / "metadata.csv", lines)
    return folder


def tiny_dasb(folder: Path, speech: Path) -> list[str]:
    """All of them in `folder`; the overrides of the suite that point to them and take more of the little for dev and test."""
    librispeech = tiny_librispeech(folder / "librispeech", speech)
    roots = {
        "librispeech.root": librispeech,
        "libri2mix.metadata": tiny_libri2mix(folder / "librimix", librispeech),
        "common_voice_cy.root": tiny_common_voice(folder / "common_voice", speech, "cy"),
        "common_voice_eu.root": tiny_common_voice(folder / "common_voice", speech, "eu"),
        "slurp.root": tiny_slurp(folder / "slurp", speech),
        "iemocap.root": tiny_iemocap(folder / "iemocap", speech),
        "speech_commands_12.root": tiny_speech_commands(folder / "speech_commands", speech),
        "voxceleb1_identification.root": tiny_voxceleb1(folder / "voxceleb1", speech),
        "voicebank.root": tiny_voicebank(folder / "voicebank", speech),
        "ljspeech.root": tiny_ljspeech(folder / "ljspeech", speech),
        "esc50.root": tiny_esc50(folder / "esc50", speech),
        "gtzan.root": tiny_gtzan(folder / "gtzan", speech),
    }
    shares = {"speech_commands_12.corpus.unknown_share": 0.3, "speech_commands_12.corpus.silence_share": 0.4}
    shares |= {"voxceleb1_identification.corpus.fractions.test": 0.4, "ljspeech.corpus.fractions.test": 0.3}
    return [f"corpora.{name}={value}" for name, value in {**roots, **shares}.items()]
