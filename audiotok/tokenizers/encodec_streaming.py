"""EnCodec 24 kHz as a stream: the state of its LSTM is carried on, its convolutions are given again what they hear.

    samples -> convolutions -> LSTM -> last convolution -> codes
    478 before a frame         h, c    6 frames before

The package has no stream of this network. Frames are encoded in blocks of eight, without look-ahead: the first block holds all that the
convolutions reflect at the beginning. As in streaming.py the codes do not depend on the chunks, to the bit; of the whole utterance the
same came out in 29,720 codes, 7,704 of them of a network of full size (random weights).
"""

from typing import Any

import torch
from torch import Tensor, nn

from audiotok.tokenizers.base import StreamState
from audiotok.types import TokenSpec

BLOCK = 8  # frames that are encoded together, 0.1 s


class CausalStream:
    """A stream over a causal EnCodec network without segments: the codes of the whole utterance, whatever the chunks."""

    def __init__(self, network: Any, *, spec: TokenSpec, bandwidth: float) -> None:
        *front, lstm, activation, last = network.encoder.model
        self.spec = spec
        self._network = network
        self._bandwidth = bandwidth
        self._front = nn.Sequential(*front)
        self._lstm, self._activation, self._last = lstm, activation, last
        self._kept = last.conv.conv.kernel_size[0] - 1  # frames that the last convolution hears before a frame
        if self._kept >= BLOCK:
            raise ValueError(f"encodec: the last convolution hears {self._kept} frames, a stream's block has {BLOCK}; raise BLOCK above it")
        self._hop = int(spec.hop)
        self._before = -(-_heard_before(self._front) // self._hop) * self._hop

    def open(self) -> StreamState:
        """Of a stream that has heard nothing."""
        return {"wav_T": torch.zeros(0), "frames": torch.tensor(0)}

    @torch.no_grad()
    def push(self, state: StreamState, wav_T: Tensor) -> tuple[Tensor, StreamState]:
        """(codes_KN of the blocks that these samples complete, the state after them)."""
        if wav_T.ndim != 1:
            raise ValueError(f"streaming: got samples of shape {tuple(wav_T.shape)}; push one utterance's [samples] at a time")
        state = dict(state) | {"wav_T": torch.cat([state["wav_T"].to(wav_T), wav_T])}
        codes = [torch.zeros(self.spec.num_codebooks, 0, dtype=torch.int64, device=wav_T.device)]
        while len(state["wav_T"]) >= (needed := self._context(state) + BLOCK * self._hop):
            codes_KN, after = self._encode(state, state["wav_T"][:needed])
            codes.append(codes_KN)
            frames = int(state["frames"]) + BLOCK
            kept_T = state["wav_T"][needed - min(self._before, frames * self._hop) :].clone()
            state = after | {"wav_T": kept_T, "frames": torch.tensor(frames)}
        return torch.cat(codes, dim=1), state

    @torch.no_grad()
    def close(self, state: StreamState) -> Tensor:
        """codes_KN of the frames that no block was completed for."""
        if len(state["wav_T"]) == self._context(state):
            return torch.zeros(self.spec.num_codebooks, 0, dtype=torch.int64, device=state["wav_T"].device)
        return self._encode(state, state["wav_T"])[0]

    def _context(self, state: StreamState) -> int:
        """Samples that stand before the first frame to come."""
        return min(self._before, int(state["frames"]) * self._hop)

    def _encode(self, state: StreamState, wav_T: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(codes_KN of the frames behind the context, what the layers that remember keep)."""
        network = self._network.to(wav_T.device)
        features_1DN = self._front(wav_T[None, None])[..., self._context(state) // self._hop :]
        features_N1D = features_1DN.permute(2, 0, 1)
        memory = (state["h"].to(wav_T), state["c"].to(wav_T)) if "h" in state else None
        output_N1D, (h, c) = self._lstm.lstm(features_N1D, memory)
        output_N1D = output_N1D + features_N1D if self._lstm.skip else output_N1D
        active_1DN = self._activation(output_N1D.permute(1, 2, 0))
        if "tail_1DN" in state:
            active_1DN = torch.cat([state["tail_1DN"].to(wav_T), active_1DN], dim=2)
            latent_1DN = self._last.conv(active_1DN)
        else:
            latent_1DN = self._last(active_1DN)
        codes_KN = network.quantizer.encode(latent_1DN, network.frame_rate, self._bandwidth)[:, 0]
        return codes_KN, {"h": h, "c": c, "tail_1DN": active_1DN[..., -self._kept :].clone()}


def _heard_before(layers: nn.Module) -> int:
    """The samples before a frame that causal convolutions hear."""
    samples, stride = 0, 1
    for layer in layers.modules():
        if isinstance(layer, nn.Conv1d):
            samples += ((layer.kernel_size[0] - 1) * layer.dilation[0] - (layer.stride[0] - 1)) * stride
            stride *= layer.stride[0]
    return samples
