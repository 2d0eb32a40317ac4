"""Signal-to-distortion ratios and the multi-resolution spectral distance, in the definitions that the literature mixes up.

What is called SDR of one pair of signals differs by tens of dB between definitions, and by as much again with a few samples of delay. So
each definition has its own column, and where a column is of signals that were not aligned its name says so.

    sdr       20 log10 |x| / |x - y|                      gain and delay count as distortion
    si_sdr    the same with x scaled onto y               gain does not
    bss_sdr   the same with x filtered onto y by L taps   nor does any filter of L taps (BSS Eval version 3, L = 512)
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import toeplitz
from torch import Tensor

from audiotok.evaluation.metric import Column, NotApplicable, Utterance, Value, speech_of
from audiotok.evaluation.reconstruction import MIN_SECONDS, align, si_sdr

COPY = 1e-12  # distortion, as a share of the energy, that float32's own rounding makes
QUIETEST = 1e-7  # power below which a spectrum is flat: that of Parallel WaveGAN's loss

Ratio = Callable[[np.ndarray, np.ndarray], float]


class Sdr:
    """Signal-to-distortion ratio in dB as it comes, and once the delay is taken out. A gain counts as distortion in both."""

    columns = (
        Column("sdr_raw", "SDR, not aligned", "mean", "higher", unit="dB", digits=1),
        Column("sdr", "SDR", "mean", "higher", unit="dB", digits=1),
    )
    judge = "10 log10 |x|^2 / |x - y|^2"

    def __init__(self, *, max_delay: float) -> None:
        self.max_delay = max_delay

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict[str, Value]:
        raw, aligned, _ = raw_and_aligned(sdr, reference, estimate, max_delay=self.max_delay)
        return {"sdr_raw": raw, "sdr": aligned}


class RawSiSdr:
    """SI-SDR in dB as it comes, once the delay is taken out, and that delay.

    Where the two differ, a benchmark that does not align reports the delay and not the codec: DAC's SI-SNR of -9 dB beside a PESQ of 4.45
    in the survey of discrete audio tokens.
    """

    columns = (
        Column("si_sdr_raw", "SI-SDR, not aligned", "mean", "higher", unit="dB", digits=1),
        Column("si_sdr_aligned", "SI-SDR, aligned", "mean", "higher", unit="dB", digits=1),
        Column("si_sdr_delay", "by", "mean", unit="samples", digits=1),
    )
    judge = "arXiv 1811.02508, equation 3"

    def __init__(self, *, max_delay: float) -> None:
        self.max_delay = max_delay

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict[str, Value]:
        raw, aligned, lag = raw_and_aligned(si_sdr, reference, estimate, max_delay=self.max_delay)
        return {"si_sdr_raw": raw, "si_sdr_aligned": aligned, "si_sdr_delay": float(lag)}


class BssSdr:
    """SDR in dB after BSS Eval version 3 (Vincent et al. 2006): any filter of `taps` taps is allowed to the estimate.

    A codec that colours the sound loses nothing here; one that makes up its phase does. The filter reaches half of its taps to either side
    of the delay that was found: with its beginning there, a codec that colours without delay (zero phase) would be half outside.
    """

    columns = (Column("bss_sdr", "BSS SDR", "mean", "higher", unit="dB", digits=1),)

    def __init__(self, *, taps: int, max_delay: float) -> None:
        if taps < 1:
            raise ValueError(f"BSS SDR: a filter has at least one tap, got {taps}; BSS Eval version 3 takes 512")
        self.taps = taps
        self.max_delay = max_delay
        self.judge = f"BSS Eval version 3, {taps} taps, centred"

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict[str, Value]:
        reference_T, estimate_T, _ = align(reference, estimate, max_delay=self.max_delay)
        margin = self.taps // 2
        return {"bss_sdr": bss_sdr(np.pad(reference_T, (0, margin)), np.pad(estimate_T, (margin, 0)), taps=self.taps)}


class StftDistance:
    """Spectral convergence and log-magnitude distance, each averaged over resolutions, and their sum (arXiv 1910.11480).

    The distance of log magnitudes is a mean of natural logarithms: 0.1 is 0.9 dB.
    """

    columns = (
        Column("stft_distance", "STFT distance", "mean", "lower", digits=3),
        Column("spectral_convergence", "Spectral convergence", "mean", "lower", digits=3),
        Column("log_stft_distance", "Log STFT distance", "mean", "lower", digits=3),
    )

    def __init__(self, *, fft_sizes: list[int], hops: list[int], windows: list[int], max_delay: float) -> None:
        if not len(fft_sizes) == len(hops) == len(windows) > 0:
            raise ValueError(
                f"STFT distance: as many hops and windows as FFT sizes are needed, got {len(fft_sizes)}, {len(hops)} and {len(windows)}"
            )
        self.resolutions = list(zip(fft_sizes, hops, windows))
        self.max_delay = max_delay
        self.judge = "arXiv 1910.11480, FFT/hop/window " + ", ".join("/".join(map(str, sizes)) for sizes in self.resolutions)

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict[str, Value]:
        reference_T, estimate_T, _ = align(reference, estimate, max_delay=self.max_delay)
        pair = [stft_distance(reference_T, estimate_T, fft_size=size, hop=hop, window=window) for size, hop, window in self.resolutions]
        convergence, log_magnitude = (float(value) for value in np.mean(pair, axis=0))
        return {
            "stft_distance": convergence + log_magnitude,
            "spectral_convergence": convergence,
            "log_stft_distance": log_magnitude,
        }


def raw_and_aligned(ratio: Ratio, reference: Utterance, estimate: Utterance, *, max_delay: float) -> tuple[float, float, int]:
    """(ratio of the samples as they come, ratio once the delay is taken out, delay in samples).

    What comes is cut to the shorter of the two, as VERSA does. Raises as `align` does, and NotApplicable for an exact copy.
    """
    reference_T, estimate_T, lag = align(reference, estimate, max_delay=max_delay)
    aligned = ratio(reference_T, estimate_T)
    raw = [speech_of(utterance, min_seconds=MIN_SECONDS) for utterance in (reference, estimate)]
    length = min(map(len, raw))
    return ratio(raw[0][:length], raw[1][:length]), aligned, lag


def sdr(reference_T: np.ndarray, estimate_T: np.ndarray) -> float:
    """10 log10 |x|^2 / |x - y|^2 in dB. Raises NotApplicable for an exact copy."""
    reference_T, estimate_T = reference_T.astype(np.float64), estimate_T.astype(np.float64)
    return _decibels(float(reference_T @ reference_T), float(np.sum((reference_T - estimate_T) ** 2)))


def bss_sdr(reference_T: np.ndarray, estimate_T: np.ndarray, *, taps: int) -> float:
    """The energy of y that a filter of `taps` taps makes of x, over the rest, in dB. Raises NotApplicable for an exact copy.

    The filter delays by 0 to taps - 1 samples. It solves the normal equations, autocorrelation of x (a Toeplitz matrix) times filter =
    cross-correlation of x and y, by least squares: Levinson's recursion is faster and gave no number at all for a few pure tones.
    """
    reference_T, estimate_T = (wav_T.astype(np.float64) / np.linalg.norm(wav_T) for wav_T in (reference_T, estimate_T))
    size = 1 << (len(reference_T) + len(estimate_T) + taps).bit_length()
    spectrum = np.fft.rfft(reference_T, size)
    autocorrelation_L = np.fft.irfft(np.abs(spectrum) ** 2, size)[:taps]
    crosscorrelation_L = np.fft.irfft(spectrum.conj() * np.fft.rfft(estimate_T, size), size)[:taps]
    filter_L = np.linalg.lstsq(toeplitz(autocorrelation_L), crosscorrelation_L)[0]
    projected_T = np.fft.irfft(np.fft.rfft(filter_L, size) * spectrum, size)
    distortion_T = projected_T.copy()  # with the tail that the filter adds
    distortion_T[: len(estimate_T)] -= estimate_T
    return _decibels(float(projected_T @ projected_T), float(distortion_T @ distortion_T))


def _decibels(signal: float, distortion: float) -> float:
    if distortion <= COPY * signal:
        raise NotApplicable("an exact copy: the ratio is infinite")
    return 10 * float(np.log10(signal / distortion))


def stft_distance(reference_T: np.ndarray, estimate_T: np.ndarray, *, fft_size: int, hop: int, window: int) -> tuple[float, float]:
    """(|X - Y| / |X| over all bins, mean |log X - log Y|) of the magnitudes X and Y at one resolution."""
    reference, estimate = (_magnitude(torch.from_numpy(wav_T), fft_size, hop, window) for wav_T in (reference_T, estimate_T))
    convergence = (reference - estimate).norm() / reference.norm()
    return float(convergence), float((reference.log() - estimate.log()).abs().mean())


def _magnitude(wav_T: Tensor, fft_size: int, hop: int, window: int) -> Tensor:
    hann = torch.hann_window(window, dtype=torch.float64)
    spectrum = torch.stft(wav_T.double(), fft_size, hop, window, hann, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=QUIETEST).sqrt()
