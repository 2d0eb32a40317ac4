"""Libri1Mix in miniature: real voices and noises under the names of LibriSpeech, WHAM! and Libri2Mix's tables."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_dasb import RATE, clips, put, write

from audiotok import audio
from audiotok.data.libri1mix import libri1mix
from audiotok.data.manifests import load_cuts, write_manifests
from audiotok.data.pairs import paired
from audiotok.data.tokenization import read_cut

COLUMNS = "mixture_ID,source_1_path,source_1_gain,source_2_path,source_2_gain,noise_path,noise_gain"


@pytest.fixture
def folders(speech: Path, tmp_path: Path) -> dict[str, str]:
    voices = clips(speech, "librispeech", split="test")[:2]
    for name, clip in zip(("1/2/1-2-0000", "3/4/3-4-0000"), voices):
        put(tmp_path / "ls" / "test-clean" / f"{name}.flac", clip)
        write(
            tmp_path / "ls" / "test-clean" / Path(name).parent / f"{name.rsplit('-', 1)[0][4:]}.trans.txt", [f"{name[4:]} {clip['text']}"]
        )
    for part in ("tr", "cv", "tt"):
        (tmp_path / "wham" / part).mkdir(parents=True)
    noise_T = audio.read(speech / "noise" / "noise1.flac")[0]
    soundfile.write(tmp_path / "wham" / "tt" / "a.wav", torch.stack([noise_T, noise_T.flip(0)], dim=1).numpy(), RATE)
    rows = [
        "1-2-0000_3-4-0000,test-clean/1/2/1-2-0000.flac,0.5,test-clean/3/4/3-4-0000.flac,0.25,tt/a.wav,0.5",
        "3-4-0000_1-2-0000,test-clean/3/4/3-4-0000.flac,0.7,test-clean/1/2/1-2-0000.flac,0.25,tt/asp12.wav,0.2",
    ]
    write(tmp_path / "meta" / "Libri2Mix" / "libri2mix_test-clean.csv", [COLUMNS, *rows])
    return {"librispeech": str(tmp_path / "ls"), "wham": str(tmp_path / "wham"), "metadata": str(tmp_path / "meta")}


def test_a_voice_is_listed_clean_and_in_its_noise_as_loud_as_in_the_mixture(folders, speech: Path, tmp_path: Path) -> None:
    listed = libri1mix(**folders, splits={"test": ["test-clean"]})
    assert write_manifests(tmp_path / "out", listed, max_rejected=0.0, max_seconds=60, workers=1) == []
    pairs = {pair.clean.id: pair for pair in paired(load_cuts(tmp_path / "out", "test"), noisy="noisy/", clean="clean/")}
    assert set(pairs) == {"clean/1-2-0000_3-4-0000", "clean/3-4-0000_1-2-0000"}
    pair = pairs["clean/1-2-0000_3-4-0000"]
    voice_T = audio.read(Path(folders["librispeech"]) / "test-clean/1/2/1-2-0000.flac")[0]
    noise_T = audio.read(speech / "noise" / "noise1.flac")[0]
    noisy_T, clean_T = read_cut(pair.noisy, RATE), read_cut(pair.clean, RATE)
    torch.testing.assert_close(clean_T, 0.5 * voice_T[: len(clean_T)], rtol=0, atol=2**-14)
    torch.testing.assert_close(noisy_T, clean_T + 0.5 * noise_T[: len(clean_T)], rtol=0, atol=2**-14)
    assert len(clean_T) == min(len(voice_T), len(noise_T))
    (said,) = pair.noisy.supervisions
    assert said.speaker == "1" and said.text and said.language == "en"


def test_a_noise_that_librimix_plays_faster_is_played_faster(folders, speech: Path, tmp_path: Path) -> None:
    listed = libri1mix(**folders, splits={"test": ["test-clean"]})
    write_manifests(tmp_path / "out", listed, max_rejected=0.0, max_seconds=60, workers=1)
    cuts = {cut.id: read_cut(cut, RATE) for cut in load_cuts(tmp_path / "out", "test")}
    heard_T = cuts["noisy/3-4-0000_1-2-0000"] - cuts["clean/3-4-0000_1-2-0000"]
    faster_T = 0.2 * audio.resample(audio.read(speech / "noise" / "noise1.flac")[0], 1200, 1000)[: len(heard_T)]
    assert float(np.corrcoef(heard_T[: len(faster_T)], faster_T)[0, 1]) > 0.99


def test_what_is_missing_is_named_with_where_to_get_it(folders, tmp_path: Path) -> None:
    splits = {"test": ["test-clean"]}
    with pytest.raises(ValueError, match=r"data\.wham is not set; get the corpus from http://wham"):
        libri1mix(**folders | {"wham": None}, splits=splits)
    with pytest.raises(ValueError, match="does not hold dev-clean"):
        libri1mix(**folders, splits={"dev": ["dev-clean"]})
    (tmp_path / "wham" / "tt" / "a.wav").unlink()
    with pytest.raises(ValueError, match=r"a\.wav: Lhotse cannot read its header"):
        libri1mix(**folders, splits=splits)
