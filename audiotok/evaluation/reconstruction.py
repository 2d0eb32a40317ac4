"""How close a resynthesis is to the recording, sample against sample, once its delay is taken out.

Every metric here aligns by itself (a few milliseconds), so that the failure of one leaves the others whole. Audio is judged at 16 kHz.
"""

import warnings
from functools import lru_cache

import librosa
import numpy as np

from audiotok.evaluation.metric import JUDGE_RATE, Column, MetricFailure, NotApplicable, Utterance, Value, identity, package, speech_of

MIN_SECONDS = 0.25  # PESQ's own limit
ENVELOPE_SAMPLES = 160  # 10 ms to each side: longer than a pitch period, shorter than a syllable
PHASE_KEPT = 0.5  # correlation from which the waveforms themselves tell the delay


def delay(reference_T: np.ndarray, estimate_T: np.ndarray, *, max_delay: int) -> int:
    """Samples by which the estimate lags behind the reference, at most `max_delay` either way.

    The lag of the highest cross-correlation of the waveforms, where they correlate. A vocoder that makes up its own phase (Griffin-Lim)
    does not: its highest peak lies some pitch periods off, up to 9 ms in a trial on test-other, and costs up to 0.16 STOI; there the
    amplitude envelopes are correlated instead, which came within 1.2 ms.
    """
    correlation = _correlation(reference_T, estimate_T, max_delay=max_delay)
    energy = float(np.linalg.norm(reference_T) * np.linalg.norm(estimate_T))
    if correlation.max() < PHASE_KEPT * energy:
        correlation = _correlation(_envelope(reference_T), _envelope(estimate_T), max_delay=max_delay)
    return int(correlation.argmax()) - max_delay


def _correlation(reference_T: np.ndarray, estimate_T: np.ndarray, *, max_delay: int) -> np.ndarray:
    """Cross-correlation at the lags -max_delay ... max_delay, [2 * max_delay + 1]."""
    size = 1 << (max(len(reference_T), len(estimate_T)) + max_delay).bit_length()
    spectrum = np.fft.rfft(estimate_T, size) * np.fft.rfft(reference_T, size).conj()
    circular = np.fft.irfft(spectrum, size)
    return np.concatenate([circular[size - max_delay :], circular[: max_delay + 1]])


def _envelope(wav_T: np.ndarray) -> np.ndarray:
    window = np.hanning(2 * ENVELOPE_SAMPLES + 1)
    envelope = np.convolve(np.abs(wav_T), window / window.sum(), mode="same")
    return envelope - envelope.mean()


def align(reference: Utterance, estimate: Utterance, *, max_delay: float) -> tuple[np.ndarray, np.ndarray, int]:
    """(reference_T, estimate_T, delay in samples): the parts that both have, at `JUDGE_RATE`. `max_delay` is in seconds.

    Raises MetricFailure for silence and where the parts are too short to judge.
    """
    reference_T, estimate_T = (speech_of(utterance, min_seconds=MIN_SECONDS) for utterance in (reference, estimate))
    lag = delay(reference_T, estimate_T, max_delay=round(max_delay * JUDGE_RATE))
    reference_T, estimate_T = reference_T[max(-lag, 0) :], estimate_T[max(lag, 0) :]
    length = min(len(reference_T), len(estimate_T))
    if length < MIN_SECONDS * JUDGE_RATE:
        raise MetricFailure(f"too short: {length / JUDGE_RATE:.2f} s are left after alignment, {MIN_SECONDS:g} s are needed")
    return reference_T[:length], estimate_T[:length], lag


class Delay:
    """Samples at 16 kHz by which the estimate lags, and the difference in length."""

    columns = (
        Column("delay", "Delay", "mean", unit="samples", digits=1),
        Column("length_difference", "Length diff.", "mean", unit="samples", digits=1),
    )
    judge = "cross-correlation at 16 kHz"

    def __init__(self, *, max_delay: float) -> None:
        self.max_delay = max_delay

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict[str, Value]:
        *_, lag = align(reference, estimate, max_delay=self.max_delay)
        return {"delay": float(lag), "length_difference": round((estimate.seconds - reference.seconds) * JUDGE_RATE)}


