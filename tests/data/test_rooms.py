"""Rooms: the images of a shoebox against a slow reference and pyroomacoustics', the dry speech as the direct sound, what is drawn."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import MonoCut, Recording

from audiotok import audio
from audiotok.data.acoustics import direct_to_reverberant
from audiotok.data.rooms import SOUND, TAPS, Response, Rooms, Shoebox, Shoeboxes, recorded_response, reflection_of

RATE = 16000
SIZE = (3.1, 2.7, 2.4)
MOUTH, EAR = np.array([0.6, 1.9, 1.2]), np.array([2.3, 0.8, 1.5])
SMALL = Shoeboxes(number=3, size=[(3, 6), (3, 5), (2.4, 3)], seconds=(0.1, 0.2), distance=(0.5, 2.0))


def every_image(size, source, ear, reflection, order):
    """(path, gain) of each image whose walls were met `order` times at most along each axis, one after another."""
    found = []
    for turns in itertools.product(range(-order, order + 1), repeat=3):
        for sides in itertools.product((0, 1), repeat=3):
            bounces = [abs(turn - side) + abs(turn) for turn, side in zip(turns, sides)]
            place = [(1 - 2 * side) * at + 2 * turn * long for turn, side, at, long in zip(turns, sides, source, size)]
            found.append((np.linalg.norm(np.array(place) - ear), reflection ** sum(bounces)))
    return found


def slow_impulse(images, direct, *, seconds):
    """The sum of the pulses of the images that come within `seconds`, each at its exact place."""
    time = np.arange(-TAPS, round(seconds * RATE))
    impulse = np.zeros(len(time))
    for path, gain in images:
        delay = (path - direct) / SOUND * RATE
        if path < direct + seconds * SOUND:
            window = np.where(np.abs(time - delay) <= TAPS, np.cos(np.pi * (time - delay) / 2 / TAPS) ** 2, 0)
            impulse += gain * direct / path * np.sinc(time - delay) * window
    return impulse


def agrees(response: Response, impulse: np.ndarray) -> None:
    difference = response.impulse_T[: len(impulse)].numpy() - impulse
    assert np.linalg.norm(difference) < 0.01 * np.linalg.norm(np.delete(impulse, TAPS))  # of the reflections alone


def test_a_response_is_the_sum_of_all_images_written_out() -> None:
    response = Shoebox(SIZE, 0.8).response(MOUTH, EAR, seconds=0.04, sample_rate=RATE)
    agrees(response, slow_impulse(every_image(SIZE, MOUTH, EAR, 0.8, 4), float(np.linalg.norm(MOUTH - EAR)), seconds=0.04))


def test_a_response_is_that_of_the_images_of_pyroomacoustics() -> None:
    pra = pytest.importorskip("pyroomacoustics", reason="pip install pyroomacoustics to hold the images against its own")
    room = pra.ShoeBox(SIZE, fs=RATE, materials=pra.Material(1 - 0.8**2), max_order=20)
    room.add_source(MOUTH)
    room.add_microphone(EAR)
    room.image_source_model()
    paths, gains = np.linalg.norm(room.sources[0].images - EAR[:, None], axis=0), room.sources[0].damping[0]
    response = Shoebox(SIZE, 0.8).response(MOUTH, EAR, seconds=0.04, sample_rate=RATE)
    agrees(response, slow_impulse(zip(paths, gains), float(np.linalg.norm(MOUTH - EAR)), seconds=0.04))


@pytest.mark.parametrize("seconds", [0.2, 0.5])
def test_a_shoebox_dies_away_by_60_db_in_the_time_that_was_asked_for_or_by_half_more(seconds: float) -> None:
    size = (6.0, 4.5, 3.0)
    response = Shoebox(size, reflection_of(size, seconds)).response(MOUTH, EAR, seconds=seconds, sample_rate=RATE)
    left_T = response.impulse_T.double().square().flip(0).cumsum(0).flip(0)  # Schroeder's integral
    decibels = 10 * (left_T / left_T[0]).log10().numpy()
    early, late = (int(np.argmax(decibels < level)) for level in (-5, -25))
    assert 0.95 < 3 * (late - early) / RATE / seconds < 1.65


def test_walls_that_give_nothing_back_leave_the_speech_as_it_is(wav_16k: torch.Tensor) -> None:
    response = Shoebox(SIZE, 0.0).response(MOUTH, EAR, seconds=0.05, sample_rate=RATE)
    torch.testing.assert_close(response(wav_16k), wav_16k, rtol=0, atol=1e-6)


def test_the_direct_sound_in_reverberant_speech_is_the_dry_speech_to_the_sample(wav_16k: torch.Tensor) -> None:
    click_T = torch.zeros(800)
    click_T[200] = 0.5
    heard_T = Shoebox(SIZE, 0.7).response(MOUTH, EAR, seconds=0.1, sample_rate=RATE)(click_T)
    assert int(heard_T.abs().argmax()) == 200 and float(heard_T[200]) == pytest.approx(0.5, abs=0.02)
    assert float(heard_T[: 200 - TAPS].abs().max()) < 1e-6 and float(heard_T[230:].abs().max()) > 0.02


@pytest.mark.parametrize("sign", [1, -1])
def test_a_recorded_response_is_measured_by_its_direct_sound(sign: int, speech: Path, wav_16k: torch.Tensor) -> None:
    impulse_T = sign * 0.01 * audio.read(speech / "rir" / "rir4.flac")[0]
    response = recorded_response(impulse_T, RATE)
    around = response.impulse_T[response.direct - 40 : response.direct + 41]
    assert float(around.norm()) == pytest.approx(1.0) and float(response.impulse_T[response.direct]) > 0
    assert direct_to_reverberant(response.impulse_T, RATE) == pytest.approx(direct_to_reverberant(impulse_T, RATE), abs=1e-3)
    lags = [float(response(wav_16k)[5 + lag : lag - 5 or None][:30000] @ wav_16k[5:][:30000]) for lag in range(-5, 5)]
    assert int(np.argmax(lags)) - 5 == 0
    with pytest.raises(ValueError, match="is silent"):
        recorded_response(torch.zeros(100), RATE)


@pytest.fixture(scope="module")
def recorded(speech: Path) -> list[MonoCut]:
    return [Recording.from_file(speech / "rir" / f"rir{number}.flac").to_cut() for number in (2, 4)]


def rooms(recorded: list[MonoCut], shares: dict[str, float], *, seed: int = 1) -> Rooms:
    return Rooms(shares, recorded, SMALL, sample_rate=RATE, seed=seed, setting="noise.rooms")


def test_rooms_are_drawn_by_their_shares_and_from_as_many_as_there_are(recorded: list[MonoCut]) -> None:
    drawing, random = rooms(recorded, {"none": 2, "recorded": 1, "simulated": 1}), np.random.default_rng(0)
    found = [drawing.draw(random) for _ in range(400)]
    kinds = ["none" if room is None else room.name.partition(":")[0] for room in found]
    assert [kinds.count(kind) / 400 for kind in ("none", "recorded", "simulated")] == pytest.approx([0.5, 0.25, 0.25], abs=0.08)
    assert len({room.name for room in found if room is not None}) == 2 + 3
    assert all((room.noise is None) == room.name.startswith("recorded") for room in found if room is not None)


def test_shoeboxes_are_a_function_of_the_seed_and_keep_their_bounds(recorded: list[MonoCut]) -> None:
    one, again, other = (rooms(recorded, {"simulated": 1}, seed=seed) for seed in (1, 1, 2))
    first, second, third = (drawing.draw(np.random.default_rng(7)) for drawing in (one, again, other))
    assert torch.equal(first.speech.impulse_T, second.speech.impulse_T) and first.name == second.name != third.name
    assert not torch.equal(first.speech.impulse_T, first.noise.impulse_T)
    length, width, height, seconds = (float(word) for word in first.name.split() if word[0].isdigit())
    assert 3 <= length <= 6 and 3 <= width <= 5 and 2.4 <= height <= 3 and 0.1 <= seconds <= 0.2


def test_what_is_no_room_is_refused(recorded: list[MonoCut]) -> None:
    with pytest.raises(ValueError, match=r"noise\.rooms: shares of none, recorded, simulated are wanted.*cave"):
        rooms(recorded, {"cave": 1})
    with pytest.raises(ValueError, match="one above"):
        rooms(recorded, {"none": 0})
    with pytest.raises(ValueError, match=r"set noise\.rooms\.recorded=0"):
        rooms([], {"none": 1, "recorded": 1})
    with pytest.raises(ValueError, match="from low to high"):
        Shoeboxes(3, [(3, 6), (5, 3), (2, 3)], (0.1, 0.2), (0.5, 1))
    with pytest.raises(ValueError, match="nobody is nearer to a wall"):
        Shoeboxes(3, [(3, 6), (3, 5), (0.5, 3)], (0.1, 0.2), (0.5, 1))
    with pytest.raises(ValueError, match="give a smaller one"):
        Shoeboxes(3, [(3, 3), (3, 3), (3, 3)], (0.1, 0.2), (50, 60)).room(np.random.default_rng(0), RATE)
