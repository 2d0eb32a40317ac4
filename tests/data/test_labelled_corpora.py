"""The corpora of DASB and its survey, each laid out in miniature as its publisher packs it."""

import json
import shutil
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny_dasb
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tiny_dasb import RATE, clips, put, write

from audiotok.data.iemocap import iemocap
from audiotok.data.manifests import Utterance, load_cuts, write_manifests

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LIMITS: dict[str, Any] = {"max_rejected": 0.5, "max_seconds": 60, "workers": 1}
CORPORA = [
    "common_voice_cy", "common_voice_eu", "esc50", "gtzan", "iemocap", "libri2mix", "slurp", "speech_commands_12", "voicebank",
    "voxceleb1_identification", "voxceleb1_verification",
]  # fmt: skip

Listed = dict[str, list[Utterance]]


def listed(corpus: str, *overrides: str) -> Listed:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(f"data/{corpus}", overrides=list(overrides)).data
    return instantiate(cfg.corpus, _convert_="all")()


def labels(found: Listed, field: str = "label") -> dict[str, Counter[str]]:
    return {split: Counter(row.custom[field] for row in rows) for split, rows in found.items()}


def ids(found: Listed) -> dict[str, list[str]]:
    return {split: sorted(row.id for row in rows) for split, rows in found.items()}


def prepared(folder: Path, found: Listed) -> dict[str, Any]:
    """Every recording of the corpus, really read, by id; none may be rejected."""
    assert write_manifests(folder, found, **LIMITS) == []
    return {cut.id: cut for split, rows in found.items() if rows for cut in load_cuts(folder, split)}


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_corpus_that_is_not_there_says_where_to_get_it_and_how_to_point_to_it(corpus: str, tmp_path: Path) -> None:
    key = "librispeech" if corpus == "libri2mix" else "root"
    with pytest.raises(ValueError, match=rf"data\.{key} is not set; get the corpus from https://.*set data\.{key}=FOLDER"):
        listed(corpus)
    with pytest.raises(ValueError, match=rf"data\.{key}=/no/such: no such folder; get the corpus from https"):
        listed(corpus, f"data.{key}=/no/such")
    with pytest.raises(ValueError, match=r"does not hold .*; get the corpus from https"):
        listed(corpus, f"data.{key}={tmp_path}")


def test_common_voice_leaves_out_long_clips_of_training_and_sentences_of_two_words(speech: Path, tmp_path: Path) -> None:
    root = tiny_dasb.tiny_common_voice(tmp_path / "cv", speech, "cy")
    found = listed("common_voice_cy", f"data.root={root}")
    assert {split: len(rows) for split, rows in found.items()} == {"train": 3, "dev": 4, "test": 4}  # the long ones of dev and test stay
    assert len(listed("common_voice_cy", f"data.root={root}", "data.min_words=2")["test"]) == 5
    first = found["train"][0]
    assert first.language == "cy" and first.text is not None and first.text.startswith('"') and first.speaker in ("1688", "3005", "2414")
    cuts = prepared(tmp_path / "out", found)
    source = Path(str(first.sound))
    assert source.suffix == ".mp3" and cuts[first.id].recording.sources[0].source.endswith(".flac")
    assert abs(cuts[first.id].duration - soundfile.info(source).duration) < 0.1


def test_common_voice_needs_the_table_of_durations_only_to_leave_out_long_clips(speech: Path, tmp_path: Path) -> None:
    root = tiny_dasb.tiny_common_voice(tmp_path / "cv", speech, "eu")
    table = root / "eu" / "clip_durations.tsv"
    lines = table.read_text().splitlines()
    write(table, [line for line in lines if "common_voice_eu_01" not in line])
    with pytest.raises(ValueError, match=r"clip_durations\.tsv has no common_voice_eu_01\.mp3; .*data\.max_seconds=null"):
        listed("common_voice_eu", f"data.root={root}")
    table.unlink()
    with pytest.raises(ValueError, match=r"does not hold eu/clip_durations\.tsv"):
        listed("common_voice_eu", f"data.root={root}")
    assert len(listed("common_voice_eu", f"data.root={root}", "data.max_seconds=null")["train"]) == 4
    write(root / "eu" / "dev.tsv", ["client_id\tpath", "a\tb.mp3"])
    with pytest.raises(ValueError, match=r"dev\.tsv has no column sentence; get the release from https"):
        listed("common_voice_eu", f"data.root={root}", "data.max_seconds=null")


