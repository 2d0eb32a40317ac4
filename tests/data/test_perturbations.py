"""What each perturbation does, measured: its ratio, its slope, its length, its delay."""

import shutil

import numpy as np
import pytest
import torch
from scipy import signal
from torch import Tensor

from audiotok import audio
from audiotok.data import acoustics
from audiotok.data import perturbations as P
from audiotok.tokenizers.classical import Codec2, Opus

RATE = 16000


def decibels(ratio: float) -> float:
    return 10 * np.log10(ratio)


def power(wav_T: Tensor) -> float:
    return float(wav_T.double().square().mean())


@pytest.fixture(scope="module")
def noise_file(speech) -> str:
    return str(speech / "noise" / "noise2.flac")


@pytest.fixture(scope="module")
def room_files(speech) -> list[str]:
    return [str(path) for path in sorted((speech / "rir").glob("*.flac"))]


@pytest.fixture(scope="module")
def everything(noise_file, room_files) -> list[P.Perturbation]:
    opus = [P.Coded(Opus(bits_per_second=16000, sample_rate=RATE))] if shutil.which("opusenc") else []
    return [
        *(P.Noise(color, snr) for color in ("white", "pink", "brown") for snr in (20.0, 0.0)),
        *(P.RecordedNoise(noise_file, snr) for snr in (20.0, 0.0)),
        *(P.Pitch(semitones) for semitones in (-4, 1, 2)),
        *(P.Speed(factor) for factor in (0.9, 1.1)),
        *(P.Gain(decibels) for decibels in (-6, 6)),
        P.Polarity(),
        *(P.Reverb(path) for path in room_files),
        *(P.LowPass(hertz) for hertz in (2000, 4000)),
        *(P.BitCrush(bits) for bits in (4, 8)),
        *opus,
        *(P.Shift(samples) for samples in (1, 319)),
        *(P.FrameShift(share, 320) for share in (0.25, 0.5)),
        P.Padding(0.5, 0),
        P.Padding(0, 0.5),
    ]


def test_the_same_seed_gives_the_same_samples_and_what_went_in_is_as_it_was(everything, wav_16k):
    for perturb in everything:
        heard_T = wav_16k.clone()
        once_T, twice_T = (perturb(heard_T, RATE, seed=3) for _ in range(2))
        assert torch.equal(once_T, twice_T), perturb.name
        assert torch.equal(heard_T, wav_16k), perturb.name
        assert once_T.dtype == torch.float32 and torch.isfinite(once_T).all(), perturb.name
        assert not torch.equal(once_T, heard_T), perturb.name
        once_T.zero_()
        assert torch.equal(heard_T, wav_16k), f"{perturb.name} gives a view of what went in"


def test_another_seed_gives_other_noise_and_nothing_else(everything, wav_16k):
    for perturb in everything:
        differs = not torch.equal(perturb(wav_16k, RATE, seed=3), perturb(wav_16k, RATE, seed=4))
        assert differs == isinstance(perturb, (P.Noise, P.RecordedNoise)), perturb.name


def test_names_are_of_their_own_and_a_kind_and_a_level_are_a_point_of_a_curve(everything):
    assert len({perturb.name for perturb in everything}) == len(everything)
    assert len({(perturb.kind, perturb.level) for perturb in everything if perturb.kind != "padding"}) == len(everything) - 2
    assert {"noise_white_20dB", "noise_noise2_0dB", "pitch_-4st", "speed_0.9x", "gain_+6dB", "lowpass_4000Hz", "bits_8", "shift_319"} <= {
        perturb.name for perturb in everything
    }


