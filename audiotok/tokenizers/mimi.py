"""Mimi (arXiv 2410.00037) through transformers: 24 kHz, 12.5 frames a second, one semantic codebook and up to 31 acoustic ones."""

from copy import deepcopy
from fractions import Fraction
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from audiotok import files
from audiotok.tokenizers import huggingface, weights
from audiotok.tokenizers.base import Reach, StreamState
from audiotok.tokenizers.batches import check_audio, check_codes, decode_rows, encode_rows
from audiotok.types import TokenSpec


class Mimi:
    """The codes of a Mimi network: its semantic codebook first, then the acoustic ones, coarsest first.

    The network is causal: a frame's codes and sound depend on nothing after it. Audio is padded with zeros to whole frames, as Kyutai's
    own package does; transformers alone pads inside every layer instead, and gives a last frame that began short other codes.

    It streams without delay: `push` encodes the frames that have become whole with what the network keeps of the past, the last samples
    of every convolution and the keys and values within the window of its attention. The arithmetic is that of the whole but for the
    order of sums, which may move the last bit of a latent.
    """

    def __init__(self, network: Any, *, num_codebooks: int) -> None:
        """Raises ValueError for a number of codebooks that the network does not have."""
        config = network.config
        huggingface.check_num_codebooks("mimi", num_codebooks, least=config.num_semantic_quantizers, most=config.num_quantizers)
        self.network = network.eval().requires_grad_(False)
        self.num_codebooks = num_codebooks
        settings = {"kind": "mimi", "weights": weights.digest(network), "num_codebooks": num_codebooks, "sample_rate": config.sampling_rate}
        frame_rate = Fraction(config.sampling_rate, config.frame_size)
        self.spec = TokenSpec(config.sampling_rate, frame_rate, (config.codebook_size,) * num_codebooks, files.fingerprint(settings))
        self.reach = Reach(None, 0, period=config.frame_size)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str, num_codebooks: int) -> "Mimi":
        """From a folder in transformers' format or a hub name. Raises ValueError where it is not a whole Mimi checkpoint."""
        return cls(huggingface.load("MimiModel", name, revision=revision), num_codebooks=num_codebooks)

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(codes_BKN, lengths_B in frames)."""
        check_audio(wav_BT, lengths_B)
        return encode_rows(self._encode, wav_BT, lengths_B)

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(wav_BT, lengths_B in samples)."""
        check_codes(codes_BKN, lengths_B, self.spec)
        return decode_rows(self._decode, codes_BKN, lengths_B)

    def open(self) -> StreamState:
        """Of a stream that has heard nothing."""
        return {"rest_T": torch.zeros(0)}

    @torch.no_grad()
    def push(self, state: StreamState, wav_T: Tensor) -> tuple[Tensor, StreamState]:
        """(codes_KN of the frames that are whole now, the state after them)."""
        if wav_T.ndim != 1:
            raise ValueError(f"streaming: got samples of shape {tuple(wav_T.shape)}; push one utterance's [samples] at a time")
        heard_T = torch.cat([state["rest_T"].to(wav_T), wav_T])
        num_samples = len(heard_T) - len(heard_T) % self.network.config.frame_size
        rest = {"rest_T": heard_T[num_samples:].clone()}
        if num_samples == 0:
            return torch.zeros(self.num_codebooks, 0, dtype=torch.int64, device=wav_T.device), dict(state) | rest
        output = self._streaming(heard_T[:num_samples], self._restored(state, wav_T.device))
        return output.audio_codes[0], rest | _kept(output[_attention_name(self.network)], output.padding_cache)

    def close(self, state: StreamState) -> Tensor:
        """codes_KN of the last frame, where it has begun."""
        missing = -len(state["rest_T"]) % self.network.config.frame_size
        return self.push(state, state["rest_T"].new_zeros(missing))[0]

    @torch.no_grad()
    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND: each codebook's vector after its projection out; their sum over K is the latent that is decoded."""
        quantizer = self.network.to(codes_BKN.device).quantizer
        tables = [*_tables(quantizer.semantic_residual_vector_quantizer), *_tables(quantizer.acoustic_residual_vector_quantizer)]
        table_KVD = torch.stack(tables[: self.num_codebooks])
        return table_KVD[torch.arange(self.num_codebooks, device=codes_BKN.device)[:, None], codes_BKN]

    @torch.no_grad()
    def _encode(self, wav_T: Tensor) -> Tensor:
        padded_T = F.pad(wav_T, (0, -len(wav_T) % self.network.config.frame_size))
        network = self.network.to(wav_T.device)
        return network.encode(padded_T[None, None], num_quantizers=self.num_codebooks).audio_codes[0]

    def _streaming(self, wav_T: Tensor, memory: Any) -> Any:
        options = {} if memory is None else {_attention_name(self.network): memory[0], "padding_cache": memory[1]}
        network = self.network.to(wav_T.device)
        return network.encode(wav_T[None, None], num_quantizers=self.num_codebooks, use_streaming=True, **options)

    @cached_property
    def _memory(self) -> tuple[Any, Any]:
        """What the network keeps of the past, in its own containers; made by it from one frame of zeros."""
        output = self._streaming(torch.zeros(self.network.config.frame_size, device=self.network.device), None)
        return output[_attention_name(self.network)], output.padding_cache

    def _restored(self, state: StreamState, device: torch.device) -> tuple[Any, Any] | None:
        if "num_positions" not in state:
            return None
        attention, convolutions = deepcopy(self._memory)
        for index, layer in enumerate(attention.layers):
            layer.keys, layer.values = (state[f"{name}.{index}"].to(device) for name in ("keys", "values"))
            layer.cumulative_length = int(state["num_positions"])
        convolutions.padding_cache = [state[f"samples.{index}"].to(device) for index in range(len(convolutions.padding_cache))]
        return attention, convolutions

    @torch.no_grad()
    def _decode(self, codes_KN: Tensor) -> Tensor:
        return self.network.to(codes_KN.device).decode(codes_KN[None]).audio_values[0, 0].clamp(-1, 1)


def _attention_name(network: Any) -> str:
    """What transformers calls the memory of the encoder's attention: another name since 5.24."""
    return "encoder_cache" if "encoder_cache" in signature(network.encode).parameters else "encoder_past_key_values"


def _kept(attention: Any, convolutions: Any) -> dict[str, Tensor]:
    """What the network keeps of the past, as tensors of their own."""
    kept = {f"samples.{index}": past for index, past in enumerate(convolutions.padding_cache)}
    for index, layer in enumerate(attention.layers):
        kept |= {f"keys.{index}": layer.keys, f"values.{index}": layer.values}
    return {name: past.clone() for name, past in kept.items()} | {"num_positions": torch.tensor(attention.get_seq_length())}


def _tables(quantizer: Any) -> list[Tensor]:
    """The codebooks of one residual quantiser, each [V, D] in the space that is decoded."""
    tables = [layer.codebook.embed for layer in quantizer.layers]
    return tables if quantizer.output_proj is None else [F.linear(table_VD, quantizer.output_proj.weight[..., 0]) for table_VD in tables]