def test_slurp_gives_every_recording_of_a_request_its_scenario_action_and_intent(speech: Path, tmp_path: Path) -> None:
    root = tiny_dasb.tiny_slurp(tmp_path / "slurp", speech)
    found = listed("slurp", f"data.root={root}")
    assert labels(found) == {split: {"calendar": 4, "music": 4} for split in ("train", "dev", "test")}
    assert set(labels(found, "intent")["dev"]) == {"calendar_set", "music_likeness"}
    first = found["dev"][0]
    assert (first.id, first.language, first.custom["action"]) == ("10-audio-100", "en", "set")
    assert first.sound == root / "slurp_real" / "audio-100.flac" and first.text == found["dev"][1].text
    Path(str(first.sound)).unlink()
    (rejected,) = write_manifests(tmp_path / "out", found, **LIMITS)
    assert (rejected.id, rejected.reason) == (first.id, "no such file")
    write(root / "dataset" / "slurp" / "test.jsonl", [json.dumps({"slurp_id": 1, "sentence": "play"})])
    with pytest.raises(ValueError, match=r"test\.jsonl: a request without action, recordings, scenario; get it from https"):
        listed("slurp", f"data.root={root}")


def test_iemocap_holds_out_both_speakers_of_a_session_and_knows_who_speaks(speech: Path, tmp_path: Path) -> None:
    root = tiny_dasb.tiny_iemocap(tmp_path / "iemocap", speech)
    found = listed("iemocap", f"data.root={root}")
    four = {"anger": 1, "happiness": 1, "sadness": 1, "neutral": 1}
    assert labels(found) == {"train": dict.fromkeys(four, 8), "dev": four, "test": four}
    speakers = {split: {row.speaker for row in rows} for split, rows in found.items()}
    assert (speakers["test"], speakers["dev"]) == ({"Ses01F"}, {"Ses01M"})
    assert speakers["train"] == {f"Ses0{session}{who}" for session in range(2, 6) for who in "FM"}
    assert all(row.speaker == f"{row.id[:5]}{row.id.split('_')[-1][0]}" for rows in found.values() for row in rows)
    assert len(prepared(tmp_path / "out", found)) == 40
    fourth = listed("iemocap", f"data.root={root}", "data.test_speaker=4")
    assert {row.speaker for row in fourth["test"]} == {"Ses02M"} and {row.speaker for row in fourth["dev"]} == {"Ses02F"}
    with pytest.raises(ValueError, match="test_speaker=11; IEMOCAP has the speakers 1 to 10"):
        iemocap(root=str(root), test_speaker=11)


def test_voicebank_lists_every_recording_clean_and_noisy(speech: Path, tmp_path: Path) -> None:
    root = tiny_dasb.tiny_voicebank(tmp_path / "voicebank", speech)
    found = listed("voicebank", f"data.root={root}")
    assert {split: {row.speaker for row in rows} for split, rows in found.items()} == {
        "train": {"p227", "p228"},
        "dev": {"p226"},
        "test": {"p232"},
    }
    assert ids(found)["test"] == ["clean/p232_001", "clean/p232_002", "noisy/p232_001", "noisy/p232_002"]
    assert all(row.id.startswith(row.custom["label"]) for row in found["train"])
    texts = {row.id: row.text for rows in found.values() for row in rows}
    assert texts["noisy/p227_001"] is None and texts["clean/p232_002"] == "Please call Stella."
    cuts = prepared(tmp_path / "out", found)
    assert cuts["clean/p232_001"].num_samples == cuts["noisy/p232_001"].num_samples
    assert np.abs(cuts["clean/p232_001"].load_audio() - cuts["noisy/p232_001"].load_audio()).max() > 0.01
    (root / "noisy_testset_wav" / "p232_002.wav").unlink()
    with pytest.raises(ValueError, match=r"p232_002 and 0 others of testset are not both clean and noisy; get them from https"):
        listed("voicebank", f"data.root={root}")


