"""Crops in rooms and in noise: the ratio that was asked for, a pure function of the step, nothing clipped."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lhotse import MonoCut, Recording, SupervisionSegment
from torch import Tensor

from audiotok import audio
from audiotok.data.acoustics import SLOPES, Shaped, active_power, levelled
from audiotok.data.crops import RandomCrops
from audiotok.data.manifests import speaker_of
from audiotok.data.noisy import NoisyCrops, heard
from audiotok.data.rooms import Rooms, Shoeboxes
from audiotok.data.tokenization import read_cut

RATE = 16000
SHAPED = Shaped(filter_db=10, hum=0.5, hum_hertz=(50, 1000), hum_db=(-10, 10), level_db=(0, 10), level_seconds=(0.05, 1))


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
    options: dict[str, Any] = {
        "kinds": {kind: 1.0},
        "snrs": (5.0, 5.0),
        "voices": 2,
        "faster": (1.0, 1.0),
        "bend_db": 0.0,
        "shaped": SHAPED,
        "rooms": rooms(none=1),
    } | changes
    return NoisyCrops(crops, cuts[3:], **options)


def rooms(*, responses: Sequence[MonoCut] = (), **shares: float) -> Rooms:
    shoeboxes = Shoeboxes(number=5, size=[(3, 5), (3, 5), (2.4, 3)], seconds=(0.1, 0.2), distance=(0.5, 2))
    return Rooms(shares, responses, shoeboxes, sample_rate=RATE, seed=3, setting="noise.rooms")


@pytest.mark.parametrize("kind", ["recorded", "babble", "shaped", *SLOPES])
def test_speech_stands_above_its_noise_by_the_ratio_that_was_asked_for(cuts: list[MonoCut], kind: str) -> None:
    batch = noisy(cuts, kind).batch(0)
    assert batch.noisy_BT.shape == batch.clean_BT.shape == (4, 6400) and batch.lengths_B.tolist() == [6400] * 4
    for noisy_T, clean_T in zip(batch.noisy_BT, batch.clean_BT):
        noise = float((noisy_T - clean_T).double().square().mean())
        assert 10 * torch.tensor(active_power(clean_T, RATE) / noise).log10() == pytest.approx(5.0, abs=0.01)


def test_babble_is_of_other_people_each_as_loud_and_of_oneself_only_where_there_is_nobody_else(cuts: list[MonoCut]) -> None:
    """Two voices that are all recordings but the speaker's, and have the power of two; the same where each was drawn."""
    crops, random = noisy(cuts, "babble"), np.random.default_rng(0)
    assert all(speaker_of(crops.speech.another({"u1"}, random)[0]) != "u1" for _ in range(50))
    for _ in range(4):
        again = copy.deepcopy(random)
        babble_T = crops._noise("babble", "u1", 6400, random)
        again.integers(2**62)
        voices = [levelled(crops.speech.cut_out(*crops.speech.another({"u1"}, again))) for _ in range(2)]
        torch.testing.assert_close(babble_T, voices[0] + voices[1])
        assert all(float(voice_T.square().mean()) == pytest.approx(1.0, rel=1e-3) for voice_T in voices)
    alone = noisy(cuts[:1] + cuts[:1] + cuts[:1] + cuts[3:], "babble")
    assert float(alone._noise("babble", "u0", 6400, random).square().mean()) > 0


def test_what_is_wanted_of_speech_in_a_room_is_its_direct_sound_dry(cuts: list[MonoCut]) -> None:
    dry, wet = (noisy(cuts, "white", snrs=(60.0, 60.0), rooms=rooms(**{kind: 1})).batch(0) for kind in ("none", "simulated"))
    for clean_T, other_T, heard_T in zip(dry.clean_BT, wet.clean_BT, wet.noisy_BT):
        gain = float(other_T.abs().max() / clean_T.abs().max())
        torch.testing.assert_close(other_T, gain * clean_T)  # all but turned down where the room makes it too loud
        echo_T = heard_T - other_T
        assert float(echo_T.square().mean()) > 0.02 * float(other_T.square().mean())
        assert lag_of(heard_T, other_T) == 0


def lag_of(heard_T: Tensor, clean_T: Tensor) -> int:
    """Samples by which one comes after the other: where the highest peak of the response between them lies."""
    heard, clean = (torch.fft.rfft(wav_T, 16384) for wav_T in (heard_T, clean_T))
    response = torch.fft.irfft(heard * clean.conj() / (clean.abs().square() + 1e-4 * clean.abs().square().max()))
    return (int(response.argmax()) + 8192) % 16384 - 8192


