"""Heads of plain PyTorch. A head of frames gives a vector for each frame, a pooled head one for each utterance.

    head(hidden_BND, lengths_B) -> hidden_BND or hidden_BD, `head.width` wide

Where `masks_padding`, a row's output does not depend on the padding behind it; other heads are scored in batches of equal lengths. Sizes
are arguments and are the experiment's; DASB's are in the docstrings. A `HeadMaker` is a head but for the width of its input.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from audiotok.evaluation.probes.inputs import masked_mean, valid


class Head(Protocol):
    """An nn.Module that keeps the contract above."""

    width: int
    masks_padding: bool

    def __call__(self, hidden_BND: Tensor, lengths_B: Tensor) -> Tensor: ...


HeadMaker = Callable[[int], nn.Module]  # the width of the input -> a Head


class Frames(nn.Module):
    """The frames as they come: with a linear layer behind it, the linear probe."""

    masks_padding = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, hidden_BND: Tensor, lengths_B: Tensor) -> Tensor:
        return hidden_BND


class Dense(nn.Module):
    """One layer on every frame. DASB's head "VanillaNN" for transcripts: 2048 wide, sigmoid."""

    masks_padding = True

    def __init__(self, width: int, *, hidden: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.width = hidden
        self.layer = nn.Sequential(nn.Linear(width, hidden), activation())

    def forward(self, hidden_BND: Tensor, lengths_B: Tensor) -> Tensor:
        return self.layer(hidden_BND)


class BiLstm(nn.Module):
    """An LSTM in both directions, each row from its own end. DASB: 2 layers of 1024, dropout 0.2 between them."""

    masks_padding = True

    def __init__(self, width: int, *, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.width = 2 * hidden
        self.lstm = nn.LSTM(width, hidden, layers, batch_first=True, bidirectional=True, dropout=dropout if layers > 1 else 0.0)

    def forward(self, hidden_BND: Tensor, lengths_B: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(hidden_BND, lengths_B.cpu(), batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=hidden_BND.shape[1])[0]


class Convolutions(nn.Module):
    """A small stack of depthwise-separable convolutions with residuals; zeros stand before the first frame and after the last."""

    masks_padding = True

    def __init__(self, width: int, *, channels: int, kernel: int, layers: int, dropout: float) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"the kernel of a convolution that keeps its frames in place is odd; got {kernel}")
        self.width = channels
        self.first = nn.Linear(width, channels)
        self.layers = nn.ModuleList(Separable(channels, kernel=kernel, dropout=dropout) for _ in range(layers))

    def forward(self, hidden_BND: Tensor, lengths_B: Tensor) -> Tensor:
        padding_BN1 = ~valid(lengths_B, hidden_BND.shape[1])[..., None]
        hidden_BND = self.first(hidden_BND)
        for layer in self.layers:
            hidden_BND = hidden_BND + layer(hidden_BND.masked_fill(padding_BN1, 0), padding_BN1)
        return hidden_BND


class Separable(nn.Module):
    """Norm, a convolution for each channel, one across channels."""

    def __init__(self, channels: int, *, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.depthwise = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.pointwise = nn.Sequential(nn.GELU(), nn.Linear(channels, channels), nn.Dropout(dropout))

    def forward(self, hidden_BND: Tensor, padding_BN1: Tensor) -> Tensor:
        normed_BND = self.norm(hidden_BND).masked_fill(padding_BN1, 0)
        return self.pointwise(self.depthwise(normed_BND.transpose(1, 2)).transpose(1, 2))


class Pooled(nn.Module):
    """The mean over an utterance's frames of what a head of frames gives: `Frames` for the linear probe, `BiLstm` as DASB's for intents."""

    def __init__(self, width: int, *, frames: HeadMaker) -> None:
        super().__init__()
        self.frames = frames(width)
        self.width: int = self.frames.width  # type: ignore[assignment]
        self.masks_padding: bool = self.frames.masks_padding  # type: ignore[assignment]

    def forward(self, hidden_BND: Tensor, lengths_B: Tensor) -> Tensor:
        return masked_mean(self.frames(hidden_BND, lengths_B), lengths_B)
