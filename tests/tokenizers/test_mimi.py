from itertools import pairwise
from pathlib import Path

import pytest
import tiny_transformers
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from audiotok import audio
from audiotok.tokenizers.mimi import Mimi

transformers = pytest.importorskip("transformers")
HOP = 1920


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_transformers.mimi(tmp_path_factory.mktemp("mimi"))


@pytest.fixture(scope="module")
def wav_24k(wav_16k: Tensor) -> Tensor:
    return audio.resample(wav_16k[8000:], 16000, 24000)


@pytest.mark.parametrize("more", [0, 1, 1919])
def test_codes_and_sound_are_those_of_transformers_for_whole_frames(folder: Path, more: int, wav_24k: Tensor) -> None:
    tokenizer = Mimi.from_pretrained(folder, revision="main", num_codebooks=6)
    network = transformers.MimiModel.from_pretrained(folder).eval()
    wav_T = wav_24k[: 20 * HOP + more]
    whole_T = F.pad(wav_T, (0, -more % HOP))
    extractor = transformers.EncodecFeatureExtractor.from_pretrained(folder)
    with torch.no_grad():
        wanted = network(**extractor(whole_T.numpy(), sampling_rate=24000, return_tensors="pt"))
    codes_BKN, frames_B = tokenizer.encode(wav_T[None], torch.tensor([len(wav_T)]))
    assert torch.equal(codes_BKN, wanted.audio_codes) and codes_BKN.shape == (1, 6, 20 + (more > 0))
    back_BT, lengths_B = tokenizer.decode(codes_BKN, frames_B)
    assert lengths_B.tolist() == [len(whole_T)] and wanted.audio_values.std() > 0.01
    torch.testing.assert_close(back_BT, wanted.audio_values[0].clamp(-1, 1))


def test_only_the_codes_of_a_last_short_frame_depart_from_transformers(folder: Path, wav_24k: Tensor) -> None:
    tokenizer = Mimi.from_pretrained(folder, revision="main", num_codebooks=6)
    wav_T = wav_24k[: 20 * HOP + 700]
    codes_BKN, _ = tokenizer.encode(wav_T[None], torch.tensor([len(wav_T)]))
    wanted_BKN = tokenizer.network.encode(wav_T[None, None], num_quantizers=6).audio_codes
    assert torch.equal(codes_BKN[..., :20], wanted_BKN[..., :20]) and not torch.equal(codes_BKN[..., 20], wanted_BKN[..., 20])


def test_fewer_codebooks_are_the_first_of_more_and_the_semantic_one_alone_decodes(folder: Path, wav_24k: Tensor) -> None:
    tokenizers = [Mimi.from_pretrained(folder, revision="main", num_codebooks=number) for number in (1, 2, 6)]
    batch = wav_24k[None, : 10 * HOP], torch.tensor([10 * HOP])
    codes = [tokenizer.encode(*batch)[0] for tokenizer in tokenizers]
    assert [codes_BKN.shape[1] for codes_BKN in codes] == [1, 2, 6]
    assert all(torch.equal(few, more[:, : few.shape[1]]) for few, more in pairwise(codes))
    assert len({tokenizer.spec.fingerprint for tokenizer in tokenizers}) == 3
    assert tokenizers[0].decode(codes[0], torch.tensor([10]))[0].std() > 0.01


def test_the_published_settings_have_the_published_rate(tmp_path: Path) -> None:
    folder = tiny_transformers.mimi(tmp_path, num_quantizers=32, codebook_size=2048)
    spec = Mimi.from_pretrained(folder, revision="main", num_codebooks=8).spec
    assert (spec.sample_rate, spec.frame_rate, spec.bits_per_second) == (24000, 12.5, 1100)


@pytest.mark.parametrize("changes", [{}, {"vector_quantization_hidden_dimension": 16, "codebook_dim": 16}])
def test_the_embedded_codes_sum_to_what_decodes_to_the_same_sound(changes: dict[str, int], tmp_path: Path, wav_24k: Tensor) -> None:
    """With and without projections around the quantisers."""
    tokenizer = Mimi.from_pretrained(tiny_transformers.mimi(tmp_path, **changes), revision="main", num_codebooks=4)
    codes_BKN, frames_B = tokenizer.encode(wav_24k[None, : 10 * HOP], torch.tensor([10 * HOP]))
    latent_BDN = tokenizer.embed(codes_BKN).sum(dim=1).transpose(1, 2)
    back_BT = tokenizer.network.decoder(latent_BDN).audio_values[:, 0].clamp(-1, 1)
    torch.testing.assert_close(back_BT, tokenizer.decode(codes_BKN, frames_B)[0])


def test_the_checkpoint_of_these_tests_has_the_names_of_the_published_one(folder: Path) -> None:
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    published = ["encoder.layers.0.conv.weight", "downsample.conv.weight", "decoder_transformer.layers.0.self_attn.q_proj.weight"]
    assert names >= {*published, "quantizer.semantic_residual_vector_quantizer.layers.0.codebook.embed_sum"}


@pytest.mark.parametrize("num_codebooks", [0, 7])
def test_codebooks_that_the_network_does_not_have_are_refused(num_codebooks: int, folder: Path) -> None:
    with pytest.raises(ValueError, match=rf"num_codebooks={num_codebooks}; this network has 1 to 6"):
        Mimi.from_pretrained(folder, revision="main", num_codebooks=num_codebooks)


@pytest.mark.parametrize("chunk", [HOP, 1000, 20 * HOP])
def test_a_stream_far_longer_than_the_attention_gives_each_frame_once_it_is_whole(chunk: int, folder: Path, wav_24k: Tensor) -> None:
    tokenizer = Mimi.from_pretrained(folder, revision="main", num_codebooks=6)
    wav_T = wav_24k[: 27 * HOP + 1000]  # 54 positions of the transformer; 10 are within its window
    whole_BKN, _ = tokenizer.encode(wav_T[None], torch.tensor([len(wav_T)]))
    state, codes = tokenizer.open(), []
    for begin in range(0, len(wav_T), chunk):
        codes_KN, state = tokenizer.push(state, wav_T[begin : begin + chunk])
        codes.append(codes_KN)
        assert sum(codes_KN.shape[1] for codes_KN in codes) == min(begin + chunk, len(wav_T)) // HOP
    codes.append(tokenizer.close(state))
    assert torch.equal(torch.cat(codes, dim=1), whole_BKN[0]) and codes[-1].shape[1] == 1
    assert state["keys.0"].shape[2] == 9 and int(state["num_positions"]) == 54


def test_a_stream_is_pushed_one_utterance_at_a_time(folder: Path) -> None:
    tokenizer = Mimi.from_pretrained(folder, revision="main", num_codebooks=1)
    with pytest.raises(ValueError, match=r"shape \(1, 10\); push one utterance"):
        tokenizer.push(tokenizer.open(), torch.zeros(1, 10))
