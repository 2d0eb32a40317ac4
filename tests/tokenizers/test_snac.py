import json
from pathlib import Path
from typing import Any

import pytest
import tiny_codecs
import torch
from torch import Tensor

from audiotok import audio
from audiotok.tokenizers.snac import Snac, columns, join_levels, split_levels

pytest.importorskip("snac")


def test_columns_walk_down_the_tree_of_time() -> None:
    assert columns([4, 2, 1]) == [(0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (2, 2), (2, 3)]
    assert columns([2, 1]) == [(0, 0), (1, 0), (1, 1)]
    assert columns([3]) == [(0, 0)]
    assert [level for level, _ in columns([8, 4, 2, 1])] == [0, 1, 2, 3, 3, 2, 3, 3, 1, 2, 3, 3, 2, 3, 3]


def test_frames_are_flattened_as_speech_language_models_flatten_them() -> None:
    """Orpheus writes a, b1, c1, c2, b2, c3, c4 for each code a of the slowest level."""
    slow, middle, fast = torch.tensor([[0, 1]]), torch.tensor([[10, 11, 12, 13]]), torch.tensor([[20, 21, 22, 23, 24, 25, 26, 27]])
    codes_BKN = join_levels([slow, middle, fast], [4, 2, 1])
    assert codes_BKN[0].T.tolist() == [[0, 10, 20, 21, 11, 22, 23], [1, 12, 24, 25, 13, 26, 27]]


@pytest.mark.parametrize("strides", [[4, 2, 1], [8, 4, 2, 1], [6, 3, 1], [4, 4, 2], [1]])
def test_splitting_and_joining_undo_each_other(strides: list[int]) -> None:
    num_columns = len(columns(strides))
    codes_BKN = torch.arange(2 * num_columns * 5).view(2, num_columns, 5)
    levels = split_levels(codes_BKN, strides)
    assert [level.shape for level in levels] == [(2, 5 * strides[0] // stride) for stride in strides]
    assert torch.equal(join_levels(levels, strides), codes_BKN)


def encoded(sample_rate: int, wav_16k: Tensor, length: int) -> tuple[Snac, Any, Tensor, Tensor]:
    """(tokenizer, its network, wav_T, codes_1KN)."""
    network = tiny_codecs.snac_network(sample_rate)
    tokenizer = Snac(network, seed=3)
    wav_T = audio.resample(wav_16k[8000:40000], 16000, sample_rate)[:length]
    return tokenizer, network, wav_T, tokenizer.encode(wav_T[None], torch.tensor([length]))[0]


@pytest.mark.parametrize(("sample_rate", "length"), [(24000, 20480), (24000, 20481), (24000, 100), (32000, 24576), (32000, 30000)])
def test_codes_are_those_of_the_package(sample_rate: int, length: int, wav_16k: Tensor) -> None:
    tokenizer, network, wav_T, codes_1KN = encoded(sample_rate, wav_16k, length)
    with torch.no_grad():
        wanted = network.encode(wav_T[None, None])
    found = split_levels(codes_1KN, tokenizer.strides)
    assert len(found) == len(wanted) and all(torch.equal(ours, theirs[:, : ours.shape[1]]) for ours, theirs in zip(found, wanted))
    beyond = wanted[0].shape[1] - found[0].shape[1]
    assert beyond == (0 if sample_rate == 24000 else -found[0].shape[1] % 4)  # frames of silence, up to a whole window of attention


@pytest.mark.parametrize(("sample_rate", "length"), [(24000, 20481), (32000, 24576)])
def test_sound_is_that_of_the_package_when_it_draws_the_same_noise(sample_rate: int, length: int, wav_16k: Tensor) -> None:
    tokenizer, network, _, codes_1KN = encoded(sample_rate, wav_16k, length)
    torch.manual_seed(3)
    with torch.no_grad():
        wanted_11T = network.decode(split_levels(codes_1KN, tokenizer.strides))
    found_1T, _ = tokenizer.decode(codes_1KN, torch.tensor([codes_1KN.shape[2]]))
    assert wanted_11T.std() > 0.001
    assert torch.equal(found_1T, wanted_11T[0])


def test_noise_is_drawn_from_the_seed_and_nobody_elses_is_touched(wav_16k: Tensor) -> None:
    tokenizer, network, _, codes_1KN = encoded(24000, wav_16k, 8192)
    frames_B = torch.tensor([4])
    torch.manual_seed(11)
    wanted = torch.rand(3)
    torch.manual_seed(11)
    first_1T, _ = tokenizer.decode(codes_1KN, frames_B)
    assert torch.equal(torch.rand(3), wanted)
    assert torch.equal(tokenizer.decode(codes_1KN, frames_B)[0], first_1T)
    assert not torch.equal(Snac(network, seed=4).decode(codes_1KN, frames_B)[0], first_1T)


def test_the_window_of_attention_is_filled_with_the_codes_of_silence(wav_16k: Tensor) -> None:
    """Six frames of two windows of four: decoded as the package decodes them with two frames of silence behind."""
    tokenizer, network, _, codes_1KN = encoded(32000, wav_16k, 6 * 3072)
    with torch.no_grad():
        silence = network.encode(torch.zeros(1, 1, 4 * 3072))
        levels = [
            torch.cat([level, rest[:, rest.shape[1] // 2 :]], dim=1) for level, rest in zip(split_levels(codes_1KN, (8, 4, 2, 1)), silence)
        ]
        torch.manual_seed(3)
        wanted_11T = network.decode(levels)
    found_1T, lengths_B = tokenizer.decode(codes_1KN, torch.tensor([6]))
    assert lengths_B.tolist() == [6 * 3072] and torch.equal(found_1T[0], wanted_11T[0, 0, : 6 * 3072])


def test_what_is_said_of_the_published_networks_is_what_their_sizes_say() -> None:
    slow, music = (Snac(tiny_codecs.snac_network(rate), seed=0).spec for rate in (24000, 32000))
    assert (slow.hop, slow.num_codebooks, music.hop, music.num_codebooks) == (2048, 7, 3072, 15)
    assert 7 * 12 * float(slow.frame_rate) == 984.375 and 15 * 12 * float(music.frame_rate) == 1875.0


def test_the_fingerprint_tells_weights_and_strides_apart() -> None:
    network = tiny_codecs.snac_network(24000)
    one = Snac(network, seed=0).spec.fingerprint
    assert Snac(tiny_codecs.snac_network(24000), seed=1).spec.fingerprint == one
    network.decoder.model[0].bias.data += 1
    assert Snac(network, seed=0).spec.fingerprint != one


def test_strides_that_do_not_nest_are_refused() -> None:
    network = tiny_codecs.snac_network(24000)
    network.vq_strides = [4, 3, 1]
    with pytest.raises(ValueError, match=r"strides \(4, 3, 1\)"):
        Snac(network, seed=0)


def test_settings_of_another_network_are_refused(tmp_path: Path) -> None:
    folder = tiny_codecs.snac(tmp_path, 24000)
    for config, told in (("{", "not JSON"), ("[1]", "holds a list"), (json.dumps({"n_filters": 4}), "not the settings of a SNAC network")):
        (folder / "config.json").write_text(config)
        with pytest.raises(ValueError, match=told):
            Snac.from_pretrained(folder, revision="main", seed=0)