def test_in_a_room_the_ratio_is_that_of_the_speech_as_it_is_heard(cuts: list[MonoCut]) -> None:
    room = rooms(simulated=1).draw(np.random.default_rng(0))
    assert room is not None and room.noise is not None
    clean_T, noise_T = (read_cut(cut, RATE) for cut in cuts[:2])
    noisy_T, wanted_T = heard(0.1 * clean_T, noise_T, room, RATE, snr=-3.0)
    left_T = noisy_T - room.speech(wanted_T)
    assert 10 * np.log10(active_power(room.speech(wanted_T), RATE) / float(left_T.square().mean())) == pytest.approx(-3.0, abs=0.01)
    assert torch.allclose(left_T / left_T.norm(), room.noise(noise_T) / room.noise(noise_T).norm(), atol=1e-4)


def test_rooms_are_a_function_of_the_step_and_change_no_noise(cuts: list[MonoCut], speech: Path) -> None:
    responses = [Recording.from_file(speech / "rir" / "rir4.flac").to_cut()]
    some = rooms(responses=responses, none=1, recorded=1, simulated=1)
    first, again = (noisy(cuts, "white", rooms=some).batch(step) for step in (1, 1))
    assert torch.equal(first.noisy_BT, again.noisy_BT) and torch.equal(first.clean_BT, again.clean_BT)
    dry = noisy(cuts, "white").batch(1)
    same = [torch.equal(one, other) for one, other in zip(first.noisy_BT, dry.noisy_BT)]
    assert any(same) and not all(same)


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


def test_shaped_noises_are_of_power_1_and_unlike_each_other() -> None:
    noises_NT = torch.stack([SHAPED(RATE, RATE, generator=torch.Generator().manual_seed(seed)) for seed in range(20)])
    assert noises_NT.square().mean(dim=1) == pytest.approx(torch.ones(20), rel=1e-4)
    bands_NF = torch.fft.rfft(noises_NT).abs().square()[:, 50:8000].unflatten(1, (-1, 50)).mean(dim=2).log10() * 10
    levels_NT = noises_NT.square().unflatten(1, (-1, 800)).mean(dim=2).log10() * 10
    assert bands_NF.std(dim=0).mean() > 6  # dB, from noise to noise
    assert levels_NT.std(dim=1).max() > 5 > 2 > levels_NT.std(dim=1).min()  # one flickers, another is steady


def test_a_recorded_noise_is_played_at_other_speeds_and_through_other_filters(cuts: list[MonoCut], tmp_path: Path) -> None:
    tone = recorded(tmp_path, "tone", 0.1 * (2 * torch.pi * 1000 * torch.arange(RATE) / RATE).sin())
    crops = noisy([*cuts[:3], tone], "recorded", faster=(2.0, 2.0))
    spectra = torch.fft.rfft(crops.batch(0).noisy_BT - crops.batch(0).clean_BT).abs()
    assert (spectra.argmax(dim=1) * RATE / 6400 - 2000).abs().max() < 10
    plain, filtered = (noisy(cuts, "recorded", bend_db=decibels, snrs=(0.0, 0.0)).batch(0) for decibels in (0.0, 6.0))
    before_BF, after_BF = (torch.fft.rfft(batch.noisy_BT - batch.clean_BT).abs() for batch in (plain, filtered))
    gains_BF = 20 * (after_BF / before_BF.clamp_min(1e-9)).log10()
    spread_B = (gains_BF[:, 40:3000] - gains_BF[:, 40:3000].mean(1, keepdim=True)).square().mean(1).sqrt()
    assert ((spread_B > 1.5) & (spread_B < 15)).all()


def test_a_wrong_choice_of_noise_is_refused(cuts: list[MonoCut]) -> None:
    with pytest.raises(ValueError, match="thunder is unknown; known are recorded, babble, shaped, white, pink, brown"):
        noisy(cuts, "thunder")
    with pytest.raises(ValueError, match=r"the training split has none; set noise\.kinds\.recorded=0"):
        noisy(cuts[:3], "recorded")
    with pytest.raises(ValueError, match="lowest and the highest ratio"):
        noisy(cuts, "white", snrs=(5.0, 0.0))
    for wrong in ({"faster": (2.0, 1.0)}, {"faster": (1.0,)}, {"faster": (0.7, 1.0, 1.4)}, {"bend_db": -1.0}, {"bend_db": float("nan")}):
        with pytest.raises(ValueError, match=r"noise\.faster is two factors above 0, noise\.bend_db 0 or more"):
            noisy(cuts, "recorded", **wrong)
