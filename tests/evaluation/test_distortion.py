"""Signal-to-distortion ratios and spectral distances, against the public implementations."""

import numpy as np
import pytest
import torch
from torch import Tensor

from audiotok import audio
from audiotok.evaluation import distortion
from audiotok.evaluation.metric import MetricFailure, NotApplicable, Utterance

MAX_DELAY = 0.1
RESOLUTIONS = {"fft_sizes": [512, 1024, 256], "hops": [50, 120, 25], "windows": [240, 600, 120]}


def utterance(wav_T: Tensor | np.ndarray) -> Utterance:
    return Utterance("a", torch.as_tensor(wav_T, dtype=torch.float32), 16000)


def metrics():
    return [
        distortion.Sdr(max_delay=MAX_DELAY),
        distortion.RawSiSdr(max_delay=MAX_DELAY),
        distortion.BssSdr(taps=512, max_delay=MAX_DELAY),
        distortion.StftDistance(**RESOLUTIONS, max_delay=MAX_DELAY),
    ]


def scores(reference_T: Tensor, estimate_T: Tensor) -> dict:
    values: dict = {}
    for metric in metrics():
        values |= metric(utterance(reference_T), utterance(estimate_T))
    return values


@pytest.fixture(scope="module")
def wav_16k(speech) -> Tensor:
    return audio.read(speech / "librispeech" / "test-other" / "1688-142285-0002.flac")[0]


@pytest.fixture(scope="module", params=["noise", "colour", "telephone"])
def pair(request, speech, wav_16k) -> tuple[np.ndarray, np.ndarray]:
    """Float64 (reference, estimate): noise added; filtered, with noise; and, resampled from 8 kHz, with little to tell filters apart."""
    generator = np.random.default_rng(0)
    if request.param == "telephone":
        narrow_T, rate = audio.read(speech / "fsdd" / "0_george_0.flac")
        wide = audio.resample(narrow_T, rate, 16000).double().numpy()
        return wide, np.round(wide * 256) / 256
    wav = wav_16k.double().numpy()
    if request.param == "noise":
        return wav, wav + 0.01 * generator.normal(size=len(wav))
    return wav, np.convolve(wav, [0.5, 0.3, -0.2])[: len(wav)] + 0.003 * generator.normal(size=len(wav))


def test_sdr_is_torchmetrics_signal_to_noise_ratio(pair):
    audio_metrics = pytest.importorskip("torchmetrics.functional.audio")
    golden = audio_metrics.signal_noise_ratio(*map(torch.from_numpy, pair[::-1])).item()
    assert distortion.sdr(*pair) == pytest.approx(golden, abs=1e-6)


def test_si_sdr_is_torchmetrics_with_means_taken_out(pair):
    audio_metrics = pytest.importorskip("torchmetrics.functional.audio")
    golden = audio_metrics.scale_invariant_signal_distortion_ratio(*map(torch.from_numpy, pair[::-1]), zero_mean=True).item()
    assert distortion.si_sdr(*pair) == pytest.approx(golden, abs=1e-6)


@pytest.mark.filterwarnings("ignore:mir_eval.separation")
def test_bss_sdr_is_that_of_mir_eval(pair):
    separation = pytest.importorskip("mir_eval.separation")
    golden = separation.bss_eval_sources(pair[0][None], pair[1][None])[0][0]
    assert distortion.bss_sdr(*pair, taps=512) == pytest.approx(golden, abs=1e-6)