def test_only_speed_shift_and_padding_change_the_length_and_say_so(everything, wav_16k):
    samples = len(wav_16k)
    lengths = {
        "speed_0.9x": -(-samples * 10 // 9),
        "speed_1.1x": -(-samples * 10 // 11),
        "shift_1": samples + 1,
        "shift_319": samples + 319,
        "padding_0.5s_0s": samples + 8000,
        "padding_0s_0.5s": samples + 8000,
    }
    for perturb in everything:
        assert len(perturb(wav_16k, RATE, seed=0)) == lengths.get(perturb.name, samples), perturb.name
    timings = {perturb.name: perturb.timing for perturb in everything if perturb.timing != "same"}
    assert timings == {
        "speed_0.9x": "stretched", "speed_1.1x": "stretched", "shift_1": "shifted", "shift_319": "shifted", "padding_0.5s_0s": "shifted",
    }  # fmt: skip


@pytest.mark.parametrize("snr", [20.0, 5.0, -5.0])
@pytest.mark.parametrize("kind", ["white", "pink", "brown", "recorded"])
def test_the_ratio_to_speech_where_it_speaks_is_as_asked(wav_16k, noise_file, kind, snr):
    perturb = P.RecordedNoise(noise_file, snr) if kind == "recorded" else P.Noise(kind, snr)
    added_T = perturb(wav_16k, RATE, seed=1).double() - wav_16k.double()
    frames = [wav_16k[start : start + 320].double().numpy() for start in range(0, len(wav_16k), 320)]
    powers = np.array([np.sum(frame**2) / 320 for frame in frames])
    speaking = powers[powers >= powers.max() * 1e-4].mean()
    assert decibels(speaking / power(added_T)) == pytest.approx(snr, abs=0.01)


def test_pauses_and_padding_do_not_change_how_loud_the_noise_is(wav_16k):
    padded_T = torch.cat([wav_16k[:44800], torch.zeros(RATE)])
    levels = [power(P.Noise("white", 10.0)(wav_T, RATE, seed=0) - wav_T) for wav_T in (wav_16k[:44800], padded_T)]
    assert decibels(levels[0] / levels[1]) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(("color", "slope"), [("white", 0.0), ("pink", -3.01), ("brown", -6.02)])
def test_noise_falls_by_so_many_decibels_an_octave(color, slope):
    noise_T = acoustics.colored_noise(color, 60 * RATE, RATE, generator=torch.Generator().manual_seed(0))
    hertz, density = signal.welch(noise_T.double().numpy(), RATE, nperseg=8192)
    within = (hertz > 60) & (hertz < 7000)
    assert np.polyfit(np.log2(hertz[within]), decibels(density[within]), 1)[0] == pytest.approx(slope, abs=0.1)


def test_recorded_noise_starts_anywhere_and_goes_on_from_its_beginning(noise_file):
    recorded_T = acoustics.recording(noise_file, RATE)
    repeated_T = acoustics.repeated(recorded_T, 3 * len(recorded_T), generator=torch.Generator().manual_seed(2))
    assert torch.equal(repeated_T[: len(recorded_T)], repeated_T[len(recorded_T) : 2 * len(recorded_T)])
    start = int((repeated_T[: len(recorded_T)].unfold(0, 8, 1) == recorded_T[:8]).all(dim=1).nonzero()[0])
    assert start > 0 and torch.equal(repeated_T[start : start + len(recorded_T)], recorded_T)


@pytest.mark.parametrize("semitones", [-4, 2])
def test_pitch_moves_a_tone_by_semitones(semitones):
    tone_T = 0.3 * torch.sin(2 * torch.pi * 400 * torch.arange(2 * RATE) / RATE)
    spectrum = np.abs(np.fft.rfft(P.Pitch(semitones)(tone_T, RATE, seed=0).numpy() * np.hanning(2 * RATE)))
    assert spectrum.argmax() / 2 == pytest.approx(400 * 2 ** (semitones / 12), abs=1)


def test_speed_moves_a_tone_by_its_factor():
    tone_T = 0.3 * torch.sin(2 * torch.pi * 400 * torch.arange(2 * RATE) / RATE)
    faster_T = P.Speed(1.25)(tone_T, RATE, seed=0)
    assert np.abs(np.fft.rfft(faster_T.numpy())).argmax() * RATE / len(faster_T) == pytest.approx(500, abs=1)
    assert torch.equal(P.Speed(1.0)(tone_T, RATE, seed=0), tone_T)


def test_gain_and_polarity_are_exact(wav_16k):
    assert decibels(power(P.Gain(-6)(wav_16k, RATE, seed=0)) / power(wav_16k)) == pytest.approx(-6, abs=1e-5)
    assert torch.equal(P.Polarity()(wav_16k, RATE, seed=0), -wav_16k)


def test_shifts_are_exact_and_that_within_a_frame_keeps_the_length(wav_16k):
    assert torch.equal(P.Shift(37)(wav_16k, RATE, seed=0), torch.cat([torch.zeros(37), wav_16k]))
    assert torch.equal(P.FrameShift(0.25, 320)(wav_16k, RATE, seed=0), torch.cat([torch.zeros(80), wav_16k[:-80]]))
    assert [P.FrameShift(share, 320).samples for share in (1e-6, 0.5, 1 - 1e-6)] == [1, 160, 319]
    padded_T = P.Padding(0.1, 0.2)(wav_16k, RATE, seed=0)
    assert torch.equal(padded_T[1600:-3200], wav_16k) and not padded_T[:1600].any() and not padded_T[-3200:].any()


def test_a_room_adds_neither_delay_nor_energy(room_files):
    noise_T = torch.randn(4 * RATE, generator=torch.Generator().manual_seed(0))
    for path in room_files:
        click_T = torch.zeros(2 * RATE).index_fill(0, torch.tensor(5000), 1.0)  # the cross-correlation with it is the sound itself
        assert P.Reverb(path)(click_T, RATE, seed=0).argmax() == 5000, path
        heard_T = P.Reverb(path)(noise_T, RATE, seed=0)
        assert decibels(power(heard_T) / power(noise_T)) == pytest.approx(0, abs=1), path


def test_a_room_is_the_convolution_of_the_definition():
    impulse_T, wav_T = torch.tensor([0.1, -0.8, 0.5, 0.2]), torch.randn(50, generator=torch.Generator().manual_seed(0))
    unit = -impulse_T.double().numpy() / np.linalg.norm(impulse_T.double().numpy())
    slow = np.convolve(wav_T.double().numpy(), unit)[1:51]
    np.testing.assert_allclose(acoustics.reverberated(wav_T, impulse_T).numpy(), slow, atol=1e-6)


def test_the_level_of_a_room_is_its_direct_path_over_the_rest(room_files):
    impulse_T = torch.zeros(RATE)
    impulse_T[100], impulse_T[3000] = 1.0, -0.1
    assert acoustics.direct_to_reverberant(impulse_T, RATE) == pytest.approx(20, abs=1e-4)
    assert acoustics.direct_to_reverberant(impulse_T[:200], RATE) == float("inf")
    assert all(-20 < P.Reverb(path).level < 40 for path in room_files)


def test_a_low_pass_keeps_what_is_below_removes_what_is_above_and_delays_nothing():
    noise_T = torch.randn(8 * RATE, generator=torch.Generator().manual_seed(0))
    filtered_T = P.LowPass(2000)(noise_T, RATE, seed=0)
    hertz, before = signal.welch(noise_T.numpy(), RATE, nperseg=1024)
    _, after = signal.welch(filtered_T.numpy(), RATE, nperseg=1024)
    gain = decibels(after / before)
    assert np.abs(gain[hertz < 1700]).max() < 0.5 and gain[hertz > 4100].max() < -80
    assert np.interp(2000, hertz, gain) == pytest.approx(-6, abs=0.5)
    assert signal.correlate(filtered_T.numpy(), noise_T.numpy()).argmax() == len(noise_T) - 1


@pytest.mark.parametrize("bits", [4, 8])
def test_a_crushed_sample_is_one_of_so_many_levels_and_the_nearest(wav_16k, bits):
    loud_T = wav_16k / wav_16k.abs().max()
    crushed_T = P.BitCrush(bits)(loud_T, RATE, seed=0)
    levels = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)) / 2 ** (bits - 1)
    assert torch.isin(crushed_T, levels).all()
    inside_T = loud_T <= levels[-1]
    assert ((crushed_T - loud_T).abs()[inside_T] <= 2.0**-bits).all()


