"""Whether the melody of speech is kept: its fundamental frequency (F0), and where there is one.

F0 is found as Praat finds it (Boersma 1993, "To Pitch (ac)"): peaks of the autocorrelation, and the cheapest path through them over time.
librosa's pYIN took 0.2 s per second of speech and called unvoiced what Praat calls voiced in a tenth to a third of the frames; its YIN
makes no decision of voicing at all. This takes 10 ms per second, and Praat itself is there to check it against.
"""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from audiotok.evaluation.metric import JUDGE_RATE, Column, MetricFailure, NotApplicable, Utterance, Value
from audiotok.evaluation.reconstruction import align

HOP = 160  # samples: 10 ms, for which the costs below are given
FEWEST_FRAMES = 10  # 0.1 s: a correlation of less says nothing
GROSS = 0.2  # of F0: the usual bound (Rabiner et al. 1976)
CONSTANT = 1e-3  # of the mean: 2 cents, where the tracker's own errors begin
# The published settings of Praat.
CANDIDATES = 14  # beside "unvoiced"
SILENCE = 0.03  # of the loudest peak: quieter frames lean to unvoiced
VOICING = 0.45  # strength of "unvoiced"
OCTAVE_COST = 0.01  # per octave below the ceiling
OCTAVE_JUMP_COST = 0.35  # per octave between frames
VOICING_CHANGE_COST = 0.14
PERIODS = 3  # of the lowest F0 in a window


@dataclass(frozen=True)
class PitchRange:
    """Hz between which F0 is looked for."""

    lowest: float
    highest: float

    def __post_init__(self) -> None:
        if not 0 < self.lowest < self.highest < JUDGE_RATE / 4:
            raise ValueError(f"F0 lies between two positive frequencies in Hz, got {self.lowest} and {self.highest}; take 60 and 500")


class PitchAccuracy:
    """Correlation of F0 in Hz, its root mean square error in cents, and the share of frames that are off by more than 20 %.

    Over the frames that are voiced in both, after alignment. An octave error of the tracker counts like one of the codec, 1200 cents: read
    the error beside the share of gross ones. Raises NotApplicable where the recording has no voice, and
    MetricFailure where fewer than 0.1 s are voiced in both; `VoicingError` has a score there.
    """

    columns = (
        Column("f0_correlation", "F0 correlation", "mean", "higher", digits=3),
        Column("f0_rmse", "F0 RMSE", "mean", "lower", unit="cents", digits=1),
        Column("f0_gross_error", "F0 gross error", "mean", "lower", unit="%", scale=100, digits=1),
    )

    def __init__(self, *, lowest: float, highest: float, max_delay: float) -> None:
        self.limits = PitchRange(lowest, highest)
        self.max_delay = max_delay
        self.judge = _judge(self.limits)

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict[str, Value]:
        reference_N, estimate_N = aligned_pitch(reference, estimate, self.limits, max_delay=self.max_delay)
        both_N = (reference_N > 0) & (estimate_N > 0)
        if both_N.sum() < FEWEST_FRAMES:
            raise MetricFailure(f"F0: {both_N.sum()} frames of 10 ms are voiced in both, {FEWEST_FRAMES} are needed")
        return {
            "f0_correlation": correlation(reference_N[both_N], estimate_N[both_N]),
            "f0_rmse": cents(reference_N[both_N], estimate_N[both_N]),
            "f0_gross_error": float(np.mean(np.abs(estimate_N[both_N] / reference_N[both_N] - 1) > GROSS)),
        }


class VoicingError:
    """The share of frames of 10 ms that are voiced in one and unvoiced in the other. Raises NotApplicable for a recording without voice."""

    columns = (Column("voicing_error", "Voicing error", "mean", "lower", unit="%", scale=100, digits=1),)

    def __init__(self, *, lowest: float, highest: float, max_delay: float) -> None:
        self.limits = PitchRange(lowest, highest)
        self.max_delay = max_delay
        self.judge = _judge(self.limits)

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict[str, Value]:
        reference_N, estimate_N = aligned_pitch(reference, estimate, self.limits, max_delay=self.max_delay)
        return {"voicing_error": float(np.mean((reference_N > 0) != (estimate_N > 0)))}


def _judge(limits: PitchRange) -> str:
    return f"autocorrelation after Boersma 1993, {limits.lowest:g} to {limits.highest:g} Hz"


def aligned_pitch(reference: Utterance, estimate: Utterance, limits: PitchRange, *, max_delay: float) -> tuple[np.ndarray, np.ndarray]:
    """F0 of the parts that both have. Raises as `align` does, and NotApplicable where the recording has no voiced frame."""
    reference_T, estimate_T, _ = align(reference, estimate, max_delay=max_delay)
    reference_N = pitch(reference_T, limits)
    if not reference_N.any():
        raise NotApplicable("the recording has no voiced frame")
    return reference_N, pitch(estimate_T, limits)


def correlation(reference_N: np.ndarray, estimate_N: np.ndarray) -> float:
    """Pearson's. Raises MetricFailure where one of them is constant."""
    if min(float(f0_N.std() / f0_N.mean()) for f0_N in (reference_N, estimate_N)) < CONSTANT:
        raise MetricFailure("F0: the pitch is constant, nothing can correlate with it")
    return float(np.corrcoef(reference_N, estimate_N)[0, 1])


