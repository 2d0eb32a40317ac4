import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from audiotok.tokenizers.lyra import Lyra
from audiotok.tokenizers.residual import nearest_codes, sum_of_codewords


def batch(wav_T: Tensor) -> tuple[Tensor, Tensor]:
    return wav_T[None], torch.tensor([len(wav_T)])


def through_tflite(folder: Path, wav_T: Tensor) -> np.ndarray:
    """The slow reference: encoder and quantiser as the package of weights has them, frame by frame."""
    from ai_edge_litert.interpreter import Interpreter

    encoder = Interpreter(str(folder / "soundstream_encoder.tflite")).get_signature_runner("serving_default")
    quantise = Interpreter(str(folder / "quantizer.tflite")).get_signature_runner("encode")
    codes = []
    for frame in wav_T.view(-1, 1, 320).numpy():
        latent = encoder(input_audio=frame)["output_0"].copy()
        codes.append(quantise(input_frames=latent, num_quantizers=np.int32(46))["output_0"].reshape(-1).copy())
    return np.stack(codes, axis=1)


def test_codes_are_those_of_the_tflite_quantiser(lyra_models: Path, wav_16k: Tensor) -> None:
    wav_T = wav_16k[:16000]
    codes_BKN, _ = Lyra(lyra_models, num_stages=46).encode(*batch(wav_T))
    np.testing.assert_array_equal(codes_BKN[0].numpy(), through_tflite(lyra_models, wav_T))


def test_fewer_stages_are_the_first_ones_of_more(lyra_models: Path, wav_16k: Tensor) -> None:
    few_BKN, _ = Lyra(lyra_models, num_stages=16).encode(*batch(wav_16k[:9600]))
    many_BKN, _ = Lyra(lyra_models, num_stages=46).encode(*batch(wav_16k[:9600]))
    assert torch.equal(few_BKN, many_BKN[:, :16])


def test_more_stages_come_closer_to_the_recording(lyra_models: Path, wav_16k: Tensor) -> None:
    wav_T, errors = wav_16k[8000:40000], []
    for num_stages in (4, 16, 46):
        tokenizer = Lyra(lyra_models, num_stages=num_stages)
        back_T = tokenizer.decode(*tokenizer.encode(*batch(wav_T)))[0][0]
        spectra = [
            torch.stft(wave_T, 512, window=torch.hann_window(512), return_complex=True).abs().clamp(1e-3).log()
            for wave_T in (wav_T, back_T)
        ]
        errors.append(float((spectra[0] - spectra[1]).abs().mean()))
    assert errors[0] > errors[1] > errors[2]


def test_its_rates_are_the_published_ones(lyra_models: Path) -> None:
    rates = [Lyra(lyra_models, num_stages=num_stages).spec.bits_per_second for num_stages in (16, 30, 46)]
    assert rates == [3200, 6000, 9200]


def test_codewords_of_embed_sum_to_the_latent_that_is_decoded(lyra_models: Path) -> None:
    tokenizer = Lyra(lyra_models, num_stages=16)
    codes_KN = torch.randint(16, (16, 7), generator=torch.Generator().manual_seed(0))
    latent_ND = sum_of_codewords(codes_KN, tokenizer.codebooks_KVD)
    torch.testing.assert_close(tokenizer.embed(codes_KN[None])[0].sum(dim=0), latent_ND)


def test_nearest_codes_are_those_of_a_search_over_every_codeword() -> None:
    generator = torch.Generator().manual_seed(0)
    codebooks_KVD = torch.randn(3, 5, 4, generator=generator)
    latent_ND = torch.randn(11, 4, generator=generator)
    codes_KN = nearest_codes(latent_ND, codebooks_KVD)
    for n, rest_D in enumerate(latent_ND):
        for k in range(3):
            distances = [float((rest_D - codeword_D).norm()) for codeword_D in codebooks_KVD[k]]
            assert codes_KN[k, n] == distances.index(min(distances))
            rest_D = rest_D - codebooks_KVD[k, codes_KN[k, n]]


def test_weights_that_are_absent_say_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set AUDIOTOK_LYRA"):
        Lyra(None, num_stages=16)
    with pytest.raises(ValueError, match=r"soundstream_encoder\.tflite: no such file; copy lyra/model_coeffs"):
        Lyra(tmp_path, num_stages=16)
    with pytest.raises(ValueError, match="num_stages=47"):
        Lyra(tmp_path, num_stages=47)


def test_damaged_weights_are_refused_before_they_are_run(lyra_models: Path, tmp_path: Path) -> None:
    for path in lyra_models.glob("*.tflite"):
        shutil.copy(path, tmp_path)
    damaged = tmp_path / "lyragan.tflite"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"lyragan\.tflite: damaged"):
        Lyra(tmp_path, num_stages=16)
