"""Closeness to the recording, against the public implementations."""

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor

from audiotok import audio
from audiotok.evaluation import reconstruction
from audiotok.evaluation.metric import MetricFailure, NotApplicable, Utterance

pesq = pytest.importorskip("pesq", reason="pip install 'audiotok[eval]'")
pystoi = pytest.importorskip("pystoi", reason="pip install 'audiotok[eval]'")
MAX_DELAY = 0.1


def utterance(wav_T: Tensor, *, sample_rate: int = 16000) -> Utterance:
    return Utterance("a", wav_T, sample_rate)


def metrics():
    return [
        reconstruction.Delay(max_delay=MAX_DELAY),
        reconstruction.Pesq(max_delay=MAX_DELAY),
        reconstruction.Stoi(max_delay=MAX_DELAY),
        reconstruction.SiSdr(max_delay=MAX_DELAY),
        reconstruction.MelDistance(windows=[2048, 512], bands=[150, 80], max_delay=MAX_DELAY),
    ]


def scores(reference_T: Tensor, estimate_T: Tensor, *, sample_rate: int = 16000) -> dict:
    values: dict = {}
    for metric in metrics():
        values |= metric(utterance(reference_T, sample_rate=sample_rate), utterance(estimate_T, sample_rate=sample_rate))
    return values


@pytest.fixture(scope="module")
def noisy(wav_16k) -> Tensor:
    return wav_16k + 0.01 * torch.randn(len(wav_16k), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def aligned_scores(wav_16k, noisy) -> dict:
    return scores(wav_16k, noisy)


@pytest.fixture(scope="module")
def wav_16k(speech) -> Tensor:
    return audio.read(speech / "librispeech" / "test-other" / "1688-142285-0002.flac")[0]


def test_a_copy_gets_the_best_scores_there_are(wav_16k):
    delay, pesq_metric, stoi, si_sdr, mel = metrics()
    copy = utterance(wav_16k.clone())
    assert delay(utterance(wav_16k), copy) == {"delay": 0, "length_difference": 0}
    assert pesq_metric(utterance(wav_16k), copy)["pesq"] == pytest.approx(4.6439, abs=1e-3)
    assert stoi(utterance(wav_16k), copy)["stoi"] == pytest.approx(1, abs=1e-6)
    assert mel(utterance(wav_16k), copy)["mel_distance"] == 0
    with pytest.raises(NotApplicable, match="exact copy"):
        si_sdr(utterance(wav_16k), copy)


def test_scores_are_those_of_the_public_implementations(wav_16k, noisy, aligned_scores):
    left, right = wav_16k.numpy(), noisy.numpy()
    assert aligned_scores["delay"] == 0
    assert aligned_scores["pesq"] == pytest.approx(pesq.pesq(16000, left, right, "wb"), rel=1e-12)
    assert aligned_scores["stoi"] == pytest.approx(pystoi.stoi(left, right, 16000), rel=1e-12)
    distances = []
    for window, bands in ((2048, 150), (512, 80)):
        mels = [librosa.feature.melspectrogram(y=y, sr=16000, n_fft=window, hop_length=window // 4, n_mels=bands) for y in (left, right)]
        distances.append(np.abs(np.subtract(*(np.log10(np.maximum(mel, 1e-10)) for mel in mels))).mean())
    assert aligned_scores["mel_distance"] == pytest.approx(np.mean(distances), rel=1e-5)


def test_si_sdr_of_added_noise_is_its_ratio_and_ignores_scale():
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(48000, generator=generator).numpy()
    noise = torch.randn(48000, generator=generator).numpy()
    noise -= signal * (noise @ signal) / (signal @ signal)
    estimate = signal + noise * np.linalg.norm(signal) / np.linalg.norm(noise) / 10  # 20 dB below
    for scale in (1.0, 0.01, 7.0):
        assert reconstruction.si_sdr(signal, scale * estimate) == pytest.approx(20, abs=0.01)


@pytest.mark.parametrize("lag", [-700, -1, 37, 1600])
def test_a_delay_is_found_and_leaves_the_scores(wav_16k, noisy, aligned_scores, lag):
    estimate = torch.cat([torch.zeros(lag), noisy]) if lag > 0 else noisy[-lag:]
    values = scores(wav_16k, estimate)
    assert values.pop("delay") == lag
    assert values.pop("length_difference") == lag
    for name, value in values.items():
        assert value == pytest.approx(aligned_scores[name], rel=0.04), name  # the ends that only one of them has are cut


def test_correlation_is_that_of_the_definition():
    generator = np.random.default_rng(0)
    reference, estimate = generator.normal(size=50), generator.normal(size=61)
    found = reconstruction._correlation(reference, estimate, max_delay=12)
    padded = np.pad(estimate, 100)
    slow = [padded[100 + lag : 150 + lag] @ reference for lag in range(-12, 13)]
    np.testing.assert_allclose(found, slow, atol=1e-9)


def test_a_vocoder_that_makes_up_its_phase_is_aligned_by_its_envelope(wav_16k):
    wav = wav_16k.numpy()
    magnitude = np.abs(librosa.stft(wav, n_fft=1024, hop_length=256))
    lags, misled = [], []
    for seed in range(3):
        vocoded = librosa.griffinlim(magnitude, n_iter=16, hop_length=256, length=len(wav), random_state=seed)
        lags.append(reconstruction.delay(wav, vocoded, max_delay=1600))
        misled.append(int(reconstruction._correlation(wav, vocoded, max_delay=1600).argmax()) - 1600)
    assert max(map(abs, lags)) <= 16  # 1 ms
    assert max(map(abs, misled)) > 80  # the waveforms alone would have said 5 ms or more


@pytest.mark.parametrize("metric", metrics(), ids=lambda metric: type(metric).__name__)
@pytest.mark.parametrize(
    ("estimate_T", "reason"), [(torch.zeros(48000), "silence"), (torch.ones(100), "too short"), (torch.ones(0), "too short")]
)
def test_silence_and_snippets_fail_with_their_reason(wav_16k, metric, estimate_T, reason):
    with pytest.raises(MetricFailure, match=reason):
        metric(utterance(wav_16k), utterance(estimate_T))


def test_pesq_that_finds_no_utterance_is_a_failure_not_a_floor(wav_16k):
    burst_T = torch.zeros(32000)
    burst_T[10000:10800] = wav_16k[16000:16800]  # 50 ms
    with pytest.raises(MetricFailure, match="No utterances"):
        reconstruction.Pesq(max_delay=MAX_DELAY)(utterance(burst_T), utterance(wav_16k[:32000]))


def test_stoi_of_too_little_speech_is_a_failure_not_a_floor(wav_16k):
    piece = utterance(wav_16k[8000:12800])
    with pytest.raises(MetricFailure, match="30 frames"):
        reconstruction.Stoi(max_delay=MAX_DELAY)(piece, piece)


def test_audio_at_another_rate_is_judged_at_16_khz(wav_16k, noisy, aligned_scores):
    values = scores(audio.resample(wav_16k, 16000, 24000), audio.resample(noisy, 16000, 24000), sample_rate=24000)
    assert values["pesq"] == pytest.approx(aligned_scores["pesq"], abs=0.1)
    assert values["stoi"] == pytest.approx(aligned_scores["stoi"], abs=0.01)
    assert values["si_sdr"] == pytest.approx(aligned_scores["si_sdr"], abs=0.6)


def test_windows_and_bands_must_agree():
    with pytest.raises(ValueError, match="as many windows"):
        reconstruction.MelDistance(windows=[512], bands=[80, 40], max_delay=MAX_DELAY)
