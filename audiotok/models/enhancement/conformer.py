"""The non-autoregressive enhancer of DASB (arXiv 2406.14294): a Conformer says the clean codes of all frames at once."""

import torch
from torch import Tensor, nn
from torchaudio.models import Conformer

from audiotok.data.code_vectors import code_vectors
from audiotok.data.noisy import NoisyBatch
from audiotok.models.enhancement.clean_codes import Logits, cross_entropy, encoded
from audiotok.models.enhancement.hearing import Ear, Frames, begin_from_latents, silenced
from audiotok.models.enhancement.residual_heads import ResidualHeads
from audiotok.models.enhancement.rows import each_row
from audiotok.tokenizers.codec import Codec
from audiotok.transforms.patterns import Parallel


class ConformerEnhancer(nn.Module):
    """What an ear hears, through a Conformer (arXiv 2005.08100), a guess at what each codebook adds, each frame hearing all of it."""

    def __init__(
        self,
        codec: Codec,
        *,
        ear: Ear,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
        kernel: int,
        dropout: float,
        regression: float,
    ) -> None:
        super().__init__()
        self.codec, self.regression = codec, regression
        self.frames = Frames(ear, int(codec.spec.hop), sample_rate=codec.spec.sample_rate)
        self.enter = nn.Linear(self.frames.width, width)
        # A group norm: what a batch norm knows of silence past the ends would be learnt of the padding.
        self.conformer = Conformer(width, heads, feed_forward, layers, kernel, dropout=dropout, use_group_norm=True)
        self.heads = ResidualHeads(codec.spec.codebook_sizes, code_vectors(codec, Parallel(), alike=False), delay=0, dim=width)
        self.tell = nn.Linear(self.frames.latents + width, len(codec.spec.codebook_sizes) * self.heads.outputs)
        begin_from_latents(self.tell, self.frames, dim=self.heads.dim)

    def loss(self, batch: NoisyBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Nats per code of the clean speech, and `regression` times what the guesses miss (`ResidualHeads.miss`)."""
        codes_BKN, frames_B = encoded(self.codec, batch.clean_BT, batch.lengths_B)
        real_BN = torch.arange(codes_BKN.shape[2], device=frames_B.device) < frames_B[:, None]
        real_BKN = real_BN[:, None].expand_as(codes_BKN)
        told_BNKE = self.told(self.hear(silenced(batch.noisy_BT, batch.lengths_B), frames_B), self.tell)
        nats, values = cross_entropy(self.heads(told_BNKE, None), codes_BKN, real_BKN)
        missed = self.heads.miss(told_BNKE, self.heads.left(codes_BKN), real_BKN)
        return nats + self.regression * missed, values | {"nats": nats.detach(), "missed": missed.detach()}

    def logits(self, wav_BT: Tensor, frames_B: Tensor) -> Logits:
        """Of each codebook, [B, N, V_k]."""
        return self.heads(self.told(self.hear(wav_BT, frames_B), self.tell), None)

    def told(self, hidden_BND: Tensor, tell: nn.Linear) -> Tensor:
        """told_BNKE, of which the heads choose: of what the codebooks before leave over, of which `tell` is told nothing."""
        return tell(hidden_BND).unflatten(-1, (len(self.heads.codebook_sizes), -1))

    def hear(self, wav_BT: Tensor, frames_B: Tensor) -> Tensor:
        """hidden_BND of each frame, of which the codes are said."""
        heard_BNS = self.frames(wav_BT, frames_B * self.frames.hop, int(frames_B.max()))
        hidden_BND, _ = self.conformer(self.enter(heard_BNS), frames_B)
        return self.frames.beside(heard_BNS, hidden_BND)

    @torch.inference_mode()
    def enhance(self, noisy_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """wav_BT of the likeliest codes; zeros past each length."""
        return each_row(self._enhance, noisy_BT, lengths_B)

    def _enhance(self, noisy_T: Tensor) -> Tensor:
        frames_B = torch.tensor([self.codec.spec.num_frames(len(noisy_T))], device=noisy_T.device)
        codes_BKN = torch.stack([logits_BNV.argmax(-1) for logits_BNV in self.logits(noisy_T[None], frames_B)], dim=1)
        return self.codec.decode(codes_BKN, frames_B)[0][0]
