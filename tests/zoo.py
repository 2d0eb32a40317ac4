"""Bad and odd audio files made of real speech, for the tests of reading and of preparing."""

from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 16000


def bad_files(folder: Path, wav_T: np.ndarray) -> dict[Path, str]:
    """Files that hold no usable sound, each with a regular expression of the reason that must be given."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        _written(folder / "empty.wav", b""): "empty",
        _written(folder / "empty.g722", b""): "empty",
        _written(folder / "text.wav", b"a text that was renamed\n" * 50): "no audio",
        _written(folder / "text.m4a", b"a text that was renamed\n" * 50): "cannot be decoded",
        _truncated(folder, "flac", wav_T): "truncated",
        _written(folder / "stump.flac", _encoded(folder / "stump.flac", wav_T).read_bytes()[:5000]): "truncated",
        _truncated(folder, "mp3", wav_T): "truncated",
        _truncated(folder, "wav", wav_T): "truncated",
        _with_sample(folder / "nan.wav", wav_T, np.nan): "1 of .* NaN or infinite",
        _with_sample(folder / "infinite.wav", wav_T, np.inf): "1 of .* NaN or infinite",
        _encoded(folder / "unscaled.wav", wav_T * 32768, subtype="FLOAT"): r"wanted \[-1, 1\]",
        _no_channels(folder / "no_channels.wav", wav_T): "[Cc]hannel",
        _header_only(folder / "header_only.wav", wav_T): "no samples",
    }


def odd_files(folder: Path, wav_T: np.ndarray) -> dict[Path, tuple[int, bool]]:
    """Good files of every kind, each with its rate and whether it is used as it lies (one channel, WAV or FLAC)."""
    folder.mkdir(parents=True, exist_ok=True)
    two = np.stack([wav_T, 0.5 * wav_T], axis=1)
    files = {_encoded(folder / f"rate_{rate}.wav", wav_T, rate=rate): (rate, True) for rate in (8000, 22050, 44100, 48000, 96000)}
    return files | {
        _encoded(folder / "depth_24.wav", wav_T, subtype="PCM_24"): (RATE, True),
        _encoded(folder / "depth_24.flac", wav_T, subtype="PCM_24"): (RATE, True),
        _encoded(folder / "depth_8.wav", wav_T, subtype="PCM_U8"): (RATE, True),
        _encoded(folder / "float_32.wav", wav_T, subtype="FLOAT"): (RATE, True),
        _encoded(folder / "float_64.wav", wav_T, subtype="DOUBLE"): (RATE, True),
        _encoded(folder / "stereo.wav", two): (RATE, False),
        _encoded(folder / "stereo.flac", two): (RATE, False),
        _encoded(folder / "vorbis.ogg", wav_T): (RATE, False),
        _encoded(folder / "layer_3.mp3", wav_T): (RATE, False),
        through_pyav(folder / "speech.g722", wav_T, codec="g722", container="g722"): (RATE, False),
        through_pyav(folder / "speech.m4a", wav_T, codec="aac", container="mp4"): (RATE, False),
    }


def through_pyav(path: Path, wav_T: np.ndarray, *, codec: str, container: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pcm = (np.clip(wav_T, -1, 1) * 32767).astype(np.int16)[None]
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm), format="s16", layout="mono")
        frame.sample_rate = RATE
        for part in av.AudioResampler(stream.format, "mono", RATE, frame_size=stream.frame_size or len(wav_T)).resample(frame):
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return path


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _encoded(path: Path, wav: np.ndarray, *, rate: int = RATE, subtype: str | None = None) -> Path:
    soundfile.write(path, wav, rate, subtype=subtype)
    return path


def _truncated(folder: Path, suffix: str, wav_T: np.ndarray) -> Path:
    whole = _encoded(folder / f"truncated.{suffix}", np.tile(wav_T, 3))
    return _written(whole, whole.read_bytes()[: whole.stat().st_size // 2])


def _with_sample(path: Path, wav_T: np.ndarray, value: float) -> Path:
    wav_T = wav_T.copy()
    wav_T[100] = value
    return _encoded(path, wav_T, subtype="FLOAT")


def _no_channels(path: Path, wav_T: np.ndarray) -> Path:
    content = bytearray(_encoded(path, wav_T).read_bytes())
    content[22:24] = b"\0\0"
    return _written(path, bytes(content))


def _header_only(path: Path, wav_T: np.ndarray) -> Path:
    content = bytearray(_encoded(path, wav_T).read_bytes()[:44])
    content[4:8], content[40:44] = (36).to_bytes(4, "little"), bytes(4)
    return _written(path, bytes(content))
