"""What a probe hears of an utterance, its codes or continuous features, and how utterances come to stand in one batch.

Past its length a row of a batch holds zeros, and nothing a probe says of the row depends on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

Target = str | tuple[str, ...] | Tensor  # a label, a text; a label for each slot; codes_KN or codes_SKN


@dataclass(frozen=True)
class InputKind:
    """What all inputs of one tokenizer, or of one kind of features, share."""

    codebook_sizes: tuple[int, ...] | None  # None: continuous features
    width: int  # codebooks, or numbers in a feature vector
    frame_rate: Fraction  # Hz


@dataclass(frozen=True, eq=False)
class ProbeInput:
    """An utterance as codes_KN with their `codebook_sizes`, or as features_ND without.

    Raises ValueError for no frames, codes that no codebook has, and numbers that are not finite.
    """

    frames: Tensor
    frame_rate: Fraction | float
    codebook_sizes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame_rate", Fraction(self.frame_rate))
        if self.frames.dim() != 2 or not self.frames.numel():
            raise ValueError(f"a probe hears codes_KN or features_ND with at least one frame; got the shape {tuple(self.frames.shape)}")
        if self.frame_rate <= 0:
            raise ValueError(f"a frame rate is positive, got {self.frame_rate} Hz")
        if self.codebook_sizes is not None:
            check_codes(self.frames, self.codebook_sizes)
        elif not torch.isfinite(self.frames).all():
            raise ValueError(f"{int((~torch.isfinite(self.frames)).sum())} of {self.frames.numel()} numbers of the features are not finite")

    @property
    def num_frames(self) -> int:
        return self.frames.shape[1 if self.codebook_sizes else 0]

    @property
    def kind(self) -> InputKind:
        return InputKind(self.codebook_sizes, self.frames.shape[0 if self.codebook_sizes else 1], Fraction(self.frame_rate))


def check_codes(codes_KN: Tensor, codebook_sizes: Sequence[int]) -> None:
    """Raises ValueError where the codes are not those of codebooks of these sizes, naming the codebook and the value."""
    if codes_KN.is_floating_point() or len(codes_KN) != len(codebook_sizes):
        raise ValueError(f"wanted whole numbers of {len(codebook_sizes)} codebooks, got {codes_KN.dtype} of {len(codes_KN)}")
    for codebook, (codes_N, size) in enumerate(zip(codes_KN, codebook_sizes)):
        for value in (int(codes_N.min()), int(codes_N.max())):
            if not 0 <= value < size:
                raise ValueError(
                    f"codebook {codebook} holds {value}, wanted 0 ... {size - 1}; give the sizes of the tokenizer that made it"
                )


@dataclass(frozen=True, eq=False)
class Labelled:
    """An utterance with what a probe is to tell of it."""

    id: str
    input: ProbeInput
    target: Target
    speaker: str | None = None


@dataclass(frozen=True, eq=False)
class Inputs:
    """Utterances side by side: codes_BKN or features_BND, and their lengths in frames."""

    frames: Tensor
    lengths_B: Tensor

    def to(self, device: torch.device) -> "Inputs":
        return Inputs(self.frames.to(device), self.lengths_B.to(device))


def common_kind(inputs: Sequence[ProbeInput]) -> InputKind:
    """The kind of all of them. Raises ValueError for none, and where two differ."""
    kinds = {input.kind for input in inputs}
    if len(kinds) != 1:
        raise ValueError(f"a probe takes inputs of one kind, got {sorted(kinds, key=str) or 'none'}")
    return kinds.pop()


def collate(inputs: Sequence[ProbeInput]) -> Inputs:
    """Inputs of one kind, filled up with zeros to the longest."""
    codes = common_kind(inputs).codebook_sizes is not None
    lengths = [input.num_frames for input in inputs]
    frames = [padded(input.frames, max(lengths), dim=1 if codes else 0) for input in inputs]
    stacked = torch.stack(frames)
    return Inputs(stacked.long() if codes else stacked.float(), torch.tensor(lengths))


def padded(values: Tensor, length: int, *, dim: int) -> Tensor:
    """`values` with zeros at the end of an axis, up to `length`."""
    missing = length - values.shape[dim]
    return F.pad(values, [0, 0] * (values.dim() - 1 - dim % values.dim()) + [0, missing]) if missing > 0 else values


def valid(lengths_B: Tensor, num_frames: int) -> Tensor:
    """mask_BN: True for the frames that a row has."""
    return torch.arange(num_frames, device=lengths_B.device) < lengths_B[:, None]


def masked_mean(hidden_BND: Tensor, lengths_B: Tensor) -> Tensor:
    """hidden_BD: the mean of each row's own frames."""
    mask_BN1 = valid(lengths_B, hidden_BND.shape[1])[..., None]
    return hidden_BND.masked_fill(~mask_BN1, 0).sum(dim=1) / lengths_B[:, None]


def reduction(frame_rate: Fraction, max_frame_rate: float) -> int:
    """How many neighbouring frames become one so that there are at most `max_frame_rate` a second."""
    if max_frame_rate <= 0:
        raise ValueError(f"max_frame_rate is positive, got {max_frame_rate} Hz")
    return max(1, ceil(frame_rate / Fraction(max_frame_rate)))


def averaged(hidden_BND: Tensor, lengths_B: Tensor, *, factor: int) -> tuple[Tensor, Tensor]:
    """(hidden_BMD, lengths_B): the means of `factor` neighbouring frames each; the last of a row is the mean of those that are left.

    Seven frames by three: 1 2 3 4 5 6 7  ->  2 5 7
    """
    if factor == 1:
        return hidden_BND.masked_fill(~valid(lengths_B, hidden_BND.shape[1])[..., None], 0), lengths_B
    batch, _, width = hidden_BND.shape
    lengths_M = -(-lengths_B // factor)
    hidden_BND = padded(hidden_BND, -(-hidden_BND.shape[1] // factor) * factor, dim=1)
    mask_BN1 = valid(lengths_B, hidden_BND.shape[1])[..., None]
    sums_BMD = hidden_BND.masked_fill(~mask_BN1, 0).reshape(batch, -1, factor, width).sum(dim=2)
    counts_BM1 = mask_BN1.reshape(batch, -1, factor).sum(dim=2)[..., None].clamp(min=1)
    return sums_BMD / counts_BM1, lengths_M


def downsampled(input: ProbeInput, *, max_frame_rate: float) -> ProbeInput:
    """Features at a lower rate, by averaging: what the rate of a tokenizer alone costs."""
    if input.codebook_sizes is not None:
        raise ValueError("codes cannot be averaged; set max_frame_rate of the probe, which averages their embeddings")
    factor = reduction(Fraction(input.frame_rate), max_frame_rate)
    features_1MD, _ = averaged(input.frames[None], torch.tensor([input.num_frames]), factor=factor)
    return ProbeInput(features_1MD[0], Fraction(input.frame_rate) / factor)
