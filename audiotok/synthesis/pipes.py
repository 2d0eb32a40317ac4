"""Sound through pipes: a WAV read as it comes."""

import wave
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor


def wav_pieces(file: BinaryIO, *, sample_rate: int, seconds: float) -> Iterator[Tensor]:
    """wav_T in [-1, 1], `seconds` of it at a time, of a mono 16-bit WAV whose header may not know how long it is.

    Raises ValueError for another format, rate or number of channels: what comes through a pipe is not resampled.
    """
    wanted = f"mono 16-bit WAV at {sample_rate} Hz (sox IN -t wav -r {sample_rate} -c 1 -b 16 -)"
    try:
        reader = wave.open(file, "rb")  # noqa: SIM115, it is whoever opened it who closes it
    except (wave.Error, EOFError) as error:
        raise ValueError(f"standard input: got no whole header of a WAV{f' ({error})' if str(error) else ''}, wanted {wanted}") from None
    got = f"{reader.getnchannels()} channels of {8 * reader.getsampwidth()} bits at {reader.getframerate()} Hz"
    if (reader.getnchannels(), reader.getsampwidth(), reader.getframerate()) != (1, 2, sample_rate):
        raise ValueError(f"standard input: got {got}, wanted {wanted}")
    while read := reader.readframes(round(seconds * sample_rate)):
        yield torch.from_numpy(np.frombuffer(read[: len(read) // 2 * 2], dtype="<i2").astype(np.float32) / 32768)
