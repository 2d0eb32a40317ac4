"""What is known of an utterance besides its line: what stands before it, and how long its phonemes are.

An opening is an utterance that was spoken already, a recording or the sentence before. Its text stands before the text that is to be
spoken, and its codes are forced as the beginning; what follows goes on in its voice and manner (arXiv 2301.02111). Two codebooks, delayed,
an opening of three frames:

    p l iː z | g ə ʊ        1 2 3 . . . .          . free to be chosen
                            _ 6 7 8 . . .
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from audiotok.data.aligned import Line, boundaries, laid_out
from audiotok.decoding.step import NONE
from audiotok.models.valle_r import forced_moves
from audiotok.transforms.base import Layout
from audiotok.types import TokenSpec

BEYOND = 64  # frames behind an opening: more than any layout puts into one position


@dataclass(frozen=True)
class Opening:
    """What was said, in the tokenizer's codes [K, N]; `durations_P`, the frames of each phoneme, sum to N, None where no model asks."""

    line: Line
    codes_KN: Tensor
    durations_P: Sequence[float] | None

    @property
    def frames(self) -> int:
        return self.codes_KN.shape[1]


@dataclass(frozen=True)
class Lead:
    """What stands before a line, if anything does, and the frames of each of its own phonemes, where they are to be followed."""

    opening: Opening | None = None
    durations_P: Sequence[float] | None = None

    @property
    def frames(self) -> int:
        """Of the opening."""
        return self.opening.frames if self.opening else 0

    @property
    def phonemes(self) -> int:
        """Of the opening."""
        return len(self.opening.line.phonemes) if self.opening else 0


def joined(lead: Lead, line: Line) -> Line:
    """The opening's text and the line's, by the line's speaker in the line's language."""
    if lead.opening is None:
        return line
    before = lead.opening.line
    return replace(line, phonemes=[*before.phonemes, *line.phonemes], stress=[*before.stress, *line.stress])


def ends_of(lead: Lead, durations_P: Sequence[float]) -> list[int]:
    """The frame at which each phoneme ends, those of the opening first; `durations_P` are the line's own, which begins where that ends."""
    ends = boundaries(durations_P, max(1, round(sum(durations_P))))
    return [*_opening_ends(lead), *(lead.frames + end for end in ends)]


def _opening_ends(lead: Lead) -> list[int]:
    if lead.opening is None:
        return []
    if lead.opening.durations_P is None:
        raise ValueError("this model is told how long each phoneme is: what stands before needs durations")
    return boundaries(lead.opening.durations_P, lead.frames)


def forced_codes(codes_KN: Tensor, layout: Layout, spec: TokenSpec, *, num_frames: int) -> Tensor:
    """The layout of an utterance of so many frames that begins with these: NONE where a code depends on what follows them."""
    fillings = [torch.full((codes_KN.shape[0], num_frames - codes_KN.shape[1]), code) for code in (0, 1)]
    one_KN, other_KN = (layout.apply(torch.cat([codes_KN, filling_KN], 1), spec) for filling_KN in fillings)
    return one_KN.where(one_KN == other_KN, NONE)


def forced_beginning(codes_KN: Tensor, layout: Layout, spec: TokenSpec) -> Tensor:
    """`forced_codes` of an utterance whose length is not known: up to the last position at which any code is."""
    forced_KN = forced_codes(codes_KN, layout, spec, num_frames=codes_KN.shape[1] + BEYOND)
    free_N = (forced_KN == NONE).all(0)
    return forced_KN[:, : int(free_N.int().argmax())]


def forced_with_moves(lead: Lead, layout: Layout, spec: TokenSpec, *, codebook_sizes: Sequence[int]) -> Tensor | None:
    """What a model with a pointer is made to say: the opening's codes, and the moves along durations as far as they are known.

    Raises ValueError where there are fewer positions than phonemes.
    """
    codes_KN = forced_beginning(lead.opening.codes_KN, layout, spec) if lead.opening else torch.empty(len(codebook_sizes) - 1, 0).long()
    ends = _opening_ends(lead) if lead.durations_P is None else ends_of(lead, lead.durations_P)
    if not ends:
        return None
    standing = int(layout.legal(ends[-1], spec)[0].sum())
    phoneme_N = laid_out(ends, layout, spec)[0][:standing]
    moves_KN = forced_moves(phoneme_N, len(ends), codebook_sizes=codebook_sizes)
    forced_KN = torch.full((len(codebook_sizes), max(codes_KN.shape[1], moves_KN.shape[1])), NONE)
    forced_KN[:-1, : codes_KN.shape[1]] = codes_KN
    forced_KN[-1, : moves_KN.shape[1]] = moves_KN[-1]
    return forced_KN


def durations_along(phoneme_N: Tensor, num_phonemes: int, layout: Layout, spec: TokenSpec, *, num_frames: int) -> list[float]:
    """The frames of each phoneme, of a path over the positions at which the first codebook stands: the inverse of `laid_out`."""
    frame_N = layout.frame_index(num_frames, spec)[: len(phoneme_N)]
    begins_P = [int(frame_N[phoneme_N >= p][0]) if (phoneme_N >= p).any() else num_frames for p in range(1, num_phonemes)]
    return torch.tensor([0, *begins_P, num_frames]).diff().float().tolist()
