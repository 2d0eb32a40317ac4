"""A step of two transformers: the one of the frames is asked when a frame begins, the small one at each codebook.

The frames' cache is rewound as any other. The small transformer's holds one frame a row, the one that is being said; a row that is rewound
into an earlier frame hears its first codebooks again when it goes on, from the codes and hidden states that are kept of every frame.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.nn.matrix import Matrix
from audiotok.nn.ragged import take
from audiotok.nn.ranked import head
from audiotok.types import TokenSpec

NOTHING = -1  # no frame, or no code


class Deep(Protocol):
    """A model of two transformers (`DepthDecoder`): `told` for the frames, `depth` for the codebooks of one."""

    spec: TokenSpec
    told: Any
    frame: Any
    depth: Any
    codebook_KD: nn.Parameter


class DepthStep:
    """Utterances in the midst of being spoken, each told along its path what it speaks (`audiotok.decoding.step.Step`).

    A position says one codebook; of the others the logits are 0, as the layout says what stands there. Rows may be at different codebooks.
    """

    def __init__(self, model: Deep, text_BPD: Tensor, lengths_B: Tensor, path_BND: Tensor, *, positions: int) -> None:
        self.model, self.num, (rows, _, width) = model, model.spec.num_codebooks, text_BPD.shape
        self.text_lengths_B, self.heard_B, self.positions = lengths_B.clone(), torch.zeros_like(lengths_B), positions
        # Rows begin one frame more or less in a call: what the others hear in the meantime is written behind their last, and never read.
        frames = -(-positions // self.num) + 1
        self.path_BND = F.pad(path_BND, (0, 0, 0, frames - path_BND.shape[1]))
        self.hidden_BND = text_BPD.new_zeros(rows, frames, width)  # of the frames, as the small transformer hears them
        self.codes_BP = lengths_B.new_full((rows, frames * self.num + 1), NOTHING)  # of each input; the first is none
        self.codes_VD, self.heads = model.told.codes(), _heads(model)
        self.frames = model.told.transformer.cache(rows, positions=text_BPD.shape[1] + frames)
        model.told.transformer(text_BPD, cache=self.frames, lengths_B=lengths_B)
        self.depth = model.depth.cache(rows, positions=2 * self.num)
        self.frame_B = torch.full_like(lengths_B, NOTHING)  # the one whose codebooks `depth` holds

    @torch.inference_mode()
    def __call__(self, heard_BKN: Tensor) -> Sequence[Tensor]:
        count = heard_BKN.shape[2]
        heard = self.heard_B.tolist()  # a wait for the device
        if max(heard) + count > self.positions:
            raise ValueError(f"{count} positions do not fit in a step of {self.positions} whose rows hold {min(heard)} to {max(heard)}")
        self._remember(heard_BKN)
        if new := max(self._begun(place + count) - self._begun(place) for place in heard):
            self._hear_frames(new, count)
        states_BND = self._descend(max(place % self.num + count for place in heard), count)
        place_BN = self._places(count)
        self.heard_B = self.heard_B + count
        return self._logits(states_BND, place_BN % self.num)

    def _begun(self, heard: Any) -> Any:
        """How many frames have begun after so many inputs."""
        return (heard + self.num - 1) // self.num

    def _places(self, count: int) -> Tensor:
        return self.heard_B[:, None] + torch.arange(count, device=self.heard_B.device)

    def _remember(self, heard_BKN: Tensor) -> None:
        place_BN = self._places(heard_BKN.shape[2])
        said_BN = (place_BN - 1) % self.num  # the codebook that each input holds
        self.codes_BP.scatter_(1, place_BN, heard_BKN.gather(1, said_BN[:, None])[:, 0])

    def _codes(self, frame_BM: Tensor) -> Tensor:
        """codes_BKM of some frames; what has not been heard of them is left from before."""
        codebook_K1 = torch.arange(self.num, device=frame_BM.device)[:, None]
        index_BKM = frame_BM.clamp_min(0)[:, None] * self.num + 1 + codebook_K1
        return self.codes_BP.gather(1, index_BKM.flatten(1)).unflatten(1, index_BKM.shape[1:])

    def _hear_frames(self, new: int, count: int) -> None:
        """Let the frames that begin at the next `count` positions, `new` at most, be heard."""
        first_B = self._begun(self.heard_B)
        frame_BM = first_B[:, None] + torch.arange(new, device=first_B.device)
        told_BMD = self.model.told.embed_codes(self._codes(frame_BM - 1), self.codes_VD)
        inputs_BMD = take(self.path_BND, frame_BM) + torch.where((frame_BM == 0)[..., None], self.model.told.start, told_BMD)
        counts_B = self._begun(self.heard_B + count) - first_B
        hidden_BMD = self.model.frame(self.model.told.transformer(inputs_BMD, cache=self.frames, lengths_B=counts_B))
        self.hidden_BND.scatter_(1, frame_BM[..., None].expand_as(hidden_BMD), hidden_BMD)

    def _descend(self, reach: int, count: int) -> Tensor:
        """States [B, N, D] of the small transformer at the next `count` positions, the last of which is `reach` behind a frame's start."""
        width = self.hidden_BND.shape[2]
        states_BND = self.hidden_BND.new_zeros(len(self.heard_B), count + 1, width)  # the last for what is heard again
        for ahead in range(-(-reach // self.num)):
            frame_B = self.heard_B // self.num + ahead
            first_B = self.depth.lengths_B.where(frame_B == self.frame_B, 0)
            counts_B = ((self.heard_B + count - self.num * frame_B).clamp_max(self.num) - first_B).clamp_min(0)
            depth_BM = first_B[:, None] + torch.arange(int(counts_B.max()), device=first_B.device)
            found_BMD = self._hear_codebooks(frame_B, depth_BM, counts_B)
            place_BM = self.num * frame_B[:, None] + depth_BM - self.heard_B[:, None]
            asked_BM = (place_BM >= 0) & (depth_BM - first_B[:, None] < counts_B[:, None])
            states_BND.scatter_(1, place_BM.where(asked_BM, count)[..., None].expand_as(found_BMD), found_BMD)
        return states_BND[:, :count]

    def _hear_codebooks(self, frame_B: Tensor, depth_BM: Tensor, counts_B: Tensor) -> Tensor:
        """States [B, M, D] after some codebooks of a frame of each row, of which the first `counts_B` are meant; a row of none stays."""
        depth_BM, goes_on_B = depth_BM.clamp_max(self.num - 1), counts_B > 0
        self.depth.lengths_B.copy_(depth_BM[:, 0].where(goes_on_B, self.depth.lengths_B))
        self.frame_B = frame_B.where(goes_on_B, self.frame_B)
        codes_BKM = self._codes(frame_B[:, None].expand_as(depth_BM))
        later_BKM = torch.arange(self.num, device=depth_BM.device)[:, None] >= depth_BM[:, None]
        before_BMD = self.model.told.embed_codes(codes_BKM.masked_fill(later_BKM, NOTHING), self.codes_VD)
        frame_B1D = take(self.hidden_BND, frame_B[:, None])
        return self.model.depth(frame_B1D + self.model.codebook_KD[depth_BM] + before_BMD, cache=self.depth, lengths_B=counts_B)

    def _logits(self, states_BND: Tensor, codebook_BN: Tensor) -> list[Tensor]:
        biases = self.model.told.bias.split(self.model.spec.codebook_sizes)
        logits = [states_BND.new_zeros(*codebook_BN.shape, len(bias_V)) for bias_V in biases]
        for k, (logits_BNV, bias_V) in enumerate(zip(logits, biases)):
            said_BN = codebook_BN == k
            if said_BN.any():
                logits_BNV[said_BN] = self.heads[k](states_BND[said_BN]) + bias_V
        return logits

    @torch.inference_mode()
    def rewind(self, heard_B: Tensor) -> None:
        if (heard_B > self.heard_B).any():
            raise ValueError(f"rows of {self.heard_B.tolist()} positions cannot be rewound to {heard_B.tolist()}")
        self.frames.rewind(self.text_lengths_B + self._begun(heard_B))
        same_B = heard_B // self.num == self.frame_B
        self.depth.lengths_B.copy_((heard_B % self.num).where(same_B, 0))
        self.frame_B = self.frame_B.where(same_B, NOTHING)
        self.heard_B = heard_B.clone()

    @torch.inference_mode()
    def put(self, row: int, other: "DepthStep") -> None:
        if other.positions > self.positions:
            raise ValueError(f"an utterance of {other.positions} positions has no place in one of {self.positions}")
        self.frames.replace(row, other.frames)
        self.depth.replace(row, other.depth)
        for mine, others in zip(self._kept(), other._kept(), strict=True):
            mine[row, : others.shape[1]] = others[0]
        for mine, others in ((self.text_lengths_B, other.text_lengths_B), (self.heard_B, other.heard_B), (self.frame_B, other.frame_B)):
            mine[row] = others[0]

    def _kept(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.path_BND, self.hidden_BND, self.codes_BP


def _heads(model: Deep) -> list[Matrix]:
    """Of each codebook, rows of one matrix."""
    whole, ends = head(model.depth, model.told.heads(), kept_R=None), [*model.spec.vocabulary_offsets, sum(model.spec.codebook_sizes)]
    assert isinstance(whole, Matrix)
    return [whole.rows(first, end) for first, end in pairwise(ends)]
