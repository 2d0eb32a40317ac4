from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny_transformers
import torch
from torch import Tensor

from audiotok import audio
from audiotok.tokenizers.dac import Dac

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module", params=[16000, 24000, 44100])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_transformers.dac(tmp_path_factory.mktemp("dac"), sample_rate=request.param)


def by_transformers(folder: Path, wav_T: Tensor) -> tuple[Any, Tensor]:
    """What the network and the feature extractor themselves give, and the sound of its codes."""
    network = transformers.DacModel.from_pretrained(folder).eval()
    extractor = transformers.DacFeatureExtractor.from_pretrained(folder)
    inputs = extractor(wav_T.numpy(), sampling_rate=extractor.sampling_rate, return_tensors="pt")
    with torch.no_grad():
        output = network(inputs["input_values"])
        return output, network.decode(audio_codes=output.audio_codes).audio_values


@pytest.mark.parametrize("more", [0, 1, 319])
def test_codes_and_sound_are_those_of_transformers(folder: Path, more: int, wav_16k: Tensor) -> None:
    tokenizer = Dac.from_pretrained(folder, revision="main", num_codebooks=6)
    hop = int(tokenizer.spec.hop)
    wav_T = audio.resample(wav_16k[8000:40000], 16000, tokenizer.spec.sample_rate)[: 50 * hop + more]
    codes_BKN, frames_B = tokenizer.encode(wav_T[None], torch.tensor([len(wav_T)]))
    wanted, wanted_BT = by_transformers(folder, wav_T)
    assert torch.equal(codes_BKN, wanted.audio_codes) and codes_BKN.shape[2] == 50 + (more > 0)
    back_BT, lengths_B = tokenizer.decode(codes_BKN, frames_B)
    missing = 0 if hop == 512 else 8  # samples that the transposed convolution of stride 5 does not give
    assert back_BT.shape[1] == int(lengths_B) == codes_BKN.shape[2] * hop == wanted_BT.shape[1] + missing
    assert torch.equal(back_BT[:, : wanted_BT.shape[1]], wanted_BT) and back_BT[:, wanted_BT.shape[1] :].eq(0).all()
    sound_BT = wanted.audio_values  # of the latent before it is rounded to codes and back, a few units of the last place away
    torch.testing.assert_close(back_BT[:, : sound_BT.shape[1]], sound_BT, rtol=0, atol=1e-4)
    assert sound_BT.std() > 0.01


def test_fewer_codebooks_are_the_first_of_more_at_their_share_of_the_rate(folder: Path, wav_16k: Tensor) -> None:
    tokenizers = [Dac.from_pretrained(folder, revision="main", num_codebooks=number) for number in (1, 3, 6)]
    codes = [tokenizer.encode(wav_16k[None, 8000:12000], torch.tensor([4000]))[0] for tokenizer in tokenizers]
    assert [codes_BKN.shape[1] for codes_BKN in codes] == [1, 3, 6]
    assert all(torch.equal(few, more[:, : few.shape[1]]) for few, more in pairwise(codes))
    rates = [tokenizer.spec.bits_per_second for tokenizer in tokenizers]
    assert rates == pytest.approx([number * 8 * float(tokenizers[0].spec.frame_rate) for number in (1, 3, 6)])
    assert len({tokenizer.spec.fingerprint for tokenizer in tokenizers}) == 3


@pytest.mark.parametrize(
    ("sample_rate", "num_codebooks", "bits_per_second"), [(16000, 12, 6000), (24000, 32, 24000), (44100, 9, 7751.953125)]
)
def test_the_published_settings_have_the_published_rates(
    sample_rate: int, num_codebooks: int, bits_per_second: float, tmp_path: Path
) -> None:
    folder = tiny_transformers.dac(tmp_path, sample_rate=sample_rate, n_codebooks=num_codebooks, codebook_size=1024)
    tokenizer = Dac.from_pretrained(folder, revision="main", num_codebooks=num_codebooks)
    assert tokenizer.spec.sample_rate == sample_rate and tokenizer.spec.bits_per_second == bits_per_second


def test_the_embedded_codes_sum_to_what_decodes_to_the_same_sound(folder: Path, wav_16k: Tensor) -> None:
    tokenizer = Dac.from_pretrained(folder, revision="main", num_codebooks=4)
    codes_BKN, frames_B = tokenizer.encode(wav_16k[None, 8000:16000], torch.tensor([8000]))
    latent_BDN = tokenizer.embed(codes_BKN).sum(dim=1).transpose(1, 2)
    back_BT = tokenizer.network.decode(quantized_representation=latent_BDN).audio_values
    torch.testing.assert_close(back_BT, tokenizer.decode(codes_BKN, frames_B)[0][:, : back_BT.shape[1]])


@pytest.mark.parametrize("num_codebooks", [0, 7])
def test_codebooks_that_the_network_does_not_have_are_refused(num_codebooks: int, folder: Path) -> None:
    with pytest.raises(ValueError, match=rf"num_codebooks={num_codebooks}; this network has 1 to 6"):
        Dac.from_pretrained(folder, revision="main", num_codebooks=num_codebooks)
