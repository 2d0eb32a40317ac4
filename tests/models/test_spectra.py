"""Spectra and magnitudes against PyTorch's own, values and gradients."""

import pytest
import torch

from audiotok.models import spectra


def theirs(wav_BT: torch.Tensor, window: int) -> torch.Tensor:
    shape = torch.hann_window(window, dtype=wav_BT.dtype)
    return torch.stft(wav_BT, window, window // 4, window=shape, return_complex=True).transpose(1, 2)


@pytest.mark.parametrize("window", [256, 1024])
@pytest.mark.parametrize("samples", [1024, 4000, 4097])
def test_spectra_are_those_of_torch_stft_and_so_are_their_gradients(window: int, samples: int, wav_16k: torch.Tensor) -> None:
    wav_BT = torch.stack([wav_16k[:samples], wav_16k[samples : 2 * samples]])
    one, other = wav_BT.clone().requires_grad_(), wav_BT.clone().requires_grad_()
    ours_BNF, theirs_BNF = spectra.stft(one, window), theirs(other, window)
    torch.testing.assert_close(ours_BNF, theirs_BNF)
    weight_BNF = torch.randn_like(theirs_BNF)
    for spectrum_BNF in (ours_BNF, theirs_BNF):
        (spectrum_BNF * weight_BNF).real.sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_gradients_agree_with_differences() -> None:
    torch.manual_seed(0)
    wav_BT = torch.randn(2, 70, dtype=torch.float64, requires_grad=True)
    window = torch.hann_window(16, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda wav_BT: spectra.magnitude(spectra._Spectra.apply(wav_BT, window)), wav_BT)


def test_the_magnitude_is_the_absolute_value_and_its_gradient_finite_at_nothing() -> None:
    spectrum = torch.tensor([3 + 4j, 0j, -2 + 0j], requires_grad=True)
    size = spectra.magnitude(spectrum)
    torch.testing.assert_close(size, spectrum.detach().abs())
    size.sum().backward()
    torch.testing.assert_close(spectrum.grad, torch.tensor([0.6 + 0.8j, 0j, -1 + 0j]))
