"""Text to speech codebook by codebook: the first one after another, each other in one go (VALL-E, arXiv 2301.02111).

A language model says the first codebook (`code_decoder`). A second transformer, which sees everything, says codebook k of all frames at
once from the text and codebooks 0 to k - 1; at the frames of an acoustic prompt it knows them all. Codebook 1, after two frames of prompt:

    p l iː z | 1 2 3 4 5
               6 7 ? ? ?          known, and what is foretold
               8 9 . . .          . says nothing yet

Which codebook it is at, it is told by its norms: AdaLN(h, k) = a_k LN(h) + b_k. Two departures from the paper: both transformers share one
reading of the text, and embeddings are not tied to heads.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.models.code_decoder import CodeDecoder, CodeStep
from audiotok.models.text import Batch, Text
from audiotok.nn.transformer import SwiGLU, rotary, rotate
from audiotok.nn.vocabulary import embedded, vocabulary
from audiotok.types import TokenSpec


class Valle(nn.Module):
    """See the module's docstring. `spec` is that of codes side by side, transformed by nothing that has holes.

    `first` makes the language model from what the constructor is given; what it generates has `codebook_sizes`, one codebook with its end,
    and `refine` adds the others. In training a share of up to `prompt` of each utterance is its own prompt.
    """

    def __init__(
        self,
        spec: TokenSpec,
        *,
        num_phonemes: int,
        num_speakers: int,
        num_languages: int,
        vectors: Callable[[], Sequence[Tensor]],
        first: Callable[..., CodeDecoder],
        from_vectors: bool,
        layers: int,
        heads: int,
        feed_forward: int,
        dropout: float,
        prompt: float,
    ) -> None:
        super().__init__()
        if spec.num_codebooks < 2:
            raise ValueError("one codebook leaves nothing to add to the first; choose model=code_decoder, or a tokenizer with more")
        if not 0 <= prompt < 1:
            raise ValueError(f"model.prompt is {prompt}, wanted a share in [0, 1): something has to be left to be said")
        self.spec, self.prompt = spec, prompt
        self.first_spec = replace(spec, codebook_sizes=spec.codebook_sizes[:1])
        known = vectors() if from_vectors else None
        self.first = first(
            self.first_spec,
            num_phonemes=num_phonemes,
            num_speakers=num_speakers,
            num_languages=num_languages,
            vectors=lambda: vectors()[:1],
        )
        self.others = Stages(
            spec, known, width=self.first.start.shape[0], layers=layers, heads=heads, feed_forward=feed_forward, dropout=dropout
        )

    @property
    def unconditional(self) -> float:
        return self.first.unconditional

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Of what is generated before the other codebooks are added."""
        return self.first.codebook_sizes

    @property
    def end(self) -> int:
        """The id of codebook 0 that is the end."""
        return self.first.end

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy per code of the first codebook, with its end, plus that of another: one drawn for the batch, in training.

        Raises ValueError where the codes are not side by side.
        """
        inside_BKN = batch.codes_BKN >= 0
        if (inside_BKN != inside_BKN[:, :1]).any():
            raise ValueError("this model says codebooks one after another, all of a frame at one position; choose transform=parallel")
        first, values = self.first.loss(replace(batch, codes_BKN=batch.codes_BKN[:, :1]))
        stages = range(1, self.spec.num_codebooks)
        drawn = [int(torch.randint(1, len(stages) + 1, ()))] if self.training else stages
        text_BPD, lengths_B = self.first.encode(batch.text, told_B=torch.ones_like(batch.text.lengths_B, dtype=torch.bool))
        prompt_BN = self._prompt(inside_BKN[:, 0])
        losses = [self.others.loss(text_BPD, lengths_B, batch.codes_BKN, prompt_BN, stage=stage) for stage in drawn]
        others = torch.stack(losses).mean()
        return first + others, values | {"others": others.detach()}

    def _prompt(self, inside_BN: Tensor) -> Tensor:
        """bool_BN: the first frames of each row, of which all codebooks are known; none outside training."""
        length_B1 = inside_BN.sum(-1, keepdim=True)
        share_B1 = self.prompt * torch.rand(length_B1.shape, device=length_B1.device) if self.training else 0.0
        return torch.arange(inside_BN.shape[1], device=inside_BN.device) < (length_B1 * share_B1).floor()

    @torch.inference_mode()
    def begin(self, text: Text, *, positions: int, conditional: bool) -> CodeStep:
        """A step of the engine, for the first codebook alone."""
        return self.first.begin(text, positions=positions, conditional=conditional)

    @torch.inference_mode()
    def refine(self, text: Text, codes_BKN: Tensor) -> Tensor:
        """The codes with every -1 of the other codebooks replaced by the most probable code, a codebook after another.

        Codebook 0 is -1 past a row's length alone; frames that know all their codes are the prompt.
        """
        text_BPD, lengths_B = self.first.encode(text, told_B=torch.ones_like(text.lengths_B, dtype=torch.bool))
        prompt_BN = (codes_BKN >= 0).all(1)
        codes_BKN = codes_BKN.clone()
        for stage in range(1, self.spec.num_codebooks):
            said_BN = self.others(text_BPD, lengths_B, codes_BKN, prompt_BN, stage=stage).argmax(-1)
            codes_BKN[:, stage] = torch.where(prompt_BN, codes_BKN[:, stage], said_BN).where(codes_BKN[:, 0] >= 0, -1)
        return codes_BKN


class Stages(nn.Module):
    """The transformer that sees everything and says one codebook of all frames, [B, N, V_k]: the `stage`-th, from 1 on."""

    offsets_K: Tensor

    def __init__(
        self,
        spec: TokenSpec,
        vectors: Sequence[Tensor] | None,
        *,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.sizes, self.head_width = spec.codebook_sizes, width // heads
        self.codes = vocabulary(spec.codebook_sizes, vectors, width=width, std=spec.num_codebooks**-0.5)
        self.heads = vocabulary(spec.codebook_sizes, vectors, width=width, std=(3 * width) ** -0.5)
        self.prompted = nn.Parameter(torch.randn(2, width) * 0.1)  # whether a frame is of the prompt
        self.dropout = nn.Dropout(dropout)
        shape = {"stages": spec.num_codebooks - 1, "heads": heads, "feed_forward": feed_forward}
        self.blocks = nn.ModuleList(SeeingBlock(width, dropout=dropout, **shape) for _ in range(layers))
        self.norm = StageNorm(width, stages=spec.num_codebooks - 1)
        self.register_buffer("offsets_K", torch.tensor(spec.vocabulary_offsets), persistent=False)

    def forward(self, text_BPD: Tensor, lengths_B: Tensor, codes_BKN: Tensor, prompt_BN: Tensor, *, stage: int) -> Tensor:
        """logits_BNV of codebook `stage`, given those before it, and all of them where the prompt is; a code of -1 says nothing."""
        place_BS, seen_BS = _row(text_BPD.shape[1], lengths_B, codes_BKN[:, 0] >= 0)
        later_K1 = torch.arange(len(self.sizes), device=codes_BKN.device)[:, None] >= stage
        known_BKN = codes_BKN.masked_fill(later_K1 & ~prompt_BN[:, None], -1)
        hidden_BSD = torch.cat([text_BPD, self.dropout(self.embed(known_BKN) + self.prompted[prompt_BN.long()])], 1)
        rotation = rotary(place_BS, width=self.head_width)
        for block in self.blocks:
            hidden_BSD = block(hidden_BSD, rotation=rotation, seen_BS=seen_BS, stage=stage - 1)
        hidden_BND = self.norm(hidden_BSD[:, text_BPD.shape[1] :], stage=stage - 1)
        first = int(self.offsets_K[stage])
        return F.linear(hidden_BND, self.heads()[first : first + self.sizes[stage]])

    def loss(self, text_BPD: Tensor, lengths_B: Tensor, codes_BKN: Tensor, prompt_BN: Tensor, *, stage: int) -> Tensor:
        """Cross-entropy per code of one codebook, behind the prompt."""
        logits_BNV = self(text_BPD, lengths_B, codes_BKN, prompt_BN, stage=stage)
        targets_BN = codes_BKN[:, stage].masked_fill(prompt_BN, -1)
        return F.cross_entropy(logits_BNV.float().transpose(1, 2), targets_BN, ignore_index=-1)

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """Sum over codebooks, [B, N, D]; a code of -1 adds nothing."""
        return embedded(codes_BKN, self.codes(), self.offsets_K)


class SeeingBlock(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); every position sees every other that there is."""

    def __init__(self, width: int, *, stages: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feed_forward_norm = StageNorm(width, stages=stages), StageNorm(width, stages=stages)
        self.input = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.feed_forward = SwiGLU(width, hidden=feed_forward)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_BSD: Tensor, *, rotation: tuple[Tensor, Tensor], seen_BS: Tensor, stage: int) -> Tensor:
        normed_BSD = self.attention_norm(hidden_BSD, stage=stage)
        queries, keys, values = self.input(normed_BSD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask_B11S = seen_BS[:, None, None]
        attended = F.scaled_dot_product_attention(rotate(queries, rotation), rotate(keys, rotation), values, attn_mask=mask_B11S)
        hidden_BSD = hidden_BSD + self.dropout(self.output(attended.transpose(1, 2).flatten(2)))
        return hidden_BSD + self.dropout(self.feed_forward(self.feed_forward_norm(hidden_BSD, stage=stage)))


class StageNorm(nn.Module):
    """a LN(x) + b, with an a and a b of each stage."""

    def __init__(self, width: int, *, stages: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(stages, width))
        self.shift = nn.Parameter(torch.zeros(stages, width))

    def forward(self, hidden_BSD: Tensor, *, stage: int) -> Tensor:
        return F.layer_norm(hidden_BSD, hidden_BSD.shape[-1:], self.scale[stage], self.shift[stage])


def _row(width: int, lengths_B: Tensor, inside_BN: Tensor) -> tuple[Tensor, Tensor]:
    """(place_BS, seen_BS) of text and frames, each counted from 0; what is padding is seen by none."""
    place_P, place_N = (torch.arange(size, device=lengths_B.device) for size in (width, inside_BN.shape[1]))
    return torch.cat([place_P, place_N])[None], torch.cat([place_P < lengths_B[:, None], inside_BN], 1)
