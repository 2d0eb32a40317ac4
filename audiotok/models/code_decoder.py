"""Text to speech as a plain language model of codes: nothing tells it which phoneme it is at, and it says itself where the end is.

One decoder over the text and then the codes in the layout of a transform: with one codebook the shape of LLaSA (arXiv 2502.04128), with
several side by side or delayed that of MusicGen (arXiv 2306.05284), with frames in stacks the grouped codes of VALL-E 2 (arXiv
2406.05370). Two codebooks, delayed:

    p l iː z | s 1 2 3 4         ->          1 2 3 4 E         s the start, E the end
               . _ 5 6 7                     _ 5 6 7 8

A row is the phonemes with stress, speaker and language, then inputs: input n holds what stands at position n - 1, and what comes out there
foretells position n. Codebooks go in as a sum of embeddings and come out of one head each. The end is one id more of codebook 0, and stands
where that has no code left; how many positions the layout still has follows from it (`closed`; for the engine, `decoding.ending`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.models.exposure import drawn, not_learnt_from, share_of_own
from audiotok.models.lesson import Lesson
from audiotok.models.text import Batch, Text, TextEncoder
from audiotok.nn.branching import Branches, branched
from audiotok.nn.ragged import follow
from audiotok.nn.ranked import head
from audiotok.nn.transformer import Transformer
from audiotok.nn.vocabulary import embedded, vocabulary
from audiotok.types import TokenSpec


@dataclass(frozen=True)
class Closed:
    """Codes [B, K, N] in which every hole of the layout holds its pad id and codebook 0 its end; -1 past a row's last position."""

    codes_BKN: Tensor
    real_BKN: Tensor  # True where a code stands
    ends_B: Tensor  # the position at which codebook 0 has ended


def closed(codes_BKN: Tensor, codebook_sizes: Sequence[int]) -> Closed:
    """The codes of a batch, -1 in holes and past the end, with their end, one position wider; `codebook_sizes` count the end.

    A layout without holes behind the last code of codebook 0, and one with such (Delay), whose length then follows from its end:

        1 2 3       1 2 3 E             1 2 3 .       1 2 3 E .
        4 5 6   ->  4 5 6 .             . 4 5 6   ->  _ 4 5 6 .          E the end, _ the pad id, . is -1
    """
    given_BKN = F.pad(codes_BKN, (0, 1), value=-1)
    real_BKN = given_BKN >= 0
    place_N = torch.arange(given_BKN.shape[2], device=codes_BKN.device)
    ends_B = real_BKN[:, 0].sum(-1)
    length_B1 = (real_BKN.any(1) * (place_N + 1)).amax(-1, keepdim=True)
    within_BKN = (place_N < length_B1)[:, None].repeat(1, len(codebook_sizes), 1)
    within_BKN[:, 0] |= place_N <= ends_B[:, None]
    last_K1 = torch.tensor(codebook_sizes, device=codes_BKN.device)[:, None] - 1  # of codebook 0 the end, of others the pad id
    return Closed(torch.where(real_BKN, given_BKN, torch.where(within_BKN, last_K1, -1)), real_BKN, ends_B)