def test_esc50_is_split_by_its_folds(speech: Path, tmp_path: Path) -> None:
    root = tiny_dasb.tiny_esc50(tmp_path / "esc50", speech)
    found = listed("esc50", f"data.root={root}")
    assert labels(found) == {"train": {"rain": 6, "laughing": 6}, "dev": {"rain": 2, "laughing": 2}, "test": {"rain": 2, "laughing": 2}}
    assert set(labels(found, "fold")["test"]) == {"5"} and all(row.id.startswith("4-") for row in found["dev"])
    assert len(prepared(tmp_path / "out", found)) == 20
    for folds in ("[5]", "[6]"):
        with pytest.raises(ValueError, match="the folds 1 to 5, none in two splits of train, dev, test"):
            listed("esc50", f"data.root={root}", f"data.folds.dev={folds}")
    write(root / "meta" / "esc50.csv", ["filename,category", "a.wav,rain"])
    with pytest.raises(ValueError, match=r"esc50\.csv has no column fold; get it from https"):
        listed("esc50", f"data.root={root}")


def test_gtzan_is_split_by_the_fault_filtered_lists_and_a_broken_excerpt_is_quarantined(speech: Path, tmp_path: Path) -> None:
    root = tiny_dasb.tiny_gtzan(tmp_path / "gtzan", speech)
    broken = root / "genres_original" / "jazz" / "jazz.00054.wav"  # as the release has it: bytes that are no sound
    broken.write_bytes(b"\x00" * 4000)
    found = listed("gtzan", f"data.root={root}")
    assert ids(found) == {**tiny_dasb.EXCERPTS, "train": sorted([*tiny_dasb.EXCERPTS["train"], "jazz.00054"])}
    assert all(row.custom["label"] == row.id.split(".")[0] for row in found["test"])
    (rejected,) = write_manifests(tmp_path / "out", found, **LIMITS)
    assert rejected.id == "jazz.00054" and "no audio" in rejected.reason
    hashed = listed("gtzan", f"data.root={root}", "data.corpus.fractions={dev: 0.3, test: 0.3}")
    assert sum(map(len, hashed.values())) == 12 and all(hashed.values())


def test_the_fault_filtered_lists_are_as_long_as_published(tmp_path: Path) -> None:
    for genre in tiny_dasb.GENRES:
        for number in range(100):
            write(tmp_path / "genres_original" / genre / f"{genre}.{number:05d}.wav", [])
    found = listed("gtzan", f"data.root={tmp_path}")
    assert {split: len(rows) for split, rows in found.items()} == {"train": 443, "dev": 197, "test": 290}
    assert len(set(chain.from_iterable(ids(found).values()))) == 930


