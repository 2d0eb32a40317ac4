"""Folders of audio that systems made, and the recordings."""

import numpy as np
import pytest
import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from audiotok import audio, files
from audiotok.evaluation.sources import AudioFolder, Recordings, systems

WAV_T = 0.1 * torch.sin(torch.arange(4000) / 5)


def folder_of(path, *ids: str):
    for id in ids:
        audio.write(path / f"{id}.wav", WAV_T, 24000)
    rows = [{"id": id, "path": f"{id}.wav", "text": "hello", "speaker": "s", "language": "en"} for id in ids]
    files.write_jsonl(path / "utterances.jsonl", rows)
    return AudioFolder(path)


def test_an_utterance_comes_with_its_audio_text_and_codes(tmp_path):
    folder = folder_of(tmp_path / "mine", "a")
    utterance = folder.load("a")
    assert (utterance.text, utterance.language, utterance.speaker, utterance.sample_rate) == ("hello", "en", "s", 24000)
    assert torch.allclose(utterance.wav_T, WAV_T, atol=1e-4)
    assert folder.codes("a") is None
    np.save(tmp_path / "mine" / "a.npy", np.arange(6).reshape(2, 3))
    files.write_jsonl(tmp_path / "mine" / "utterances.jsonl", [{"id": "a", "path": "a.wav", "codes": "a.npy"}])
    codes = AudioFolder(tmp_path / "mine").codes("a")
    assert codes is not None
    assert codes.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_what_could_not_be_spoken_is_known_with_its_reason(tmp_path):
    folder = folder_of(tmp_path / "mine", "a")
    assert folder.unspoken == {}
    files.write_jsonl(tmp_path / "mine" / "failed.jsonl", [{"id": "b", "reason": "no phonemes"}])
    assert AudioFolder(tmp_path / "mine").unspoken == {"b": "no phonemes"}


def test_a_folder_that_no_stage_made_changes_its_fingerprint_with_its_audio(tmp_path):
    before = folder_of(tmp_path / "mine", "a", "b").fingerprint()
    assert AudioFolder(tmp_path / "mine").fingerprint() == before
    audio.write(tmp_path / "mine" / "b.wav", WAV_T[:-1], 24000)
    assert AudioFolder(tmp_path / "mine").fingerprint() != before


def test_a_folder_that_a_stage_made_is_known_by_its_settings(tmp_path):
    def made(name: str, settings: dict) -> str:
        files.build(tmp_path / name, settings, lambda partial: folder_of(partial, "a") and None)
        return AudioFolder(tmp_path / name).fingerprint()

    assert made("one", {"seed": 1}) == made("same", {"seed": 1}) != made("other", {"seed": 2})


def test_an_id_may_be_there_once(tmp_path):
    with pytest.raises(ValueError, match="2 rows, but 1 different ids"):
        _ = folder_of(tmp_path, "a", "a").rows


def test_every_finished_folder_is_a_system(tmp_path):
    for name in ("b", "a", "c.partial"):
        folder_of(tmp_path / name, "x")
    (tmp_path / "notes").mkdir()
    assert list(systems(tmp_path)) == ["a", "b"]


def test_no_audio_names_the_stages_that_make_it(tmp_path):
    with pytest.raises(ValueError, match="`audiotok synthesize` or `audiotok decode`"):
        systems(tmp_path)


def test_no_system_is_called_recordings(tmp_path):
    folder_of(tmp_path / "recordings", "a")
    with pytest.raises(ValueError, match="rename the folder"):
        systems(tmp_path)


def test_a_recording_is_the_part_that_its_cut_names(tmp_path):
    audio.write(tmp_path / "long.wav", WAV_T, 8000)
    recording = Recording.from_file(tmp_path / "long.wav", recording_id="r")
    supervision = SupervisionSegment("s", "r", 0, 0.25, text="hello", speaker="me", language="en")
    cut = MonoCut("a", start=0.125, duration=0.25, channel=0, recording=recording, supervisions=[supervision])
    recordings = Recordings(CutSet.from_cuts([cut]))
    utterance = recordings.load("a")
    assert torch.allclose(utterance.wav_T, WAV_T[1000:3000], atol=1e-4)
    assert (utterance.text, utterance.speaker, utterance.language, utterance.sample_rate) == ("hello", "me", "en", 8000)
    with pytest.raises(ValueError, match="mine: 1 of its utterances are not in the test split, the first is 'b'"):
        recordings.check(["a", "b"], system="mine")
