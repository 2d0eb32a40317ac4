"""Enhancement as a plain language model of codes: the noisy codes are its prompt, the clean ones what it goes on with.

One decoder over both; the noisy codes stand frame by frame, the clean ones in a delay, which `audiotok.models.code_decoder` does with text:

    1 2 3 | s 1 4 3 _     s the start
    5 6 7   . _ 5 6 6
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from audiotok.data.noisy import NoisyBatch
from audiotok.models.enhancement.clean_codes import CleanCodes, Logits, encoded
from audiotok.models.enhancement.hearing import silenced
from audiotok.models.enhancement.residual_heads import History, ResidualHeads, Settled, said_and_guessed
from audiotok.nn.ragged import follow
from audiotok.nn.transformer import Transformer
from audiotok.nn.vocabulary import embedded, vocabulary
from audiotok.tokenizers.codec import Codec


class DecoderOnly(nn.Module):
    """See the module's docstring."""

    offsets_K: Tensor

    def __init__(
        self,
        codec: Codec,
        *,
        delay: int,
        from_vectors: bool,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
        dropout: float,
        replace_codes: float,
        own_history: float,
        free_running: float,
        regression: float,
    ) -> None:
        super().__init__()
        self.codec, self.regression = codec, regression
        self.codes = CleanCodes(
            codec,
            delay=delay,
            from_vectors=from_vectors,
            width=width,
            replace_codes=replace_codes,
            own_history=own_history,
            free_running=free_running,
        )
        known = [each[:size] for each, size in zip(self.codes.vectors, codec.spec.codebook_sizes)] if self.codes.vectors else None
        self.noisy = vocabulary(codec.spec.codebook_sizes, known, width=width, std=codec.spec.num_codebooks**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.transformer = Transformer(width, layers=layers, heads=heads, feed_forward=feed_forward, dropout=dropout)
        self.heads = ResidualHeads(self.codes.spec.codebook_sizes, self.codes.added, delay=delay, dim=width)
        self.tell = nn.Linear(width, codec.spec.num_codebooks * self.heads.outputs)
        self.register_buffer("offsets_K", torch.tensor(codec.spec.vocabulary_offsets), persistent=False)

    def loss(self, batch: NoisyBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Nats per code of the clean speech, and `regression` times what the guesses miss (`ResidualHeads.miss`)."""
        codes_BKN, frames_B = encoded(self.codec, batch.clean_BT, batch.lengths_B)
        placed = self.codes.placed(codes_BKN, frames_B)
        prompt_BND, prompts_B = self.prompt(batch.noisy_BT, batch.lengths_B)

        def told(codes_BKP: Tensor) -> Tensor:
            return self.told(follow(self.transformer, prompt_BND, prompts_B, self.dropout(self.codes.history(codes_BKP))))

        history_BKP = self.codes.heard(placed, lambda codes_BKP: self.heads(told(codes_BKP), codes_BKP), self, batch)
        return said_and_guessed(self.heads, told(history_BKP), placed, history_BKP, regression=self.regression)

    def prompt(self, noisy_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(hidden_BND, frames_B) of the noisy codes."""
        codes_BKN, frames_B = encoded(self.codec, silenced(noisy_BT, lengths_B), lengths_B)
        return embedded(codes_BKN, self.noisy(), self.offsets_K), frames_B

    def logits(self, hidden_BND: Tensor, codes_BKW: Tensor, settled: Settled | None = None) -> Logits:
        """Of each codebook, [B, N, V_k]; what was said is of W >= N positions up to the last of them."""
        return self.heads(self.told(hidden_BND), codes_BKW, settled)

    def told(self, hidden_BND: Tensor) -> Tensor:
        """told_BNKE, of which the heads choose."""
        return self.tell(hidden_BND).unflatten(-1, (len(self.codes.codebook_sizes), -1))

    @torch.inference_mode()
    def begin(self, noisy_BT: Tensor, lengths_B: Tensor, *, positions: int) -> "DecoderOnlyStep":
        """A step of the engine that has said nothing yet of these recordings, with room for so many positions."""
        return DecoderOnlyStep(self, *self.prompt(noisy_BT, lengths_B), positions=positions)


class DecoderOnlyStep:
    """Recordings in the midst of being said clean (`audiotok.decoding.step.Step`): the noisy codes are read, some positions said."""

    def __init__(self, model: DecoderOnly, prompt_BND: Tensor, prompts_B: Tensor, *, positions: int) -> None:
        self.model, self.prompts_B, self.said_B = model, prompts_B.clone(), torch.zeros_like(prompts_B)
        self.cache = model.transformer.cache(len(prompt_BND), positions=prompt_BND.shape[1] + positions)
        model.transformer(prompt_BND, cache=self.cache, lengths_B=prompts_B)
        self.history = History(model.codes, len(prompt_BND), positions=positions, device=prompt_BND.device)
        with torch.no_grad():
            self._codes_VD, self._settled = model.codes.codes(), model.heads.settled()

    @torch.inference_mode()
    def __call__(self, heard_BKN: Tensor) -> Sequence[Tensor]:
        places_BN = self.said_B[:, None] + torch.arange(heard_BKN.shape[2], device=self.said_B.device)
        inputs_BND = torch.where((places_BN == 0)[..., None], self.model.codes.start, self.model.codes.embed(heard_BKN, self._codes_VD))
        _, codes_BKW = self.history(heard_BKN, self.said_B)
        self.said_B = self.said_B + heard_BKN.shape[2]
        return self.model.logits(self.model.transformer(inputs_BND, cache=self.cache), codes_BKW, self._settled)

    @torch.inference_mode()
    def rewind(self, heard_B: Tensor) -> None:
        self.said_B = heard_B.clone()
        self.cache.rewind(self.prompts_B + heard_B)

    @torch.inference_mode()
    def put(self, row: int, other: "DecoderOnlyStep") -> None:
        self.cache.replace(row, other.cache)
        self.history.put(row, other.history)
        self.prompts_B[row], self.said_B[row] = other.prompts_B[0], other.said_B[0]

    @torch.inference_mode()
    def reorder(self, rows_B: Tensor) -> None:
        """Go on in row b with what row `rows_B[b]` has said (`audiotok.decoding.beam`)."""
        self.cache.reorder(rows_B)
        self.history.reorder(rows_B)
        self.said_B, self.prompts_B = self.said_B[rows_B], self.prompts_B[rows_B]
