"""Small random networks of transformers' codecs, saved in the format of the published ones."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

ENCODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONVOLUTIONS = {"conv_dim": (8,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}


def spread(network: nn.Module) -> Any:
    """Weights of variance 1 / fan-in, small biases and random codebooks, so that codes follow the sound; DAC's last layer low."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.02, generator=generator)
        elif parameter.ndim > 1 and parameter[0].numel() > 1:
            level = 0.01 if name.endswith("decoder.conv2.weight") else 1.0
            nn.init.normal_(parameter, std=level * parameter[0].numel() ** -0.5, generator=generator)
    for name, buffer in network.named_buffers():
        if name.endswith((".codebook.embed", ".codebook.embed_sum")):
            nn.init.normal_(buffer, std=0.3, generator=generator)
    return network.eval().requires_grad_(False)


def saved(network: nn.Module, folder: Path) -> Path:
    spread(network).save_pretrained(folder)
    return folder


def dac(folder: Path, *, sample_rate: int = 16000, **changes: Any) -> Path:
    import transformers

    ratios = [2, 4, 8, 8] if sample_rate == 44100 else [2, 4, 5, 8]
    size = {"encoder_hidden_size": 4, "decoder_hidden_size": 32, "codebook_dim": 4, "codebook_size": 256, "n_codebooks": 6}
    config = transformers.DacConfig(sampling_rate=sample_rate, downsampling_ratios=ratios, **size | changes)
    transformers.DacFeatureExtractor(sampling_rate=sample_rate, hop_length=config.hop_length).save_pretrained(folder)
    return saved(transformers.DacModel(config), folder)


def mimi(folder: Path, **changes: Any) -> Path:
    import transformers

    size = {"num_filters": 4, "codebook_size": 256, "codebook_dim": 8, "vector_quantization_hidden_dimension": 8, "upsample_groups": 16}
    size |= {"num_quantizers": 6, "num_key_value_heads": 2, "sliding_window": 10, "layer_scale_initial_scale": 0.5}
    transformers.EncodecFeatureExtractor(sampling_rate=24000).save_pretrained(folder)
    return saved(transformers.MimiModel(transformers.MimiConfig(**ENCODER | size | changes)), folder)


def xcodec(folder: Path, **changes: Any) -> Path:
    import transformers

    acoustic = transformers.DacConfig(encoder_hidden_size=2, decoder_hidden_size=32, downsampling_ratios=[8, 5, 4, 2])
    acoustic.hidden_size = 8
    acoustic.upsampling_ratios = [8, 5, 4, 2]
    config = transformers.XcodecConfig(
        acoustic_model_config=acoustic,
        semantic_model_config=transformers.HubertConfig(**ENCODER, **CONVOLUTIONS),
        **{"codebook_size": 256, "target_bandwidths": [0.4, 0.8, 1.6]} | changes,
    )
    return saved(transformers.XcodecModel(config), folder)


def xcodec2(folder: Path, **changes: Any) -> Path:
    import transformers

    semantic = transformers.Wav2Vec2BertConfig(**ENCODER, conv_depthwise_kernel_size=3)
    size = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    size |= {"head_dim": 8, "encoder_hidden_size": 2, "quantization_dim": 80, "quantization_levels": [4, 4, 4, 4]}
    transformers.Xcodec2FeatureExtractor().save_pretrained(folder)
    return saved(transformers.Xcodec2Model(transformers.Xcodec2Config(semantic_model_config=semantic, **size | changes)), folder)
