"""Speech and text by one decoder, both ways: it speaks a text, or writes down what it hears (dMel, arXiv 2407.15835).

The plain decoder (`code_decoder`), and beside its codes an alphabet. Which of the two it does, the token says that stands behind what it is
told: s speak, w write. Each row is one of these; E is the end of either, and frames are sums of their codebooks' embeddings:

    phonemes  p l iː z | s 1 2 3         ->          1 2 3 E
    frames    1 2 3 | w p l e a s e      ->          p l e a s e E

Both are learnt of every utterance by one loss. What stood a frame ago says most of what comes next: so that the decoder heeds its text all
the same, whole spans of what it has said are masked as it learns. The paper does so too; how long and how many is told here by the model's
settings. Departures from it: a text to be spoken is phonemes, one to be written letters; part of the history is the model's own; whether
what comes next is the end, one of 80 codes once in an utterance, has a loss of its own.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.data.aligned import pad_rows
from audiotok.data.letters import Alphabet
from audiotok.models.code_decoder import CodeDecoder, CodeStep, closed
from audiotok.models.text import Batch, Text
from audiotok.nn.ragged import follow
from audiotok.nn.ranked import head
from audiotok.types import TokenSpec


class SpeechText(nn.Module):
    """See the module's docstring. `spec` is that of the transformed codes.

    What is spoken has `codebook_sizes`, with its end, and what is written `letter_sizes`. `decoder` makes the decoder from what the
    constructor is given. In training shares of `masked_history` and `masked_speech` of the frames are not heard, in spans, and one of
    `blank_letters` of the letters.
    """

    def __init__(
        self,
        spec: TokenSpec,
        *,
        num_phonemes: int,
        num_speakers: int,
        num_languages: int,
        vectors: Callable[[], Sequence[Tensor]],
        decoder: Callable[..., CodeDecoder],
        alphabet: str,
        letter_weight: float,
        end_weight: float,
        masked_history: float,
        masked_speech: float,
        span: int,
        blank_letters: float,
    ) -> None:
        super().__init__()
        if span < 1:
            raise ValueError(f"model.span is {span}, wanted 1 frame or more")
        self.spec, self.alphabet, self.letter_weight, self.end_weight = spec, Alphabet(alphabet), letter_weight, end_weight
        self.masked_history, self.masked_speech, self.span, self.blank_letters = masked_history, masked_speech, span, blank_letters
        self.decoder = decoder(spec, num_phonemes=num_phonemes, num_speakers=num_speakers, num_languages=num_languages, vectors=vectors)
        width = self.decoder.start.shape[0]
        self.write = nn.Parameter(torch.randn(width) * 0.1)
        self.letters = nn.Embedding(len(self.alphabet), width)
        self.letter_head = nn.Linear(width, len(self.alphabet) + 1)
        nn.init.normal_(self.letters.weight, std=0.1)

    @property
    def unconditional(self) -> float:
        return self.decoder.unconditional

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Of what is spoken, with its end."""
        return self.decoder.codebook_sizes

    @property
    def end(self) -> int:
        """The id of codebook 0 that is the end of what is spoken."""
        return self.decoder.end

    @property
    def letter_sizes(self) -> tuple[int]:
        """Of what is written, as of one codebook, with its end."""
        return (self.letter_head.out_features,)

    @property
    def letter_end(self) -> int:
        """The id of the letter that is the end of what is written."""
        return len(self.alphabet)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy per code of the codes given the text, plus, weighted, that per letter of the letters given the codes; with ends.

        Raises ValueError where an utterance has no text, or one with letters that the alphabet lacks.
        """
        speaking, values = self.speaking_loss(batch)
        writing = self.writing_loss(batch)
        return speaking + self.letter_weight * writing, values | {"letters": writing.detach()}

    def speaking_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """(cross-entropy per code, plus, weighted, that per position of whether it is the end; the parts of both)."""
        decoder, given = self.decoder, closed(batch.codes_BKN, self.codebook_sizes)
        text_BPD, lengths_B = decoder.encode(batch.text, told_B=decoder.told(len(given.ends_B)))
        masked_B1N = self.masked(given.codes_BKN, self.masked_history)
        inputs_BND = decoder.heard(given, lambda codes_BKN: decoder.history(codes_BKN.masked_fill(masked_B1N, -1)), text_BPD, lengths_B)
        hidden_BND = decoder.hidden(text_BPD, lengths_B, inputs_BND)
        codes, values = decoder.code_loss(hidden_BND, given)
        stopping = self.stopping_loss(hidden_BND, given.ends_B)
        return codes + self.end_weight * stopping, values | {"stopping": stopping.detach()}

    def stopping_loss(self, hidden_BND: Tensor, ends_B: Tensor) -> Tensor:
        """Cross-entropy per position, up to the end, of whether codebook 0 says the end there."""
        size, place_N = self.codebook_sizes[0], torch.arange(hidden_BND.shape[1], device=hidden_BND.device)
        logits_BNV = F.linear(hidden_BND, self.decoder.heads()[:size], self.decoder.bias[:size]).float()
        end_BN = logits_BNV[..., self.end] - logits_BNV[..., : self.end].logsumexp(-1)  # the end is the last
        within_BN = place_N <= ends_B[:, None]
        is_end_BN = (place_N == ends_B[:, None]).float()
        return F.binary_cross_entropy_with_logits(end_BN[within_BN], is_end_BN[within_BN])

    def writing_loss(self, batch: Batch) -> Tensor:
        """Cross-entropy per letter, the end counted as one."""
        codes_BKN = batch.codes_BKN.masked_fill(self.masked(batch.codes_BKN, self.masked_speech), -1)
        frames_BND = self.decoder.dropout(self.decoder.embed(codes_BKN))
        letters_BL = self.spelt(batch.texts).to(codes_BKN.device)
        blank_BL = torch.rand(letters_BL.shape, device=letters_BL.device) < (self.blank_letters if self.training else 0.0)
        inputs_BLD = self.decoder.dropout(self.written(letters_BL, blank_BL=blank_BL))
        logits_BLV = self.letter_head(follow(self.decoder.transformer, frames_BND, lengths(batch.codes_BKN), inputs_BLD))
        return F.cross_entropy(logits_BLV.float().flatten(0, 1), letters_BL.flatten(), ignore_index=-1)

    def spelt(self, texts: Sequence[str | None]) -> Tensor:
        """letters_BL: the ids of what is to be written, then the end, then -1. Raises ValueError as `loss`."""
        if None in texts:
            raise ValueError(
                f"utterance {list(texts).index(None)} of a batch has no text, and this model learns to write; "
                "choose model=code_decoder, or data with texts"
            )
        return pad_rows([[*self.alphabet.encode(text or ""), self.letter_end] for text in texts], -1)

    def written(self, letters_BL: Tensor, *, blank_BL: Tensor) -> Tensor:
        """The inputs [B, L, D] after which these letters are foretold; a blank letter is not heard."""
        heard_BLD = self.embed_letters(letters_BL.masked_fill(blank_BL, -1)[:, :-1])
        return torch.cat([self.write.expand(len(letters_BL), 1, -1), heard_BLD], 1)

    def embed_letters(self, letters_BL: Tensor) -> Tensor:
        """[B, L, D]; -1 and the end add nothing."""
        known_BL = (letters_BL >= 0) & (letters_BL < self.letter_end)
        return self.letters(letters_BL.where(known_BL, 0)) * known_BL[..., None]

    def masked(self, codes_BKN: Tensor, share: float) -> Tensor:
        """bool_B1N: the positions that are not heard; none outside training."""
        if not self.training:
            return torch.zeros_like(codes_BKN[:, :1], dtype=torch.bool)
        return spans(len(codes_BKN), codes_BKN.shape[2], share=share, span=self.span, device=codes_BKN.device)[:, None]

    @torch.inference_mode()
    def begin(self, text: Text, *, positions: int, conditional: bool) -> CodeStep:
        """A step of the engine that speaks."""
        return self.decoder.begin(text, positions=positions, conditional=conditional)

    @torch.inference_mode()
    def begin_reading(self, codes_BKN: Tensor, *, positions: int) -> "LetterStep":
        """A step of the engine that writes down what these codes say, -1 in holes and past a row's end.

        It has room for so many positions, what is heard and what is written together.
        """
        return LetterStep(self, self.decoder.embed(codes_BKN), lengths(codes_BKN), positions=positions)


def lengths(codes_BKN: Tensor) -> Tensor:
    """lengths_B: the positions of each row up to the last at which a code stands."""
    place_N = torch.arange(1, codes_BKN.shape[2] + 1, device=codes_BKN.device)
    return ((codes_BKN >= 0).any(1) * place_N).amax(-1)


def spans(rows: int, width: int, *, share: float, span: int, device: torch.device | str) -> Tensor:
    """bool_BN: spans of `span` positions, each drawn or not by itself, that are a share of all on average; each row's begin elsewhere.

    Spans of 3, of which the second and the third are drawn:      . . x x x x x x . . .
    """
    first_B1 = torch.randint(span, (rows, 1), device=device)
    drawn_BM = torch.rand(rows, (width + span - 1) // span + 1, device=device) < share
    return drawn_BM.gather(1, (torch.arange(width, device=device) + first_B1) // span)


class LetterStep:
    """Utterances in the midst of being written down (`audiotok.decoding.step.Step`): heard wholly, and some letters of each row written."""

    def __init__(self, model: SpeechText, frames_BND: Tensor, lengths_B: Tensor, *, positions: int) -> None:
        self.model, self.frames_B, self.written_B = model, lengths_B.clone(), torch.zeros_like(lengths_B)
        transformer = model.decoder.transformer
        self.cache = transformer.cache(len(frames_BND), positions=positions)
        transformer(frames_BND, cache=self.cache, lengths_B=lengths_B)
        self._head = head(transformer, model.letter_head.weight, kept_R=None)

    @torch.inference_mode()
    def __call__(self, heard_BKN: Tensor) -> Sequence[Tensor]:
        place_BL = self.written_B[:, None] + torch.arange(heard_BKN.shape[2], device=heard_BKN.device)
        inputs_BLD = torch.where((place_BL == 0)[..., None], self.model.write, self.model.embed_letters(heard_BKN[:, 0]))
        self.written_B = self.written_B + heard_BKN.shape[2]
        return [self._head(self.model.decoder.transformer(inputs_BLD, cache=self.cache)) + self.model.letter_head.bias]

    @torch.inference_mode()
    def rewind(self, heard_B: Tensor) -> None:
        self.written_B = heard_B.clone()
        self.cache.rewind(self.frames_B + heard_B)

    @torch.inference_mode()
    def put(self, row: int, other: "LetterStep") -> None:
        self.cache.replace(row, other.cache)
        self.frames_B[row], self.written_B[row] = other.frames_B[0], other.written_B[0]
