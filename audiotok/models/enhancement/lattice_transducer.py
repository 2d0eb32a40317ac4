"""The speech enhancement transducer (arXiv 2507.12825) over all alignments, for an encoder at another rate than the codec's.

An encoder's frame stands for `stride` of the codec's; in each the model says as many positions as it chooses, then goes on to the next
(blank). A blank is a coin of its own beside the distribution of the codes (arXiv 2003.07705), so that what the engine draws from is that of
a model without blanks. Stride 2, five positions, the path of the diagonal:

    position 4                  o
    position 3            o > o |       up: the codes of a position are said
    position 2            |             ->: a blank
    position 1      o > o |
    position 0      |
                  frame 0     1     2

Of the codebooks only the first goes through the lattice: a node needs its whole distribution, and those of six codebooks would be six times
the memory. The others, which refine the same frame, are learnt where the likeliest path says it. Nodes further than `band` positions from
the diagonal are left out in training, those further than `said_band` in decoding; None leaves out none.

In decoding no path is chosen: at which frame one is, is known by the codes that were said, as a distribution (the forward variables of
the lattice), and the next code is drawn from the mean of its distributions at those frames. A path that asks at each node which of the
two moves is likelier goes wrong: two of three say something, so that is always the likelier, and all is said before it is heard.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.data.noisy import NoisyBatch
from audiotok.models.enhancement.clean_codes import CleanCodes, Logits, Placed, cross_entropy, encoded
from audiotok.models.enhancement.hearing import CausalEncoder, silenced
from audiotok.models.enhancement.lattice import IMPOSSIBLE, best_path, lattice_loss, near_diagonal
from audiotok.models.enhancement.residual_heads import History, past
from audiotok.models.enhancement.transducer import Joiner
from audiotok.nn.ragged import take
from audiotok.nn.transformer import Transformer
from audiotok.tokenizers.codec import Codec

TINY = 1e-30  # what is less is nothing


@dataclass(frozen=True)
class Lattice:
    """Log-probabilities at the nodes, `IMPOSSIBLE` at those left out, and how far each row goes."""

    blank_BNU: Tensor
    emit_BNU: Tensor
    lengths_B: Tensor
    targets_B: Tensor


class LatticeTransducer(nn.Module):
    """See the module's docstring. `encoder` makes one for a frame of `hop` samples; `joint` is the width of a joiner."""

    def __init__(
        self,
        codec: Codec,
        *,
        encoder: Callable[..., CausalEncoder],
        stride: int,
        band: float | None,
        said_band: float | None,
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
        """Raises ValueError for a stride or a band that is none."""
        super().__init__()
        if stride < 1 or any(each is not None and each < 0 for each in (band, said_band)):
            raise ValueError(
                "enhancer.stride is 1 frame or more, enhancer.band and enhancer.said_band 0 positions or more, or null; "
                f"got {stride}, {band} and {said_band}"
            )
        self.codec, self.stride, self.band, self.said_band, self.regression = codec, stride, band, said_band, regression
        self.encoder = encoder(hop=stride * int(codec.spec.hop), sample_rate=codec.spec.sample_rate)
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
        self.going_on = Coin(heard=self.encoder.width, predicted=width, joint=joint)

    def loss(self, batch: NoisyBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Nats per code of the clean speech, blanks and all, and `regression` times what the guesses miss."""
        codes_BKN, frames_B = encoded(self.codec, batch.clean_BT, batch.lengths_B)
        placed = self.codes.placed(codes_BKN, frames_B)
        targets_B = frames_B + self.codes.lag
        heard_BND = self.hear(batch.noisy_BT, batch.lengths_B, int(targets_B.max()))

        def foretell(codes_BKP: Tensor) -> Logits:  # along the diagonal
            return self.joiner(self._on_diagonal(heard_BND, codes_BKP.shape[2]), self.predict(codes_BKP)[:, :-1], codes_BKP)

        history_BKP = self.codes.heard(placed, foretell, self, batch)
        predicted_BPD = self.predict(history_BKP)
        lattice = self.lattice(heard_BND, predicted_BPD, placed, targets_B)
        all_BNU, path_BP = _nats(lattice), self._path(lattice)
        heads, told_BPKE = self.joiner.heads, self.joiner.told(take(heard_BND, path_BP), predicted_BPD[:, :-1])
        logits, aimed = heads(told_BPKE, history_BKP), heads.aimed(placed, history_BKP)
        _, values = cross_entropy(logits, aimed.codes_BKP, aimed.real_BKP)
        rest, codes = _rest(logits, aimed), placed.real_BKP.sum()
        first, missed = all_BNU.sum() / placed.real_BKP[:, 0].sum(), heads.miss(told_BPKE, heads.whole(placed), placed.real_BKP)
        nats = (all_BNU.sum() + rest) / codes
        return nats + self.regression * missed, values | {"first": first.detach(), "nats": nats.detach(), "missed": missed.detach()}

    def hear(self, noisy_BT: Tensor, lengths_B: Tensor, positions: int) -> Tensor:
        """heard_BND of the encoder's frames that stand for so many positions."""
        return self.encoder(silenced(noisy_BT, lengths_B), self.codes.ends(lengths_B), self.frames_of(positions))

    def frames_of(self, positions: int) -> int:
        """Frames of the encoder for so many positions."""
        return -(-positions // self.stride)

    def predict(self, codes_BKP: Tensor) -> Tensor:
        """predicted_BPD, one more than there are positions: before each of them, and when all are said."""
        return self.prediction(self.dropout(self.codes.history(F.pad(codes_BKP, (0, 1), value=-1))))

    def lattice(self, heard_BND: Tensor, predicted_BPD: Tensor, placed: Placed, targets_B: Tensor) -> Lattice:
        """The probabilities at the nodes that are not left out: of those alone is there a distribution of codes, [nodes, V]."""
        lengths_B = -(-targets_B // self.stride)
        frames, labels = heard_BND.shape[1], placed.codes_BKP.shape[2]
        label_1U = torch.arange(labels + 1, device=lengths_B.device)[None]
        allowed_BNU = near_diagonal(lengths_B, targets_B, label_1U, frames=frames, band=self.band)
        row, frame, label = allowed_BNU.nonzero(as_tuple=True)
        coin = self.going_on(heard_BND, predicted_BPD, (row, frame, label)).float()
        blank_BNU = torch.full(allowed_BNU.shape, IMPOSSIBLE, device=coin.device).index_put((row, frame, label), F.logsigmoid(coin))
        more = label < targets_B[row]
        row, frame, label = row[more], frame[more], label[more]
        laws = self.joiner.first(heard_BND, predicted_BPD, (row, frame, label)).float().log_softmax(-1)
        said = laws.gather(1, placed.codes_BKP[row, 0, label][:, None])[:, 0]
        said = said.where(placed.real_BKP[row, 0, label], 0)  # there is no code of the first codebook behind its last
        said = said + F.logsigmoid(-coin[more])
        emit_BNU = torch.full((len(targets_B), frames, labels), IMPOSSIBLE, device=coin.device).index_put((row, frame, label), said)
        reached_BNU = allowed_BNU[..., 1:]  # whoever says a label must be able to be there
        return Lattice(blank_BNU, emit_BNU.masked_fill(~reached_BNU, IMPOSSIBLE), lengths_B, targets_B)

    @torch.no_grad()
    def _path(self, lattice: Lattice) -> Tensor:
        return best_path(lattice.blank_BNU, lattice.emit_BNU, lattice.lengths_B, lattice.targets_B)

    def _on_diagonal(self, heard_BND: Tensor, positions: int) -> Tensor:
        return heard_BND.repeat_interleave(self.stride, dim=1)[:, :positions]

    @torch.inference_mode()
    def begin(self, noisy_BT: Tensor, lengths_B: Tensor, *, positions: int) -> "LatticeStep":
        """A step of the engine that has said nothing yet of these recordings, with room for so many positions."""
        spec = self.codes.spec
        targets_B = torch.tensor([spec.num_frames(length) + self.codes.lag for length in lengths_B.tolist()], device=noisy_BT.device)
        return LatticeStep(self, self.hear(noisy_BT, lengths_B, int(targets_B.max())), targets_B, positions=positions)


class Coin(nn.Module):
    """The logit of a blank at a node."""

    def __init__(self, *, heard: int, predicted: int, joint: int) -> None:
        super().__init__()
        self.heard, self.predicted = nn.Linear(heard, joint), nn.Linear(predicted, joint, bias=False)
        self.leave = nn.Linear(joint, 1)

    def forward(self, heard_BND: Tensor, predicted_BPD: Tensor, nodes: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """One of each of the `nodes` (row, frame, label)."""
        row, frame, label = nodes
        return self.leave(torch.tanh(self.heard(heard_BND)[row, frame] + self.predicted(predicted_BPD)[row, label]))[:, 0]


def _nats(lattice: Lattice) -> Tensor:
    return lattice_loss(lattice.blank_BNU, lattice.emit_BNU, lattice.lengths_B, lattice.targets_B, allowed_BNU=None)


def _rest(logits: Logits, placed: Placed) -> Tensor:
    """Nats of all codebooks but the first."""
    real_BKP = placed.real_BKP[:, 1:]
    return cross_entropy(logits[1:], placed.codes_BKP[:, 1:], real_BKP)[0] * real_BKP.sum() if len(logits) > 1 else logits[0].new_zeros(())


class LatticeStep:
    """Recordings in the midst of being said clean (`audiotok.decoding.step.Step`).

    Of each position that was said `leave_BPN` holds how likely it was said at each frame before its code was known, and `frames_BP` the
    likeliest of them, after a first 0. At the edges of the band the coin falls as it has to.
    """

    def __init__(self, model: LatticeTransducer, heard_BND: Tensor, targets_B: Tensor, *, positions: int) -> None:
        self.model, self.heard_BND, self.targets_B = model, heard_BND, targets_B.clone()
        self.said_B = torch.zeros_like(targets_B)
        self.frames_BP = torch.zeros(len(targets_B), positions + 1, dtype=torch.int64, device=heard_BND.device)
        self.leave_BPN = torch.zeros(len(targets_B), positions + 1, heard_BND.shape[1], device=heard_BND.device)
        self.predicted_BPD = torch.zeros(len(targets_B), positions + 1, len(model.codes.start), device=heard_BND.device)
        self.cache = model.prediction.cache(len(heard_BND), positions=positions)
        self.history = History(model.codes, len(heard_BND), positions=positions, device=heard_BND.device)
        with torch.no_grad():
            self._codes_VD, self._settled = model.codes.codes(), model.joiner.heads.settled()

    @torch.inference_mode()
    def __call__(self, heard_BKN: Tensor) -> Logits:
        places_BN = self.said_B[:, None] + torch.arange(heard_BKN.shape[2], device=self.said_B.device)
        inputs_BND = torch.where((places_BN == 0)[..., None], self.model.codes.start, self.model.codes.embed(heard_BKN, self._codes_VD))
        predicted_BND = self.model.prediction(inputs_BND, cache=self.cache)
        recent_BW, codes_BKW = self.history(heard_BKN, self.said_B)
        first = [self._say(code_B, predicted_BD) for code_B, predicted_BD in zip(heard_BKN[:, 0].unbind(1), predicted_BND.unbind(1))]
        frames_BW = past(self.frames_BP[..., None], recent_BW + 1, nothing=0)[..., 0]
        heard_BWD = take(self.heard_BND, frames_BW).masked_fill((recent_BW < 0)[..., None], 0)
        return [torch.stack(first, dim=1), *self.model.joiner(heard_BWD, predicted_BND, codes_BKW, self._settled)[1:]]

    def _say(self, code_B: Tensor, predicted_BD: Tensor) -> Tensor:
        """Logits [B, V] of the first codebook at the next position, given the code of the one before."""
        arrived_BN, here_BN, next_BN = self._arrived(code_B), self._band(self.said_B), self._band(self.said_B + 1)
        row, frame = here_BN.nonzero(as_tuple=True)
        blank_BN = torch.zeros_like(arrived_BN)
        blank_BN[row, frame] = self._coin(predicted_BD, row, frame)
        blank_BN = blank_BN.where(F.pad(here_BN[:, 1:], (0, 1)), 0).where(next_BN, 1)
        reached_BN = arrived_BN.clone()
        for n in range(int(frame.min()) + 1, int(frame.max()) + 1):  # outside the band nothing arrives
            reached_BN[:, n] += blank_BN[:, n - 1] * reached_BN[:, n - 1]
        leave_BN = _shares(reached_BN * (1 - blank_BN), here_BN)
        rows_B, place_B = self._place(self.said_B)
        self.leave_BPN[rows_B, place_B], self.predicted_BPD[rows_B, place_B] = leave_BN, predicted_BD
        self.said_B = self.said_B + 1
        self._settle(leave_BN)
        row, frame = (leave_BN > 0).nonzero(as_tuple=True)
        return _log_sums(leave_BN[row, frame, None].log() + self._laws(predicted_BD, row, frame), row, rows=len(code_B))

    def _arrived(self, code_B: Tensor) -> Tensor:
        """arrived_BN: at which frame each row has said its last position, now that its code is known; at the first, where there is none."""
        rows_B, before_B = self._place(self.said_B - 1)
        leave_BN, size = self.leave_BPN[rows_B, before_B], self.model.codes.spec.codebook_sizes[0]
        row, frame = (leave_BN > 0).nonzero(as_tuple=True)
        laws_MV = self._laws(self.predicted_BPD[rows_B, before_B], row, frame)
        real_B = (code_B >= 0) & (code_B < size)  # there is no code of the first codebook behind its last
        said_M = laws_MV.gather(1, code_B.clamp(0, size - 1)[row, None])[:, 0].where(real_B[row], 0)
        said_M = said_M + leave_BN[row, frame].log()
        share_M = (said_M - _log_sums(said_M[:, None], row, rows=len(code_B))[row, 0]).exp()
        first_BN = F.one_hot(torch.zeros_like(rows_B), leave_BN.shape[1]).to(share_M.dtype)
        arrived_BN = torch.zeros_like(first_BN).index_put((row, frame), share_M).where((self.said_B > 0)[:, None], first_BN)
        self._settle(arrived_BN)
        return arrived_BN

    def _settle(self, shares_BN: Tensor) -> None:
        """The last position was said at the likeliest frame, none before that of the position before it."""
        (rows_B, place_B), (_, before_B) = self._place(self.said_B), self._place(self.said_B - 1)
        self.frames_BP[rows_B, place_B] = shares_BN.argmax(1).maximum(self.frames_BP[rows_B, before_B])

    def _place(self, place_B: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, places in what is held of each); a row that has ended may be asked to go on."""
        return torch.arange(len(place_B), device=place_B.device), place_B.clamp(0, self.frames_BP.shape[1] - 1)

    def _coin(self, predicted_BD: Tensor, row: Tensor, frame: Tensor) -> Tensor:
        """How likely each row goes on from some frames, [M]."""
        nodes = (torch.zeros_like(row), torch.arange(len(row), device=row.device), row)
        return self.model.going_on(self.heard_BND[row, frame][None], predicted_BD[None], nodes).float().sigmoid()

    def _laws(self, predicted_BD: Tensor, row: Tensor, frame: Tensor) -> Tensor:
        """log-probabilities of the first codebook's codes at some frames, [M, V]."""
        nodes = (torch.zeros_like(row), torch.arange(len(row), device=row.device), row)
        return self.model.joiner.first(self.heard_BND[row, frame][None], predicted_BD[None], nodes, self._settled).log_softmax(-1)

    def _band(self, label_B: Tensor) -> Tensor:
        """bool [B, N]: the frames at which so many positions may have been said; behind a row's last position as at it."""
        lengths_B = -(-self.targets_B // self.model.stride)
        label_B1 = label_B.minimum(self.targets_B)[:, None]
        return near_diagonal(lengths_B, self.targets_B, label_B1, frames=self.heard_BND.shape[1], band=self.model.said_band)[..., 0]

    @torch.inference_mode()
    def rewind(self, heard_B: Tensor) -> None:
        self.said_B = heard_B.clone()
        self.cache.rewind(heard_B)

    @torch.inference_mode()
    def put(self, row: int, other: "LatticeStep") -> None:
        self.cache.replace(row, other.cache)
        self.history.put(row, other.history)
        self.said_B[row], self.targets_B[row] = other.said_B[0], other.targets_B[0]
        self.heard_BND = F.pad(self.heard_BND, (0, 0, 0, max(other.heard_BND.shape[1] - self.heard_BND.shape[1], 0)))
        self.leave_BPN = F.pad(self.leave_BPN, (0, self.heard_BND.shape[1] - self.leave_BPN.shape[2]))
        self.heard_BND[row, : other.heard_BND.shape[1]] = other.heard_BND[0]
        width = min(self.frames_BP.shape[1], other.frames_BP.shape[1])
        self.frames_BP[row, :width] = other.frames_BP[0, :width]
        self.predicted_BPD[row, :width] = other.predicted_BPD[0, :width]
        self.leave_BPN[row] = 0
        self.leave_BPN[row, :width, : other.leave_BPN.shape[2]] = other.leave_BPN[0, :width]

    @torch.inference_mode()
    def reorder(self, rows_B: Tensor) -> None:
        """Go on in row b with what row `rows_B[b]` has said (`audiotok.decoding.beam`)."""
        self.cache.reorder(rows_B)
        self.history.reorder(rows_B)
        self.said_B, self.targets_B = self.said_B[rows_B], self.targets_B[rows_B]
        self.frames_BP, self.heard_BND = self.frames_BP[rows_B], self.heard_BND[rows_B]
        self.leave_BPN, self.predicted_BPD = self.leave_BPN[rows_B], self.predicted_BPD[rows_B]


def _shares(weight_BN: Tensor, allowed_BN: Tensor) -> Tensor:
    """Weights as shares of one; where there is nothing left of them, all at the last frame that is allowed."""
    total_B1 = weight_BN.sum(1, keepdim=True)
    last_BN = allowed_BN & (allowed_BN.flip(1).cumsum(1).flip(1) == 1)
    return torch.where(total_B1 > TINY, weight_BN / total_B1.clamp_min(TINY), last_BN.to(weight_BN.dtype))


def _log_sums(log_MV: Tensor, row_M: Tensor, *, rows: int) -> Tensor:
    """[B, V]: the logarithm of each row's sum of what `log_MV` are the logarithms of."""
    nothing_BV = log_MV.new_full((rows, log_MV.shape[1]), -torch.inf)
    most_BV = nothing_BV.scatter_reduce(0, row_M[:, None].expand_as(log_MV), log_MV, "amax")
    return most_BV + torch.zeros_like(most_BV).index_add(0, row_M, (log_MV - most_BV[row_M]).exp()).log()