@pytest.mark.parametrize("rate", [16000, 24000])
def test_a_codec_leaves_speech_in_its_place_at_its_rate(wav_16k, rate):
    if not shutil.which("opusenc"):
        pytest.skip("apt-get install opus-tools")
    wav_T = audio.resample(wav_16k, 16000, rate)
    perturb = P.Coded(Opus(bits_per_second=24000, sample_rate=16000))
    coded_T = perturb(wav_T, rate, seed=0)
    assert (perturb.kind, perturb.level, perturb.name) == ("opus", 24, "opus_24kbps")
    assert len(coded_T) == len(wav_T)
    assert abs(int(signal.correlate(coded_T.numpy(), wav_T.numpy()).argmax()) - len(wav_T) + 1) <= 1


def test_any_codec_without_codes_will_do(wav_16k):
    if not shutil.which("c2enc"):
        pytest.skip("apt-get install codec2")
    perturb = P.Coded(Codec2(bits_per_second=3200))
    assert perturb.name == "codec2_3.2kbps" and len(perturb(wav_16k, RATE, seed=0)) == len(wav_16k)


def test_what_cannot_be_is_refused_with_the_reason(wav_16k):
    for make, reason in (
        (lambda: P.Noise("blue", 10.0), "white, pink, brown; got 'blue'"),
        (lambda: P.Speed(0.0), "0.1 to 10"),
        (lambda: P.BitCrush(1), "2 to 16"),
        (lambda: P.Shift(0), "by 1 at least"),
        (lambda: P.FrameShift(1.0, 320), "share between 0 and 1"),
        (lambda: P.Padding(0, 0), "one is positive"),
        (lambda: P.LowPass(8000)(wav_16k, RATE, seed=0), "ends at 8000 Hz"),
        (lambda: P.Noise("white", 10.0)(torch.zeros(RATE), RATE, seed=0), "the speech is silent"),
    ):
        with pytest.raises(ValueError, match=reason):
            make()