class Pesq:
    """Wide-band PESQ (ITU-T P.862.2), 1.0 to 4.64."""

    columns = (Column("pesq", "PESQ", "mean", "higher"),)

    def __init__(self, *, max_delay: float) -> None:
        self.pesq = package("pesq")
        self.max_delay = max_delay
        self.judge = f"{identity('pesq')} wide-band"

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict[str, Value]:
        reference_T, estimate_T, _ = align(reference, estimate, max_delay=self.max_delay)
        try:
            return {"pesq": float(self.pesq.pesq(JUDGE_RATE, reference_T, estimate_T, "wb"))}
        except (self.pesq.NoUtterancesError, self.pesq.BufferTooShortError) as error:
            raise MetricFailure(f"PESQ: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    message = error.args[0] if error.args else type(error).__name__
    return message.decode() if isinstance(message, bytes) else str(message)


class Stoi:
    """Short-time objective intelligibility (Taal et al. 2011), up to 1."""

    columns = (Column("stoi", "STOI", "mean", "higher", digits=3),)

    def __init__(self, *, max_delay: float) -> None:
        self.stoi = package("pystoi").stoi
        self.max_delay = max_delay
        self.judge = identity("pystoi")

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict[str, Value]:
        reference_T, estimate_T, _ = align(reference, estimate, max_delay=self.max_delay)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            score = float(self.stoi(reference_T, estimate_T, JUDGE_RATE))
        if any("Not enough STFT frames" in str(warning.message) for warning in caught):  # the package then returns 1e-5
            raise MetricFailure("too short: STOI needs 30 frames (0.4 s) of speech")
        return {"stoi": score}


class SiSdr:
    """Scale-invariant signal-to-distortion ratio in dB (arXiv 1811.02508); far below 0 where a vocoder makes up its own phase."""

    columns = (Column("si_sdr", "SI-SDR", "mean", "higher", unit="dB", digits=1),)
    judge = "arXiv 1811.02508, equation 3"

    def __init__(self, *, max_delay: float) -> None:
        self.max_delay = max_delay

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict[str, Value]:
        reference_T, estimate_T, _ = align(reference, estimate, max_delay=self.max_delay)
        return {"si_sdr": si_sdr(reference_T, estimate_T)}


def si_sdr(reference_T: np.ndarray, estimate_T: np.ndarray) -> float:
    """In dB, of signals whose means are taken out. Raises NotApplicable for an exact copy, whose ratio is infinite."""
    reference_T, estimate_T = (wav_T.astype(np.float64) - wav_T.mean(dtype=np.float64) for wav_T in (reference_T, estimate_T))
    target_T = reference_T * (estimate_T @ reference_T) / (reference_T @ reference_T)
    distortion = float(np.sum((estimate_T - target_T) ** 2))
    if distortion <= 1e-12 * float(target_T @ target_T):  # float32's own rounding
        raise NotApplicable("an exact copy: the ratio is infinite")
    return 10 * float(np.log10((target_T @ target_T) / distortion))


class MelDistance:
    """Mean absolute difference of log10 mel power, averaged over window lengths; 0 for a copy, 1 for a factor of 10 everywhere.

    The logarithmic term of the Descript audio codec's multi-scale mel distance (arXiv 2306.06546), hop a quarter of the window.
    """

    columns = (Column("mel_distance", "Mel distance", "mean", "lower", digits=3),)

    def __init__(self, *, windows: list[int], bands: list[int], max_delay: float) -> None:
        if len(windows) != len(bands):
            raise ValueError(f"as many windows as numbers of bands are needed, got {len(windows)} and {len(bands)}")
        self.scales = list(zip(windows, bands))
        self.max_delay = max_delay
        self.judge = "log10 mel power, " + ", ".join(f"{count} bands over {window} samples" for window, count in self.scales)

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict[str, Value]:
        pair = align(reference, estimate, max_delay=self.max_delay)[:2]
        mels = [[log_mel(wav_T, JUDGE_RATE, window=window, bands=bands) for wav_T in pair] for window, bands in self.scales]
        return {"mel_distance": float(np.mean([np.abs(left - right).mean() for left, right in mels]))}


def log_mel(wav_T: np.ndarray, sample_rate: int, *, window: int, bands: int, hop: int | None = None) -> np.ndarray:
    """log10 of the mel power [M, N], floored at 1e-10."""
    spectrum = librosa.stft(np.asarray(wav_T, dtype=np.float32), n_fft=window, hop_length=hop or window // 4)
    return np.log10(np.maximum(_filters(sample_rate, window, bands) @ np.abs(spectrum) ** 2, 1e-10))


@lru_cache
def _filters(sample_rate: int, window: int, bands: int) -> np.ndarray:
    return librosa.filters.mel(sr=sample_rate, n_fft=window, n_mels=bands)
