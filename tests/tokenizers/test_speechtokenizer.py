import json
from itertools import pairwise
from pathlib import Path

import pytest
import tiny_codecs
import torch
from torch import Tensor

from audiotok.tokenizers.speechtokenizer import SpeechTokenizer

pytest.importorskip("speechtokenizer")


@pytest.mark.parametrize("length", [1, 16000, 16001])
def test_codes_and_sound_are_those_of_the_package(length: int, wav_16k: Tensor) -> None:
    network = tiny_codecs.speechtokenizer_network()
    tokenizer = SpeechTokenizer(network, num_codebooks=8)
    wav_T = wav_16k[8000 : 8000 + length]
    codes_BKN, frames_B = tokenizer.encode(wav_T[None], torch.tensor([length]))
    back_BT, _ = tokenizer.decode(codes_BKN, frames_B)
    with torch.no_grad():
        wanted_KBN = network.encode(wav_T[None, None])
        assert torch.equal(codes_BKN, wanted_KBN.transpose(0, 1))
        assert torch.equal(back_BT, network.decode(wanted_KBN)[:, 0].clamp(-1, 1))
    assert back_BT.std() > 0.001


def test_fewer_codebooks_are_the_first_of_more_at_their_share_of_the_rate(wav_16k: Tensor) -> None:
    network, batch = tiny_codecs.speechtokenizer_network(), (wav_16k[None, 8000:12000], torch.tensor([4000]))
    tokenizers = [SpeechTokenizer(network, num_codebooks=number) for number in (1, 4, 8)]
    codes = [tokenizer.encode(*batch)[0] for tokenizer in tokenizers]
    assert [tokenizer.spec.bits_per_second for tokenizer in tokenizers] == [300.0, 1200.0, 2400.0]  # 6 bits a code here, 10 as published
    assert all(torch.equal(few, more[:, : few.shape[1]]) for few, more in pairwise(codes))
    assert len({tokenizer.spec.fingerprint for tokenizer in tokenizers}) == 3


def test_a_number_of_codebooks_that_the_network_has_not_is_refused() -> None:
    network = tiny_codecs.speechtokenizer_network()
    for number in (0, 9):
        with pytest.raises(ValueError, match=f"num_codebooks={number}; this network has 8"):
            SpeechTokenizer(network, num_codebooks=number)


def test_the_second_published_checkpoint_is_found_by_its_own_name_and_has_its_own_activation(tmp_path: Path, wav_16k: Tensor) -> None:
    from speechtokenizer import SpeechTokenizer as Network

    config = tiny_codecs.SPEECHTOKENIZER | {"activation": "Snake"}
    torch.manual_seed(0)
    network = Network(config).eval()
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(network.state_dict(), tmp_path / "ckpt.dev")
    tokenizer = SpeechTokenizer.from_pretrained(tmp_path, revision="main", num_codebooks=8)
    assert tokenizer.spec == SpeechTokenizer(network, num_codebooks=8).spec
    with pytest.raises(ValueError, match="not the weights of this network"):
        tiny_codecs.speechtokenizer(tmp_path)
        (tmp_path / "ckpt.dev").rename(tmp_path / "SpeechTokenizer.pt")
        SpeechTokenizer.from_pretrained(tmp_path, revision="main", num_codebooks=8)


def test_settings_of_another_network_are_refused(tmp_path: Path) -> None:
    folder = tiny_codecs.speechtokenizer(tmp_path)
    (folder / "config.json").write_text(json.dumps({"sampling_rate": 24000}))
    with pytest.raises(ValueError, match="not the settings of a SpeechTokenizer network"):
        SpeechTokenizer.from_pretrained(folder, revision="main", num_codebooks=8)
