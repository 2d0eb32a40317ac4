"""How long each phoneme of a recording is, as a model that is told phonemes hears it: forced alignment without another aligner.

The model is told one phoneme throughout, each in turn, and asked how probable the recording's codes are. Where a phoneme is spoken, telling
it makes them more so. The best path through all of them, in order and none left out, is the alignment. A boundary lies 26 ms from the
corpus's own aligner's on average where the model is told durations (`ArTts`) and 37 ms where it moves a pointer (`ValleR`); stretching
foretold durations to the recording's length, 52 ms (16 test prompts with 491 boundaries, 50 frames a second).
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from audiotok.data.aligned import Line
from audiotok.data.alignment import viterbi
from audiotok.decoding.step import NONE
from audiotok.models.text import Path, Text
from audiotok.models.valle_r import Pointer
from audiotok.synthesis.openings import durations_along
from audiotok.synthesis.scripts import Timed
from audiotok.transforms.base import Layout
from audiotok.types import TokenSpec

ROWS = 16  # phonemes that are tried at a time
WITHIN = 3  # frames from a phoneme's start and to its end that the model is told: its middle


@runtime_checkable
class Pointed(Protocol):
    """A model that moves a pointer along its text (`ValleR`)."""

    def embed_pointer(self, text_BPD: Tensor, pointer: Pointer, text: Text, *, told_B: Tensor) -> Tensor: ...

    def begin(self, text: Text, *, positions: int, conditional: bool) -> Any: ...


def is_told_phonemes(model: object) -> bool:
    """Whether a model needs durations of what it is to go on from, and can say them (`followed`)."""
    return isinstance(model, Timed | Pointed)


@torch.inference_mode()
def followed(model: Any, line: Line, codes_KN: Tensor, *, layout: Layout, spec: TokenSpec, device: torch.device) -> list[float]:
    """The frames of each phoneme of a line in codes that speak it, which they sum to; the codes are the tokenizer's.

    Raises ValueError where there are fewer positions than phonemes.
    """
    laid_KN = layout.apply(codes_KN, spec).to(device)
    legal_KN = layout.legal(codes_KN.shape[1], spec).to(device)
    standing, leading_K = int(legal_KN[0].sum()), legal_KN[:, 0]  # the codebooks that do not lag
    heard_KN = torch.cat([torch.full_like(laid_KN[:, :1], NONE), laid_KN[:, :-1].masked_fill(~legal_KN[:, :-1], NONE)], 1)
    scores = []
    for phoneme_B, logits in _told_each(model, line, heard_KN, device):
        said = [logits_BNV.float().log_softmax(-1) for logits_BNV in logits[: len(laid_KN)]]
        nats = [
            said_BNV.gather(2, code_N[None, :, None].expand(len(phoneme_B), -1, 1))[..., 0]
            for said_BNV, code_N, leads in zip(said, laid_KN, leading_K.tolist(), strict=True)
            if leads
        ]
        scores.append((torch.stack(nats).sum(0) * legal_KN[0])[:, :standing])
    score_NP = torch.cat(scores).T.cpu().contiguous()
    path_N = viterbi(score_NP, torch.zeros(score_NP.shape[1], dtype=torch.bool))
    return durations_along(path_N, score_NP.shape[1], layout, spec, num_frames=codes_KN.shape[1])


def _told_each(model: Any, line: Line, heard_KN: Tensor, device: torch.device) -> Iterator[tuple[Sequence[int], Sequence[Tensor]]]:
    """(phonemes, logits after each input in rows that are told these throughout)."""
    for phonemes in torch.arange(len(line.phonemes)).split(ROWS):
        text = Text.of([line] * len(phonemes)).to(device)
        told_BN = phonemes[:, None].repeat(1, heard_KN.shape[1]).to(device)
        heard_BKN = heard_KN.expand(len(phonemes), -1, -1)
        hear = _by_path if isinstance(model, Timed) else _by_pointer
        yield phonemes.tolist(), hear(model, text, told_BN, heard_BKN)


def _by_path(model: Timed, text: Text, told_BN: Tensor, heard_BKN: Tensor) -> Sequence[Tensor]:
    within_BN = torch.full_like(told_BN, WITHIN)
    step = model.begin(text, Path(told_BN, within_BN, within_BN), positions=told_BN.shape[1])
    return step(heard_BKN)


def _by_pointer(model: Pointed, text: Text, told_BN: Tensor, heard_BKN: Tensor) -> Sequence[Tensor]:
    step = model.begin(text, positions=told_BN.shape[1], conditional=True)
    pointer = Pointer(told_BN, torch.full_like(told_BN, WITHIN))
    path_BND = model.embed_pointer(step.text_BPD, pointer, text, told_B=step.told_B)
    return step.codes.logits(step.codes.hear(step.codes.embed(heard_BKN) + path_BND))
