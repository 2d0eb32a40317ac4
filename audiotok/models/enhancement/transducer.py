"""The speech enhancement transducer (arXiv 2507.12825): noisy speech in, the codes of the clean speech in it out, one position at a time.

An encoder hears the noisy speech, a prediction network the clean codes that were said before, and a joiner of each codebook brings the two
together. Both run at the codec's frame rate, so the alignment is the diagonal: no blank, and cross-entropy at each position. Two codebooks,
delayed; h what the encoder has heard, up to `look_ahead` frames behind each frame:

    heard     h0 h1 h2 h3 h4
    history   s  1  2  3  _          s the start
    said      1  2  3  _             a codebook k hears k frames more than codebook 0
              _  5  6  7
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.data.noisy import NoisyBatch
from audiotok.models.enhancement.clean_codes import CleanCodes, Logits, encoded
from audiotok.models.enhancement.hearing import CausalEncoder, begin_from_latents, silenced
from audiotok.models.enhancement.residual_heads import History, ResidualHeads, Settled, lagging, past, said_and_guessed
from audiotok.nn.transformer import Transformer
from audiotok.tokenizers.codec import Codec


class Transducer(nn.Module):
    """See the module's docstring. `encoder` makes one for a frame of `hop` samples; `joint` is the width of a joiner."""

    def __init__(
        self,
        codec: Codec,
        *,
        encoder: Callable[..., CausalEncoder],
        delay: int,
        from_vectors: bool,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
        dropout: float,
        joint: int,
        replace_codes: float,
        own_history: float,
        free_running: float,
        regression: float,
    ) -> None:
        super().__init__()
        self.codec, self.regression = codec, regression
        self.encoder = encoder(hop=int(codec.spec.hop), sample_rate=codec.spec.sample_rate)
        self.codes = CleanCodes(
            codec,
            delay=delay,
            from_vectors=from_vectors,
            width=width,
            replace_codes=replace_codes,
            own_history=own_history,
            free_running=free_running,
        )
        self.dropout = nn.Dropout(dropout)
        self.prediction = Transformer(width, layers=layers, heads=heads, feed_forward=feed_forward, dropout=dropout)
        self.joiner = Joiner(self.codes, self.encoder, predicted=width, joint=joint)

    def loss(self, batch: NoisyBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Nats per code of the clean speech, and `regression` times what the guesses miss (`ResidualHeads.miss`)."""
        codes_BKN, frames_B = encoded(self.codec, batch.clean_BT, batch.lengths_B)
        placed = self.codes.placed(codes_BKN, frames_B)
        heard_BPD = self.hear(batch.noisy_BT, batch.lengths_B, codes_BKN.shape[2])

        def told(codes_BKP: Tensor) -> Tensor:
            return self.joiner.told(heard_BPD, self.prediction(self.dropout(self.codes.history(codes_BKP))))

        heads = self.joiner.heads
        history_BKP = self.codes.heard(placed, lambda codes_BKP: heads(told(codes_BKP), codes_BKP), self, batch)
        return said_and_guessed(heads, told(history_BKP), placed, history_BKP, regression=self.regression)

    def hear(self, noisy_BT: Tensor, lengths_B: Tensor, num_frames: int) -> Tensor:
        """What the encoder has heard at each position of so many frames, [B, P, D]."""
        return self.encoder(silenced(noisy_BT, lengths_B), self.codes.ends(lengths_B), num_frames + self.codes.lag)

    @torch.inference_mode()
    def begin(self, noisy_BT: Tensor, lengths_B: Tensor, *, positions: int) -> "TransducerStep":
        """A step of the engine that has said nothing yet of these recordings, with room for so many positions."""
        num_frames = self.codes.spec.num_frames(noisy_BT.shape[1])
        return TransducerStep(self, self.hear(noisy_BT, lengths_B, num_frames), positions=positions)

    @property
    def look_ahead_samples(self) -> int:
        """Samples behind the end of a frame that are heard before its last code is said."""
        return self.encoder.look_ahead_samples + self.codes.lag * int(self.codes.spec.hop)


class Joiner(nn.Module):
    """Of each codebook a guess at the latent of its frame, of which the heads choose (`audiotok.models.enhancement.residual_heads`).

    A guess is what the encoder heard at the frame, plus of each codebook V tanh(W heard + U predicted) at the position where it is said.
    """

    def __init__(self, codes: CleanCodes, encoder: CausalEncoder, *, predicted: int, joint: int) -> None:
        super().__init__()
        heard = encoder.width
        self.delay, self.count = codes.layout.step, len(codes.codebook_sizes)
        self.heads = ResidualHeads(codes.spec.codebook_sizes, codes.added, delay=self.delay, dim=joint)
        self.guess = nn.Linear(heard, self.heads.outputs, bias=False)
        begin_from_latents(self.guess, encoder.frames, dim=self.heads.dim)
        self.heard = nn.Linear(heard, self.count * joint)
        self.predicted = nn.Linear(predicted, self.count * joint, bias=False)
        self.leave_KJE = nn.Parameter(torch.zeros(self.count, joint, self.heads.outputs))
        self.leave_KE = nn.Parameter(torch.zeros(self.count, self.heads.outputs))

    def forward(self, heard_BWD: Tensor, predicted_BND: Tensor, codes_BKW: Tensor, settled: Settled | None = None) -> Logits:
        """Logits of each codebook at N positions, [B, N, V_k]. What was heard and said is of W >= N positions up to the last of them."""
        return self.heads(self.told(heard_BWD, predicted_BND), codes_BKW, settled)

    def told(self, heard_BWD: Tensor, predicted_BND: Tensor) -> Tensor:
        """told_BNKE, of which the heads choose."""
        positions = predicted_BND.shape[1]
        guess_BNKE = lagging(self.guess(heard_BWD), positions, codebooks=self.count, delay=self.delay)
        joint_BNJ = torch.tanh(self.heard(heard_BWD[:, heard_BWD.shape[1] - positions :]) + self.predicted(predicted_BND))
        added_BNKE = torch.einsum("bnkj,kje->bnke", joint_BNJ.unflatten(-1, (self.count, -1)), self.leave_KJE) + self.leave_KE
        return guess_BNKE.float() + added_BNKE.float()

    def first(
        self, heard_BND: Tensor, predicted_BPD: Tensor, nodes: tuple[Tensor, Tensor, Tensor], settled: Settled | None = None
    ) -> Tensor:
        """Logits of the first codebook at each of the `nodes` (row, frame heard, position predicted), [nodes, V]."""
        row, frame, position = nodes
        width = self.leave_KJE.shape[1]
        heard_BNJ = F.linear(heard_BND, self.heard.weight[:width], self.heard.bias[:width])
        predicted_BPJ = F.linear(predicted_BPD, self.predicted.weight[:width])
        joint_MJ = torch.tanh(heard_BNJ[row, frame] + predicted_BPJ[row, position])
        told_ME = self.guess(heard_BND)[row, frame].float() + (joint_MJ @ self.leave_KJE[0]).float() + self.leave_KE[0]
        return self.heads.of(0, told_ME, settled)


class TransducerStep:
    """Recordings in the midst of being said clean (`audiotok.decoding.step.Step`): what was heard of each is known, some positions said."""

    def __init__(self, model: Transducer, heard_BPD: Tensor, *, positions: int) -> None:
        self.model, self.said_B = model, torch.zeros(len(heard_BPD), dtype=torch.int64, device=heard_BPD.device)
        self.heard_BPD = F.pad(heard_BPD, (0, 0, 0, positions - heard_BPD.shape[1]))
        self.history = History(model.codes, len(heard_BPD), positions=positions, device=heard_BPD.device)
        self.cache = model.prediction.cache(len(heard_BPD), positions=positions)
        with torch.no_grad():
            self._codes_VD, self._settled = model.codes.codes(), model.joiner.heads.settled()

    @torch.inference_mode()
    def __call__(self, heard_BKN: Tensor) -> Logits:
        places_BN = self.said_B[:, None] + torch.arange(heard_BKN.shape[2], device=self.said_B.device)
        inputs_BND = torch.where((places_BN == 0)[..., None], self.model.codes.start, self.model.codes.embed(heard_BKN, self._codes_VD))
        recent_BW, codes_BKW = self.history(heard_BKN, self.said_B)
        self.said_B = self.said_B + heard_BKN.shape[2]
        heard_BWD = past(self.heard_BPD, recent_BW, nothing=0)
        return self.model.joiner(heard_BWD, self.model.prediction(inputs_BND, cache=self.cache), codes_BKW, self._settled)

    @torch.inference_mode()
    def hear(self, heard_BND: Tensor, *, first: int) -> None:
        """Put what was heard meanwhile at positions from `first` on, for speech that comes as a stream."""
        self.heard_BPD[:, first : first + heard_BND.shape[1]] = heard_BND

    @torch.inference_mode()
    def rewind(self, heard_B: Tensor) -> None:
        self.said_B = heard_B.clone()
        self.cache.rewind(heard_B)

    @torch.inference_mode()
    def put(self, row: int, other: "TransducerStep") -> None:
        self.cache.replace(row, other.cache)
        self.history.put(row, other.history)
        self.said_B[row] = other.said_B[0]
        self.heard_BPD[row] = 0
        self.heard_BPD[row, : other.heard_BPD.shape[1]] = other.heard_BPD[0]

    @torch.inference_mode()
    def reorder(self, rows_B: Tensor) -> None:
        """Go on in row b with what row `rows_B[b]` has said (`audiotok.decoding.beam`)."""
        self.cache.reorder(rows_B)
        self.history.reorder(rows_B)
        self.said_B, self.heard_BPD = self.said_B[rows_B], self.heard_BPD[rows_B]
