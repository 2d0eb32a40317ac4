"""Noisy speech to clean speech: where an autoregressive enhancer, the engine and a codec meet, and how long recordings are gone through."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from audiotok.decoding.autoregressive import generate
from audiotok.decoding.beam import search
from audiotok.decoding.rows import Job
from audiotok.decoding.samplers import Sampler
from audiotok.models.enhancement.rows import each_row
from audiotok.tokenizers.batches import check_audio


@runtime_checkable
class Enhancer(Protocol):
    """What makes clean speech of noisy speech at the sample rate of its `codec`."""

    @property
    def codec(self) -> Any: ...

    def enhance(self, noisy_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """wav_BT, zeros past each length; a row does not depend on the others."""
        ...


@dataclass(frozen=True)
class Speaking:
    """An enhancer that says codes one position after another, drawn by `sampler` or, where `beams` is given, searched for."""

    model: Any  # Transducer, LatticeTransducer or DecoderOnly
    sampler: Sampler
    beams: int | None
    seed: int

    @property
    def codec(self) -> Any:
        return self.model.codec

    def enhance(self, noisy_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """wav_BT, zeros past each length. Raises ValueError for what is no finite audio."""
        check_audio(noisy_BT, lengths_B)
        wav_BT = torch.zeros_like(noisy_BT)
        for row, codes_KN in enumerate(self.codes(noisy_BT, lengths_B)):
            decoded_1T, _ = self.codec.decode(codes_KN[None], torch.tensor([codes_KN.shape[1]], device=codes_KN.device))
            wav_BT[row, : lengths_B[row]] = decoded_1T[0, : lengths_B[row]]
        return wav_BT

    def codes(self, noisy_BT: Tensor, lengths_B: Tensor) -> list[Tensor]:
        """codes_KN of the clean speech in each row."""
        layout, spec = self.model.codes.layout, self.codec.spec
        legal = [layout.legal_ids(spec.num_frames(length), spec) for length in lengths_B.tolist()]
        said = self._searched(noisy_BT, lengths_B, legal) if self.beams else self._drawn(noisy_BT, lengths_B, legal)
        return [layout.invert(codes_KP, spec) for codes_KP in said]

    def _drawn(self, noisy_BT: Tensor, lengths_B: Tensor, legal: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        longest = max(first_KN.shape[1] for first_KN, _ in legal)
        made = generate(
            lambda rows: self.model.begin(noisy_BT[list(rows)], lengths_B[list(rows)], positions=longest),
            [Job(self.seed, first_KN.shape[1], legal=(first_KN, end_KN)) for first_KN, end_KN in legal],
            rows=len(legal),
            codebook_sizes=self.model.codes.codebook_sizes,
            sampler=self.sampler,
            device=noisy_BT.device,
        )
        return [one.codes_KN for one in sorted(made, key=lambda one: one.job)]

    def _searched(self, noisy_BT: Tensor, lengths_B: Tensor, legal: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        assert self.beams is not None
        best = []
        for row, limits in enumerate(legal):
            noisy_1T = noisy_BT[row : row + 1, : lengths_B[row]]
            step = self.model.begin(noisy_1T, lengths_B[row : row + 1], positions=limits[0].shape[1])
            step.reorder(torch.zeros(self.beams, dtype=torch.int64, device=noisy_BT.device))
            first_KN, end_KN = (limit.to(noisy_BT.device) for limit in limits)
            best.append(search(step, beams=self.beams, legal=(first_KN, end_KN))[0].codes_KN)
        return best


def in_pieces(enhance: Callable[[Tensor], Tensor], wav_T: Tensor, *, piece: int, overlap: int) -> Tensor:
    """The recording enhanced `piece` samples at a time, neighbours faded into each other over `overlap` samples.

    Memory does not grow with the recording but by its samples. Raises ValueError where three pieces would overlap.
    """
    refuse_overlap(piece=piece, overlap=overlap)
    made_T, rise_T = torch.zeros_like(wav_T), (torch.arange(overlap, device=wav_T.device) + 0.5) / max(overlap, 1)
    starts = range(0, max(len(wav_T) - overlap, 1), piece - overlap)
    for start in starts:
        part_T = enhance(wav_T[start : start + piece]).clone()
        if start > 0:
            part_T[:overlap] *= rise_T
        if start != starts[-1]:
            part_T[len(part_T) - overlap :] *= rise_T.flip(0)
        made_T[start : start + len(part_T)] += part_T
    return made_T


def refuse_overlap(*, piece: int, overlap: int) -> None:
    """Raise ValueError where three pieces would overlap."""
    if not 0 <= 2 * overlap <= piece or piece < 1:
        raise ValueError(f"enhance: pieces of {piece} samples that overlap by {overlap}; at most half a piece can overlap")


def enhanced(enhancer: Enhancer, wav_T: Tensor, *, seconds: float, overlap_seconds: float) -> Tensor:
    """One recording at the enhancer's rate, as long as it was, in pieces of `seconds`."""
    rate = enhancer.codec.spec.sample_rate
    whole = torch.tensor([len(wav_T)], device=wav_T.device)

    def one(noisy_T: Tensor) -> Tensor:
        return enhancer.enhance(noisy_T[None], torch.tensor([len(noisy_T)], device=noisy_T.device))[0]

    return each_row(
        lambda noisy_T: in_pieces(one, noisy_T, piece=round(seconds * rate), overlap=round(overlap_seconds * rate)), wav_T[None], whole
    )[0]
