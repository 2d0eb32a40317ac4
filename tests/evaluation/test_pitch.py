"""Fundamental frequency against Praat's and against tones whose pitch is known, and what a codec can do to it."""

import librosa
import numpy as np
import pytest
import scipy.stats
import torch

from audiotok import audio
from audiotok.evaluation.metric import MetricFailure, NotApplicable, Utterance
from audiotok.evaluation.pitch import HOP, PitchAccuracy, PitchRange, VoicingError, cents, correlation, pitch

LIMITS = PitchRange(60, 500)
SETTINGS = {"lowest": 60, "highest": 500, "max_delay": 0.1}
FILES = ("librispeech/test-other/1688-142285-0002.flac", "emodb/08a02Na.flac", "emodb/12a01Fb.flac", "harvard/spk1_snt1.flac")


def utterance(wav_T) -> Utterance:
    return Utterance("a", torch.as_tensor(wav_T, dtype=torch.float32), 16000)


def buzz(hertz: np.ndarray) -> np.ndarray:
    """A sum of ten harmonics whose fundamental is `hertz` at each sample, its amplitudes falling as those of a voice."""
    phase = 2 * np.pi * np.cumsum(hertz) / 16000
    return 0.1 * sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 11))


@pytest.fixture(scope="module")
def glide() -> np.ndarray:
    return np.geomspace(100, 240, 24000)


@pytest.mark.parametrize("name", FILES)
def test_f0_is_praats(speech, name):
    parselmouth = pytest.importorskip("parselmouth", reason="pip install praat-parselmouth")
    if not (speech / name).exists():
        pytest.skip(f"no {name} here")
    wav_T = audio.read(speech / name)[0].numpy()
    track = parselmouth.Sound(wav_T.astype(np.float64), 16000).to_pitch_ac(time_step=0.01, pitch_floor=60, pitch_ceiling=500)
    golden_N = track.selected_array["frequency"]
    first, offset = divmod(round(track.x1 * 16000), HOP)  # Praat centres its frames in the sound
    found_N = pitch(wav_T[offset:], LIMITS)[first : first + len(golden_N)]
    assert len(golden_N) > 100
    assert np.mean((found_N > 0) != (golden_N > 0)) < 0.03
    both_N = (found_N > 0) & (golden_N > 0)
    interval_N = 1200 * np.abs(np.log2(found_N[both_N] / golden_N[both_N]))
    assert np.median(interval_N) < 1 and np.mean(interval_N > 50) < 0.03


def test_the_pitch_of_a_glide_is_known_to_a_few_cents(glide):
    found_N = pitch(buzz(glide), LIMITS)[3:-3]
    true_N = glide[3 * HOP :: HOP][: len(found_N)]
    assert (found_N > 0).all()
    assert np.abs(1200 * np.log2(found_N / true_N)).max() < 5


def test_noise_and_silence_have_no_pitch(glide):
    noise = np.random.default_rng(0).normal(size=32000)
    assert np.mean(pitch(noise, LIMITS) > 0) < 0.05
    gap = buzz(np.full(32000, 120.0))
    gap[12000:20000] = 1e-5 * noise[12000:20000]
    found_N = pitch(gap, LIMITS)
    assert not found_N[80:120].any() and found_N[5:70].all() and found_N[130:195].all()


def test_a_copy_correlates_wholly_a_shifted_voice_is_as_many_cents_away(speech):
    wav_T = audio.read(speech / "emodb" / "12a01Fb.flac")[0]
    copy = PitchAccuracy(**SETTINGS)(utterance(wav_T), utterance(wav_T.clone()))
    assert copy == {"f0_correlation": pytest.approx(1), "f0_rmse": pytest.approx(0, abs=1e-9), "f0_gross_error": 0}
    for semitones in (2, -4):
        shifted = librosa.effects.pitch_shift(wav_T.numpy(), sr=16000, n_steps=semitones, n_fft=256)
        values = PitchAccuracy(**SETTINGS)(utterance(wav_T), utterance(shifted))
        assert values["f0_correlation"] > 0.97 and values["f0_rmse"] == pytest.approx(100 * abs(semitones), abs=15)
        assert values["f0_gross_error"] == (0 if semitones == 2 else pytest.approx(0.9, abs=0.11))  # 20 % are 3.9 semitones downwards


