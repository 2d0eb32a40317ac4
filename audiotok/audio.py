"""Sound in and out: mono float32 in [-1, 1], and a ValueError with the reason for every file that is not that.

The only user of soundfile, PyAV and torchaudio.functional's resampler. What soundfile reads (WAV, FLAC, Ogg, MP3, ...; any rate, depth and
number of channels) and, through PyAV, raw G.722 (.g722) and AAC (.m4a, .mp4, .aac).
"""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from math import ceil, gcd
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchaudio import functional

from audiotok.files import here, whole_file

PYAV_FORMATS: dict[str, str | None] = {".g722": "g722", ".m4a": None, ".mp4": None, ".aac": None}  # None: PyAV finds out by itself
WRITTEN_FORMATS = {".wav": "WAV", ".flac": "FLAC"}
BLOCK_SAMPLES = 1 << 20
UNRECOGNISED = 1  # libsndfile's SF_ERR_UNRECOGNISED_FORMAT
LOUDEST = 2.0  # lossy codecs overshoot full scale by a little; more than 6 dB means a file whose samples were never scaled to [-1, 1]
MOST_CHANNELS = 64
MOST_SAMPLES = (
    1 << 28
)  # of all channels, 1 GiB as float32: 93 minutes of 48 kHz mono. A few KB of FLAC can say more silence than fits into memory
HIGHEST_RATE = 768_000  # Hz
LARGEST_FILTER = 1 << 24  # numbers, of the resampler: a rate such as 16,001 Hz, which is rather a damaged header, takes a GB
FILTER_WIDTH = 64  # zero crossings
STREAMED = 0x7FFF0000  # a WAV that went through a pipe declares a length near 2 or 4 GB
WAV_PADDING = 16  # bytes: some writers count a pad byte or the last block wrongly, which loses no sound


def read(path: str | Path) -> tuple[Tensor, int]:
    """(wav_T, sample rate in Hz): channels averaged, float32 in [-1, 1]. Raises ValueError as `read_channels` does."""
    wav_CT, sample_rate = read_channels(path)
    return wav_CT.mean(dim=0), sample_rate


def read_channels(path: str | Path, *, max_seconds: float | None = None) -> tuple[Tensor, int]:
    """(wav_CT, sample rate in Hz), float32 in [-1, 1].

    Raises ValueError with the reason for a file that is missing, empty, no audio, broken off (a truncated FLAC, MP3 or WAV), holds NaN or
    infinity or unscaled samples, more channels, more samples or a higher rate than any recording has, or lasts longer than `max_seconds`,
    of which no more than that is read. Memory: twice the samples, whatever the file declares.
    """
    path = here(Path(path))
    _refuse_absent(path)
    decode = _pyav_blocks if path.suffix.lower() in PYAV_FORMATS else _soundfile_blocks
    wav_CT, sample_rate = _join(path, decode, max_seconds)
    return _checked(path, wav_CT), sample_rate


def _refuse_absent(path: Path) -> None:
    try:
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        if path.stat().st_size == 0:
            raise ValueError(f"{path}: the file is empty (0 bytes)")
    except OSError as error:
        raise ValueError(f"{path}: cannot be opened: {error.strerror}") from error


def _join(path: Path, decode: Callable[[Path], Iterator[tuple[np.ndarray, int]]], max_seconds: float | None) -> tuple[Tensor, int]:
    blocks, samples, sample_rate = [], 0, 0
    for block_CT, sample_rate in decode(path):
        blocks.append(block_CT)
        samples += block_CT.shape[1]
        _refuse_monstrous(path, channels=len(block_CT), samples=samples, sample_rate=sample_rate)
        if max_seconds is not None and samples > max_seconds * sample_rate:
            raise ValueError(f"{path}: lasts more than {max_seconds:g} s")
    if samples == 0:
        raise ValueError(f"{path}: holds no samples")
    return torch.from_numpy(np.concatenate(blocks, axis=1)), sample_rate


def _refuse_monstrous(path: Path, *, channels: int, samples: int, sample_rate: int) -> None:
    """What no recording has, but a damaged or hostile header may declare and a decoder then unfold."""
    if channels > MOST_CHANNELS or not 1 <= sample_rate <= HIGHEST_RATE:
        raise ValueError(f"{path}: {channels} channels at {sample_rate} Hz; at most {MOST_CHANNELS} at {HIGHEST_RATE} Hz are read")
    if channels * samples > MOST_SAMPLES:
        raise ValueError(f"{path}: holds more than {MOST_SAMPLES} samples in {channels} channels; cut it into pieces")


