"""Random crops: reproducible, of the right piece, speed, level and speaker, in bounded memory."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lhotse import MonoCut, Recording, SupervisionSegment
from scipy.stats import chisquare, kstest
from torch import Tensor

from audiotok import audio
from audiotok.data import crops as module
from audiotok.data.batching import Share
from audiotok.data.crops import RandomCrops

RATE = 16000


def recorded(folder: Path, name: str, wav: np.ndarray, *, speaker: str | None = None, rate: int = RATE) -> MonoCut:
    soundfile.write(folder / f"{name}.wav", wav, rate, subtype="PCM_16")
    cut = Recording.from_file(folder / f"{name}.wav").to_cut()
    cut.id = name
    cut.supervisions = [SupervisionSegment(id=name, recording_id=name, start=0, duration=cut.duration, speaker=speaker)]
    return cut


def crops(cuts: list[MonoCut], **changes: Any) -> RandomCrops:
    options = {
        "sample_rate": RATE, "seconds": 0.1, "batch_size": 4, "balance": 1.0, "speeds": [1.0], "gain_db": (-20, -3), "cache_hours": 1,
        "seed": 7,
    }  # fmt: skip
    return RandomCrops(cuts, **options | changes)


def ramp(samples: int) -> np.ndarray:
    """Every sample tells its place."""
    return np.arange(1, samples + 1) / 32768


@pytest.fixture(scope="module")
def spoken(wav_16k: Tensor, tmp_path_factory: pytest.TempPathFactory) -> list[MonoCut]:
    folder = tmp_path_factory.mktemp("crops")
    return [recorded(folder, f"u{index}", piece_T.numpy(), speaker=f"s{index % 3}") for index, piece_T in enumerate(wav_16k.split(7000))]


# A pure function of (seed, step, rank)


def test_a_batch_depends_on_seed_step_and_rank_and_on_nothing_that_came_before(spoken: list[MonoCut]) -> None:
    varied = {"speeds": [0.9, 1.0, 1.1], "balance": 0.5}
    wanted = crops(spoken, **varied).batch(5, rank=1)
    used = crops(spoken, **varied)
    for step in range(9):
        used.batch(step)
    assert torch.equal(used.batch(5, rank=1), wanted)
    assert torch.equal(crops(spoken, cache_hours=0, **varied).batch(5, rank=1), wanted)
    others = [used.batch(5), used.batch(6, rank=1), used.batch(1, rank=5), crops(spoken, seed=8, **varied).batch(5, rank=1)]
    assert not any(torch.equal(other, wanted) for other in others)


def test_steps_follow_from_any_of_them_on(spoken: list[MonoCut]) -> None:
    source = crops(spoken)
    for share in (Share(0, 1, 1), Share(1, 2, 4)):
        coming, places = list(islice(source.from_step(3, share=share), 4)), list(islice(share.places(3), 4))
        assert all(torch.equal(batch_BT, source.batch(step, rank=number)) for batch_BT, (step, number) in zip(coming, places))
    assert places == [(3, 1), (3, 3), (4, 1), (4, 3)]
    assert coming[0].shape == (4, 1600) and coming[0].dtype is torch.float32


# The right piece, speed and level


def test_a_crop_is_a_piece_of_a_recording_at_any_place(tmp_path: Path) -> None:
    source = crops([recorded(tmp_path, "ramp", ramp(20000))], batch_size=300)
    batch_BT = source.batch(0)
    places = []
    for crop_T in batch_BT:
        slope = (crop_T[-1] - crop_T[0]) / (len(crop_T) - 1)
        torch.testing.assert_close(crop_T, crop_T[0] + slope * torch.arange(len(crop_T)), rtol=0, atol=1e-4)
        places.append(round(float(crop_T[0] / slope)) - 1)
    assert min(places) >= 0 and max(places) <= 20000 - 1600
    assert kstest(np.array(places) / (20000 - 1600), "uniform").pvalue > 1e-4


def test_a_crop_of_16_bit_sound_is_that_sound_but_for_its_level(spoken: list[MonoCut]) -> None:
    whole_T, _ = audio.read(spoken[0].recording.sources[0].source)
    crop_T = crops(spoken[:1], seconds=len(whole_T) / RATE, batch_size=1).batch(0)[0]
    torch.testing.assert_close(crop_T / crop_T.abs().max(), whole_T / whole_T.abs().max(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("speed", [0.8, 0.9, 1.0, 1.1, 1.25])
def test_a_crop_that_is_played_faster_is_higher_and_as_long(tmp_path: Path, speed: float) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 400 * np.arange(2 * RATE) / RATE)
    crop_T = crops([recorded(tmp_path, "tone", tone)], seconds=0.5, batch_size=1, speeds=[speed]).batch(0)[0]
    assert len(crop_T) == 8000
    loudest = int(torch.fft.rfft(crop_T * torch.hann_window(8000)).abs().argmax()) * RATE / 8000
    assert loudest == pytest.approx(400 * speed, abs=2)


def test_each_speed_is_drawn_as_often(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    source = crops([recorded(tmp_path, "tone", tone)], seconds=0.05, batch_size=300, speeds=[0.8, 1.0, 1.0, 1.25])
    spectra_BF = torch.fft.rfft(source.batch(0) * torch.hann_window(800)).abs()
    heard_B = spectra_BF.argmax(dim=1) * RATE / 800
    counts = [int((heard_B - hertz).abs().le(20).sum()) for hertz in (800, 1000, 1250)]
    assert chisquare(counts, [75, 150, 75]).pvalue > 1e-4


def test_the_peak_of_a_crop_lies_anywhere_between_the_bounds(spoken: list[MonoCut]) -> None:
    peaks = 20 * crops(spoken, batch_size=300, gain_db=(-30, -10)).batch(0).abs().amax(dim=1).log10()
    assert peaks.min() >= -30.01 and peaks.max() <= -9.99
    assert kstest((peaks.numpy() + 30) / 20, "uniform").pvalue > 1e-4


def test_a_short_utterance_has_silence_around_it_at_any_place(tmp_path: Path) -> None:
    batch_BT = crops([recorded(tmp_path, "short", 0.25 + ramp(600))], seconds=0.1, batch_size=200).batch(0)
    begins = []
    for crop_T in batch_BT:
        sounding = crop_T.nonzero().flatten()
        begins.append(int(sounding[0]))
        assert sounding.tolist() == list(range(begins[-1], begins[-1] + 600))
    assert kstest(np.array(begins) / 1000, "uniform").pvalue > 1e-4
    exact_BT = crops([recorded(tmp_path, "exact", 0.25 + ramp(1600))], seconds=0.1, batch_size=3).batch(0)
    assert (exact_BT != 0).all()


def test_silence_stays_silent_and_a_whisper_is_not_blown_up_to_full_scale(tmp_path: Path) -> None:
    assert crops([recorded(tmp_path, "silence", np.zeros(5000))]).batch(0).eq(0).all()
    hiss = np.random.default_rng(0).integers(-2, 3, 5000) / 32768
    assert 0 < crops([recorded(tmp_path, "hiss", hiss)]).batch(0).abs().max() < 0.1


def test_recordings_at_another_rate_are_resampled(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    crop_T = crops([recorded(tmp_path, "tone", tone, rate=44100)], seconds=0.5, batch_size=1).batch(0)[0]
    assert int(torch.fft.rfft(crop_T * torch.hann_window(8000)).abs().argmax()) * RATE / 8000 == 440


# Who is drawn


@pytest.fixture(scope="module")
def speakers(tmp_path_factory: pytest.TempPathFactory) -> list[MonoCut]:
    """Speakers a, b and one unknown who speak 4, 1 and 3 times as long, each utterance of a level step of its own."""
    folder, cuts = tmp_path_factory.mktemp("speakers"), []
    for name, speaker, seconds in (("a1", "a", 0.3), ("a2", "a", 0.1), ("b", "b", 0.1), ("c", None, 0.3)):
        wav = np.full(round(seconds * RATE), 0.5)
        wav[:: {"a1": 2, "a2": 3, "b": 5, "c": 7}[name]] = -0.5
        cuts.append(recorded(folder, name, wav, speaker=speaker))
    return cuts


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        (1.0, {"a1": 3 / 8, "a2": 1 / 8, "b": 1 / 8, "c": 3 / 8}),
        (0.5, {"a1": 0.75 * 2 / 4.732, "a2": 0.25 * 2 / 4.732, "b": 1 / 4.732, "c": 1.732 / 4.732}),
        (0.0, {"a1": 0.25, "a2": 0.25 / 3, "b": 1 / 3, "c": 1 / 3}),
    ],
)
def test_a_speaker_is_drawn_by_a_power_of_how_long_he_speaks(speakers: list[MonoCut], balance: float, expected: dict[str, float]) -> None:
    batch_BT = crops(speakers, seconds=0.005, batch_size=2000, balance=balance).batch(0)
    negative_B = (batch_BT < 0).float().mean(dim=1)  # of the samples of an utterance, a half, a third, a fifth or a seventh
    shares = {"a1": 1 / 2, "a2": 1 / 3, "b": 1 / 5, "c": 1 / 7}
    nearest = (negative_B[:, None] - torch.tensor(list(shares.values()))).abs().argmin(dim=1)
    counts = torch.bincount(nearest, minlength=4).double().numpy()
    chances = np.array([expected[name] for name in shares])
    assert chisquare(counts, 2000 * chances / chances.sum()).pvalue > 1e-4


# Memory


def test_what_was_read_is_kept_up_to_the_bound(spoken: list[MonoCut], monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    read_cut = module.read_cut
    monkeypatch.setattr(module, "read_cut", lambda cut, rate: reads.append(cut.id) or read_cut(cut, rate))

    def read(cache_hours: float) -> tuple[int, int]:
        """How often in 40 crops, and the bytes that are kept."""
        reads.clear()
        source = crops(spoken, batch_size=40, cache_hours=cache_hours)
        source.batch(0)
        return len(reads), sum(pcm_T.numel() * pcm_T.element_size() for pcm_T in source._cache.values())

    bound = 3 * 7000 / RATE / 3600
    whole, some, none = read(1), read(bound), read(0)
    assert whole[0] == len(set(reads)) <= len(spoken) < some[0] < none[0] == 40
    assert none[1] == 0 < some[1] <= 3 * 7000 * 2 < whole[1]


# What cannot be


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"seconds": 0}, r"self\.seconds=0"),
        ({"seconds": -1.0}, r"self\.seconds=-1"),
        ({"batch_size": 0}, r"self\.batch_size=0"),
        ({"speeds": []}, r"self\.speeds=\[\]"),
        ({"speeds": [1.0, 0.0]}, r"self\.speeds=\[1\.0, 0\.0\]"),
        ({"balance": 1.5}, r"self\.balance=1\.5"),
        ({"balance": -0.1}, r"self\.balance=-0\.1"),
        ({"gain_db": (-3, -20)}, r"gain_db .* got \(-3, -20\)"),
        ({"gain_db": (-3, 6)}, r"gain_db .* got \(-3, 6\)"),
        ({"gain_db": (float("nan"), -3)}, "gain_db"),
    ],
)
def test_settings_that_make_no_crops_are_refused(spoken: list[MonoCut], wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        crops(spoken, **wrong)


def test_a_split_without_utterances_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to crop"):
        crops([])


def test_a_recording_that_cannot_be_read_stops_with_its_reason(spoken: list[MonoCut], tmp_path: Path) -> None:
    lost = recorded(tmp_path, "lost", ramp(5000))
    (tmp_path / "lost.wav").unlink()
    with pytest.raises(ValueError, match=r"lost\.wav: no such file"):
        next(crops([lost]).from_step(0))
    assert replace(crops(spoken), batch_size=2).batch(0).shape == (2, 1600)
