from dataclasses import replace

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor

from audiotok.tokenizers.dmel import DMel
from audiotok.tokenizers.griffin_lim import GriffinLimVocoder
from audiotok.tokenizers.mel import LogMel

PAPER = LogMel(sample_rate=16000, n_fft=1024, window=800, hop=400, num_mels=80, low_hz=80, high_hz=7600, floor=1e-10)


def dmel(mel: LogMel = PAPER, *, iterations: int = 16, upsample: int = 4) -> DMel:
    return DMel(
        mel=mel, low=-7.0, high=2.0, num_levels=16, vocoder=GriffinLimVocoder(iterations=iterations, momentum=0.99, upsample=upsample)
    )


def batch(wav_T: Tensor) -> tuple[Tensor, Tensor]:
    return wav_T[None], torch.tensor([len(wav_T)])


def test_log_mel_is_librosas_of_the_utterance_centred_between_zeros(wav_16k: Tensor) -> None:
    padded = np.pad(wav_16k[:16001].numpy(), (312, 1024))
    magnitudes = np.abs(librosa.stft(padded, n_fft=1024, win_length=800, hop_length=400, window="hann", center=False))[:, :41]
    filters = librosa.filters.mel(sr=16000, n_fft=1024, n_mels=80, fmin=80, fmax=7600)
    wanted_NM = np.log10(np.maximum(filters @ magnitudes, 1e-10)).T
    found_NM = PAPER(wav_16k[:16001])
    assert found_NM.shape == (41, 80)
    np.testing.assert_allclose(found_NM.numpy(), wanted_NM, atol=1e-3)


def test_a_frame_looks_half_a_window_around_its_middle() -> None:
    click_T = torch.zeros(4000)
    click_T[2 * 400 + 200] = 1
    heard_N = PAPER(click_T).max(dim=1).values > -6
    assert heard_N.nonzero().flatten().tolist() == [2]


def test_codes_are_the_nearest_of_sixteen_levels_six_tenths_apart(wav_16k: Tensor) -> None:
    codes_BKN, _ = dmel().encode(*batch(wav_16k[:8000]))
    levels_V = torch.arange(16) * 0.6 - 7
    nearest_KN = (PAPER(wav_16k[:8000]).T[..., None] - levels_V).abs().argmin(dim=-1)
    assert torch.equal(codes_BKN[0], nearest_KN)


def test_embed_is_within_half_a_step_of_the_log_mel(wav_16k: Tensor) -> None:
    tokenizer = dmel()
    codes_BKN, _ = tokenizer.encode(*batch(wav_16k[:8000]))
    error_KN = tokenizer.embed(codes_BKN)[0, ..., 0] - PAPER(wav_16k[:8000]).clamp(-7, 2).T
    assert error_KN.abs().max() <= 0.3 + 1e-5


def test_resynthesis_has_the_spectrum_of_the_codes_and_the_timing_of_the_recording(wav_16k: Tensor) -> None:
    tokenizer = dmel(iterations=32)
    wav_T = wav_16k[8000:24000]
    codes_BKN, frames_B = tokenizer.encode(*batch(wav_T))
    back_T = tokenizer.decode(codes_BKN, frames_B)[0][0]
    again_BKN, _ = tokenizer.encode(*batch(back_T))
    loud_KN = codes_BKN[0] >= 9
    assert (again_BKN[0] - codes_BKN[0])[loud_KN].abs().float().mean() < 0.75
    loudness = [wave_T.view(-1, 400).square().mean(dim=1).sqrt() for wave_T in (wav_T, back_T)]
    lags = {lag: float(torch.corrcoef(torch.stack([loudness[0][2:-2], loudness[1].roll(lag)[2:-2]]))[0, 1]) for lag in range(-2, 3)}
    assert max(lags, key=lambda lag: lags[lag]) == 0 and lags[0] > 0.9


def test_silence_comes_back_as_silence() -> None:
    tokenizer = dmel()
    codes_BKN, frames_B = tokenizer.encode(*batch(torch.zeros(8000)))
    assert codes_BKN.eq(0).all()
    assert tokenizer.decode(codes_BKN, frames_B)[0].abs().max() < 1e-4


def test_decoding_leaves_the_global_random_state_alone(wav_16k: Tensor) -> None:
    state = torch.get_rng_state()
    tokenizer = dmel()
    tokenizer.decode(*tokenizer.encode(*batch(wav_16k[:4000])))
    assert torch.equal(state, torch.get_rng_state())


def test_the_fingerprint_follows_what_makes_the_codes_and_not_the_vocoder() -> None:
    assert dmel().spec == dmel(iterations=99).spec
    assert dmel().spec.fingerprint != dmel(replace(PAPER, low_hz=0)).spec.fingerprint
    assert dmel().spec.bits_per_second == 40 * 80 * 4


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="high_hz <= sample_rate / 2"):
        replace(PAPER, high_hz=9000)
    with pytest.raises(ValueError, match="hop <= window"):
        replace(PAPER, hop=900)
    with pytest.raises(ValueError, match="two levels"):
        DMel(mel=PAPER, low=-7.0, high=2.0, num_levels=1, vocoder=GriffinLimVocoder(iterations=1, momentum=0.99, upsample=1))
    with pytest.raises(ValueError, match="no multiple of upsample 3"):
        dmel(upsample=3).decode(torch.zeros(1, 80, 2, dtype=torch.int64), torch.tensor([2]))
