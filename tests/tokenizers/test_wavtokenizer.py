from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_codecs
import torch
from torch import Tensor

from audiotok import audio
from audiotok.tokenizers.wavtokenizer import Attention, Residual, WavTokenizer, build

pytest.importorskip("vocos")
encodec = pytest.importorskip("encodec")

SIZES = {40: (600, 2402), 75: (320, 1282)}  # hop and outputs of the head


@pytest.mark.parametrize("frame_rate", [40, 75])
@pytest.mark.parametrize("length", [1, 24000, 24001])
def test_codes_are_those_of_the_encodec_package_with_this_encoder_and_quantiser(frame_rate: int, length: int, wav_16k: Tensor) -> None:
    network = tiny_codecs.wavtokenizer_network(frame_rate)
    wav_T = audio.resample(wav_16k[8000:40000], 16000, 24000)[:length]
    codes_BKN, _ = WavTokenizer(network).encode(wav_T[None], torch.tensor([length]))
    with torch.no_grad():
        ((wanted_BKN, _),) = network.feature_extractor.encodec.encode(wav_T[None, None])
    assert torch.equal(codes_BKN, wanted_BKN)


def group_norm(hidden_DN: np.ndarray, layer: torch.nn.GroupNorm) -> np.ndarray:
    grouped = hidden_DN.reshape(32, -1)
    normed = (grouped - grouped.mean(1, keepdims=True)) / np.sqrt(grouped.var(1, keepdims=True) + 1e-6)
    return normed.reshape(hidden_DN.shape) * layer.weight.double().numpy()[:, None] + layer.bias.double().numpy()[:, None]


def convolved(hidden_DN: np.ndarray, layer: torch.nn.Conv1d) -> np.ndarray:
    weight, around = layer.weight.double().numpy(), layer.padding[0]
    padded = np.pad(hidden_DN, ((0, 0), (around, around)))
    columns = [np.tensordot(weight, padded[:, n : n + weight.shape[2]], axes=([1, 2], [0, 1])) for n in range(hidden_DN.shape[1])]
    return np.stack(columns, axis=1) + layer.bias.double().numpy()[:, None]


def swish(hidden: np.ndarray) -> np.ndarray:
    return hidden / (1 + np.exp(-hidden))


@torch.no_grad()
def test_the_layers_between_are_the_published_formulas_written_out() -> None:
    torch.manual_seed(0)
    hidden_DN = torch.randn(64, 11)
    residual, attention = Residual(64), Attention(64)
    for layer in (residual.norm1, residual.norm2, attention.norm):
        layer.weight.uniform_(0.5, 2), layer.bias.normal_()
    x = hidden_DN.double().numpy()
    wanted = x + convolved(
        swish(group_norm(convolved(swish(group_norm(x, residual.norm1)), residual.conv1), residual.norm2)), residual.conv2
    )
    np.testing.assert_allclose(residual(hidden_DN[None])[0].numpy(), wanted, atol=2e-5)
    normed = group_norm(x, attention.norm)
    query, key, value = (convolved(normed, layer) for layer in (attention.q, attention.k, attention.v))
    weights = np.exp(query.T @ key / np.sqrt(64))
    heard = value @ (weights / weights.sum(1, keepdims=True)).T
    np.testing.assert_allclose(attention(hidden_DN[None])[0].numpy(), x + convolved(heard, attention.proj_out), atol=2e-5)


@torch.no_grad()
def test_without_its_layers_between_the_backbone_is_that_of_vocos() -> None:
    from vocos.models import VocosBackbone

    torch.manual_seed(0)
    network: Any = build(**tiny_codecs.WAVTOKENIZER, ratios=[6, 5, 5, 4])
    theirs = VocosBackbone(16, 64, 96, 2, adanorm_num_embeddings=4)
    state = {name: tensor for name, tensor in network.backbone.state_dict().items() if not name.startswith("pos_net")}
    for name in state:
        if ".scale." in name or ".shift." in name:
            state[name].normal_()  # the norms begin as the identity, the same under every condition
    theirs.load_state_dict(state)
    network.backbone.pos_net = torch.nn.Identity()
    hidden_BDN, condition = torch.randn(1, 16, 9), torch.tensor([0])
    assert torch.equal(network.backbone(hidden_BDN, bandwidth_id=condition), theirs(hidden_BDN, bandwidth_id=condition))


@pytest.mark.parametrize("frame_rate", [40, 75])
def test_names_and_sizes_are_those_of_the_published_checkpoints(frame_rate: int) -> None:
    hop, outputs = SIZES[frame_rate]
    network = build(**tiny_codecs.WAVTOKENIZER, ratios=tiny_codecs.RATIOS[frame_rate])
    state = network.state_dict()
    encoder, codebook = "feature_extractor.encodec.encoder.model", "feature_extractor.encodec.quantizer.vq.layers.0._codebook"
    ratios = tiny_codecs.RATIOS[frame_rate][::-1]
    wanted: dict[str, tuple[int, ...]] = {
        f"{encoder}.0.conv.conv.weight_v": (4, 1, 7),
        f"{encoder}.1.shortcut.conv.conv.weight_g": (4, 1, 1),
        **{f"{encoder}.{3 * level + 3}.conv.conv.weight_v": (8 << level, 4 << level, 2 * ratio) for level, ratio in enumerate(ratios)},
        f"{encoder}.13.lstm.weight_hh_l1": (256, 64),
        f"{encoder}.15.conv.conv.bias": (16,),
        f"{codebook}.embed": (64, 16),
        f"{codebook}.inited": (1,),
        "backbone.embed.weight": (64, 16, 7),
        "backbone.norm.scale.weight": (4, 64),
        "backbone.convnext.1.dwconv.weight": (64, 1, 7),
        "backbone.convnext.1.norm.shift.weight": (4, 64),
        "backbone.convnext.1.pwconv1.weight": (96, 64),
        "backbone.convnext.1.gamma": (64,),
        "backbone.final_layer_norm.bias": (64,),
        "backbone.pos_net.0.norm1.weight": (64,),
        "backbone.pos_net.1.conv2.weight": (64, 64, 3),
        "backbone.pos_net.2.q.weight": (64, 64, 1),
        "backbone.pos_net.2.proj_out.bias": (64,),
        "backbone.pos_net.4.conv1.weight": (64, 64, 3),
        "backbone.pos_net.5.bias": (64,),
        "head.out.weight": (outputs, 64),
        "head.istft.window": (4 * hop,),
    }
    assert {name: tuple(state[name].shape) for name in wanted} == wanted
    assert {name.rpartition(".encodec.")[2].split(".")[0] for name in state} == {"encoder", "quantizer", "backbone", "head"}


def test_a_checkpoint_of_the_other_frame_rate_is_refused(tmp_path: Path) -> None:
    tiny_codecs.wavtokenizer(tmp_path / "tiny.ckpt", 40)
    network = build(**tiny_codecs.WAVTOKENIZER, ratios=tiny_codecs.RATIOS[75])
    with pytest.raises(ValueError, match=r"tiny\.ckpt: not the weights of this network .*size mismatch"):
        WavTokenizer.from_pretrained(tmp_path, revision="main", filename="tiny.ckpt", network=network)


def test_what_decoding_does_not_use_changes_no_fingerprint() -> None:
    network = tiny_codecs.wavtokenizer_network(40)
    one = WavTokenizer(network).spec
    network.feature_extractor.encodec.decoder = torch.nn.Linear(3, 3)  # as in the authors' own object
    assert WavTokenizer(network).spec == one
    network.head.out.bias.data += 1
    assert WavTokenizer(network).spec != one
