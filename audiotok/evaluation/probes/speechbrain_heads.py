"""DASB's heads as speechbrain builds them (pip install 'audiotok[probes]'), and what they do to padding.

speechbrain's convolutions reflect at the end of the batch, not of the row, its ContextNet's squeeze-and-excitation averages over padding,
its CRDNN's LSTM reads it, and in training its batch norms count it. None of that is changed here, as the scores would no longer be DASB's:
padding is zeros on the way in, each module gets the relative lengths it takes, and as `masks_padding` is False scores come from batches of
equal lengths, where there is none.

Reflection needs more frames than it reflects: a batch that is shorter is filled up with zeros first.
"""

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.evaluation.probes.inputs import padded, valid


def speechbrain(module: str) -> ModuleType:
    """A module of speechbrain. Raises ValueError naming the extra that brings it."""
    try:
        return importlib.import_module(f"speechbrain.{module}")
    except ImportError as error:
        raise ValueError(f"this probe needs the package speechbrain ({error}); pip install 'audiotok[probes]'") from error


def relative(lengths_B: Tensor, num_frames: int) -> Tensor:
    """Lengths as shares of a batch's frames, a quarter of a frame short.

    speechbrain multiplies them out again and takes the frames below the product: of 41 frames in 77, float32 gives 41.000004, a frame too
    many. Rounded, they are the lengths as well.
    """
    return (lengths_B - 0.25) / num_frames