@pytest.mark.filterwarnings("ignore:mir_eval.separation")
def test_the_filter_is_centred_on_the_delay(wav_16k):
    separation = pytest.importorskip("mir_eval.separation")
    wav = wav_16k.double().numpy()
    early = 0.9 * wav[2:] - 0.5 * wav[1:-1] + 0.002 * np.random.default_rng(0).normal(size=len(wav) - 2)  # a filter that looks ahead
    score = distortion.BssSdr(taps=512, max_delay=MAX_DELAY)(utterance(wav), utterance(early))["bss_sdr"]
    late = np.pad(early, (256, 0))
    golden = separation.bss_eval_sources(np.pad(wav, (0, 254))[None], late[None])[0][0]
    assert score == pytest.approx(golden, abs=0.01)  # the metric cuts the two samples that only one has
    assert separation.bss_eval_sources(wav[None, :-2], early[None])[0][0] < score - 5


def test_bss_sdr_is_that_of_fast_bss_eval_and_torchmetrics(pair):
    fast_bss_eval = pytest.importorskip("fast_bss_eval")
    audio_metrics = pytest.importorskip("torchmetrics.functional.audio")
    score = distortion.bss_sdr(*pair, taps=512)
    assert score == pytest.approx(float(fast_bss_eval.sdr(pair[0][None], pair[1][None])[0]), abs=1e-6)
    assert score == pytest.approx(audio_metrics.signal_distortion_ratio(*map(torch.from_numpy, pair[::-1])).item(), abs=1e-6)


def test_bss_sdr_is_the_least_squares_fit_of_the_definition():
    generator = np.random.default_rng(0)
    reference, estimate = generator.normal(size=300), generator.normal(size=300)
    delayed = np.stack([np.pad(reference, (lag, 15 - lag)) for lag in range(16)], axis=1)  # [T + 15, 16]
    padded = np.pad(estimate, (0, 15))
    projected = delayed @ np.linalg.lstsq(delayed, padded)[0]
    slow = 10 * np.log10(projected @ projected / np.sum((padded - projected) ** 2))
    assert distortion.bss_sdr(reference, estimate, taps=16) == pytest.approx(slow, abs=1e-9)


def test_the_definitions_differ_where_they_should(wav_16k):
    noise_T = 0.001 * torch.randn(len(wav_16k), generator=torch.Generator().manual_seed(0))
    coloured = torch.nn.functional.conv1d(wav_16k[None, None], torch.tensor([[[0.9, -0.5, -0.3]]]))[0, 0]
    softer = 0.5 * wav_16k + noise_T
    gain = scores(wav_16k, softer)
    assert gain["sdr"] == pytest.approx(20 * np.log10(2), abs=0.1) and gain["si_sdr_aligned"] > 25
    filtered = scores(wav_16k, coloured + noise_T[: len(coloured)])
    assert filtered["si_sdr_aligned"] < 10 < 25 < filtered["bss_sdr"]


@pytest.mark.parametrize("lag", [-3, 8, 700])
def test_a_delay_ruins_what_is_not_aligned_and_nothing_else(wav_16k, lag):
    noisy_T = wav_16k + 0.003 * torch.randn(len(wav_16k), generator=torch.Generator().manual_seed(0))
    late_T = torch.cat([torch.zeros(lag), noisy_T]) if lag > 0 else noisy_T[-lag:]
    here, there = scores(wav_16k, noisy_T), scores(wav_16k, late_T)
    assert there["si_sdr_delay"] == lag
    assert here["si_sdr_raw"] == here["si_sdr_aligned"] and here["sdr_raw"] == here["sdr"]
    assert there["si_sdr_raw"] < here["si_sdr_raw"] - 15 and there["sdr_raw"] < here["sdr_raw"] - 15
    for name in ("si_sdr_aligned", "sdr", "bss_sdr", "stft_distance"):
        assert there[name] == pytest.approx(here[name], rel=0.04), name  # the ends that only one of them has are cut


def test_raw_is_over_the_samples_that_both_have(wav_16k):
    longer_T = torch.cat([wav_16k + 0.01, torch.ones(500)])
    expected = distortion.sdr(wav_16k.numpy(), (wav_16k + 0.01).numpy())
    assert distortion.Sdr(max_delay=MAX_DELAY)(utterance(wav_16k), utterance(longer_T))["sdr_raw"] == pytest.approx(expected, abs=1e-6)


