"""Crops in noise: the ratio that was asked for, a pure function of the step, nothing clipped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lhotse import MonoCut, Recording, SupervisionSegment
from torch import Tensor

from audiotok import audio
from audiotok.data.acoustics import SLOPES, active_power
from audiotok.data.crops import RandomCrops
from audiotok.data.noisy import NoisyCrops

RATE = 16000


@pytest.fixture(scope="module")
def cuts(wav_16k: Tensor, tmp_path_factory: pytest.TempPathFactory) -> list[MonoCut]:
    folder = tmp_path_factory.mktemp("noisy")
    return [recorded(folder, f"u{index}", piece_T) for index, piece_T in enumerate(wav_16k[:32000].split(8000))]


def recorded(folder: Path, name: str, wav_T: Tensor) -> MonoCut:
    audio.write(folder / f"{name}.flac", wav_T, RATE)
    cut = Recording.from_file(folder / f"{name}.flac").to_cut()
    cut.id = name
    cut.supervisions = [SupervisionSegment(id=name, recording_id=name, start=0, duration=cut.duration, speaker=name)]
    return cut


def noisy(cuts: list[MonoCut], kind: str, **changes: Any) -> NoisyCrops:
    crops = RandomCrops(
        cuts[:3], RATE, seconds=0.4, batch_size=4, balance=1.0, speeds=[1.0], gain_db=(-9, -3), cache_hours=1, seed=changes.pop("seed", 3)
    )
    options: dict[str, Any] = {"kinds": {kind: 1.0}, "snrs": (5.0, 5.0), "voices": 2} | changes
    return NoisyCrops(crops, cuts[3:], **options)


@pytest.mark.parametrize("kind", ["recorded", "babble", *SLOPES])
def test_speech_stands_above_its_noise_by_the_ratio_that_was_asked_for(cuts: list[MonoCut], kind: str) -> None:
    batch = noisy(cuts, kind).batch(0)
    assert batch.noisy_BT.shape == batch.clean_BT.shape == (4, 6400) and batch.lengths_B.tolist() == [6400] * 4
    for noisy_T, clean_T in zip(batch.noisy_BT, batch.clean_BT):
        noise = float((noisy_T - clean_T).double().square().mean())
        assert 10 * torch.tensor(active_power(clean_T, RATE) / noise).log10() == pytest.approx(5.0, abs=0.01)


def test_ratios_and_kinds_are_drawn_anew_for_each_crop(cuts: list[MonoCut]) -> None:
    batch = noisy(cuts, "white", snrs=(-5.0, 15.0)).batch(2)
    ratios = [active_power(c_T, RATE) / float((n_T - c_T).square().mean()) for n_T, c_T in zip(batch.noisy_BT, batch.clean_BT)]
    drawn = 10 * torch.tensor(ratios).log10()
    assert len(set(drawn.round(decimals=2).tolist())) == 4 and -5.01 < drawn.min() < drawn.max() < 15.01


def test_a_batch_depends_on_seed_step_and_rank_alone(cuts: list[MonoCut]) -> None:
    one = noisy(cuts, "recorded")
    stream = one.from_step(1)
    first, second = next(stream), next(stream)
    again = noisy(cuts, "recorded").batch(2)
    assert torch.equal(second.noisy_BT, again.noisy_BT) and torch.equal(second.clean_BT, again.clean_BT)
    others = (first, one.batch(2, rank=1), noisy(cuts, "recorded", seed=4).batch(2))
    assert not any(torch.equal(other.noisy_BT, again.noisy_BT) for other in others)


def test_what_would_be_clipped_is_turned_down_noisy_and_clean_together(cuts: list[MonoCut]) -> None:
    batch = noisy(cuts, "white", snrs=(-20.0, -20.0)).batch(0)
    assert batch.noisy_BT.abs().amax(1) == pytest.approx(torch.ones(4))
    quiet = noisy(cuts, "white", snrs=(40.0, 40.0)).batch(0)
    assert (batch.clean_BT.abs().amax(1) < 0.5 * quiet.clean_BT.abs().amax(1)).all()


def test_silence_stays_silent(cuts: list[MonoCut], tmp_path: Path) -> None:
    silent = [recorded(tmp_path, f"s{number}", torch.zeros(8000)) for number in range(4)]
    batch = noisy(silent, "white").batch(0)
    assert not batch.noisy_BT.any() and not batch.clean_BT.any()


def test_a_wrong_choice_of_noise_is_refused(cuts: list[MonoCut]) -> None:
    with pytest.raises(ValueError, match="thunder is unknown; known are recorded, babble, white, pink, brown"):
        noisy(cuts, "thunder")
    with pytest.raises(ValueError, match=r"the training split has none; set noise\.kinds\.recorded=0"):
        noisy(cuts[:3], "recorded")
    with pytest.raises(ValueError, match="lowest and the highest ratio"):
        noisy(cuts, "white", snrs=(5.0, 0.0))