def test_speech_commands_have_twelve_classes_and_silence_is_a_second_of_noise(speech: Path, tmp_path: Path) -> None:
    root = tiny_dasb.tiny_speech_commands(tmp_path / "gsc", speech)
    shares = ("data.corpus.unknown_share=1", "data.corpus.silence_share=0.4")
    found = listed("speech_commands_12", f"data.root={root}", *shares)
    wanted = {split: dict.fromkeys(tiny_dasb.WORDS, each) for split, each in (("train", 3), ("dev", 1), ("test", 1))}
    wanted["train"] |= {"unknown": 9, "silence": 12}
    wanted["dev"] |= {"unknown": 3, "silence": 4}
    wanted["test"] |= {"unknown": 3, "silence": 4}
    assert labels(found) == wanted
    assert {row.text for row in found["test"] if row.custom["label"] == "unknown"} == {"bed", "cat", "zero"}
    cuts = prepared(tmp_path / "out", found)
    silent = [row for rows in found.values() for row in rows if row.custom["label"] == "silence"]
    starts = {(row.sound.recording_id, row.sound.start) for row in silent}
    assert len(starts) == len(silent) == 20
    noises = {
        path.stem: soundfile.read(path, dtype="float32")[0]
        for path in (root / "speech_commands_v0.02" / "_background_noise_").glob("*.wav")
    }
    for row in silent:
        first = round(row.sound.start * RATE)
        assert np.abs(cuts[row.id].load_audio()[0] - noises[row.sound.recording_id][first : first + RATE]).max() < 1e-4
    assert ids(listed("speech_commands_12", f"data.root={root}", *shares)) == ids(found)


def test_unknown_words_are_a_share_of_the_known_ones_and_drawn_by_the_seed(speech: Path, tmp_path: Path) -> None:
    root = tiny_dasb.tiny_speech_commands(tmp_path / "gsc", speech)
    for word, takes in (("yes", 1000), ("bed", 1500), ("cat", 1500)):
        for take in range(takes):
            (root / "speech_commands_v0.02" / word / f"{take:08x}_nohash_1.wav").touch()
    found = {seed: listed("speech_commands_12", f"data.root={root}", f"data.corpus.seed={seed}") for seed in (1, 2)}
    unknown = {seed: {row.id for rows in one.values() for row in rows if row.custom["label"] == "unknown"} for seed, one in found.items()}
    for drawn in unknown.values():
        assert abs(len(drawn) - 105) < 4 * 105**0.5  # a tenth of 1050, four standard deviations
    assert len(unknown[1] & unknown[2]) < 20
    assert labels(found[1])["train"]["silence"] == 2 * int(0.1 * 1030 / 2)
    assert "silence" not in labels(found[1])["dev"]  # a tenth of ten is one, and there are two noises


def test_a_noise_too_short_to_cut_silence_from_is_an_error(speech: Path, tmp_path: Path) -> None:
    root = tiny_dasb.tiny_speech_commands(tmp_path / "gsc", speech)
    folder = root / "speech_commands_v0.02" / "_background_noise_"
    put(folder / "white_noise.wav", clips(speech, "noise")[0], seconds=0.9)
    with pytest.raises(ValueError, match=r"white_noise\.wav: a second and more is wanted"):
        listed("speech_commands_12", f"data.root={root}")
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(ValueError, match=r"_background_noise_ holds no \.wav to cut silence from; get the corpus from https"):
        listed("speech_commands_12", f"data.root={root}")


def test_voxceleb1_identification_has_the_same_speakers_in_training_and_test(speech: Path, tmp_path: Path) -> None:
    root = tiny_dasb.tiny_voxceleb1(tmp_path / "vox", speech)
    found = listed("voxceleb1_identification", f"data.root={root}", "data.corpus.fractions.test=0.4")
    speakers = {split: {row.speaker for row in rows} for split, rows in found.items()}
    assert speakers["train"] == {"id10001", "id10002", "id10003"} and set() < speakers["test"] <= speakers["train"]
    assert sum(map(len, found.values())) == 12 and len(prepared(tmp_path / "out", found)) == 12
    official = listed("voxceleb1_identification", f"data.root={root}", "data.corpus.fractions=null")
    assert {row.id.split("-")[1] for row in official["train"]} == {"1zcIwhmdeo4"}
    assert {row.id.split("-")[1] for row in official["test"]} == {"7w0IBEWc9Qw"}
    assert {row.speaker for row in official["test"]} == speakers["train"] | {"id10270", "id10271"}
    write(root / "iden_split.txt", ["4 id10001/a/00001.wav"])
    with pytest.raises(ValueError, match=r"iden_split\.txt: 4 id10001/a/00001\.wav: the first field is 1, 2 or 3"):
        listed("voxceleb1_identification", f"data.root={root}", "data.corpus.fractions=null")