def _soundfile_blocks(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    try:
        with soundfile.SoundFile(path) as file:
            read_samples = 0
            _refuse_monstrous(path, channels=file.channels, samples=0, sample_rate=file.samplerate)
            while len(block_TC := file.read(BLOCK_SAMPLES // file.channels, dtype="float32", always_2d=True)):
                read_samples += len(block_TC)
                yield block_TC.T, file.samplerate
            _refuse_truncated(path, file, read_samples)
    except soundfile.LibsndfileError as error:
        problem = "no audio, or of an unknown format" if error.code == UNRECOGNISED else "truncated or damaged"
        raise ValueError(f"{path}: {problem}: {error.error_string.removeprefix('Error : ')}") from error


def _refuse_truncated(path: Path, file: soundfile.SoundFile, read_samples: int) -> None:
    """libsndfile shortens a truncated WAV without a word and only its log tells; other formats declare more frames than come."""
    if read_samples < file.frames < STREAMED:
        raise ValueError(f"{path}: truncated: {read_samples} samples of {file.frames} declared")
    sizes = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if sizes and int(sizes[2]) + WAV_PADDING < int(sizes[1]) < STREAMED:
        raise ValueError(f"{path}: truncated: {sizes[2]} bytes of sound of {sizes[1]} declared")


def _pyav_blocks(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    try:
        with av.open(str(path), format=PYAV_FORMATS[path.suffix.lower()]) as container:
            if not container.streams.audio:
                raise ValueError(f"{path}: has no audio stream")
            to_float = av.AudioResampler(format="fltp")
            for frame in container.decode(audio=0):
                for block in to_float.resample(frame):
                    yield block.to_ndarray(), frame.sample_rate
    except av.FFmpegError as error:
        raise ValueError(f"{path}: cannot be decoded: {error.strerror}") from error


def _checked(path: Path, wav_CT: Tensor) -> Tensor:
    bad = int((~torch.isfinite(wav_CT)).sum())
    if bad:
        raise ValueError(f"{path}: {bad} of {wav_CT.numel()} samples are NaN or infinite")
    peak = float(wav_CT.abs().max())
    if peak > LOUDEST:
        raise ValueError(f"{path}: samples reach {peak:g}, wanted [-1, 1]; scale them (16-bit values by 1/32768)")
    return wav_CT.clamp(-1, 1) if peak > 1 else wav_CT


def write(path: str | Path, wav_T: Tensor, sample_rate: int) -> None:
    """Mono 16-bit WAV or FLAC by the suffix, whole or absent; what `read` returns of a 16-bit file is written back to the bit.

    Samples beyond [-1, 1] are clipped, with a warning that counts them. Raises ValueError for NaN, infinity, no samples, more than one
    dimension or another suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITTEN_FORMATS:
        raise ValueError(f"{path}: audio is written as {' or '.join(WRITTEN_FORMATS)}, by the suffix of its name")
    if wav_T.dim() != 1 or not len(wav_T):
        raise ValueError(f"{path}: one channel [samples] can be written, got the shape {tuple(wav_T.shape)}")
    wav_T = wav_T.detach().to("cpu", torch.float64)
    if not torch.isfinite(wav_T).all():
        raise ValueError(f"{path}: {int((~torch.isfinite(wav_T)).sum())} of {len(wav_T)} samples to write are NaN or infinite")
    if clipped := int((wav_T.abs() > 1).sum()):
        warnings.warn(f"{path}: {clipped} of {len(wav_T)} samples clipped, the peak is {float(wav_T.abs().max()):.3f}", stacklevel=2)
    pcm_T = (wav_T * 32768).round().clamp(-32768, 32767).to(torch.int16)
    sound = BytesIO()  # of a file that cannot be written soundfile does not tell why
    soundfile.write(sound, pcm_T.numpy(), sample_rate, format=WRITTEN_FORMATS[path.suffix.lower()], subtype="PCM_16")
    with whole_file(path) as partial:
        partial.write_bytes(sound.getbuffer())


def resample(wav: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """The last axis at another rate, ceil(T * to_rate / from_rate) samples.

    torchaudio's windowed sinc rather than soxr: it takes batches on any device and lets gradients through. Its default filter is short (6
    zero crossings); these are its published settings for the quality of resampy's kaiser_best, -100 dB outside the band.
    """
    if min(from_rate, to_rate) < 1:
        raise ValueError(f"sample rates are positive, got {from_rate} and {to_rate} Hz")
    if from_rate == to_rate:
        return wav
    common = gcd(from_rate, to_rate)
    size = (to_rate // common) * (from_rate // common + 2 * ceil(FILTER_WIDTH * from_rate / min(from_rate, to_rate)))
    if size > LARGEST_FILTER:
        raise ValueError(f"from {from_rate} to {to_rate} Hz takes a filter of {size} numbers; convert the recording to a usual rate first")
    return functional.resample(
        wav,
        from_rate,
        to_rate,
        lowpass_filter_width=FILTER_WIDTH,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    )


def pad(wavs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(wav_BT, lengths_B) of utterances [T], zeros behind the shorter ones."""
    if not wavs:
        raise ValueError("nothing to pad: the batch is empty")
    return pad_sequence(list(wavs), batch_first=True), torch.tensor([len(wav_T) for wav_T in wavs])
