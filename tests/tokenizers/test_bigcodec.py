from pathlib import Path

import pytest
import tiny_codecs
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from audiotok.tokenizers.bigcodec import BigCodec

bigcodec = pytest.importorskip("bigcodec")


@pytest.mark.parametrize("length", [1, 8000, 8001, 8199])
def test_codes_and_sound_are_those_of_the_authors_script_in_the_package(length: int, wav_16k: Tensor) -> None:
    network = tiny_codecs.bigcodec_network()
    tokenizer = BigCodec(network, sample_rate=16000)
    wav_T = wav_16k[8000 : 8000 + length]
    codes_BKN, frames_B = tokenizer.encode(wav_T[None], torch.tensor([length]))
    back_BT, _ = tokenizer.decode(codes_BKN, frames_B)
    with torch.no_grad():
        wanted_KBN = bigcodec.BigCodec.encode(network, F.pad(wav_T, (0, 200 - length % 200))[None, None])
        assert torch.equal(codes_BKN[:, 0], wanted_KBN[0, :, : codes_BKN.shape[2]])
        assert torch.equal(back_BT, bigcodec.BigCodec.decode(network, codes_BKN[:, 0][None])[0])
    assert wanted_KBN.shape[2] - codes_BKN.shape[2] == (length % 200 == 0)
    assert back_BT.std() > 0.001


def test_the_packages_own_format_gives_the_same_tokenizer_as_the_authors(tmp_path: Path) -> None:
    theirs = BigCodec.from_pretrained(tiny_codecs.bigcodec(tmp_path), revision="main", **tiny_codecs.BIGCODEC)
    save_file(dict(tiny_codecs.bigcodec_network().state_dict()), tmp_path / "model.safetensors")
    assert BigCodec.from_pretrained(tmp_path, revision="main", **tiny_codecs.BIGCODEC).spec == theirs.spec
    assert BigCodec.from_pretrained(tmp_path / "bigcodec.pt", revision="main", **tiny_codecs.BIGCODEC).spec == theirs.spec


def test_a_checkpoint_without_one_of_its_halves_is_refused(tmp_path: Path) -> None:
    path = tiny_codecs.bigcodec(tmp_path) / "bigcodec.pt"
    parts = torch.load(path, weights_only=True)
    torch.save({"CodecEnc": parts["CodecEnc"]}, path)
    with pytest.raises(ValueError, match=r"bigcodec\.pt: holds no generator"):
        BigCodec.from_pretrained(tmp_path, revision="main", **tiny_codecs.BIGCODEC)
    torch.save({"CodecEnc": parts["CodecEnc"], "generator": [1]}, path)
    with pytest.raises(ValueError, match="holds a list"):
        BigCodec.from_pretrained(tmp_path, revision="main", **tiny_codecs.BIGCODEC)


def test_sizes_that_the_package_does_not_know_are_refused(tmp_path: Path) -> None:
    sizes = tiny_codecs.BIGCODEC | {"encoder": {"width": 48}}
    with pytest.raises(ValueError, match=r"bigcodec: .*width"):
        BigCodec.from_pretrained(tmp_path, revision="main", **sizes)
