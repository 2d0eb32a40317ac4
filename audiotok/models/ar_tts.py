"""Autoregressive text to speech over codes, each frame told which phoneme it belongs to.

A decoder-only transformer reads the phonemes, then one position per frame (or per position of the transform's layout):

    p l iː z | c0 c1 c2 c3 ...        position n sees the codes before n, its phoneme (with neighbours), and its place in it
               +p +p +l +iː

Left to itself, attention over a short corpus does not find which phoneme is being spoken; told so, the model can neither skip nor repeat
(the idea of VALL-E R, arXiv 2406.07855). In training the phoneme of a frame comes from the aligner; in synthesis from durations that the
model predicts. Codebooks go in as a sum of embeddings and come out of one head each (MusicGen, arXiv 2306.05284).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.models.exposure import drawn, not_learnt_from, share_of_own
from audiotok.models.lesson import Lesson
from audiotok.models.text import PLACES, Batch, Path, Text, TextEncoder, withheld
from audiotok.nn.branching import Branches, branched
from audiotok.nn.ragged import follow, take
from audiotok.nn.ranked import head
from audiotok.nn.transformer import Transformer
from audiotok.nn.vocabulary import embedded, vocabulary
from audiotok.types import TokenSpec


class ArTts(nn.Module):
    """See the module's docstring. `spec` is that of the transformed codes.

    With `from_vectors` a code goes in and comes out by its vector in the codec, which `vectors` tells (`code_vectors`), and by what is
    learnt of it besides; without, by what is learnt alone. In training a share `unconditional` of utterances is told nothing of text,
    speaker and path, so that the model can guide itself (`decoding.guidance`).
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
        duration_weight: float,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.replace_codes, self.blank_frames, self.own_history = replace_codes, blank_frames, own_history
        self.anonymous, self.unconditional, self.duration_weight = anonymous, unconditional, duration_weight
        self.text = TextEncoder(num_phonemes, width=width, layers=text_layers, dropout=dropout)
        self.speaker = nn.Embedding(num_speakers, width)
        self.language = nn.Embedding(num_languages, width)
        self.duration = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self.since, self.until = nn.Embedding(PLACES, width), nn.Embedding(PLACES, width)
        known = vectors() if from_vectors else None
        self.codes = vocabulary(spec.codebook_sizes, known, width=width, std=spec.num_codebooks**-0.5)
        self.start = nn.Parameter(torch.zeros(width))
        self.dropout = nn.Dropout(dropout)
        self.transformer = Transformer(width, layers=layers, heads=heads, feed_forward=feed_forward, dropout=dropout)
        self.heads = vocabulary(spec.codebook_sizes, known, width=width, std=(3 * width) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(sum(spec.codebook_sizes)))
        self.register_buffer("offsets_K", torch.tensor(spec.vocabulary_offsets), persistent=False)
        for embedding in (self.speaker, self.language, self.since, self.until):
            nn.init.normal_(embedding.weight, std=0.1)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return self.spec.codebook_sizes

    def lesson(self, batch: Batch) -> Lesson:
        """What is heard of a batch as it is, and what is to be said."""
        text_BPD = self.encode_text(batch.text)
        inputs_BND = self.embed_path(text_BPD, batch.path) + self.embed_history(batch.codes_BKN)
        return Lesson(text_BPD, batch.text.lengths_B, inputs_BND, batch.codes_BKN)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy per code plus the weighted error of log durations."""
        batch = self.withhold(batch)
        text_BPD = self.encode_text(batch.text)
        path_BND = self.embed_path(text_BPD, batch.path)
        history_BKN = self.spoil(batch.codes_BKN)
        if self.training and self.own_history:
            with not_learnt_from():
                logits = self.logits(self.hidden(text_BPD, batch.text.lengths_B, path_BND, history_BKN))
            history_BKN = self.replay(history_BKN, logits)
        hidden_BND = self.hidden(text_BPD, batch.text.lengths_B, path_BND, history_BKN)
        codes = self.code_loss(hidden_BND, batch.codes_BKN)
        durations = self.duration_loss(text_BPD, batch)
        return codes + self.duration_weight * durations, {"codes": codes.detach(), "durations": durations.detach()}

    def withhold(self, batch: Batch) -> Batch:
        """The batch, in training with nothing told of a share `unconditional` of its utterances."""
        if not self.training or not self.unconditional:
            return batch
        lengths_B = batch.text.lengths_B
        text, path = withheld(batch.text, batch.path, torch.rand(lengths_B.shape, device=lengths_B.device) < self.unconditional)
        return replace(batch, text=text, path=path)

    def hidden(self, text_BPD: Tensor, text_lengths_B: Tensor, path_BND: Tensor, codes_BKN: Tensor) -> Tensor:
        """Hidden states of all positions, each given the codes before it, [B, N, D]."""
        return self.decode(text_BPD, text_lengths_B, self.dropout(path_BND + self.embed_history(codes_BKN)))

    def replay(self, codes_BKN: Tensor, logits: Sequence[Tensor]) -> Tensor:
        """The codes with a share of positions as the model itself would have drawn them, which is what it hears when it speaks.

        Scheduled sampling in two parallel passes (arXiv 1906.07651); the share differs from row to row, `own_history` on average.
        """
        own_BKN = drawn(logits)
        return torch.where(share_of_own(codes_BKN, self.own_history) & (codes_BKN >= 0), own_BKN, codes_BKN)

    def code_loss(self, hidden_BND: Tensor, codes_BKN: Tensor) -> Tensor:
        losses = [
            F.cross_entropy(logits_BNV.float().flatten(0, 1), codes_BKN[:, k].flatten(), ignore_index=-1, reduction="sum")
            for k, logits_BNV in enumerate(self.logits(hidden_BND))
        ]
        return torch.stack(losses).sum() / (codes_BKN >= 0).sum().clamp_min(1)

    def duration_loss(self, text_BPD: Tensor, batch: Batch) -> Tensor:
        inside_BP = batch.text.phonemes_BP > 0
        error_BP = F.smooth_l1_loss(self.log_durations(text_BPD), batch.durations_BP.log1p(), reduction="none")
        return error_BP[inside_BP].sum() / inside_BP.sum().clamp_min(1)

    def encode_text(self, text: Text) -> Tensor:
        """Phonemes with their neighbours, speaker and language: [B, P, D]."""
        speaker_B = text.speaker_B
        if self.training:
            speaker_B = speaker_B.masked_fill(torch.rand(speaker_B.shape, device=speaker_B.device) < self.anonymous, 0)
        who_B1D = (self.speaker(speaker_B) + self.language(text.language_B))[:, None]
        return self.text(text.phonemes_BP, text.stress_BP, lengths_B=text.lengths_B) + who_B1D

    def log_durations(self, text_BPD: Tensor) -> Tensor:
        """log(1 + frames) of each phoneme, [B, P]."""
        return self.duration(text_BPD).squeeze(-1).float()

    def embed_path(self, text_BPD: Tensor, path: Path) -> Tensor:
        """What each position is told of its phoneme, [B, N, D]."""
        phoneme_BND = text_BPD.gather(1, path.phoneme_BN[..., None].expand(-1, -1, text_BPD.shape[2]))
        return phoneme_BND + self.since(path.since_BN.clamp_max(PLACES - 1)) + self.until(path.until_BN.clamp_max(PLACES - 1))

    def embed_codes(self, codes_BKN: Tensor, weight_VD: Tensor | None = None) -> Tensor:
        """Sum over codebooks, [B, N, D]; a code of -1 adds nothing. `weight_VD`: of the vocabulary, where it is known already."""
        return embedded(codes_BKN, self.codes() if weight_VD is None else weight_VD, self.offsets_K)

    def embed_history(self, codes_BKN: Tensor) -> Tensor:
        """The codes before each position: those of the position before, and a learned start at the first, [B, N, D]."""
        start_B1D = self.start.expand(codes_BKN.shape[0], 1, -1)
        return torch.cat([start_B1D, self.embed_codes(codes_BKN[..., :-1])], 1)

    def spoil(self, codes_BKN: Tensor) -> Tensor:
        """The codes with some replaced at random and some positions blank, against exposure bias; unchanged outside training."""
        if not self.training:
            return codes_BKN
        share_B11 = 2 * self.replace_codes * torch.rand(codes_BKN.shape[0], 1, 1, device=codes_BKN.device)
        sizes_K1 = torch.tensor(self.spec.codebook_sizes, device=codes_BKN.device)[:, None]
        random_BKN = (torch.rand(codes_BKN.shape, device=codes_BKN.device) * sizes_K1).long()
        replaced = (torch.rand(codes_BKN.shape, device=codes_BKN.device) < share_B11) & (codes_BKN >= 0)
        blank = torch.rand(codes_BKN.shape[0], 1, codes_BKN.shape[2], device=codes_BKN.device) < self.blank_frames
        return torch.where(replaced, random_BKN, codes_BKN).masked_fill(blank, -1)

    def decode(self, text_BPD: Tensor, text_lengths_B: Tensor, frames_BND: Tensor) -> Tensor:
        """Hidden states of the frames. Each row is its phonemes, then at once its frames: no gap is left between."""
        return follow(self.transformer, text_BPD, text_lengths_B, frames_BND)

    def logits(self, hidden_BND: Tensor) -> Sequence[Tensor]:
        """Of each codebook, [B, N, V_k]."""
        return F.linear(hidden_BND, self.heads(), self.bias).split(self.spec.codebook_sizes, dim=-1)

    @torch.inference_mode()
    def predict_durations(self, text: Text) -> list[Tensor]:
        """Frames of each phoneme, fractional, one tensor [P] a row."""
        durations_BP = self.log_durations(self.encode_text(text)).expm1().clamp_min(0)
        return [row[:length] for row, length in zip(durations_BP, text.lengths_B.tolist())]

    @torch.inference_mode()
    def begin(self, text: Text, path: Path, *, positions: int) -> "ToldStep":
        """A step of the engine that has heard nothing yet, with room for so many positions after the longest text."""
        return ToldStep(self, text, path, positions=positions)


class ToldStep:
    """Utterances in the midst of being spoken, each told along its path what it speaks (`audiotok.decoding.step.Step`)."""

    def __init__(self, model: ArTts, text: Text, path: Path, *, positions: int) -> None:
        self.model = model
        text_BPD = model.encode_text(text)
        self.path_BND = F.pad(model.embed_path(text_BPD, path), (0, 0, 0, positions - path.phoneme_BN.shape[1]))
        self.text_lengths_B, self.heard_B = text.lengths_B.clone(), torch.zeros_like(text.lengths_B)
        self.cache = model.transformer.cache(len(text_BPD), positions=text_BPD.shape[1] + positions)
        model.transformer(text_BPD, cache=self.cache, lengths_B=text.lengths_B)
        self.codes_VD, self.head = model.codes(), head(model.transformer, model.heads(), kept_R=model.kept_R)

    @torch.inference_mode()
    def __call__(self, heard_BKN: Tensor) -> Sequence[Tensor]:
        return self.logits(self.hear(self.embed(heard_BKN, self.places(heard_BKN.shape[2]))))

    @torch.inference_mode()
    def branch(self, heard_BKN: Tensor, branches: Branches) -> Sequence[Tensor]:
        inputs_BND = self.embed(heard_BKN, (self.heard_B - branches.heard)[:, None] + branches.depths_BN)
        self.heard_B = self.heard_B + heard_BKN.shape[2]
        return self.logits(branched(self.model.transformer, inputs_BND, cache=self.cache, branches=branches))

    def places(self, count: int) -> Tensor:
        """The positions that are foretold after each of `count` more inputs, [B, N]."""
        return self.heard_B[:, None] + torch.arange(count, device=self.heard_B.device)

    def embed(self, heard_BKN: Tensor, place_BN: Tensor) -> Tensor:
        """Codes as the inputs at some places, [B, N, D]."""
        history_BND = self.model.embed_codes(heard_BKN, self.codes_VD) + (place_BN == 0)[..., None] * self.model.start
        return take(self.path_BND, place_BN.clamp_max(self.path_BND.shape[1] - 1)) + history_BND

    def hear(self, inputs_BND: Tensor) -> Tensor:
        """Hidden states [B, N, D] after more inputs."""
        self.heard_B = self.heard_B + inputs_BND.shape[1]
        return self.model.transformer(inputs_BND, cache=self.cache)

    def logits(self, hidden_BND: Tensor) -> Sequence[Tensor]:
        """Of each codebook, [B, N, V_k]."""
        return (self.head(hidden_BND) + self.model.bias).split(self.model.spec.codebook_sizes, dim=-1)

    @torch.inference_mode()
    def keep(self, first_B: Tensor, path_BM: Tensor) -> None:
        self.cache.keep(self.text_lengths_B + first_B, path_BM)
        self.heard_B = first_B + path_BM.shape[1]

    @torch.inference_mode()
    def rewind(self, heard_B: Tensor) -> None:
        self.heard_B = heard_B.clone()
        self.cache.rewind(self.text_lengths_B + heard_B)

    def put(self, row: int, other: "ToldStep") -> None:
        if other.path_BND.shape[1] > self.path_BND.shape[1]:
            raise ValueError(f"an utterance of {other.path_BND.shape[1]} positions has no place in one of {self.path_BND.shape[1]}")
        self.cache.replace(row, other.cache)
        self.path_BND[row, : other.path_BND.shape[1]] = other.path_BND[0]
        self.text_lengths_B[row], self.heard_B[row] = other.text_lengths_B[0], other.heard_B[0]
