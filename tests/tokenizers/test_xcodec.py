from pathlib import Path

import pytest
import tiny_transformers
import torch
from torch import Tensor
from torch.nn import functional as F

from audiotok.tokenizers.xcodec import Xcodec, Xcodec2

transformers = pytest.importorskip("transformers")
HOP = 320


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_transformers.xcodec(tmp_path_factory.mktemp("xcodec"))


@pytest.fixture(scope="module")
def folder2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_transformers.xcodec2(tmp_path_factory.mktemp("xcodec2"))


@pytest.mark.parametrize("more", [0, 1, 319])
@pytest.mark.parametrize(("num_codebooks", "bandwidth"), [(1, 0.4), (2, 0.8), (4, 1.6)])
def test_codes_and_sound_of_xcodec_are_those_of_transformers(
    num_codebooks: int, bandwidth: float, more: int, folder: Path, wav_16k: Tensor
) -> None:
    tokenizer = Xcodec.from_pretrained(folder, revision="main", num_codebooks=num_codebooks)
    wav_T = wav_16k[8000 : 8000 + 50 * HOP + more]
    network = transformers.XcodecModel.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = network(F.pad(wav_T, (0, -more % HOP))[None, None], bandwidth=bandwidth)
    codes_BKN, frames_B = tokenizer.encode(wav_T[None], torch.tensor([len(wav_T)]))
    assert torch.equal(codes_BKN, wanted.audio_codes) and codes_BKN.shape == (1, num_codebooks, 50 + (more > 0))
    back_BT, lengths_B = tokenizer.decode(codes_BKN, frames_B)
    assert lengths_B.tolist() == [codes_BKN.shape[2] * HOP] and wanted.audio_values.std() > 0.01
    torch.testing.assert_close(back_BT, wanted.audio_values[0].clamp(-1, 1))
    assert tokenizer.spec.bits_per_second == 1000 * bandwidth


def test_codebook_counts_between_the_bandwidths_of_xcodec_are_first_codes_too(folder: Path, wav_16k: Tensor) -> None:
    few, all_of_them = (Xcodec.from_pretrained(folder, revision="main", num_codebooks=number) for number in (3, 4))
    batch = wav_16k[None, 8000:12000], torch.tensor([4000])
    assert torch.equal(few.encode(*batch)[0], all_of_them.encode(*batch)[0][:, :3])
    assert few.spec.fingerprint != all_of_them.spec.fingerprint


@pytest.mark.parametrize("num_codebooks", [0, 5])
def test_codebooks_that_xcodec_does_not_have_are_refused(num_codebooks: int, folder: Path) -> None:
    with pytest.raises(ValueError, match=rf"num_codebooks={num_codebooks}; this network has 1 to 4"):
        Xcodec.from_pretrained(folder, revision="main", num_codebooks=num_codebooks)


@pytest.mark.parametrize("more", [0, 1, 318, 319])
def test_codes_and_sound_of_xcodec2_are_those_of_transformers(more: int, folder2: Path, wav_16k: Tensor) -> None:
    """But for the frame that its extractor adds to whole frames."""
    tokenizer = Xcodec2.from_pretrained(folder2, revision="main")
    network = transformers.Xcodec2Model.from_pretrained(folder2).eval()
    extractor = transformers.Xcodec2FeatureExtractor.from_pretrained(folder2)
    wav_T = wav_16k[8000 : 8000 + 50 * HOP + more]
    num_frames = 50 + (more > 0)
    with torch.no_grad():
        inputs = extractor(wav_T.numpy(), sampling_rate=16000, return_tensors="pt")
        wanted_BKN = network.encode(**inputs).audio_codes
        wanted_BT = network.decode(wanted_BKN[..., :num_frames]).audio_values[:, 0]
    codes_BKN, frames_B = tokenizer.encode(wav_T[None], torch.tensor([len(wav_T)]))
    assert wanted_BKN.shape[2] == 51 and codes_BKN.shape == (1, 1, num_frames)
    assert torch.equal(codes_BKN, wanted_BKN[..., :num_frames].long())
    back_BT, lengths_B = tokenizer.decode(codes_BKN, frames_B)
    assert lengths_B.tolist() == [num_frames * HOP] and wanted_BT.std() > 0.01
    torch.testing.assert_close(back_BT, wanted_BT.clamp(-1, 1))


def test_every_code_of_xcodec2_is_embedded_as_the_network_does(folder2: Path) -> None:
    tokenizer = Xcodec2.from_pretrained(folder2, revision="main")
    codes_11N = torch.arange(256)[None, None]
    wanted_1ND = tokenizer.network.quantizer.from_codes(codes_11N.transpose(1, 2))
    torch.testing.assert_close(tokenizer.embed(codes_11N)[:, 0], wanted_1ND)


def test_the_published_settings_have_the_published_rates(tmp_path: Path) -> None:
    spec = Xcodec2.from_pretrained(tiny_transformers.xcodec2(tmp_path / "2", quantization_levels=[4] * 8), revision="main").spec
    assert (spec.sample_rate, spec.frame_rate, spec.codebook_sizes) == (16000, 50, (65536,))
    bandwidths = {"codebook_size": 1024, "target_bandwidths": [0.5, 1, 1.5, 2, 4]}
    folder = tiny_transformers.xcodec(tmp_path / "1", **bandwidths)
    assert Xcodec.from_pretrained(folder, revision="main", num_codebooks=8).spec.bits_per_second == 4000


def test_an_extractor_that_is_absent_or_of_another_network_is_refused(tmp_path: Path) -> None:
    folder = tiny_transformers.xcodec2(tmp_path)
    transformers.Xcodec2FeatureExtractor(hop_length=640).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"\(16000, 640\), the network \(16000, 320\)"):
        Xcodec2.from_pretrained(folder, revision="main")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="cannot be loaded as Xcodec2FeatureExtractor"):
        Xcodec2.from_pretrained(folder, revision="main")
