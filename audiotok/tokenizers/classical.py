"""Opus and codec2 through their own programs: what speech sounds like after a codec that was designed, not trained.

They have no codes that could be stored or modelled, only sound in and sound out at a bit rate. Two rates are counted: `payload`, the
codec's own frames, and `file`, what the container adds too (an Ogg page every second and 0.1 to 0.7 kB of headers; codec2 has none).
"""

import shutil
import subprocess
from collections.abc import Iterator
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from audiotok.tokenizers.base import Transmission
from audiotok.tokenizers.batches import check_audio

OPUS_HEADERS = 2  # packets: OpusHead and OpusTags (RFC 7845)
CODEC2_FRAMES = {3200: 160, 2400: 160, 1600: 320, 1400: 320, 1300: 320, 1200: 320}  # samples of a frame, by bits per second
CODEC2_DELAY = 160  # samples; measured: STOI over 7 speakers is highest at 20 ms in both the shortest and the longest frame


class Opus:
    """Opus (RFC 6716), tuned for speech, at opusenc's variable rate around a target; its decoder takes out the delay."""

    def __init__(self, *, bits_per_second: int, sample_rate: int) -> None:
        """`bits_per_second` is the target; `sample_rate` that of the sound on both sides. Raises ValueError where a program is absent."""
        if not 6000 <= bits_per_second <= 256000:
            raise ValueError(f"opus: got {bits_per_second} bit/s for one channel; it takes 6000 to 256000")
        self.bits_per_second = float(bits_per_second)
        self.sample_rate = sample_rate
        for program in ("opusenc", "opusdec"):
            _require(program, package="opus-tools")

    @property
    def spec(self) -> NoReturn:
        """Raises ValueError: there are no codes."""
        raise _no_codes(self)

    def transmit(self, wav_T: Tensor) -> Transmission:
        """The sound after the codec, sample by sample in its old place, and what it cost."""
        check_audio(wav_T[None], torch.tensor([len(wav_T)]))
        raw = ["--raw", "--raw-rate", str(self.sample_rate), "--raw-chan", "1", "--raw-bits", "16"]
        ogg = _piped(["opusenc", "--quiet", "--bitrate", f"{self.bits_per_second / 1000:g}", "--speech", *raw, "-", "-"], _to_pcm(wav_T))
        pcm = _piped(["opusdec", "--quiet", "--no-dither", "--rate", str(self.sample_rate), "-", "-"], ogg)
        payload = sum(list(ogg_packets(ogg))[OPUS_HEADERS:])
        return Transmission(_to_wav(pcm, wav_T), payload_bits=8 * payload, file_bits=8 * len(ogg))


class Codec2:
    """codec2 (David Rowe's sinusoidal coder, 8 kHz) at one of its modes; its fixed delay is taken out."""

    sample_rate = 8000

    def __init__(self, *, bits_per_second: int) -> None:
        """Raises ValueError for a mode that it does not have, and where a program is absent."""
        if bits_per_second not in CODEC2_FRAMES:
            raise ValueError(f"codec2: got {bits_per_second} bit/s; it has {', '.join(map(str, CODEC2_FRAMES))}")
        self.bits_per_second = float(bits_per_second)
        self._mode = str(bits_per_second)
        self._frame = CODEC2_FRAMES[bits_per_second]
        for program in ("c2enc", "c2dec"):
            _require(program, package="codec2")

    @property
    def spec(self) -> NoReturn:
        """Raises ValueError: there are no codes."""
        raise _no_codes(self)

    def transmit(self, wav_T: Tensor) -> Transmission:
        """The sound after the codec, sample by sample in its old place, and what it cost."""
        check_audio(wav_T[None], torch.tensor([len(wav_T)]))
        whole_T = F.pad(wav_T, (0, CODEC2_DELAY + -(len(wav_T) + CODEC2_DELAY) % self._frame))  # c2enc drops a part of a frame
        bits = _piped(["c2enc", self._mode, "-", "-"], _to_pcm(whole_T))
        pcm = _piped(["c2dec", self._mode, "-", "-"], bits)
        return Transmission(_to_wav(pcm[2 * CODEC2_DELAY :], wav_T), payload_bits=8 * len(bits), file_bits=8 * len(bits))


def ogg_packets(ogg: bytes) -> Iterator[int]:
    """The size in bytes of each packet of an Ogg stream (RFC 3533). Raises ValueError where it is none."""
    size, position = 0, 0
    while position < len(ogg):
        if ogg[position : position + 4] != b"OggS":
            raise ValueError(f"ogg: no page begins at byte {position} of {len(ogg)}; the stream is damaged")
        laces = ogg[position + 27 : position + 27 + ogg[position + 26]]
        for lace in laces:  # a packet is cut in pieces of 255 bytes and ends with a shorter one, on this page or a later one
            size += lace
            if lace < 255:
                yield size
                size = 0
        position += 27 + len(laces) + sum(laces)


def _no_codes(codec: object) -> ValueError:
    name = type(codec).__name__.lower()
    return ValueError(f"{name} has no codes to store or to model; it can only be decoded: audiotok decode RECIPE tokenizer=NAME")


def _require(program: str, *, package: str) -> None:
    if shutil.which(program) is None:
        raise ValueError(f"{program} is not installed; apt-get install {package} (Debian, Ubuntu), or put {program} on the PATH")


def _piped(command: list[str], data: bytes) -> bytes:
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode or not done.stdout:
        reason = done.stderr.decode(errors="replace").strip().replace("\n", "; ") or f"exit status {done.returncode}, no output"
        raise ValueError(f"{command[0]} failed: {reason}")
    return done.stdout


def _to_pcm(wav_T: Tensor) -> bytes:
    return (wav_T.cpu().double() * 32768).round().clamp(-32768, 32767).to(torch.int16).numpy().astype("<i2").tobytes()


def _to_wav(pcm: bytes, like_T: Tensor) -> Tensor:
    """As many samples as `like_T` has, on its device."""
    wav_T = torch.from_numpy(np.frombuffer(pcm, "<i2").astype(np.float32) / 32768)
    if len(wav_T) < len(like_T):
        raise ValueError(f"the codec gave back {len(wav_T)} samples of {len(like_T)}; another version of its programs is installed")
    return wav_T[: len(like_T)].to(like_T.device)