def test_voxceleb1_verification_tells_every_trial_of_its_first_recording(speech: Path, tmp_path: Path) -> None:
    root = tiny_dasb.tiny_voxceleb1(tmp_path / "vox", speech)
    found = listed("voxceleb1_verification", f"data.root={root}")
    assert {row.speaker for row in found["train"]} == {"id10001", "id10002", "id10003"} and len(found["train"]) == 12
    cuts = prepared(tmp_path / "out", found)
    read = [line.split() for line in (root / "veri_test2.txt").read_text().splitlines()]
    names = {name: name.replace("/", "-").removesuffix(".wav") for line in read for name in line[1:]}
    told = {
        (same, row.id, other)
        for row in found["test"]
        for same, others in (("1", cuts[row.id].custom["same"]), ("0", cuts[row.id].custom["different"]))
        for other in others
    }
    assert told == {(same, names[left], names[right]) for same, left, right in read} and len(told) == 4
    assert {row.id for row in found["test"]} == set(names.values())
    write(root / "veri_test2.txt", ["1 id10270/a/00001.wav"])
    with pytest.raises(ValueError, match=r"veri_test2\.txt: '1 id10270/a/00001\.wav': 3 fields are wanted"):
        listed("voxceleb1_verification", f"data.root={root}")
    write(root / "vox1_meta.csv", ["VoxCeleb1 ID\tSet", "id10001\ttrain"])
    write(root / "veri_test2.txt", [])
    with pytest.raises(ValueError, match=r"vox1_meta\.csv has no speaker whose `Set` is dev"):
        listed("voxceleb1_verification", f"data.root={root}")


def test_libri2mix_lists_both_voices_of_a_mixture_at_their_gains_and_cut_to_the_shorter(speech: Path, tmp_path: Path) -> None:
    librispeech = tiny_dasb.tiny_librispeech(tmp_path / "ls", speech)
    tables = tiny_dasb.tiny_libri2mix(tmp_path / "lm", librispeech)
    found = listed("libri2mix", f"data.librispeech={librispeech}", f"data.metadata={tables}")
    assert {split: len(rows) for split, rows in found.items()} == {"train": 6, "dev": 6, "test": 6}
    cuts = prepared(tmp_path / "out", found)
    for one, other in zip(found["test"][::2], found["test"][1::2]):
        assert one.custom["mixture"] == other.custom["mixture"] == f"{one.id.split('_')[0]}_{other.id.split('_')[1].split('/')[0]}"
        sources = [sorted(librispeech.rglob(f"{name}.flac"))[0] for name in one.custom["mixture"].split("_")]
        wavs = [soundfile.read(path, dtype="float32")[0] for path in sources]
        length = min(map(len, wavs))
        for row, wav_T, gain, path in zip((one, other), wavs, (0.5, 0.25), sources):
            assert cuts[row.id].num_samples == length and row.speaker == path.stem.split("-")[0]
            assert np.abs(cuts[row.id].load_audio()[0] - gain * wav_T[:length]).max() < 2**-15  # a step of the FLAC
            assert f"{path.stem} {row.text}" in next(path.parent.glob("*.trans.txt")).read_text()


def test_a_voice_of_libri2mix_that_cannot_be_read_is_an_error_that_names_it(speech: Path, tmp_path: Path) -> None:
    librispeech = tiny_dasb.tiny_librispeech(tmp_path / "ls", speech)
    tables = tiny_dasb.tiny_libri2mix(tmp_path / "lm", librispeech)
    broken = sorted((librispeech / "dev-clean").rglob("*.flac"))[0]
    broken.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=rf"{broken.name}: Lhotse cannot read its header; get the part again from https"):
        listed("libri2mix", f"data.librispeech={librispeech}", f"data.metadata={tables}")