def test_the_stft_distance_is_auralosss(wav_16k):
    auraloss = pytest.importorskip("auraloss")
    estimate_T = wav_16k + 0.01 * torch.randn(len(wav_16k), generator=torch.Generator().manual_seed(0))
    values = distortion.StftDistance(**RESOLUTIONS, max_delay=MAX_DELAY)(utterance(wav_16k), utterance(estimate_T))
    pair = (estimate_T.double()[None, None], wav_16k.double()[None, None])
    for name, weights in {"spectral_convergence": (1, 0), "log_stft_distance": (0, 1), "stft_distance": (1, 1)}.items():
        golden = []
        for fft_size, hop, window in zip(*RESOLUTIONS.values()):
            loss = auraloss.freq.STFTLoss(fft_size, hop, window, w_sc=weights[0], w_log_mag=weights[1], eps=distortion.QUIETEST)
            loss.window = torch.hann_window(window, dtype=torch.float64)
            golden.append(loss(*pair).item())
        assert values[name] == pytest.approx(np.mean(golden), abs=1e-9), name


def test_the_stft_distance_is_that_of_the_definition(wav_16k):
    reference, estimate = wav_16k[8000:12000].double().numpy(), 0.5 * wav_16k[8000:12000].double().numpy() + 0.01
    window = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(240) / 240), (136, 136))
    magnitudes = []
    for wav in (reference, estimate):
        padded = np.pad(wav, 256, mode="reflect")
        frames = [padded[start : start + 512] * window for start in range(0, len(wav) + 1, 50)]
        magnitudes.append(np.sqrt(np.maximum(np.abs(np.fft.rfft(frames)) ** 2, distortion.QUIETEST)))
    left, right = magnitudes
    slow = np.linalg.norm(left - right) / np.linalg.norm(left), np.abs(np.log(left) - np.log(right)).mean()
    found = distortion.stft_distance(reference, estimate, fft_size=512, hop=50, window=240)
    np.testing.assert_allclose(found, slow, atol=1e-9)


def test_a_copy_has_no_ratio_and_no_distance(wav_16k):
    *ratios, stft = metrics()
    for metric in ratios:
        with pytest.raises(NotApplicable, match="exact copy"):
            metric(utterance(wav_16k), utterance(wav_16k.clone()))
    assert set(stft(utterance(wav_16k), utterance(wav_16k.clone())).values()) == {0}


def test_a_signal_too_simple_to_tell_filters_apart_still_has_its_ratio():
    tone = np.hanning(16000) * np.sin(0.05 * np.arange(16000))
    noise = 0.01 * np.random.default_rng(0).normal(size=16000)
    expected = 10 * np.log10(np.sum(tone**2) / np.sum(noise**2))
    assert distortion.bss_sdr(tone, tone + noise, taps=512) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("metric", metrics(), ids=lambda metric: type(metric).__name__)
@pytest.mark.parametrize(("estimate_T", "reason"), [(torch.zeros(48000), "silence"), (torch.ones(100), "too short")])
def test_silence_and_snippets_fail_with_their_reason(wav_16k, metric, estimate_T, reason):
    with pytest.raises(MetricFailure, match=reason):
        metric(utterance(wav_16k), utterance(estimate_T))


def test_every_column_is_filled_and_settings_that_cannot_be_are_refused(wav_16k):
    estimate_T = wav_16k.flip(0)
    for metric in metrics():
        assert set(metric(utterance(wav_16k), utterance(estimate_T))) == {column.name for column in metric.columns}
    with pytest.raises(ValueError, match="at least one tap"):
        distortion.BssSdr(taps=0, max_delay=MAX_DELAY)
    with pytest.raises(ValueError, match="as many hops"):
        distortion.StftDistance(fft_sizes=[512], hops=[50, 100], windows=[240], max_delay=MAX_DELAY)
