"""Frames of features for k-means: what they must offer, and the speech encoders of transformers (HuBERT, WavLM, wav2vec 2.0).

An encoder is given one utterance at a time: with padding, its group norms and attention would make features depend on the batch. That
costs the speed of batching (on one CPU core little, on a GPU a factor of several for short utterances).
"""

from math import prod
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.tokenizers import weights
from audiotok.tokenizers.base import Reach

UNUSED_WEIGHTS = ("masked_spec_embed",)  # only training needs it; where a checkpoint lacks it, transformers draws it at random


class Features(Protocol):
    """Frames of features of one utterance."""

    @property
    def sample_rate(self) -> int:
        """Hz."""
        ...

    @property
    def hop(self) -> int:
        """Samples per frame."""
        ...

    @property
    def reach(self) -> Reach:
        """The samples that a frame hears."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """All that the features depend on, as JSON-like values; weights by their digest."""
        ...

    def __call__(self, wav_T: Tensor) -> Tensor:
        """features_ND with N = ceil(T / hop), on the device of `wav_T`."""
        ...


class SpeechEncoder:
    """A hidden layer of HuBERT, WavLM or wav2vec 2.0: 0 is what enters the transformer, n what leaves its n-th layer.

    Zeros around the utterance, half of (receptive field - hop) on the left, centre frame n on sample (n + 1/2) x hop and make N frames.
    """

    def __init__(self, network: nn.Module, *, layer: int, normalize: bool, sample_rate: int) -> None:
        """`normalize`: the network was trained on utterances of mean 0 and variance 1 (its preprocessor_config.json says so)."""
        config: Any = network.config
        if not 0 <= layer <= config.num_hidden_layers:
            raise ValueError(
                f"features: layer {layer} of a network with {config.num_hidden_layers}; choose 0 to {config.num_hidden_layers}"
            )
        self.network = network.eval().requires_grad_(False)
        self.layer = layer
        self.normalize = normalize
        self.sample_rate = sample_rate
        self.hop = prod(config.conv_stride)
        self.reach = Reach(None, None, period=self.hop)  # attention, and statistics of the whole utterance
        self.receptive_field = _receptive_field(config.conv_kernel, config.conv_stride)
        self.settings = {
            "kind": config.model_type,
            "weights": weights.digest(network, without=UNUSED_WEIGHTS),
            "layer": layer,
            "normalize": normalize,
            "sample_rate": sample_rate,
        }

    @classmethod
    def from_pretrained(cls, name: str, *, layer: int) -> "SpeechEncoder":
        """From a folder in transformers' format or a hub name. Raises ValueError where it cannot be loaded or a weight is missing."""
        network, preprocessor = load_transformers(name)
        if not hasattr(network.config, "conv_stride"):
            raise ValueError(
                f"{name}: a {network.config.model_type} has no convolutions over samples; HuBERT, WavLM or wav2vec 2.0 is wanted"
            )
        return cls(network, layer=layer, normalize=preprocessor.do_normalize, sample_rate=preprocessor.sampling_rate)

    @torch.no_grad()
    def __call__(self, wav_T: Tensor) -> Tensor:
        """features_ND."""
        num_frames = -(-len(wav_T) // self.hop)
        if self.normalize:
            wav_T = (wav_T - wav_T.mean()) / (wav_T.var(correction=0) + 1e-7).sqrt()  # 1e-7: transformers' feature extractor
        left = (self.receptive_field - self.hop) // 2
        padded_T = F.pad(wav_T, (left, (num_frames - 1) * self.hop + self.receptive_field - left - len(wav_T)))
        return self.network.to(wav_T.device)(padded_T[None], output_hidden_states=True).hidden_states[self.layer][0]


def load_transformers(name: str) -> tuple[Any, Any]:
    """(network, feature extractor) of a folder or a hub name; every weight is there, and no pickled code is run."""
    try:
        from transformers import AutoFeatureExtractor, AutoModel  # noqa: PLC0415
    except ImportError as error:
        raise ValueError(f"{name}: transformers is not installed; pip install 'audiotok[transformers]'") from error
    try:
        preprocessor = AutoFeatureExtractor.from_pretrained(name)
        network, found = AutoModel.from_pretrained(name, weights_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, EOFError, SafetensorError, UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{name}: cannot be loaded ({reason}); name a folder in transformers' format, or a model on the hub") from error
    if missing := sorted(key for key in found["missing_keys"] if not key.endswith(UNUSED_WEIGHTS)):
        raise ValueError(f"{name}: {len(missing)} weights are not in it ({missing[0]}, ...); fetch the whole checkpoint")
    return network, preprocessor


def _receptive_field(kernels: list[int], strides: list[int]) -> int:
    """Samples that one frame sees."""
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides)):
        samples = (samples - 1) * stride + kernel
    return samples
