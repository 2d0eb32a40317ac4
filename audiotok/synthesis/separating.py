"""Voices out of recordings: how long ones are gone through, and files of any rate."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from audiotok import audio
from audiotok.models.enhancement.permutations import best_order
from audiotok.synthesis.enhancing import refuse_overlap


@runtime_checkable
class Separator(Protocol):
    """What makes several voices of one recording at the sample rate of its `codec`."""

    @property
    def codec(self) -> Any: ...

    def separate(self, mixed_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """wav_BST, zeros past each length; a row does not depend on the others."""
        ...


def separated(separator: Separator, mixed_T: Tensor, *, seconds: float, overlap_seconds: float) -> Tensor:
    """wav_ST of one recording at the separator's rate, in pieces of `seconds` that are faded into each other.

    The voices of a piece come in the order in which they fit those of the piece before where both are heard. Raises ValueError where three
    pieces would overlap, or none does and there are several.
    """
    rate = separator.codec.spec.sample_rate
    piece, overlap = round(seconds * rate), round(overlap_seconds * rate)
    refuse_overlap(piece=piece, overlap=overlap)
    if not overlap and len(mixed_T) > piece:
        raise ValueError("separate: pieces that do not overlap do not tell whose voice goes on; set enhance.overlap_seconds=1.0")
    starts = range(0, max(len(mixed_T) - overlap, 1), piece - overlap)
    rise_T = (torch.arange(overlap, device=mixed_T.device) + 0.5) / max(overlap, 1)
    made_ST = _piece(separator, mixed_T[:piece])
    for start in starts[1:]:
        part_ST, before_ST = _piece(separator, mixed_T[start : start + piece]), made_ST[:, start:]
        part_ST = part_ST[best_order(part_ST[:, :overlap], before_ST)]
        faded_ST = before_ST * (1 - rise_T) + part_ST[:, :overlap] * rise_T
        made_ST = torch.cat([made_ST[:, :start], faded_ST, part_ST[:, overlap:]], dim=1)
    return made_ST


def _piece(separator: Separator, mixed_T: Tensor) -> Tensor:
    return separator.separate(mixed_T[None], torch.tensor([len(mixed_T)], device=mixed_T.device))[0]


def separate_file(separator: Separator, path: Path, *, seconds: float, overlap_seconds: float, device: torch.device) -> tuple[Tensor, int]:
    """(wav_ST, sample rate) of the voices in a file, mono, at its own rate and as long. Raises ValueError as `audio.read` does."""
    wav_T, rate = audio.read(path)
    own = separator.codec.spec.sample_rate
    made_ST = separated(separator, audio.resample(wav_T, rate, own).to(device), seconds=seconds, overlap_seconds=overlap_seconds).cpu()
    return audio.resample(made_ST, own, rate)[:, : len(wav_T)].clamp(-1, 1), rate
