"""Sound and codes as data: URIs, so that a page needs no other file."""

import io
import tempfile
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image
from torch import Tensor

from audiotok import audio
from audiotok.evaluation.metric import JUDGE_RATE, Utterance
from audiotok.evaluation.reconstruction import log_mel

WINDOW, HOP, BANDS = 640, 160, 80  # at 16 kHz: 40 ms every 10 ms
MOST_COLUMNS = 4000  # of a drawing of codes: several times what a screen shows of it
SHOWN_DECADES = 6.5  # of power below the loudest point of an example: 65 dB


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"


def sound(utterance: Utterance) -> str:
    """The utterance as FLAC at its own rate: lossless, half the size of WAV, and every browser plays it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.flac"
        audio.write(path, utterance.wav_T, utterance.sample_rate)
        return data_uri(path.read_bytes(), "audio/flac")


def spectrogram(utterance: Utterance) -> np.ndarray:
    """log10 of the mel power [M, N], 80 bands to 8 kHz, 100 frames a second, whatever the sample rate was."""
    wav_T = utterance.at(JUDGE_RATE).wav_T.numpy()
    return log_mel(wav_T, JUDGE_RATE, window=WINDOW, bands=BANDS, hop=HOP)


def spectrogram_image(mel_MN: np.ndarray, *, loudest: float) -> str:
    """PNG, low frequencies at the bottom; `loudest` (log10 power) is drawn brightest, so that one scale serves several systems."""
    return _png(np.clip((mel_MN - loudest) / SHOWN_DECADES + 1, 0, 1), colours="magma")


def codes_image(codes_KN: Tensor | np.ndarray, sizes: Sequence[int]) -> str:
    """PNG with a pixel a code, the first codebook at the bottom; its colour is the code's place in a codebook of that size.

    Of more than 4,000 frames every n-th is drawn, so that there are at most as many columns.
    """
    # a tokenizer with a frame for every sample has 100,000 in a few seconds: megabytes that no screen shows, and more than browsers draw
    codes_KN = codes_KN[:, :: max(1, -(-codes_KN.shape[1] // MOST_COLUMNS))]
    places_KN = np.asarray(codes_KN, dtype=np.float64) / np.maximum(np.asarray(sizes, dtype=np.float64) - 1, 1)[:, None]
    return _png(np.clip(places_KN, 0, 1), colours="viridis")


FATES = {"stands": (33, 138, 99), "corrected": (209, 98, 43), "added": (122, 127, 135)}  # red, green, blue


def fates(rounds: Sequence[Sequence[int]]) -> list[str]:
    """Of each position whether it was drafted and stands, corrects a draft that does not, or was added behind drafts that all do."""
    told: list[str] = []
    for drafted, accepted in rounds:
        told += ["stands"] * accepted + ["corrected" if accepted < drafted else "added"]
    return told


def fates_image(rounds: Sequence[Sequence[int]]) -> str:
    """PNG with a pixel a position."""
    colours = np.array([FATES[fate] for fate in fates(rounds)], dtype=np.uint8)[None]
    buffer = io.BytesIO()
    Image.fromarray(colours, mode="RGB").save(buffer, format="PNG", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")


def _png(shares: np.ndarray, *, colours: str) -> str:
    """A palette image: a third of the bytes of the same in RGB."""
    image = Image.fromarray(np.flipud(np.round(shares * 255)).astype(np.uint8), mode="L")
    palette = np.round(matplotlib.colormaps[colours](np.arange(256))[:, :3] * 255).astype(np.uint8)
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")
