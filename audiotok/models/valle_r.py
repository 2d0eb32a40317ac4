"""Text to speech that moves a pointer along the text as it speaks, and ends where the text does (VALL-E R, arXiv 2406.07855).

The plain decoder (`code_decoder`), told at each position which phoneme it is in and for how long already. With the codes of a position it
foretells the phoneme of the next one, of which two are possible: this one and the one after it. Which it is stands behind the codes, as one
codebook more: 0 stay, 1 move on. So nothing is skipped, repeated or babbled, whatever is drawn. Two codebooks, delayed; E the end:

    codes        1 2 3 4 5 E
                 _ 6 7 8 9 8
    moves        0 1 0 0 1 .          foretold with the codes of their position
    phoneme      p p l l l .          told at their position; after the last phoneme codebook 0 can say the end alone

The phoneme head is learnt as in the paper, by cross-entropy against the aligned phoneme, and what is drawn from is renormalised to the two.
Where they are the same phoneme twice, their logits cannot tell them apart: a logit for moving on is added to the second's, and learnt by
cross-entropy of the renormalised two. It also knows the place within the phoneme. The paper's codec merging is a transform (merge2).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.models.code_decoder import CodeDecoder, CodeStep, closed
from audiotok.models.text import PLACES, Batch, Text
from audiotok.nn.ragged import take
from audiotok.types import TokenSpec

STAY_OR_MOVE = 2
NEVER = -1e9  # as a logit: finite, so that guidance can take differences


@dataclass(frozen=True)
class Pointer:
    """Which phoneme each position speaks, by its index, past the last where a row is over, and positions since its start; both [B, N]."""

    phoneme_BN: Tensor
    since_BN: Tensor

    @classmethod
    def of(cls, phoneme_BN: Tensor) -> "Pointer":
        place_N = torch.arange(phoneme_BN.shape[1], device=phoneme_BN.device)
        begins_BN = F.pad(phoneme_BN.diff(dim=1) != 0, (1, 0), value=True)
        return cls(phoneme_BN, place_N - (begins_BN * place_N).cummax(1).values)


class ValleR(nn.Module):
    """See the module's docstring. `spec` is that of the transformed codes; what is generated has `codebook_sizes`: the end, and moves.

    `decoder` makes the decoder from what the constructor is given. In no phoneme does the pointer stay longer than it did in training in
    any such phoneme, or any at all where it was never met: `longest_V`, in positions.
    """

    longest_V: Tensor

    def __init__(
        self,
        spec: TokenSpec,
        *,
        num_phonemes: int,
        num_speakers: int,
        num_languages: int,
        vectors: Callable[[], Sequence[Tensor]],
        decoder: Callable[..., CodeDecoder],
        phoneme_weight: float,
        move_weight: float,
    ) -> None:
        super().__init__()
        self.spec, self.phoneme_weight, self.move_weight = spec, phoneme_weight, move_weight
        self.decoder = decoder(spec, num_phonemes=num_phonemes, num_speakers=num_speakers, num_languages=num_languages, vectors=vectors)
        width = self.decoder.start.shape[0]
        self.over = nn.Parameter(torch.randn(width) * 0.1)
        self.since = nn.Embedding(PLACES, width)
        self.phoneme = nn.Linear(width, num_phonemes + 1)  # the last is none: the text is over
        self.move = nn.Linear(width, 1)
        self.register_buffer("longest_V", torch.zeros(num_phonemes, dtype=torch.int64))
        nn.init.normal_(self.since.weight, std=0.1)

    @property
    def unconditional(self) -> float:
        return self.decoder.unconditional

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Of what is generated: the codes with their end, then the moves."""
        return (*self.decoder.codebook_sizes, STAY_OR_MOVE)

    @property
    def end(self) -> int:
        """The id of codebook 0 that is the end."""
        return self.decoder.end

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy per code, plus, weighted, that per position of the next phoneme and of the move.

        Raises ValueError where an utterance has fewer positions than phonemes.
        """
        decoder, given = self.decoder, closed(batch.codes_BKN, self.decoder.codebook_sizes)
        told_B = decoder.told(len(given.ends_B))
        text_BPD, lengths_B = decoder.encode(batch.text, told_B=told_B)
        pointer = Pointer.of(visits(batch.path.phoneme_BN, batch.text.lengths_B, given.ends_B))
        if self.training:
            self._remember(pointer, batch.text)
        path_BND = self.embed_pointer(text_BPD, pointer, batch.text, told_B=told_B)
        inputs_BND = decoder.heard(given, lambda codes_BKN: decoder.history(codes_BKN) + path_BND, text_BPD, lengths_B)
        hidden_BND = decoder.hidden(text_BPD, lengths_B, inputs_BND)
        codes, values = decoder.code_loss(hidden_BND, given)
        phonemes, moves = self.pointer_losses(hidden_BND, pointer, batch.text)
        total = codes + self.phoneme_weight * phonemes + self.move_weight * moves
        return total, values | {"phonemes": phonemes.detach(), "moves": moves.detach()}

    def pointer_losses(self, hidden_BND: Tensor, pointer: Pointer, text: Text) -> tuple[Tensor, Tensor]:
        """(nats of the next position's phoneme, nats of the move), per position that has a next one."""
        here_BN, next_BN = pointer.phoneme_BN[:, :-1], pointer.phoneme_BN[:, 1:]
        within_BN = here_BN < text.lengths_B[:, None]
        names_BNV = self.phoneme(hidden_BND[:, :-1]).float()
        moves_BN2 = self._renormalised(names_BNV, hidden_BND[:, :-1], here_BN, text)
        names = F.cross_entropy(names_BNV[within_BN], self._names(text, next_BN)[within_BN])
        return names, F.cross_entropy(moves_BN2[within_BN], (next_BN - here_BN)[within_BN].clamp_max(1))

    def move_logits(self, hidden_BND: Tensor, pointer: Pointer, text: Text) -> Tensor:
        """Of staying and of moving on, [B, N, 2]; what may not be is `NEVER`: staying too long, and moving on from the end."""
        logits_BN2 = self._renormalised(self.phoneme(hidden_BND).float(), hidden_BND, pointer.phoneme_BN, text)
        over_BN = pointer.phoneme_BN >= text.lengths_B[:, None]
        longest_V = torch.where(self.longest_V > 0, self.longest_V, self.longest_V.amax()).clamp_min(1)
        bound_BN = F.pad(longest_V, (0, 1))[self._names(text, pointer.phoneme_BN)]
        too_long_BN = ~over_BN & (pointer.since_BN + 1 >= bound_BN)
        return logits_BN2.masked_fill(torch.stack([too_long_BN, over_BN], -1), NEVER)

    def _renormalised(self, names_BNV: Tensor, hidden_BND: Tensor, phoneme_BN: Tensor, text: Text) -> Tensor:
        stay_BN1 = names_BNV.gather(2, self._names(text, phoneme_BN)[..., None])
        move_BN1 = names_BNV.gather(2, self._names(text, phoneme_BN + 1)[..., None])
        return torch.cat([stay_BN1, move_BN1 + self.move(hidden_BND).float()], -1)

    def _names(self, text: Text, phoneme_BN: Tensor) -> Tensor:
        """The phonemes' ids at some indices, [B, N]; the number of phonemes behind the last."""
        names_BN = text.phonemes_BP.gather(1, phoneme_BN.clamp_max(text.phonemes_BP.shape[1] - 1))
        return names_BN.masked_fill(phoneme_BN >= text.lengths_B[:, None], self.phoneme.out_features - 1)

    def embed_pointer(self, text_BPD: Tensor, pointer: Pointer, text: Text, *, told_B: Tensor) -> Tensor:
        """What each position is told of its phoneme, [B, N, D]; nothing in a row that is not told its text."""
        phoneme_BND = take(text_BPD, pointer.phoneme_BN.clamp_max(text_BPD.shape[1] - 1))
        phoneme_BND = torch.where((pointer.phoneme_BN < text.lengths_B[:, None])[..., None], phoneme_BND, self.over)
        return (phoneme_BND + self.since(pointer.since_BN.clamp_max(PLACES - 1))) * told_B[:, None, None]

    @torch.no_grad()
    def _remember(self, pointer: Pointer, text: Text) -> None:
        """The longest stay in each phoneme."""
        longest_V = F.pad(self.longest_V, (0, 1))
        longest_V.scatter_reduce_(0, self._names(text, pointer.phoneme_BN).flatten(), pointer.since_BN.flatten() + 1, "amax")
        self.longest_V.copy_(longest_V[:-1])

    @torch.inference_mode()
    def begin(self, text: Text, *, positions: int, conditional: bool) -> "PointerStep":
        """A step of the engine that has heard nothing yet, with room for so many inputs; it is told the text where `conditional`."""
        return PointerStep(self, text, positions=positions, conditional=conditional)


class PointerStep:
    """Utterances in the midst of being spoken, each with its pointer (`audiotok.decoding.step.Step`)."""

    def __init__(self, model: ValleR, text: Text, *, positions: int, conditional: bool) -> None:
        self.model, self.text = model, text.rows(range(len(text.lengths_B)))  # its own, as `put` writes into it
        self.told_B = torch.full_like(text.lengths_B, conditional, dtype=torch.bool)
        self.text_BPD, lengths_B = model.decoder.encode(text, told_B=self.told_B)
        self.codes = CodeStep(model.decoder, self.text_BPD, lengths_B, positions=positions)
        self.moves_BS = text.lengths_B.new_zeros(len(lengths_B), positions)  # what was heard of them, input by input

    @torch.inference_mode()
    def __call__(self, heard_BKN: Tensor) -> Sequence[Tensor]:
        pointer = self._pointer(heard_BKN[:, -1])
        path_BND = self.model.embed_pointer(self.text_BPD, pointer, self.text, told_B=self.told_B)
        hidden_BND = self.codes.hear(self.codes.embed(heard_BKN[:, :-1]) + path_BND)
        first_BNV, *others = self.codes.logits(hidden_BND)
        over_BN1 = (pointer.phoneme_BN >= self.text.lengths_B[:, None])[..., None]
        is_end_V = torch.arange(first_BNV.shape[-1], device=first_BNV.device) == self.model.end
        first_BNV = first_BNV.masked_fill(over_BN1 != is_end_V, NEVER)
        return [first_BNV, *others, self.model.move_logits(hidden_BND, pointer, self.text)]

    def _pointer(self, moves_BN: Tensor) -> Pointer:
        """Of the positions that these moves lead to."""
        place_BN = self.codes.places(moves_BN.shape[1]).clamp_max(self.moves_BS.shape[1] - 1)
        self.moves_BS.scatter_(1, place_BN, moves_BN.clamp_min(0))
        phoneme_BS = self.moves_BS.cumsum(1).minimum(self.text.lengths_B[:, None])
        pointer = Pointer.of(phoneme_BS)
        return Pointer(pointer.phoneme_BN.gather(1, place_BN), pointer.since_BN.gather(1, place_BN))

    def rewind(self, heard_B: Tensor) -> None:
        self.codes.rewind(heard_B)

    @torch.inference_mode()
    def put(self, row: int, other: "PointerStep") -> None:
        width, room = other.text_BPD.shape[1], other.moves_BS.shape[1]
        if width > self.text_BPD.shape[1] or room > self.moves_BS.shape[1]:
            raise ValueError(f"an utterance of {width} phonemes and {room} positions has no place in one of {list(self.moves_BS.shape)}")
        self.codes.put(row, other.codes)
        self.moves_BS[row, :room], self.text_BPD[row, :width] = other.moves_BS[0], other.text_BPD[0]
        self.text.phonemes_BP[row, :width], self.text.lengths_B[row] = other.text.phonemes_BP[0], other.text.lengths_B[0]
        self.told_B[row] = other.told_B[0]


def visits(phoneme_BN: Tensor, phonemes_B: Tensor, positions_B: Tensor) -> Tensor:
    """A path [B, N + 1] that is in every phoneme at least once, as near to the given one as that lets it; the number of phonemes behind it.

    Alignment leaves the shortest phonemes without a position. Of 4 phonemes in 6 positions: 0 0 2 2 3 3 -> 0 0 1 2 3 3 4. Raises ValueError
    where a row has fewer positions than phonemes.
    """
    if (positions_B < phonemes_B).any():
        raise ValueError(
            "an utterance has fewer positions than phonemes, and the pointer is in each of them at least once; "
            "choose a transform with more positions a second"
        )
    index_P, place_N = (torch.arange(size, device=phoneme_BN.device) for size in (int(phonemes_B.max()), phoneme_BN.shape[1] + 1))
    within_BN = place_N[:-1] < positions_B[:, None]
    ends_BP = torch.searchsorted(phoneme_BN.where(within_BN, len(index_P)).contiguous(), index_P.repeat(len(phoneme_BN), 1), right=True)
    ends_BP = (ends_BP - index_P).clamp_min(1).cummax(1).values + index_P
    latest_BP = positions_B[:, None] - (phonemes_B[:, None] - 1 - index_P)
    ends_BP = torch.where(index_P == phonemes_B[:, None] - 1, positions_B[:, None], ends_BP.minimum(latest_BP))
    ends_BP = ends_BP.where(index_P < phonemes_B[:, None], len(place_N) + 1)
    return torch.searchsorted(ends_BP.contiguous(), place_N.repeat(len(phoneme_BN), 1), right=True)


def forced_moves(phoneme_N: Tensor, num_phonemes: int, *, codebook_sizes: Sequence[int]) -> Tensor:
    """forced_KN by which a path is followed, another utterance's say: its moves, and -1 where codes are free to be chosen."""
    length_1 = torch.tensor([len(phoneme_N)])
    path_1N = visits(phoneme_N[None], torch.tensor([num_phonemes]), length_1)
    return torch.cat([torch.full((len(codebook_sizes) - 1, len(phoneme_N)), -1), path_1N.diff(dim=1)])
