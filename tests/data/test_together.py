"""Several people at once: as loud as was asked for, each another person, the same whenever it is made."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import MonoCut, Recording, SupervisionSegment
from torch import Tensor

from audiotok import audio, files
from audiotok.data.acoustics import active_power
from audiotok.data.crops import RandomCrops
from audiotok.data.manifests import load_cuts
from audiotok.data.mixes import recording_of
from audiotok.data.together import Together, VoiceCrops, at_once, mixtures, write_mixtures

RATE = 16000
TWO = Together(2, (-6.0, 6.0))


@pytest.fixture(scope="module")
def cuts(wav_16k: Tensor, tmp_path_factory: pytest.TempPathFactory) -> list[MonoCut]:
    """Three people say half a second each, the first of them twice, the last a tenth less."""
    folder, made = tmp_path_factory.mktemp("together"), []
    for number, (who, piece_T) in enumerate(zip("abcca", wav_16k[8000:48000].split(7000))):
        name = f"{who}-{number}"
        audio.write(folder / f"{name}.flac", piece_T[: 7000 - 700 * (number == 1)], RATE)
        cut = Recording.from_file(folder / f"{name}.flac").to_cut()
        cut.id, cut.supervisions = name, [SupervisionSegment(name, name, 0, cut.duration, speaker=who, text="HELLO", language="en")]
        made.append(cut)
    return made


def crops(cuts: list[MonoCut], together: Together = TWO) -> VoiceCrops:
    speech = RandomCrops(cuts, RATE, seconds=0.3, batch_size=6, balance=1.0, speeds=[1.0], gain_db=(-20, -3), cache_hours=1, seed=4)
    return VoiceCrops(speech, together)


def level(wanted_ST: Tensor) -> float:
    first, second = (active_power(wav_T, RATE) for wav_T in wanted_ST)
    return float(10 * torch.log10(torch.tensor(second / first)))


@pytest.mark.parametrize("decibels", [-5.0, 0.0, 20.0])
def test_the_second_voice_is_so_much_louder_and_both_sum_to_the_mixture_within_full_scale(decibels: float, wav_16k: Tensor) -> None:
    mixed_T, wanted_ST = at_once([0.5 * wav_16k[8000:16000], wav_16k[20000:28000]], [0.0, decibels], RATE)
    assert level(wanted_ST) == pytest.approx(decibels, abs=0.01) and float(wanted_ST.abs().max()) <= 1 and float(mixed_T.abs().max()) <= 1
    torch.testing.assert_close(wanted_ST.sum(dim=0), mixed_T)


def test_beside_silence_a_voice_is_as_it_was(wav_16k: Tensor) -> None:
    speech_T, silence_T = wav_16k[8000:16000], torch.zeros(8000)
    for voices in ([speech_T, silence_T], [silence_T, speech_T]):
        mixed_T, wanted_ST = at_once(voices, [0.0, 3.0], RATE)
        assert torch.equal(mixed_T, speech_T) and torch.equal(wanted_ST, torch.stack(voices))


def test_crops_are_of_different_people_within_the_levels_and_a_function_of_the_step(cuts: list[MonoCut]) -> None:
    some, levels = crops(cuts), []
    for step in range(4):
        batch = some.batch(step)
        assert batch.mixed_BT.shape == (6, 4800) and batch.wanted_BST.shape == (6, 2, 4800)
        torch.testing.assert_close(batch.wanted_BST.sum(dim=1), batch.mixed_BT)
        levels += [level(wanted_ST) for wanted_ST in batch.wanted_BST]
    assert -6.1 < min(levels) < -2 and 2 < max(levels) < 6.1
    assert torch.equal(crops(cuts).batch(3).mixed_BT, batch.mixed_BT) and not torch.equal(some.batch(0).mixed_BT, batch.mixed_BT)
    assert torch.equal(next(some.from_step(3)).mixed_BT, batch.mixed_BT)
    others = [some.speech.another({"a", "b"}, np.random.default_rng(seed))[0] for seed in range(20)]
    assert {cut.supervisions[0].speaker for cut in others} == {"c"}


def test_fixed_mixtures_are_of_different_people_cut_to_the_shorter_and_the_same_again(cuts: list[MonoCut], tmp_path: Path) -> None:
    made = list(mixtures(cuts, TWO, sample_rate=RATE, seed=1))
    assert [mixture.id for mixture in made] == ["a-0+b-1"]  # c and c are one person, the last is alone
    (one,) = made
    assert one.wanted_ST.shape == (2, 6300) and [about.text for about in one.about] == [None, "HELLO"]
    assert level(one.wanted_ST) == pytest.approx(one.levels[1], abs=0.01)
    (again,) = mixtures(cuts[:2], TWO, sample_rate=RATE, seed=1)
    (other,) = mixtures(cuts[:2], TWO, sample_rate=RATE, seed=2)
    assert torch.equal(again.mixed_T, one.mixed_T) and other.levels != one.levels
    write_mixtures(tmp_path, made, RATE)
    rows, voices = list(files.read_jsonl(tmp_path / "noisy" / "utterances.jsonl")), list(load_cuts(tmp_path, "test"))
    assert [row["id"] for row in rows] == [cut.id for cut in voices] == ["a-0+b-1_1", "a-0+b-1_2"]
    assert len({row["path"] for row in rows}) == 1 and {recording_of(cut) for cut in voices} == {"a-0+b-1"}
    heard_T, _ = audio.read(tmp_path / "noisy" / rows[0]["path"])
    parts = [torch.from_numpy(cut.load_audio()[0]) for cut in voices]
    assert float((sum(parts) - heard_T).abs().max()) < 3 / 32768


def test_what_cannot_be_heard_at_once_is_refused(cuts: list[MonoCut]) -> None:
    with pytest.raises(ValueError, match="nobody else speaks in this split than a"):
        crops([cuts[0], cuts[4]]).batch(0)
    with pytest.raises(ValueError, match="no 2 utterances of different people"):
        list(mixtures([cuts[0]], TWO, sample_rate=RATE, seed=0))
    with pytest.raises(ValueError, match="voices is 2 or more"):
        Together(1, (0.0, 0.0))
    with pytest.raises(ValueError, match="the lowest and the highest"):
        Together(2, (1.0, 0.0))