def cents(reference_N: np.ndarray, estimate_N: np.ndarray) -> float:
    """Root mean square of the interval, in hundredths of a semitone."""
    return 1200 * float(np.sqrt(np.mean(np.log2(estimate_N / reference_N) ** 2)))


def pitch(wav_T: np.ndarray, limits: PitchRange) -> np.ndarray:
    """F0 in Hz of a frame every 10 ms, frame n around sample n x 160, 0 where unvoiced. `wav_T` at `JUDGE_RATE`."""
    frames_NW, intensity_N = _frames(np.asarray(wav_T, dtype=np.float64), limits)
    f0_NC, strength_NC = _candidates(frames_NW, limits)
    return _cheapest_path(f0_NC, strength_NC, intensity_N, limits)


def _frames(wav_T: np.ndarray, limits: PitchRange) -> tuple[np.ndarray, np.ndarray]:
    """(windows of three periods of the lowest F0, the peak of the middle period of each relative to that of the whole)."""
    period = int(JUDGE_RATE / limits.lowest)
    half = PERIODS * period // 2
    windows = sliding_window_view(np.pad(wav_T, half), 2 * half)[::HOP]
    middle_NW = windows[:, half - period : half + period]
    frames_NW = windows - middle_NW.mean(axis=1, keepdims=True)
    peak_N = np.abs(frames_NW[:, half - period // 2 : half + period // 2]).max(axis=1)
    loudest = np.abs(wav_T - wav_T.mean()).max()
    return frames_NW, np.minimum(peak_N / loudest, 1)


def _candidates(frames_NW: np.ndarray, limits: PitchRange) -> tuple[np.ndarray, np.ndarray]:
    """(F0 in Hz, strength) of the strongest peaks of each frame's autocorrelation, [N, CANDIDATES]; strength -inf where there are fewer.

    The autocorrelation is divided by that of the window: a periodic sound then has the same strength at every multiple of its period.
    """
    width = frames_NW.shape[1]
    window_W = np.hanning(width + 2)[1:-1]
    longest = int(JUDGE_RATE / limits.lowest) + 2
    correlation_NL = _autocorrelation(frames_NW * window_W, longest) / _autocorrelation(window_W[None], longest)
    left, middle, right = correlation_NL[:, :-2], correlation_NL[:, 1:-1], correlation_NL[:, 2:]
    curvature = 2 * middle - left - right
    is_peak = (middle > left) & (middle >= right) & (middle > VOICING / 2)
    offset = np.divide(right - left, 2 * curvature, out=np.zeros_like(middle), where=is_peak)  # the top of a parabola through the three
    strength = middle + (right - left) * offset / 4
    f0 = JUDGE_RATE / (np.arange(1, longest - 1) + offset)
    usable = is_peak & (f0 >= limits.lowest) & (f0 <= limits.highest)
    strength = np.where(strength > 1, 1 / np.maximum(strength, 1), strength)
    strength = np.where(usable, strength - OCTAVE_COST * np.log2(limits.highest / f0), -np.inf)
    best_NC = np.argsort(-strength, axis=1, kind="stable")[:, :CANDIDATES]
    return np.take_along_axis(f0, best_NC, axis=1), np.take_along_axis(strength, best_NC, axis=1)


def _autocorrelation(frames_NW: np.ndarray, lags: int) -> np.ndarray:
    """At the lags 0 to lags - 1, divided by that at 0; 0 for a frame of zeros."""
    size = 1 << (frames_NW.shape[1] + lags).bit_length()
    correlation_NL = np.fft.irfft(np.abs(np.fft.rfft(frames_NW, size)) ** 2, size)[:, :lags]
    return correlation_NL / np.maximum(correlation_NL[:, :1], 1e-30)


def _cheapest_path(f0_NC: np.ndarray, strength_NC: np.ndarray, intensity_N: np.ndarray, limits: PitchRange) -> np.ndarray:
    """F0 of each frame along the path of the highest strength less the costs of its jumps. State 0 is "unvoiced"."""
    unvoiced_N = VOICING + np.maximum(0, 2 - intensity_N * (1 + VOICING) / SILENCE)
    strength_NS = np.concatenate([unvoiced_N[:, None], strength_NC], axis=1)
    octaves_NS = np.concatenate([np.zeros((len(f0_NC), 1)), np.log2(f0_NC / limits.lowest)], axis=1)
    total_S, origins = strength_NS[0], []
    for before_S, now_S, gain_S in zip(octaves_NS[:-1], octaves_NS[1:], strength_NS[1:]):
        cost_SS = OCTAVE_JUMP_COST * np.abs(before_S[:, None] - now_S[None])
        cost_SS[0], cost_SS[:, 0] = VOICING_CHANGE_COST, VOICING_CHANGE_COST
        cost_SS[0, 0] = 0
        reached_SS = total_S[:, None] - cost_SS
        origins.append(reached_SS.argmax(axis=0))
        total_S = reached_SS.max(axis=0) + gain_S
    states = [int(total_S.argmax())]
    for origin_S in reversed(origins):
        states.append(int(origin_S[states[-1]]))
    states_N = np.array(states[::-1])
    f0_NS = np.concatenate([np.zeros((len(f0_NC), 1)), f0_NC], axis=1)
    return f0_NS[np.arange(len(states_N)), states_N]
