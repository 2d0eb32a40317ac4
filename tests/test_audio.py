import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from zoo import RATE, bad_files, odd_files

from audiotok import audio


@pytest.fixture(scope="module")
def bad(wav_16k: Tensor, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    return bad_files(tmp_path_factory.mktemp("bad"), wav_16k.numpy())


@pytest.fixture(scope="module")
def odd(wav_16k: Tensor, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, tuple[int, bool]]:
    return odd_files(tmp_path_factory.mktemp("odd"), wav_16k.numpy())


def test_a_bad_file_is_refused_with_its_path_and_its_reason(bad: dict[Path, str]) -> None:
    for path, reason in bad.items():
        with pytest.raises(ValueError, match=reason) as error:
            audio.read(path)
        assert str(error.value).startswith(f"{path}: ")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        audio.read(tmp_path / "nowhere.wav")


def test_every_format_rate_depth_and_number_of_channels_reads_as_mono_float(odd: dict[Path, tuple[int, bool]], wav_16k: Tensor) -> None:
    for path, (rate, _) in odd.items():
        wav_T, sample_rate = audio.read(path)
        assert (wav_T.dim(), wav_T.dtype, sample_rate) == (1, torch.float32, rate), path.name
        assert abs(len(wav_T) - len(wav_16k)) <= 2048, path.name  # AAC pads to whole blocks
        assert 0.01 < float(wav_T.abs().max()) <= 1, path.name


def test_lossless_files_read_as_what_was_written(odd: dict[Path, tuple[int, bool]], wav_16k: Tensor) -> None:
    for path in odd:
        wav_T, _ = audio.read(path)
        if path.name.startswith(("rate", "depth_24", "float")):
            torch.testing.assert_close(wav_T, wav_16k, atol=2**-15, rtol=0)


def test_channels_are_averaged(odd: dict[Path, tuple[int, bool]], wav_16k: Tensor) -> None:
    for path in odd:
        if path.name.startswith("stereo"):
            torch.testing.assert_close(audio.read(path)[0], 0.75 * wav_16k, atol=2**-14, rtol=0)


def test_g722_is_decoded_to_the_same_speech(odd: dict[Path, tuple[int, bool]], wav_16k: Tensor) -> None:
    path = next(path for path in odd if path.suffix == ".g722")
    wav_T, _ = audio.read(path)
    assert len(wav_T) == 2 * path.stat().st_size
    lag = 22  # samples that the codec's two filter banks delay by
    a_T, b_T = wav_T[lag:], wav_16k[: len(wav_T) - lag]
    assert float((a_T * b_T).sum() / (a_T.norm() * b_T.norm())) > 0.95


def test_no_more_than_the_allowed_seconds_are_read(tmp_path: Path, wav_16k: Tensor) -> None:
    hours = tmp_path / "hours.flac"
    with soundfile.SoundFile(hours, "w", RATE, 1) as file:
        for _ in range(720):
            file.write(np.zeros(15 * RATE, dtype=np.int16))
    assert soundfile.info(hours).duration == 3 * 3600
    with pytest.raises(ValueError, match="more than 60 s"):
        audio.read_channels(hours, max_seconds=60)


def test_a_lossy_overshoot_is_held_to_full_scale(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", np.float32([0.5, 1.02, -1.5]), RATE, subtype="FLOAT")
    assert audio.read(tmp_path / "loud.wav")[0].tolist() == [0.5, 1.0, -1.0]


@pytest.mark.parametrize("name", ["speech.wav", "speech.flac"])
def test_what_is_read_of_a_16_bit_file_is_written_back_to_the_bit(name: str, wav_16k: Tensor, tmp_path: Path) -> None:
    audio.write(tmp_path / name, wav_16k, RATE)
    wav_T, sample_rate = audio.read(tmp_path / name)
    assert torch.equal(wav_T, wav_16k)
    assert sample_rate == RATE
    assert soundfile.info(tmp_path / name).subtype == "PCM_16"


def test_clipping_is_counted_in_a_warning_and_never_wraps(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"2 of 4 samples clipped, the peak is 1\.500"):
        audio.write(tmp_path / "loud.wav", torch.tensor([1.5, -1.25, 1.0, 0.0]), RATE)
    assert audio.read(tmp_path / "loud.wav")[0].tolist() == [32767 / 32768, -1.0, 32767 / 32768, 0.0]


def test_full_scale_is_no_clipping(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audio.write(tmp_path / "full.wav", torch.tensor([1.0, -1.0]), RATE)


@pytest.mark.parametrize(
    ("name", "wav", "reason"),
    [
        ("a.mp3", torch.zeros(10), r"\.wav or \.flac"),
        ("a.wav", torch.zeros(1, 10), "one channel"),
        ("a.wav", torch.zeros(0), "one channel"),
        ("a.wav", torch.tensor([0.0, float("nan")]), "1 of 2 samples"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_no_file(name: str, wav: Tensor, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        audio.write(tmp_path / name, wav, RATE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rate", [8000, 22050, 24000, 44100, 48000])
def test_resampling_there_and_back_keeps_the_band(rate: int, wav_16k: Tensor) -> None:
    there_T = audio.resample(wav_16k, RATE, rate)
    assert len(there_T) == -(-len(wav_16k) * rate // RATE)
    back_T = audio.resample(there_T, rate, RATE)[: len(wav_16k)]
    band = torch.fft.rfftfreq(len(wav_16k), 1 / RATE) < 0.85 * min(rate, RATE) / 2
    error = (torch.fft.rfft(back_T) - torch.fft.rfft(wav_16k))[band].norm() / torch.fft.rfft(wav_16k)[band].norm()
    assert error < 2e-3


def test_resampling_down_lets_nothing_alias() -> None:
    tone_T = torch.sin(2 * torch.pi * 11000 / 48000 * torch.arange(48000, dtype=torch.float64)).float()
    assert audio.resample(tone_T, 48000, RATE)[1000:-1000].abs().max() < 1e-4


def test_resampling_a_batch_is_resampling_one_by_one(wav_16k: Tensor) -> None:
    wav_BT = torch.stack([wav_16k, -0.3 * wav_16k.flip(0)])
    one_by_one = torch.stack([audio.resample(wav_T, RATE, 24000) for wav_T in wav_BT])
    torch.testing.assert_close(audio.resample(wav_BT, RATE, 24000), one_by_one, atol=1e-6, rtol=0)


def test_resampling_to_the_same_rate_changes_nothing_and_a_rate_of_zero_is_refused(wav_16k: Tensor) -> None:
    assert audio.resample(wav_16k, RATE, RATE) is wav_16k
    with pytest.raises(ValueError, match="positive"):
        audio.resample(wav_16k, 0, RATE)


def test_padding_puts_zeros_behind_and_keeps_the_lengths() -> None:
    wav_BT, lengths_B = audio.pad([torch.ones(3), torch.ones(5), torch.ones(1)])
    assert wav_BT.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]
    assert lengths_B.tolist() == [3, 5, 1]
    assert lengths_B.dtype == torch.int64
    with pytest.raises(ValueError, match="empty"):
        audio.pad([])
