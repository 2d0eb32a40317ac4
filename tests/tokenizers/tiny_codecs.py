"""Codecs of other packages, narrow and random, written in the formats in which they are published.

A random network maps all speech to one place; without biases, and with codebooks drawn from what its encoder makes of noise, it does not.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SNAC = {"encoder_dim": 8, "decoder_dim": 64, "codebook_size": 64, "codebook_dim": 8, "noise": True, "depthwise": True}
SNAC_24KHZ = {"sampling_rate": 24000, "encoder_rates": [2, 4, 8, 8], "decoder_rates": [8, 8, 4, 2], "attn_window_size": None}
SNAC_32KHZ = {"sampling_rate": 32000, "encoder_rates": [2, 3, 8, 8], "decoder_rates": [8, 8, 3, 2], "attn_window_size": 32}
SNAC_CONFIGS = {
    24000: SNAC | SNAC_24KHZ | {"vq_strides": [4, 2, 1]},
    32000: SNAC | SNAC_32KHZ | {"vq_strides": [8, 4, 2, 1], "decoder_dim": 128},
}
SPEECHTOKENIZER = {
    "resblock": "1",
    "sample_rate": 16000,
    "strides": [8, 5, 4, 2],
    "n_filters": 4,
    "dimension": 16,
    "semantic_dimension": 12,
    "bidirectional": True,
    "lstm_layers": 2,
    "residual_kernel_size": 3,
    "dilation_base": 2,
    "n_residual_layers": 1,
    "activation": "ELU",
    "codebook_size": 64,
    "n_q": 8,
}
BIGCODEC = {
    "sample_rate": 16000,
    "encoder": {"ngf": 2, "up_ratios": [2, 2, 2, 5, 5], "dilations": [1, 9, 81], "out_channels": 16},
    "decoder": {
        "in_channels": 16,
        "upsample_initial_channel": 64,
        "up_ratios": [5, 5, 2, 2, 2],
        "vq_dim": 16,
        "codebook_size": 64,
        "codebook_dim": 8,
    },
}
WAVTOKENIZER = {
    "sample_rate": 24000,
    "num_filters": 4,
    "dim": 16,
    "codebook_size": 64,
    "width": 64,
    "hidden_width": 96,
    "num_layers": 2,
    "num_conditions": 4,
}
RATIOS = {40: [6, 5, 5, 4], 75: [8, 5, 4, 2]}


def snac_network(sample_rate: int) -> Any:
    from snac import SNAC as Network

    torch.manual_seed(0)
    network = Network(**SNAC_CONFIGS[sample_rate]).eval()
    drop_biases(network)
    hear_far(network.encoder)
    return network


def snac(folder: Path, sample_rate: int) -> Path:
    (folder / "config.json").write_text(json.dumps(SNAC_CONFIGS[sample_rate]))
    torch.save(snac_network(sample_rate).state_dict(), folder / "pytorch_model.bin")
    return folder


def speechtokenizer_network() -> Any:
    from speechtokenizer import SpeechTokenizer as Network

    torch.manual_seed(0)
    network = Network(SPEECHTOKENIZER).eval()
    drop_biases(network.encoder)
    fill_codebooks(network.quantizer.vq.layers, lambda wav_T: network.encoder(wav_T[None, None]))
    return network


def speechtokenizer(folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(SPEECHTOKENIZER))
    torch.save(speechtokenizer_network().state_dict(), folder / "SpeechTokenizer.pt")
    return folder


def bigcodec_network() -> Any:
    from bigcodec import CodecDecoder, CodecEncoder

    torch.manual_seed(0)
    network: Any = nn.Module()
    network.encoder, network.decoder = CodecEncoder(**BIGCODEC["encoder"]), CodecDecoder(**BIGCODEC["decoder"])
    drop_biases(network)
    hear_far(network.encoder)
    for parameter in network.encoder.parameters():  # the package draws weights of 0.02, which drown in rounding five layers on
        parameter.data *= 3 if parameter.ndim > 1 else 1
    return network.eval()


def bigcodec(folder: Path) -> Path:
    network, parts = bigcodec_network(), {}
    for published, part in (("CodecEnc", network.encoder), ("generator", network.decoder)):
        names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        parts[published] = {renamed(name, names): tensor for name, tensor in part.state_dict().items()}
    torch.save(parts, folder / "bigcodec.pt")
    return folder


def wavtokenizer_network(frame_rate: int) -> Any:
    from audiotok.tokenizers.wavtokenizer import build

    torch.manual_seed(0)
    network: Any = build(**WAVTOKENIZER, ratios=RATIOS[frame_rate]).eval()
    drop_biases(network)
    encodec = network.feature_extractor.encodec
    fill_codebooks(encodec.quantizer.vq.layers, lambda wav_T: encodec.encoder(wav_T[None, None]))
    return network


def wavtokenizer(path: Path, frame_rate: int) -> Path:
    """As Lightning wrote it: with what only training needed."""
    other = {
        "feature_extractor.encodec.decoder.model.0.conv.conv.bias": torch.zeros(3),
        "multiperioddisc.discriminators.0.bias": torch.zeros(3),
    }
    state = {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "1.8.6",
        "state_dict": wavtokenizer_network(frame_rate).state_dict() | other,
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 2e-4, "params": [0]}]}],
        "hyper_parameters": {"sample_rate": 24000, "initial_learning_rate": 2e-4},
    }
    torch.save(state, path)
    return path


def renamed(name: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        name = name.replace(old, new)
    return name


@torch.no_grad()
def drop_biases(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if "bias" in name:
            parameter.zero_()


@torch.no_grad()
def hear_far(network: nn.Module) -> None:
    """Make the outermost taps of every convolution the loudest, so that what they reach is heard."""
    for name, parameter in network.named_parameters():
        if name.endswith(("weight_v", "weight.original1")) and parameter.ndim == 3 and parameter.shape[2] > 1:
            parameter[..., 0] *= 4
            parameter[..., -1] *= 4


@torch.no_grad()
def fill_codebooks(layers: nn.ModuleList, encoder: Callable[[Tensor], Tensor]) -> None:
    """Of EnCodec's quantiser: entries are what is left of noise, some loud and some soft, after the layers before."""
    noise_T = torch.randn(64 * 640) * torch.linspace(0.01, 0.3, 64 * 640)
    residual_1DN = encoder(noise_T)
    for layer in layers:
        codebook = layer._codebook.embed
        codebook.copy_(residual_1DN[0].T[torch.randperm(residual_1DN.shape[2])[: len(codebook)]])
        residual_1DN = residual_1DN - layer.decode(layer.encode(residual_1DN))