def reach(kernels: Sequence[int], dilations: Sequence[int]) -> int:
    """Frames that the widest of these convolutions needs to reflect."""
    return 1 + max(dilation * (kernel - 1) // 2 for kernel, dilation in zip(kernels, dilations))


class Ecapa(nn.Module):
    """ECAPA-TDNN (arXiv 2005.07143), pooled.

    DASB: channels 1024 x 4 and 3072, kernels 5 3 3 3 1, dilations 1 2 3 4 1, embedding 192, attention 64 (emotions) or 128 (speakers).
    """

    masks_padding = False

    def __init__(
        self,
        width: int,
        *,
        channels: Sequence[int],
        kernels: Sequence[int],
        dilations: Sequence[int],
        attention: int,
        embedding: int,
    ) -> None:
        super().__init__()
        self.width = embedding
        self.least = reach(kernels, dilations)
        self.net = speechbrain("lobes.models.ECAPA_TDNN").ECAPA_TDNN(
            width,
            channels=list(channels),
            kernel_sizes=list(kernels),
            dilations=list(dilations),
            attention_channels=attention,
            lin_neurons=embedding,
        )

    def forward(self, hidden_BND: Tensor, lengths_B: Tensor) -> Tensor:
        hidden_BND = padded(hidden_BND, self.least, dim=1)
        return self.net(hidden_BND, relative(lengths_B, hidden_BND.shape[1]))[:, 0]


class Xvector(nn.Module):
    """x-vector (Snyder et al. 2018), pooled.

    DASB: channels 1024 x 4 and 3072 (keywords) or 512 x 4 and 1500 (speakers), kernels 5 3 3 1 1, dilations 1 2 3 1 1, embedding 512. Its
    pooling is `Statistics`: speechbrain's adds noise of the global generator to the mean, in evaluation too.
    """

    masks_padding = False

    def __init__(self, width: int, *, channels: Sequence[int], kernels: Sequence[int], dilations: Sequence[int], embedding: int) -> None:
        super().__init__()
        self.width = embedding
        self.least = reach(kernels, dilations)
        self.net = speechbrain("lobes.models.Xvector").Xvector(
            in_channels=width,
            tdnn_blocks=len(channels),
            tdnn_channels=list(channels),
            tdnn_kernel_sizes=list(kernels),
            tdnn_dilations=list(dilations),
            lin_neurons=embedding,
        )
        *frames, _, self.last = self.net.blocks
        self.frames = nn.Sequential(*frames)
        self.pool = Statistics()
        del self.net

    def forward(self, hidden_BND: Tensor, lengths_B: Tensor) -> Tensor:
        hidden_BND = self.frames(padded(hidden_BND, self.least, dim=1))
        return self.last(self.pool(hidden_BND, lengths_B))


class Statistics(nn.Module):
    """Mean and standard deviation of a row's own frames, side by side; the deviation of one frame is 0."""

    EPSILON = 1e-5  # speechbrain's, added to the deviation

    def forward(self, hidden_BND: Tensor, lengths_B: Tensor) -> Tensor:
        mask_BN1 = valid(lengths_B, hidden_BND.shape[1])[..., None]
        counts_B1 = lengths_B[:, None]
        mean_BD = hidden_BND.masked_fill(~mask_BN1, 0).sum(dim=1) / counts_B1
        squares_BD = (hidden_BND - mean_BD[:, None]).masked_fill(~mask_BN1, 0).square().sum(dim=1)
        deviation_BD = (squares_BD / (counts_B1 - 1).clamp(min=1)).clamp(min=1e-12).sqrt()  # the root of 0 has no gradient
        return torch.cat([mean_BD, deviation_BD + self.EPSILON], dim=1)


class ContextNet(nn.Module):
    """ContextNet (arXiv 2005.03191) without striding, so that each frame stays one.

    DASB: speechbrain's 21 blocks of 5 layers, 256 channels in the first 10 and 512 in the rest, kernel 3, dropout 0.15, output 640.
    """

    masks_padding = False

    def __init__(
        self, width: int, *, channels: Sequence[int], out_channels: int, layers: int, kernel: int, squeezed: int, dropout: float
    ) -> None:
        super().__init__()
        self.width = out_channels
        self.least = reach([kernel, 3], [1, 1])  # 3: of its residual's convolution
        self.net = speechbrain("lobes.models.ContextNet").ContextNet(
            input_shape=[None, None, width],
            out_channels=out_channels,
            conv_channels=list(channels),
            kernel_size=kernel,
            strides=[1] * len(channels),
            num_blocks=len(channels),
            num_layers=layers,
            inner_dim=squeezed,
            dropout=dropout,
        )

    def forward(self, hidden_BND: Tensor, lengths_B: Tensor) -> Tensor:
        return self.net(padded(hidden_BND, self.least, dim=1))[:, : hidden_BND.shape[1]]


class Conformer(nn.Module):
    """Conformer encoder as speechbrain's TransformerASR without a decoder builds it (arXiv 2005.08100), absolute positions.

    DASB: width 256, 4 heads, 6 layers, feed-forward 2048, kernel 31, dropout 0.1, GELU, positions for 2000 frames. Attention leaves
    padding out; the convolutions hear up to half a kernel of it.
    """

    masks_padding = False

    def __init__(
        self,
        width: int,
        *,
        hidden: int,
        heads: int,
        layers: int,
        feed_forward: int,
        kernel: int,
        dropout: float,
        activation: Callable[[], nn.Module],
        max_frames: int,
    ) -> None:
        super().__init__()
        self.width = hidden
        self.max_frames = max_frames
        self.net = speechbrain("lobes.models.transformer.TransformerASR").TransformerASR(
            tgt_vocab=-1,
            input_size=width,
            d_model=hidden,
            nhead=heads,
            num_encoder_layers=layers,
            num_decoder_layers=0,
            d_ffn=feed_forward,
            dropout=dropout,
            activation=activation,
            kernel_size=kernel,
            max_length=max_frames,
            encoder_module="conformer",
            normalize_before=True,
            causal=False,
        )

    def forward(self, hidden_BND: Tensor, lengths_B: Tensor) -> Tensor:
        frames = hidden_BND.shape[1]
        if frames > self.max_frames:
            raise ValueError(f"{frames} frames, this conformer has positions for {self.max_frames}; raise max_frames of the head")
        return self.net.encode(hidden_BND, relative(lengths_B, frames))


class Crdnn(nn.Module):
    """Convolutions over time and the embedding's width, an LSTM in both directions, dense layers.

    DASB: 2 blocks of 16 channels, kernel 3 x 3, 4 LSTM layers of 256, 2 dense blocks of 256, dropout 0.1.
    """

    masks_padding = False

    def __init__(
        self,
        width: int,
        *,
        channels: Sequence[int],
        kernel: int,
        lstm_layers: int,
        lstm_hidden: int,
        dense_blocks: int,
        dense: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.width = dense
        self.least = reach([kernel], [1])
        self.net = speechbrain("lobes.models.CRDNN").CRDNN(
            input_shape=[None, None, width],
            dropout=dropout,
            cnn_blocks=len(channels),
            cnn_channels=list(channels),
            cnn_kernelsize=(kernel, kernel),
            inter_layer_pooling_size=[2] * len(channels),
            time_pooling=True,
            time_pooling_size=1,
            rnn_class=speechbrain("nnet.RNN").LSTM,
            rnn_layers=lstm_layers,
            rnn_neurons=lstm_hidden,
            rnn_re_init=True,
            dnn_blocks=dense_blocks,
            dnn_neurons=dense,
        )

    def forward(self, hidden_BND: Tensor, lengths_B: Tensor) -> Tensor:
        return self.net(padded(hidden_BND, self.least, dim=1))[:, : hidden_BND.shape[1]]


class XvectorOutput(nn.Module):
    """Class scores behind an x-vector, as speechbrain's own classifier with one layer: log probabilities of one set of classes."""

    def __init__(self, width: int, classes: int, *, hidden: int) -> None:
        super().__init__()
        self.net = speechbrain("lobes.models.Xvector").Classifier(
            [None, None, width], lin_blocks=1, lin_neurons=hidden, out_neurons=classes
        )

    def forward(self, hidden_BD: Tensor) -> Tensor:
        return self.net(hidden_BD[:, None])[:, 0]


class CosineOutput(nn.Module):
    """Cosines to a vector for each class, times `scale`; in training with an additive angular margin (AAM-softmax, arXiv 1906.07317).

    DASB: margin 0.2 and scale 30 for speaker verification, margin 0 and scale 1 for emotions.
    """

    def __init__(self, width: int, classes: int, *, margin: float, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.net = speechbrain("lobes.models.ECAPA_TDNN").Classifier(width, lin_neurons=width, out_neurons=classes)
        self.margin: Any = speechbrain("nnet.losses").AdditiveAngularMargin(margin=margin, scale=1.0)

    def forward(self, hidden_BD: Tensor) -> Tensor:
        return self.scale * self.net(hidden_BD[:, None])[:, 0]

    def with_margin(self, scores_BV: Tensor, classes_B: Tensor) -> Tensor:
        """The scores as training sees them: that of the true class is of a vector `margin` radians further off."""
        return self.scale * self.margin(scores_BV / self.scale, F.one_hot(classes_B, scores_BV.shape[1]).float())