def test_octave_errors_are_gross_ones(glide):
    doubled = glide.copy()
    doubled[12000:] *= 2
    values = PitchAccuracy(**SETTINGS)(utterance(buzz(glide)), utterance(buzz(doubled)))
    assert values["f0_gross_error"] == pytest.approx(0.5, abs=0.05) and values["f0_rmse"] == pytest.approx(1200 / np.sqrt(2), rel=0.05)


def test_a_delay_changes_nothing(wav_16k):
    noisy = wav_16k + 0.002 * torch.randn(len(wav_16k), generator=torch.Generator().manual_seed(0))
    here = PitchAccuracy(**SETTINGS)(utterance(wav_16k), utterance(noisy))
    late = PitchAccuracy(**SETTINGS)(utterance(wav_16k), utterance(torch.cat([torch.zeros(900), noisy])))
    assert late["f0_correlation"] == pytest.approx(here["f0_correlation"], abs=0.02)
    assert late["f0_rmse"] == pytest.approx(here["f0_rmse"], abs=10)


def test_a_whisper_has_a_voicing_error_and_no_pitch_accuracy(wav_16k):
    spectrum = librosa.stft(wav_16k.numpy(), n_fft=512)
    phases = np.exp(2j * np.pi * np.random.default_rng(0).random(spectrum.shape))
    whisper = librosa.istft(np.abs(librosa.stft(np.random.default_rng(1).normal(size=len(wav_16k)), n_fft=512)) * phases * 0.001)
    voiced = np.mean(pitch(wav_16k.numpy(), LIMITS) > 0)
    error = VoicingError(**SETTINGS)(utterance(wav_16k), utterance(whisper))["voicing_error"]
    assert error == pytest.approx(voiced, abs=0.1) and voiced > 0.4
    assert VoicingError(**SETTINGS)(utterance(wav_16k), utterance(wav_16k))["voicing_error"] == 0
    with pytest.raises(MetricFailure, match="are voiced in both, 10 are needed"):
        PitchAccuracy(**SETTINGS)(utterance(wav_16k), utterance(whisper))


@pytest.mark.parametrize("metric", [PitchAccuracy(**SETTINGS), VoicingError(**SETTINGS)], ids=["accuracy", "voicing"])
def test_a_recording_without_a_voice_is_not_applicable_and_silence_a_failure(wav_16k, metric):
    noise = 0.1 * np.random.default_rng(2).normal(size=16000)
    with pytest.raises(NotApplicable, match="no voiced frame"):
        metric(utterance(noise), utterance(wav_16k))
    with pytest.raises(MetricFailure, match="silence"):
        metric(utterance(wav_16k), utterance(np.zeros(16000)))


def test_a_constant_pitch_correlates_with_nothing_and_says_so():
    tone = utterance(buzz(np.full(16000, 160.0)))
    with pytest.raises(MetricFailure, match="pitch is constant"):
        PitchAccuracy(**SETTINGS)(tone, tone)


def test_correlation_and_cents_are_those_of_the_definitions():
    generator = np.random.default_rng(0)
    left, right = generator.uniform(100, 200, 50), generator.uniform(100, 200, 50)
    assert correlation(left, right) == pytest.approx(scipy.stats.pearsonr(left, right).statistic, abs=1e-12)
    assert cents(np.array([100.0, 100.0]), np.array([200.0, 100.0])) == pytest.approx(1200 / np.sqrt(2))


def test_frequencies_that_are_no_range_are_refused():
    for lowest, highest in ((0, 500), (500, 60), (60, 8000)):
        with pytest.raises(ValueError, match="between two positive frequencies"):
            PitchAccuracy(lowest=lowest, highest=highest, max_delay=0.1)
