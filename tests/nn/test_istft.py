"""An inverse STFT that inverts one, sample for sample, where LogMel has its frames."""

from math import pi

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.nn.istft import LOUDEST, InverseSTFT
from audiotok.tokenizers.mel import LogMel

SIZES = [(640, 320), (1280, 320), (960, 240), (640, 160), (800, 400)]


def told(n_fft: int, hop: int, *, frames: int = 1) -> InverseSTFT:
    """One whose vectors are log-magnitudes and phases themselves."""
    head = InverseSTFT(frames * (n_fft + 2), n_fft=n_fft, hop=hop, frames=frames).requires_grad_(False)
    nn.init.eye_(head.project.weight)
    nn.init.zeros_(head.project.bias)
    return head


def spectra(wav_T: Tensor, n_fft: int, hop: int) -> Tensor:
    """Log-magnitudes and phases [1, N, n_fft + 2] of frames centred on (n + 1/2) x hop, by PyTorch's own STFT."""
    padded_T = F.pad(wav_T, ((n_fft - hop) // 2,) * 2)
    spectrum_NF = torch.stft(padded_T, n_fft, hop, window=torch.hann_window(n_fft), center=False, return_complex=True).T
    return torch.cat([spectrum_NF.abs().log(), spectrum_NF.angle()], dim=-1)[None]


@pytest.mark.parametrize(("n_fft", "hop"), SIZES)
def test_a_short_time_fourier_transform_is_inverted(n_fft: int, hop: int, wav_16k: Tensor) -> None:
    wav_T = wav_16k[8000 : 8000 + 40 * hop] * 0.3
    restored_BT = told(n_fft, hop)(spectra(wav_T, n_fft, hop))
    assert restored_BT.shape == (1, 40 * hop)
    torch.testing.assert_close(restored_BT[0], wav_T, rtol=0, atol=2e-5)


@pytest.mark.parametrize("number", [1, 2, 7])
def test_so_many_vectors_give_so_many_hops(number: int) -> None:
    for frames in (1, 2, 3):
        head = InverseSTFT(16, n_fft=640, hop=160, frames=frames)
        assert head(torch.randn(2, number, 16)).shape == (2, number * frames * 160)


def test_a_vector_of_several_spectra_is_as_so_many_vectors(wav_16k: Tensor) -> None:
    spectra_BND = spectra(wav_16k[8000 : 8000 + 40 * 160] * 0.3, 640, 160)
    one_BT = told(640, 160)(spectra_BND)
    two_BT = told(640, 160, frames=2)(spectra_BND.view(1, 20, 2 * 642))
    torch.testing.assert_close(two_BT, one_BT, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frame", [0, 5, 11])
def test_a_spectrum_sounds_where_log_mel_has_its_frame(frame: int) -> None:
    n_fft, hop, bins = 1280, 320, 641
    hidden_BND = torch.full((1, 12, 2 * bins), -1e4)
    hidden_BND[0, frame, :bins] = 0.0
    hidden_BND[0, frame, bins:] = -pi * torch.arange(bins)  # a click in the middle of the window
    wav_T = told(n_fft, hop)(hidden_BND)[0]
    assert wav_T.abs().argmax() == frame * hop + hop // 2
    mel = LogMel(sample_rate=16000, n_fft=1024, window=640, hop=hop, num_mels=40, low_hz=0, high_hz=8000, floor=1e-5)
    assert mel(wav_T).sum(dim=-1).argmax() == frame


def test_a_magnitude_that_runs_away_is_bounded() -> None:
    hidden_BND = torch.zeros(1, 8, 642)
    for loud in (200.0, 80.0):
        hidden_BND[..., 20] = loud
        wav_BT = told(640, 320)(hidden_BND)
        assert wav_BT.isfinite().all() and wav_BT.abs().max() < LOUDEST


@pytest.mark.parametrize(("n_fft", "hop", "frames"), [(640, 400, 1), (641, 160, 1), (640, 161, 1), (640, 0, 1), (640, 160, 0)])
def test_sizes_that_cannot_be_inverted_are_refused(n_fft: int, hop: int, frames: int) -> None:
    with pytest.raises(ValueError, match=f"inverse STFT.*{frames if not frames else f'n_fft={n_fft}, hop={hop}'}"):
        InverseSTFT(16, n_fft=n_fft, hop=hop, frames=frames)
