"""The non-autoregressive enhancer of DASB (arXiv 2406.14294): a Conformer says the clean codes of all frames at once.

Codes of a frame add up, so codebooks that are chosen each by itself do not make good for each other. Where they are `chained` a frame's
codebook is told the ones before it, which are subtracted from a guess at the whole latent; of other frames' codes nothing is told.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.models import Conformer

from audiotok.data.code_vectors import code_vectors
from audiotok.data.noisy import NoisyBatch
from audiotok.models.enhancement.clean_codes import cross_entropy, encoded
from audiotok.models.enhancement.hearing import Ear, Frames, begin_from_latents, silenced
from audiotok.models.enhancement.residual_heads import ResidualHeads
from audiotok.models.enhancement.rows import each_row
from audiotok.tokenizers.codec import Codec
from audiotok.transforms.patterns import Parallel


class ConformerEnhancer(nn.Module):
    """What an ear hears, through a Conformer (arXiv 2005.08100), a guess for each codebook, each frame hearing all of it."""

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
        chained: bool,
    ) -> None:
        super().__init__()
        self.codec, self.regression, self.chained = codec, regression, chained
        self.frames = Frames(ear, int(codec.spec.hop), sample_rate=codec.spec.sample_rate)
        self.enter = nn.Linear(self.frames.width, width)
        # A group norm: what a batch norm knows of silence past the ends would be learnt of the padding.
        self.conformer = Conformer(width, heads, feed_forward, layers, kernel, dropout=dropout, use_group_norm=True)
        self.heads = ResidualHeads(codec.spec.codebook_sizes, code_vectors(codec, Parallel(), alike=False), delay=0, dim=width)
        self.tell = nn.Linear(self.frames.latents + width, len(codec.spec.codebook_sizes) * self.heads.outputs)
        begin_from_latents(self.tell, self.frames, dim=self.heads.dim)
        if chained:  # each codebook's guess is of the whole latent
            with torch.no_grad():
                whole_ED = self.tell.weight[: self.heads.outputs]
                self.tell.weight.copy_(whole_ED.repeat(len(codec.spec.codebook_sizes), 1))

    def loss(self, batch: NoisyBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Nats per code of the clean speech, and `regression` times what the guesses miss (`ResidualHeads.miss`)."""
        codes_BKN, frames_B = encoded(self.codec, batch.clean_BT, batch.lengths_B)
        real_BN = torch.arange(codes_BKN.shape[2], device=frames_B.device) < frames_B[:, None]
        real_BKN = real_BN[:, None].expand_as(codes_BKN)
        told_BNKE = self.told(self.hear(silenced(batch.noisy_BT, batch.lengths_B), frames_B), self.tell)
        wanted_BNKD = left_BNKD = self.heads.left(codes_BKN)
        if self.chained:
            wanted_BNKD = left_BNKD[:, :, :1].expand_as(left_BNKD)
        nats, values = cross_entropy(self.heads(less(told_BNKE, wanted_BNKD - left_BNKD), None), codes_BKN, real_BKN)
        missed = self.heads.miss(told_BNKE, wanted_BNKD, real_BKN)
        return nats + self.regression * missed, values | {"nats": nats.detach(), "missed": missed.detach()}

    def codes(self, wav_BT: Tensor, frames_B: Tensor) -> Tensor:
        """codes_BKN, the likeliest; chained, each after the likeliest ones before it."""
        told_BNKE, settled = self.told(self.hear(wav_BT, frames_B), self.tell), self.heads.settled()
        said_BND, codes = torch.zeros_like(told_BNKE[:, :, 0, :-1]), list[Tensor]()
        for k, vectors_VD in enumerate(self.heads.vectors_VD.split(self.heads.sizes)):
            codes.append(self.heads.of(k, less(told_BNKE[:, :, k], said_BND), settled).argmax(-1))
            if self.chained:
                said_BND = said_BND + vectors_VD[codes[-1]]
        return torch.stack(codes, dim=1)

    def told(self, hidden_BND: Tensor, tell: nn.Linear) -> Tensor:
        """told_BNKE, of which the heads choose: of the whole latent where codebooks are chained, else of what each is to add."""
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
        return self.codec.decode(self.codes(noisy_T[None], frames_B), frames_B)[0][0]


def less(told_E: Tensor, said_D: Tensor) -> Tensor:
    """What is told, its guesses less what was said."""
    return told_E.float() - F.pad(said_D, (0, 1))
