"""Pairs that begin alike, of which one goes on wrongly: what is the same, what differs, and nothing else."""

import csv

import numpy as np
import pytest
import torch
from scipy import signal
from torch import Tensor

from audiotok import audio
from audiotok.data.acoustics import active_power, recording
from audiotok.data.preferences import (
    Contrast,
    Preference,
    Recording,
    background_pairs,
    quietest_middle,
    room_pairs,
    spliced,
    voice_pairs,
)

RATE, FADE = 16000, 0.01
SETTINGS = {"sample_rate": RATE, "crossfade": FADE, "seed": 0}
SPEAKER = Contrast("speaker", "speaker", (), "real")
SAME_TEXT = Contrast("speaker_same_text", "speaker", ("text",), "real")
SPLICED = Contrast("speaker_spliced", "speaker", (), "spliced")
SENTIMENT = Contrast("sentiment", "sentiment", ("speaker", "text"), "real")
FEMALE = {"08", "09", "13", "14", "16"}  # of emodb's documentation


@pytest.fixture(scope="module")
def recordings(speech) -> list[Recording]:
    with open(speech / "manifest.tsv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["dataset"] == "emodb" and row["text"] in ("a02", "b01")]
    if len(rows) < 20:
        pytest.skip("this manifest has no emodb")
    return [
        Recording(
            row["path"],
            audio.read(speech / row["path"])[0],
            {
                "speaker": row["speaker"],
                "text": row["text"],
                "sentiment": row["label"],
                "gender": "f" if row["speaker"] in FEMALE else "m",
            },
        )
        for row in rows
    ]


@pytest.fixture(scope="module")
def noises(speech) -> dict[str, Tensor]:
    return {path.stem: recording(str(path), RATE) for path in sorted((speech / "noise").glob("*.flac"))}


@pytest.fixture(scope="module")
def rooms(speech) -> dict[str, Tensor | None]:
    return {path.stem: recording(str(path), RATE) for path in sorted((speech / "rir").glob("*.flac"))[:2]} | {"dry": None}


def common_beginning(pair: Preference) -> int:
    """Samples from the first on that both have alike."""
    length = min(len(pair.positive_T), len(pair.negative_T))
    differing = (pair.positive_T[:length] != pair.negative_T[:length]).nonzero()[:, 0]
    return int(differing[0]) if len(differing) else length


def ending_of(said_T: Tensor, recordings: list[Recording]) -> Recording:
    """The recording whose last quarter, up to a gain, is the end of an utterance."""

    def agreement(other: Recording) -> float:
        own_T, tail_T = other.wav_T[-(len(other.wav_T) // 4) :], said_T[-(len(other.wav_T) // 4) :]
        return float(own_T @ tail_T / (own_T.norm() * tail_T.norm())) if len(own_T) == len(tail_T) else 0.0

    found = max(recordings, key=agreement)
    assert agreement(found) > 0.9999
    return found


@pytest.mark.parametrize("contrast", [SPEAKER, SAME_TEXT, SPLICED, SENTIMENT], ids=lambda contrast: contrast.kind)
def test_a_voice_goes_on_with_what_the_contrast_says_and_begins_as_it_did(recordings, contrast):
    by_id = {one.id: one for one in recordings}
    pairs = list(voice_pairs(recordings, contrast, **SETTINGS))
    assert len(pairs) > len(recordings) / 2
    for pair in pairs:
        begun = by_id[pair.id]
        assert pair.kind == contrast.kind
        assert common_beginning(pair) >= quietest_middle(begun.wav_T, RATE) >= len(begun.wav_T) // 3
        assert torch.equal(pair.negative_T[: len(begun.wav_T) // 3], begun.wav_T[: len(begun.wav_T) // 3])
        wrong, right = (ending_of(wav_T, recordings) for wav_T in (pair.negative_T, pair.positive_T))
        assert wrong.labels[contrast.differs] != begun.labels[contrast.differs] == right.labels[contrast.differs]
        assert all(wrong.labels[name] == begun.labels[name] for name in contrast.same)
        assert (right.id == begun.id) == (contrast.positive == "real")
        assert (contrast.positive == "spliced") or torch.equal(pair.positive_T, begun.wav_T)


def test_the_other_voice_is_as_loud_as_the_own_one_was(recordings):
    by_id = {one.id: one for one in recordings}
    for pair in voice_pairs(recordings, SAME_TEXT, **SETTINGS):
        own_T = by_id[pair.id].wav_T[quietest_middle(by_id[pair.id].wav_T, RATE) :]
        other_T = pair.negative_T[common_beginning(pair) + round(FADE * RATE) :]
        assert 10 * np.log10(active_power(other_T, RATE) / active_power(own_T, RATE)) == pytest.approx(0, abs=1)


def test_a_recording_without_a_counterpart_or_without_the_label_gives_no_pair(recordings):
    one_speaker = [one for one in recordings if one.labels["speaker"] == "03"]
    assert one_speaker and not list(voice_pairs(one_speaker, SPEAKER, **SETTINGS))
    unlabelled = [Recording(one.id, one.wav_T, {}) for one in recordings]
    assert not list(voice_pairs(unlabelled, SPEAKER, **SETTINGS))


def test_a_background_changes_half_way_and_is_the_same_before(recordings, noises):
    firsts = []
    some = recordings[:16]
    for one, pair in zip(some, background_pairs(some, noises, snr=10.0, **SETTINGS)):
        middle, end = len(one.wav_T) // 2, len(one.wav_T) // 2 + round(FADE * RATE)
        assert (pair.id, pair.kind) == (one.id, "background")
        assert len(pair.positive_T) == len(pair.negative_T) == len(one.wav_T)
        assert middle <= common_beginning(pair) <= middle + 2
        noise_T = (pair.positive_T - one.wav_T).double()
        assert 10 * np.log10(active_power(one.wav_T, RATE) / float(noise_T.square().mean())) == pytest.approx(10, abs=0.01)
        assert (pair.negative_T - pair.positive_T)[end:].abs().mean() > 0.5 * noise_T[end:].abs().mean()
        firsts.append(noise_of(noise_T, noises))
    assert len(set(firsts)) == len(noises)  # which one begins is drawn


def noise_of(found_T: Tensor, noises: dict[str, Tensor]) -> str:
    """The noise whose samples these are, up to a gain."""
    piece = found_T[:1600].numpy()

    def agreement(noise_T: Tensor) -> float:
        noise = noise_T.double().numpy()
        energy = signal.fftconvolve(noise**2, np.ones(1600), mode="valid")
        return float((signal.correlate(noise, piece, mode="valid") / np.sqrt(np.maximum(energy, 1e-9))).max() / np.linalg.norm(piece))

    found = max(noises, key=lambda name: agreement(noises[name]))
    assert agreement(noises[found]) > 0.999
    return found


def test_a_room_changes_half_way_and_is_the_same_before(recordings, rooms):
    dry = 0
    for one, pair in zip(recordings, room_pairs(recordings, rooms, **SETTINGS)):
        middle = len(one.wav_T) // 2
        assert (pair.id, pair.kind) == (one.id, "room")
        assert len(pair.positive_T) == len(pair.negative_T) == len(one.wav_T)
        assert middle <= common_beginning(pair) <= middle + 2
        assert 10 * np.log10(active_power(pair.positive_T, RATE) / active_power(one.wav_T, RATE)) == pytest.approx(0, abs=0.01)
        dry += bool(torch.allclose(pair.positive_T, one.wav_T))
    assert 0 < dry < len(recordings)


def test_pairs_depend_on_seed_and_id_and_on_nothing_else(recordings, noises, rooms):
    def made(some, seed: int) -> dict[tuple[str, str], Preference]:
        settings = SETTINGS | {"seed": seed}
        pairs = [
            *voice_pairs(some, SPEAKER, **settings),
            *background_pairs(some[:5], noises, snr=10.0, **settings),
            *room_pairs(some[:5], rooms, **settings),
        ]
        return {(pair.kind, pair.id): pair for pair in pairs}

    once, backwards, other = made(recordings, 0), made([*recordings[:5][::-1], *recordings[5:][::-1]], 0), made(recordings, 1)
    assert once.keys() == backwards.keys()
    assert all(torch.equal(once[key].negative_T, backwards[key].negative_T) for key in once)
    assert sum(not torch.equal(once[key].negative_T, other[key].negative_T) for key in once) > len(once) / 2


def test_inputs_are_not_changed(recordings, noises, rooms):
    before = [one.wav_T.clone() for one in recordings]
    for maker in (
        voice_pairs(recordings, SPLICED, **SETTINGS),
        background_pairs(recordings, noises, snr=10.0, **SETTINGS),
        room_pairs(recordings, rooms, **SETTINGS),
    ):
        list(maker)
    assert all(torch.equal(one.wav_T, wav_T) for one, wav_T in zip(recordings, before))


def test_a_splice_fades_one_into_the_other_and_adds_up():
    ones, twos = torch.ones(10), 2 * torch.ones(8)
    joined = spliced(ones, twos, fade=4)
    assert joined.tolist() == [1.0] * 6 + [1.125, 1.375, 1.625, 1.875] + [2.0] * 4
    wave = torch.arange(20.0)
    torch.testing.assert_close(spliced(wave[:12], wave[8:], fade=4), wave)
    assert spliced(ones, twos, fade=0).tolist() == [1.0] * 10 + [2.0] * 8


def test_the_cut_is_in_the_quietest_place_of_the_middle():
    wav_T = torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    wav_T[1000:3000] = 0  # a pause, but not in the middle
    wav_T[8000:8400] *= 0.01
    assert 8100 <= quietest_middle(wav_T, RATE) <= 8300
    slow = min(range(5333, 10666 - 320 + 1), key=lambda start: float(wav_T[start : start + 320].double().square().sum())) + 160
    assert quietest_middle(wav_T, RATE) == slow


def test_what_cannot_be_made_is_refused_with_the_reason(recordings, noises):
    with pytest.raises(ValueError, match="got 1 noises"):
        list(background_pairs(recordings, {"one": noises["noise1"]}, snr=10.0, **SETTINGS))
    with pytest.raises(ValueError, match="too short to be cut"):
        quietest_middle(torch.ones(300), RATE)
    with pytest.raises(ValueError, match="choose a shorter one"):
        spliced(torch.ones(10), torch.ones(10), fade=11)
