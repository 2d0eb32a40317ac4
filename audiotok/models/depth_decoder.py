"""Text to speech by two transformers: one goes from frame to frame, a small one from codebook to codebook within a frame.

The shape of the RQ-Transformer (arXiv 2203.01941) and of Moshi (arXiv 2410.00037). Two codebooks, three frames, the layout `unroll`:

    1 _ 2 _ 3 _        frames      s   15  26            each hears the codes of the frame before, and is told its phoneme
    _ 5 _ 6 _ 7                    |   |   |
                       codebooks   h 1 h 2 h 3           each hears its frame, and the codes before its own in it
                                   1 5 2 6 3 7           what comes out

A code is said knowing all that were said before it, as in a flat stream, while the large transformer has a position a frame instead of one
a code. What is said of the text, the path and durations is `ArTts`'s, whose transformer is the one of the frames, and whose heads are put
on the small one. That is as wide, and hears the sum of the codes before (the RQ-Transformer's, by the same vectors as the frames').
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.models.ar_tts import ArTts
from audiotok.models.depth_step import DepthStep
from audiotok.models.exposure import not_learnt_from
from audiotok.models.text import Batch, Path, Text
from audiotok.nn.transformer import Transformer
from audiotok.transforms.unrolled import rolled
from audiotok.types import TokenSpec


class DepthDecoder(nn.Module):
    """See the module's docstring. `spec` is that of the transformed codes; `told` makes the ArTts that is told each frame's phoneme.

    In training a frame hears what `told` makes of the frames before it (codes replaced, left out, or drawn by the model itself), but the
    true codes of its own: a residual is the residual of those, and of no others.
    """

    def __init__(
        self,
        spec: TokenSpec,
        *,
        num_phonemes: int,
        num_speakers: int,
        num_languages: int,
        vectors: Callable[[], Sequence[Tensor]],
        told: Callable[..., ArTts],
        layers: int,
        heads: int,
        feed_forward: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if spec.num_codebooks < 2:
            raise ValueError(
                "a depth decoder goes through the codebooks of a frame, and there is one; choose transform=unroll for a tokenizer of "
                "several, model=ar_tts for a tokenizer of one"
            )
        counts = {"num_phonemes": num_phonemes, "num_speakers": num_speakers, "num_languages": num_languages}
        self.spec, self.told = spec, told(spec, vectors=vectors, **counts)
        width = self.told.start.numel()
        self.frame = nn.Linear(width, width, bias=False)
        self.codebook_KD = nn.Parameter(torch.randn(spec.num_codebooks, width) * 0.1)
        self.dropout = nn.Dropout(dropout)
        self.depth = Transformer(width, layers=layers, heads=heads, feed_forward=feed_forward, dropout=dropout)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return self.spec.codebook_sizes

    @property
    def unconditional(self) -> float:
        return self.told.unconditional

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy per code plus the weighted error of log durations."""
        told, codes_BKN = self.told, rolled(batch.codes_BKN)
        batch = told.withhold(batch)
        text_BPD = told.encode_text(batch.text)
        path_BND = told.embed_path(text_BPD, by_frame(batch.path, self.spec.num_codebooks))
        history_BKN = told.spoil(codes_BKN)
        if self.training and told.own_history:
            with not_learnt_from():
                hidden_BND = told.hidden(text_BPD, batch.text.lengths_B, path_BND, history_BKN)
                history_BKN = told.replay(history_BKN, self.logits(hidden_BND, codes_BKN))
        hidden_BND = told.hidden(text_BPD, batch.text.lengths_B, path_BND, history_BKN)
        codes = _mean_nats(self.logits(hidden_BND, codes_BKN), codes_BKN)
        durations = told.duration_loss(text_BPD, batch)
        return codes + told.duration_weight * durations, {"codes": codes.detach(), "durations": durations.detach()}

    def logits(self, hidden_BND: Tensor, codes_BKN: Tensor) -> Sequence[Tensor]:
        """Of each codebook [B, N, V_k], given the frames' hidden states and the codes of their earlier codebooks."""
        inputs = self.dropout(self.inputs(hidden_BND, codes_BKN)).flatten(0, 1)
        states_BNKD = self.depth(inputs).unflatten(0, hidden_BND.shape[:2])
        weights, biases = (each.split(self.codebook_sizes) for each in (self.told.heads(), self.told.bias))
        return [F.linear(states_BND, *head) for states_BND, *head in zip(states_BNKD.unbind(2), weights, biases, strict=True)]

    def inputs(self, hidden_BND: Tensor, codes_BKN: Tensor) -> Tensor:
        """What the small transformer hears: at codebook k the frame and the sum of the codes before k in it, [B, N, K, D]."""
        ids_BNK = (codes_BKN.clamp_min(0) + self.told.offsets_K[:, None]).transpose(1, 2)
        codes_BNKD = F.embedding(ids_BNK, self.told.codes()) * (codes_BKN >= 0).transpose(1, 2)[..., None]
        before_BNKD = F.pad(codes_BNKD[:, :, :-1].cumsum(2), (0, 0, 1, 0))
        return self.frame(hidden_BND)[:, :, None] + self.codebook_KD + before_BNKD

    @torch.inference_mode()
    def predict_durations(self, text: Text) -> list[Tensor]:
        """Frames of each phoneme, fractional, one tensor [P] a row."""
        return self.told.predict_durations(text)

    @torch.inference_mode()
    def begin(self, text: Text, path: Path, *, positions: int) -> DepthStep:
        """A step of the engine that has heard nothing yet, with room for so many positions after the longest text."""
        told = self.told
        text_BPD = told.encode_text(text)
        path_BND = told.embed_path(text_BPD, by_frame(path, self.spec.num_codebooks))
        return DepthStep(self, text_BPD, text.lengths_B, path_BND, positions=positions)


def by_frame(path: Path, num_codebooks: int) -> Path:
    """The path of the frames, of one that says each of a frame's positions the same."""
    return Path(*(each_BN[:, ::num_codebooks] for each_BN in (path.phoneme_BN, path.since_BN, path.until_BN)))


def _mean_nats(logits: Sequence[Tensor], codes_BKN: Tensor) -> Tensor:
    losses = [
        F.cross_entropy(logits_BNV.float().flatten(0, 1), codes_BN.flatten(), ignore_index=-1, reduction="sum")
        for logits_BNV, codes_BN in zip(logits, codes_BKN.unbind(1), strict=True)
    ]
    return torch.stack(losses).sum() / (codes_BKN >= 0).sum().clamp_min(1)
