"""SNAC (arXiv 2410.14411) through its own package: residual codebooks at different rates, the first the slowest.

A token spec has one frame rate, so a frame is one of the slowest codebook, and each code that falls into it is a column. Columns stand
in the order of a walk down the tree of time, as speech language models flatten it. Of the 24 kHz network, frame by frame (strides 4, 2, 1):

    level 0    a                 a b c d e f g: 7 columns of 4096 at 24000 / 2048 Hz, 984.375 bit/s
    level 1    b       e         column 0 is level 0, columns 1 and 4 level 1, columns 2, 3, 5 and 6 level 2
    level 2    c   d   f   g
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from math import ceil, lcm
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiotok import files
from audiotok.tokenizers import checkpoints, weights
from audiotok.tokenizers.base import Reach
from audiotok.tokenizers.batches import check_audio, check_codes, decode_rows, encode_rows
from audiotok.types import TokenSpec


def columns(strides: Sequence[int]) -> list[tuple[int, int]]:
    """(level, which of its codes in the frame) of each column, sorted by when the code begins, the slower level first."""
    cells = [(level, index) for level, stride in enumerate(strides) for index in range(strides[0] // stride)]
    return sorted(cells, key=lambda cell: (cell[1] * strides[cell[0]], cell[0]))


def join_levels(levels: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """codes_BKN, one column per code of a frame, of SNAC's list: level l is [B, N x strides[0] / strides[l]]."""
    return torch.stack([levels[level][:, index :: strides[0] // strides[level]] for level, index in columns(strides)], dim=1)


def split_levels(codes_BKN: Tensor, strides: Sequence[int]) -> list[Tensor]:
    """SNAC's list of codes, one [B, N x strides[0] / strides[l]] per level l: the inverse of `join_levels`."""
    places = columns(strides)
    rows = [[row for row, (level, _) in enumerate(places) if level == wanted] for wanted in range(len(strides))]
    return [codes_BKN[:, row].transpose(1, 2).flatten(1) for row in rows]


class Snac:
    """The codes of a SNAC network, as the package itself encodes one utterance.

    Where the network attends within windows (32 and 44 kHz), the package codes whole windows, with silence behind the utterance. Those
    codes are cut off after the last frame that has sound, and decoding puts the codes of pure silence in their place: up to one window
    before the end, decoded audio can differ from the package's. Decoding adds noise that the network draws; here it is drawn from `seed`,
    anew for each utterance.
    """

    def __init__(self, network: Any, *, seed: int) -> None:
        """Raises ValueError for strides that do not divide one another."""
        self.network = network.eval().requires_grad_(False)
        self.seed = seed
        self.strides = tuple(int(stride) for stride in network.vq_strides)
        if any(slow % fast for slow, fast in pairwise(self.strides)):
            raise ValueError(f"snac: got strides {self.strides}; each must be a multiple of the next, so that frames nest")
        hop, window = int(network.hop_length) * self.strides[0], network.attn_window_size
        sizes = (network.codebook_size,) * len(columns(self.strides))
        settings = {"kind": "snac", "weights": weights.digest(network), "strides": self.strides, "window": window}
        self.spec = TokenSpec(network.sampling_rate, Fraction(network.sampling_rate, hop), sizes, files.fingerprint(settings))
        self.reach = _reach(network.encoder_rates, self.strides[0], window)
        self._window = lcm(self.strides[0], window or 1) // self.strides[0]  # in frames
        device = next(network.parameters()).device
        self._silence_KN = self._encode(torch.zeros(self._window * hop, device=device))

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str, seed: int) -> "Snac":
        """From a folder with config.json and model.safetensors or pytorch_model.bin, or a hub name."""
        try:
            from snac import SNAC  # noqa: PLC0415
        except ImportError as error:
            raise ValueError("snac: the package is not installed; pip install 'audiotok[snac]'") from error
        config_path = checkpoints.located(name, "config.json", revision=revision)
        try:
            network = SNAC(**checkpoints.read_json(config_path))
        except TypeError as error:
            raise ValueError(f"{config_path}: not the settings of a SNAC network ({error})") from error
        source = checkpoints.located(name, "model.safetensors", "pytorch_model.bin", revision=revision)
        checkpoints.load(network, checkpoints.read(source), source=source)
        return cls(network, seed=seed)

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(codes_BKN, lengths_B in frames of the slowest codebook)."""
        check_audio(wav_BT, lengths_B)
        return encode_rows(self._encode, wav_BT, lengths_B)

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(wav_BT, lengths_B in samples)."""
        check_codes(codes_BKN, lengths_B, self.spec)
        return decode_rows(self._decode, codes_BKN, lengths_B)

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND: each column's vector. What is decoded at a moment is the sum of those columns that last over it, one a level."""
        quantizers = self.network.to(codes_BKN.device).quantizer.quantizers
        tables_LVD = torch.stack([quantizer.out_proj(quantizer.codebook.weight.T[None])[0].T for quantizer in quantizers])
        level_K = torch.tensor([level for level, _ in columns(self.strides)], device=codes_BKN.device)
        return tables_LVD[level_K[:, None], codes_BKN]

    @torch.no_grad()
    def _encode(self, wav_T: Tensor) -> Tensor:
        levels = self.network.to(wav_T.device).encode(wav_T[None, None])
        return join_levels(levels, self.strides)[0, :, : self.spec.num_frames(len(wav_T))]

    @torch.no_grad()
    def _decode(self, codes_KN: Tensor) -> Tensor:
        num_frames = codes_KN.shape[1]
        begun = num_frames % self._window or self._window  # frames in the last window
        padded_KN = torch.cat([codes_KN, self._silence_KN[:, begun:].to(codes_KN.device)], dim=1)
        with _seeded(codes_KN.device, self.seed):
            wav_11T = self.network.to(codes_KN.device).decode(split_levels(padded_KN[None], self.strides))
        return wav_11T[0, 0, : self.spec.num_samples(num_frames)]


def _reach(rates: Sequence[int], coarsest: int, window: int | None) -> Reach:
    """Of the encoder: a convolution of 7, for each rate three of 7 (dilated 1, 3, 9) and one of 2 x rate, a last one of 7, and a mean.

    Where there is attention, the last convolution hears frames of the next window, and each of them all of its window.
    """
    before = after = 3
    stride = 1
    for rate in rates:
        before += (3 * (1 + 3 + 9) + ceil(rate / 2)) * stride
        after += (3 * (1 + 3 + 9) + rate // 2) * stride
        stride *= rate
    context = (window or 3) * stride
    return Reach(before + context, after + context, period=lcm(coarsest, window or 1) * stride)


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """The generator that modules on a device draw from, set to a seed and put back afterwards."""
    generator = torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[device.index]
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)
