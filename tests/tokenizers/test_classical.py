"""Opus and codec2: aligned, as long as what went in, near their rates, and what they cost counted to the byte."""

import shutil
import struct
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from audiotok import audio
from audiotok.evaluation.metric import Utterance
from audiotok.evaluation.reconstruction import Delay, Pesq, Stoi
from audiotok.tokenizers.base import WaveformCodec
from audiotok.tokenizers.classical import Codec2, Opus, ogg_packets


def opus_6k() -> Opus:
    if shutil.which("opusenc") is None:
        pytest.skip("opusenc is not installed (apt-get install opus-tools)")
    return Opus(bits_per_second=6000, sample_rate=16000)


def codec2(bits_per_second: int) -> Codec2:
    if shutil.which("c2enc") is None:
        pytest.skip("c2enc is not installed (apt-get install codec2)")
    return Codec2(bits_per_second=bits_per_second)


MAKERS = {"opus_6k": opus_6k, "codec2_3200": lambda: codec2(3200), "codec2_1200": lambda: codec2(1200)}


@pytest.fixture(scope="module", params=MAKERS)
def codec(request: pytest.FixtureRequest) -> WaveformCodec:
    return MAKERS[request.param]()


@pytest.fixture(scope="module")
def long_16k(speech: Path) -> Tensor:
    """Fifteen seconds of three speakers of LibriSpeech test-other."""
    paths = sorted((speech / "librispeech" / "test-other").glob("*-0002.flac"))[:3]
    return torch.cat([torch.from_numpy(soundfile.read(path, dtype="float32")[0])[:80000] for path in paths])


def through(codec: WaveformCodec, wav_16k: Tensor) -> tuple[Utterance, Utterance]:
    sent = codec.transmit(audio.resample(wav_16k, 16000, codec.sample_rate))
    return Utterance("a", wav_16k, 16000, None, "en", None), Utterance("a", sent.wav_T, codec.sample_rate, None, "en", None)


@pytest.mark.parametrize("length", [1, 159, 160, 161, 640, 8001])
def test_what_comes_out_is_as_long_as_what_went_in(codec: WaveformCodec, wav_16k: Tensor, length: int) -> None:
    wav_T = wav_16k[8000 : 8000 + length].clone()
    sent = codec.transmit(wav_T)
    assert sent.wav_T.shape == wav_T.shape and sent.wav_T.dtype == torch.float32 and sent.wav_T.abs().max() <= 1
    assert torch.equal(wav_T, wav_16k[8000 : 8000 + length])


def test_a_second_run_gives_the_same(codec: WaveformCodec, wav_16k: Tensor) -> None:
    first, second = codec.transmit(wav_16k), codec.transmit(wav_16k)
    assert torch.equal(first.wav_T, second.wav_T) and first.payload_bits == second.payload_bits


def test_what_comes_out_does_not_lag(codec: WaveformCodec, long_16k: Tensor) -> None:
    """Within 2 ms by the waveform (Opus), within 12 by the envelope (codec2 makes up its own phase; a delay left in would be 20 or 40)."""
    lag = Delay(max_delay=0.1)(*through(codec, long_16k))["delay"]
    assert abs(lag) <= (0.002 if isinstance(codec, Opus) else 0.012) * 16000


def test_the_real_rate_is_near_the_nominal_one(codec: WaveformCodec, long_16k: Tensor) -> None:
    wav_T = audio.resample(long_16k, 16000, codec.sample_rate)
    sent, seconds = codec.transmit(wav_T), len(wav_T) / codec.sample_rate
    assert sent.payload_bits / seconds == pytest.approx(codec.bits_per_second, rel=0.08)
    assert sent.payload_bits % 8 == 0 and sent.file_bits >= sent.payload_bits


@pytest.mark.parametrize(
    ("name", "pesq", "stoi"),
    [("opus_6k", (1.8, 2.4), (0.84, 0.95)), ("codec2_3200", (1.35, 1.8), (0.76, 0.90)), ("codec2_1200", (1.2, 1.6), (0.72, 0.87))],
)
def test_speech_sounds_as_others_have_measured(name: str, pesq: tuple[float, float], stoi: tuple[float, float], long_16k: Tensor) -> None:
    """On 20 utterances of test-other: Opus 2.04 and 0.88, codec2 1.53 and 0.82 at 3200 bit/s, 1.42 and 0.79 at 1200."""
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    pair = through(MAKERS[name](), long_16k)
    assert pesq[0] < Pesq(max_delay=0.1)(*pair)["pesq"] < pesq[1]
    assert stoi[0] < Stoi(max_delay=0.1)(*pair)["stoi"] < stoi[1]


def test_an_ogg_stream_is_counted_packet_by_packet() -> None:
    def page(laces: list[int]) -> bytes:
        return b"OggS" + struct.pack("<BBqIIIB", 0, 0, 0, 0, 0, 0, len(laces)) + bytes(laces) + bytes(sum(laces))

    assert list(ogg_packets(page([19]) + page([255, 255]) + page([10, 255, 0, 7]))) == [19, 520, 255, 7]
    with pytest.raises(ValueError, match="no page begins at byte 47 of 51"):
        list(ogg_packets(page([19]) + b"junk"))


def test_a_codec_without_codes_says_so(codec: WaveformCodec) -> None:
    with pytest.raises(ValueError, match="has no codes to store or to model"):
        codec.spec  # noqa: B018


def test_sound_that_is_none_is_refused(codec: WaveformCodec) -> None:
    with pytest.raises(ValueError, match="NaN"):
        codec.transmit(torch.full((800,), float("nan")))
    with pytest.raises(ValueError, match="float64"):
        codec.transmit(torch.zeros(800, dtype=torch.float64))


def test_rates_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="it has 3200, 2400, 1600"):
        Codec2(bits_per_second=3000)
    with pytest.raises(ValueError, match="6000 to 256000"):
        Opus(bits_per_second=6, sample_rate=16000)


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="opusenc is not installed; apt-get install opus-tools"):
        Opus(bits_per_second=6000, sample_rate=16000)
    with pytest.raises(ValueError, match="c2enc is not installed; apt-get install codec2"):
        Codec2(bits_per_second=3200)


def test_a_program_that_fails_is_an_error_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("c2enc", "c2dec"):
        (tmp_path / name).write_text("#!/bin/sh\ncat > /dev/null\necho no such mode >&2\nexit 3\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ValueError, match="c2enc failed: no such mode"):
        Codec2(bits_per_second=3200).transmit(torch.zeros(1000))
