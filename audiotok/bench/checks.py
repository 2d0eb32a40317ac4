"""A tokenizer that is not trusted: what it returns is looked at each time, and what is wrong with it gets a name."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from audiotok.tokenizers.base import Decoder, Embedder
from audiotok.types import TokenSpec

VERDICTS: Mapping[str, str] = {
    "codes_out_of_range": "codes that are not in the codebooks its spec tells of",
    "codes_not_integers": "codes that are no integers",
    "wrong_shape": "codes or audio of another shape than [B, K, N] and [B, T], or lengths beyond them",
    "wrong_frames": "another number of frames than its spec has for the audio",
    "wrong_samples": "another number of samples than its spec has for the frames",
    "audio_not_finite": "NaN or infinite samples",
    "input_changed": "the tensors it is given are not as they were",
    "batch_dependent": "codes that depend on the batch or its padding",
    "not_deterministic": "other codes on a second run",
    "chunk_dependent": "codes that depend on how speech was cut into chunks, although its reach is bounded",
    "crashed": "an error of its own",
    "died": "its process ended",
    "timed_out": "no end within the time that a cell is given",
}


class Broken(Exception):
    """A tokenizer did what no tokenizer may. `verdict` is one of `VERDICTS`."""

    def __init__(self, verdict: str, reason: str) -> None:
        assert verdict in VERDICTS, verdict
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason


class Checked:
    """A tokenizer that raises `Broken` rather than return codes out of range, audio that is not finite, or other lengths than told."""

    def __init__(self, tokenizer: Any) -> None:
        self.wrapped = tokenizer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "wrapped":
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    @property
    def spec(self) -> TokenSpec:
        return self.wrapped.spec

    @property
    def decodes(self) -> bool:
        """Whether there is a way back to sound."""
        return isinstance(self.wrapped, Decoder)

    @property
    def embeds(self) -> bool:
        """Whether its codes have vectors."""
        return isinstance(self.wrapped, Embedder)

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(codes_BKN, lengths_B in frames), as the tokenizer's own."""
        codes_BKN, frames_B = _unchanged(self.wrapped.encode, wav_BT, lengths_B)
        wanted = (len(wav_BT), self.spec.num_codebooks)
        if not isinstance(codes_BKN, Tensor) or codes_BKN.ndim != 3 or codes_BKN.shape[:2] != wanted:
            raise Broken("wrong_shape", f"codes {_shape(codes_BKN)} of {len(wav_BT)} utterances and {self.spec.num_codebooks} codebooks")
        if codes_BKN.is_floating_point() or codes_BKN.is_complex() or codes_BKN.dtype == torch.bool:
            raise Broken("codes_not_integers", f"codes of {codes_BKN.dtype}")
        frames = [self.spec.num_frames(int(length)) for length in lengths_B]
        if frames_B.tolist() != frames or codes_BKN.shape[2] < max(frames):
            told = f"{frames_B.tolist()} frames and codes {_shape(codes_BKN)} of {lengths_B.tolist()} samples; its spec has {frames}"
            raise Broken("wrong_frames", told)
        for k, size in enumerate(self.spec.codebook_sizes):
            low, high = int(codes_BKN[:, k].min()), int(codes_BKN[:, k].max())
            if low < 0 or high >= size:
                raise Broken("codes_out_of_range", f"codebook {k} has codes from 0 to {size - 1}; got {low} to {high}")
        return codes_BKN, frames_B

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(wav_BT, lengths_B in samples), as the tokenizer's own."""
        wav_BT, samples_B = _unchanged(self.wrapped.decode, codes_BKN, lengths_B)
        if not isinstance(wav_BT, Tensor) or wav_BT.ndim != 2 or len(wav_BT) != len(codes_BKN):
            raise Broken("wrong_shape", f"audio {_shape(wav_BT)} of {len(codes_BKN)} utterances")
        samples = [self.spec.num_samples(int(length)) for length in lengths_B]
        if samples_B.tolist() != samples or wav_BT.shape[1] < max(samples):
            told = f"{samples_B.tolist()} samples and audio {_shape(wav_BT)} of {lengths_B.tolist()} frames; its spec has {samples}"
            raise Broken("wrong_samples", told)
        if not torch.isfinite(wav_BT).all():
            raise Broken("audio_not_finite", f"{int((~torch.isfinite(wav_BT)).sum())} of {wav_BT.numel()} samples are NaN or infinite")
        return wav_BT, samples_B

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND, as the tokenizer's own."""
        return self.wrapped.embed(codes_BKN)


def _unchanged(work: Callable[[Tensor, Tensor], Any], values: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    before = values.clone(), lengths_B.clone()
    result = work(values, lengths_B)
    if not (torch.equal(values, before[0]) and torch.equal(lengths_B, before[1])):
        raise Broken("input_changed", "the tensors that it was given have other values afterwards")
    if not (isinstance(result, tuple) and len(result) == 2):
        raise Broken("wrong_shape", f"a {type(result).__name__} in place of (values, lengths)")
    return result


def _shape(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__