class CodeDecoder(nn.Module):
    """See the module's docstring. `spec` is that of the transformed codes; what is generated has `codebook_sizes`, with the end.

    In training the text of a share `unconditional` of the utterances is withheld, so that the model can guide itself (`decoding.guidance`).
    """

    offsets_K: Tensor
    kept_R: Tensor | None = None  # the rows of its head that are multiplied when it speaks; all where None

    def __init__(
        self,
        spec: TokenSpec,
        *,
        num_phonemes: int,
        num_speakers: int,
        num_languages: int,
        vectors: Callable[[], Sequence[Tensor]],
        from_vectors: bool,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
        dropout: float,
        text_layers: int,
        replace_codes: float,
        blank_frames: float,
        own_history: float,
        anonymous: float,
        unconditional: float,
    ) -> None:
        super().__init__()
        self.spec, with_end = spec, replace(spec, codebook_sizes=(spec.codebook_sizes[0] + 1, *spec.codebook_sizes[1:]))
        self.codebook_sizes = with_end.codebook_sizes
        self.replace_codes, self.blank_frames, self.own_history = replace_codes, blank_frames, own_history
        self.anonymous, self.unconditional = anonymous, unconditional
        self.text = TextEncoder(num_phonemes, width=width, layers=text_layers, dropout=dropout)
        self.speaker = nn.Embedding(num_speakers, width)
        self.language = nn.Embedding(num_languages, width)
        self.nothing = nn.Parameter(torch.randn(width) * 0.1)
        known = _with_end(vectors()) if from_vectors else None
        self.codes = vocabulary(self.codebook_sizes, known, width=width, std=spec.num_codebooks**-0.5)
        self.start = nn.Parameter(torch.zeros(width))
        self.dropout = nn.Dropout(dropout)
        self.transformer = Transformer(width, layers=layers, heads=heads, feed_forward=feed_forward, dropout=dropout)
        self.heads = vocabulary(self.codebook_sizes, known, width=width, std=(3 * width) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(sum(self.codebook_sizes)))
        self.register_buffer("offsets_K", torch.tensor(with_end.vocabulary_offsets), persistent=False)
        for embedding in (self.speaker, self.language):
            nn.init.normal_(embedding.weight, std=0.1)

    @property
    def end(self) -> int:
        """The id of codebook 0 that is the end."""
        return self.codebook_sizes[0] - 1

    def lesson(self, batch: Batch) -> Lesson:
        """What is heard of a batch as it is, with its text, and what is to be said: holes and ends too."""
        given = closed(batch.codes_BKN, self.codebook_sizes)
        text_BPD, lengths_B = self.encode(batch.text, told_B=torch.ones_like(batch.text.lengths_B, dtype=torch.bool))
        return Lesson(text_BPD, lengths_B, self.history(given.codes_BKN), given.codes_BKN)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy per code, with that of holes and ends."""
        given = closed(batch.codes_BKN, self.codebook_sizes)
        text_BPD, lengths_B = self.encode(batch.text, told_B=self.told(len(given.ends_B)))
        inputs_BND = self.heard(given, self.history, text_BPD, lengths_B)
        return self.code_loss(self.hidden(text_BPD, lengths_B, inputs_BND), given)

    @torch.inference_mode()
    def begin(self, text: Text, *, positions: int, conditional: bool) -> "CodeStep":
        """A step of the engine that has heard nothing yet, with room for so many inputs; it is told the text where `conditional`."""
        told_B = torch.full_like(text.lengths_B, conditional, dtype=torch.bool)
        return CodeStep(self, *self.encode(text, told_B=told_B), positions=positions)

    def told(self, rows: int) -> Tensor:
        """bool_B: which utterances' text the model is told; in training a share `unconditional` is withheld, for guidance."""
        told_B = torch.ones(rows, dtype=torch.bool, device=self.nothing.device)
        return torch.rand(rows, device=told_B.device) >= self.unconditional if self.training else told_B

    def encode(self, text: Text, *, told_B: Tensor) -> tuple[Tensor, Tensor]:
        """(text_BPD, lengths_B): phonemes with their neighbours, speaker, language; a row that is not told is one position of nothing."""
        speaker_B = text.speaker_B
        if self.training:
            speaker_B = speaker_B.masked_fill(torch.rand(speaker_B.shape, device=speaker_B.device) < self.anonymous, 0)
        who_B1D = (self.speaker(speaker_B) + self.language(text.language_B))[:, None]
        text_BPD = self.text(text.phonemes_BP, text.stress_BP, lengths_B=text.lengths_B) + who_B1D
        return torch.where(told_B[:, None, None], text_BPD, self.nothing), text.lengths_B.where(told_B, 1)

    def embed(self, codes_BKN: Tensor, weight_VD: Tensor | None = None) -> Tensor:
        """Sum over codebooks, [B, N, D]; a code of -1 adds nothing. `weight_VD`: of the vocabulary, where it is known already."""
        return embedded(codes_BKN, self.codes() if weight_VD is None else weight_VD, self.offsets_K)

    def history(self, codes_BKN: Tensor) -> Tensor:
        """The inputs [B, N, D] after which the positions of these codes are foretold."""
        start_B1D = self.start.expand(codes_BKN.shape[0], 1, -1)
        return torch.cat([start_B1D, self.embed(codes_BKN[..., :-1])], 1)

    def hidden(self, text_BPD: Tensor, lengths_B: Tensor, inputs_BND: Tensor) -> Tensor:
        """Hidden states [B, N, D] at the inputs. Each row is its text, then at once its inputs: no gap is left between."""
        return follow(self.transformer, text_BPD, lengths_B, self.dropout(inputs_BND))

    def logits(self, hidden_BND: Tensor) -> Sequence[Tensor]:
        """Of each codebook, [B, N, V_k]."""
        return F.linear(hidden_BND, self.heads(), self.bias).split(self.codebook_sizes, dim=-1)

    def spoiled(self, given: Closed) -> Tensor:
        """codes_BKN with some replaced at random and some positions blank, against exposure bias; unchanged outside training."""
        codes_BKN = given.codes_BKN
        if not self.training:
            return codes_BKN
        share_B11 = 2 * self.replace_codes * torch.rand(codes_BKN.shape[0], 1, 1, device=codes_BKN.device)
        sizes_K1 = torch.tensor(self.codebook_sizes, device=codes_BKN.device)[:, None] - 1  # neither an end nor a pad id
        random_BKN = (torch.rand(codes_BKN.shape, device=codes_BKN.device) * sizes_K1).long()
        replaced_BKN = (torch.rand(codes_BKN.shape, device=codes_BKN.device) < share_B11) & given.real_BKN
        blank_B1N = (torch.rand(codes_BKN[:, :1].shape, device=codes_BKN.device) < self.blank_frames) & given.real_BKN[:, :1]
        return torch.where(replaced_BKN, random_BKN, codes_BKN).masked_fill(blank_B1N, -1)

    def replayed(self, history_BKN: Tensor, real_BKN: Tensor, logits: Sequence[Tensor]) -> Tensor:
        """The history with a share of positions as the model itself would have drawn them: parallel scheduled sampling (arXiv 1906.07651).

        The share differs from row to row, `own_history` on average. An end is never drawn.
        """
        never_V = torch.zeros(self.codebook_sizes[0], device=history_BKN.device)
        never_V[self.end] = float("-inf")
        own_BKN = drawn([logits[0] + never_V, *logits[1:]])
        return torch.where(share_of_own(history_BKN, self.own_history) & (history_BKN >= 0) & real_BKN, own_BKN, history_BKN)

    def heard(self, given: Closed, inputs: Callable[[Tensor], Tensor], text_BPD: Tensor, lengths_B: Tensor) -> Tensor:
        """The inputs [B, N, D] that the model learns on: `inputs` of the codes, spoiled, and in training in part its own."""
        codes_BKN = self.spoiled(given)
        if self.training and self.own_history:
            with not_learnt_from():
                logits = self.logits(self.hidden(text_BPD, lengths_B, inputs(codes_BKN)))
            codes_BKN = self.replayed(codes_BKN, given.real_BKN, logits)
        return inputs(codes_BKN)

    def code_loss(self, hidden_BND: Tensor, given: Closed) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy per code, that of holes and ends included; told apart are nats per code, and per utterance of the others."""
        targets = zip(self.logits(hidden_BND), given.codes_BKN.unbind(1))
        nats_BKN = torch.stack([_nats(logits_BNV, codes_BN) for logits_BNV, codes_BN in targets], dim=1)
        codes = (nats_BKN * given.real_BKN).sum()
        ends, count = nats_BKN.sum() - codes, given.real_BKN.sum().clamp_min(1)
        return (codes + ends) / count, {"codes": (codes / count).detach(), "ends": (ends / len(nats_BKN)).detach()}


def _nats(logits_BNV: Tensor, codes_BN: Tensor) -> Tensor:
    return F.cross_entropy(logits_BNV.float().transpose(1, 2), codes_BN, ignore_index=-1, reduction="none")


def _with_end(vectors: Sequence[Tensor]) -> list[Tensor]:
    return [F.pad(vectors[0], (0, 0, 0, 1)), *vectors[1:]]


class CodeStep:
    """Utterances in the midst of being spoken (`audiotok.decoding.step.Step`): the texts are read, and some inputs of each row heard."""

    def __init__(self, decoder: CodeDecoder, text_BPD: Tensor, lengths_B: Tensor, *, positions: int) -> None:
        self.decoder, self.text_lengths_B, self.heard_B = decoder, lengths_B.clone(), torch.zeros_like(lengths_B)
        self.cache = decoder.transformer.cache(len(text_BPD), positions=text_BPD.shape[1] + positions)
        decoder.transformer(text_BPD, cache=self.cache, lengths_B=lengths_B)
        self._codes_VD, self._head = decoder.codes(), head(decoder.transformer, decoder.heads(), kept_R=decoder.kept_R)

    @torch.inference_mode()
    def __call__(self, heard_BKN: Tensor) -> Sequence[Tensor]:
        return self.logits(self.hear(self.embed(heard_BKN)))

    @torch.inference_mode()
    def branch(self, heard_BKN: Tensor, branches: Branches) -> Sequence[Tensor]:
        inputs_BND = self.embed(heard_BKN, (self.heard_B - branches.heard)[:, None] + branches.depths_BN)
        self.heard_B = self.heard_B + heard_BKN.shape[2]
        return self.logits(branched(self.decoder.transformer, inputs_BND, cache=self.cache, branches=branches))

    def places(self, count: int) -> Tensor:
        """The positions that are foretold after each of `count` more inputs, [B, N]."""
        return self.heard_B[:, None] + torch.arange(count, device=self.heard_B.device)

    def embed(self, heard_BKN: Tensor, place_BN: Tensor | None = None) -> Tensor:
        """Codes as the inputs that come next, or at some places, [B, N, D]."""
        at_start_BN1 = ((self.places(heard_BKN.shape[2]) if place_BN is None else place_BN) == 0)[..., None]
        return torch.where(at_start_BN1, self.decoder.start, self.decoder.embed(heard_BKN, self._codes_VD))

    def hear(self, inputs_BND: Tensor) -> Tensor:
        """Hidden states [B, N, D] after more inputs."""
        self.heard_B = self.heard_B + inputs_BND.shape[1]
        return self.decoder.transformer(inputs_BND, cache=self.cache)

    def logits(self, hidden_BND: Tensor) -> Sequence[Tensor]:
        """Of each codebook, [B, N, V_k]."""
        return (self._head(hidden_BND) + self.decoder.bias).split(self.decoder.codebook_sizes, dim=-1)

    @torch.inference_mode()
    def keep(self, first_B: Tensor, path_BM: Tensor) -> None:
        self.cache.keep(self.text_lengths_B + first_B, path_BM)
        self.heard_B = first_B + path_BM.shape[1]

    @torch.inference_mode()
    def rewind(self, heard_B: Tensor) -> None:
        self.heard_B = heard_B.clone()
        self.cache.rewind(self.text_lengths_B + heard_B)

    @torch.inference_mode()
    def put(self, row: int, other: "CodeStep") -> None:
        self.cache.replace(row, other.cache)
        self.text_lengths_B[row], self.heard_B[row] = other.text_lengths_B[0], other.heard_B[0]
