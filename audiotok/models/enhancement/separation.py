"""Several voices out of one recording: an enhancer with an output for each of them.

Which output is to say which voice is told by nobody: the loss of an utterance is that of the order of its voices in which it is least
(utterance-level permutation-invariant training, arXiv 1703.06284). The enhancer's own output says the first voice, a layer more each other
one, from the same hidden states.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from audiotok.data.together import MixedBatch
from audiotok.models.enhancement.clean_codes import Logits, encoded
from audiotok.models.enhancement.conformer import ConformerEnhancer
from audiotok.models.enhancement.hearing import silenced
from audiotok.models.enhancement.mask import FAINTEST, ComplexMask, compressed
from audiotok.models.enhancement.permutations import least
from audiotok.tokenizers.batches import check_audio
from audiotok.tokenizers.codec import Codec


class TokenSeparator(nn.Module):
    """The codes of all voices and frames at once, as DASB's separation has it (arXiv 2406.14294)."""

    def __init__(self, codec: Codec, *, enhancer: Callable[[Codec], ConformerEnhancer], voices: int) -> None:
        super().__init__()
        self.enhancer = enhancer(codec)
        if self.enhancer.chained:
            raise ValueError("enhancer.enhancer.chained=true is of one voice; here each codebook is chosen by itself: set it to false")
        self.others = _more(self.enhancer.tell, voices)

    @property
    def codec(self) -> Codec:
        return self.enhancer.codec

    def loss(self, batch: MixedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Nats per code of the voices, in the best order of each utterance, and the share of codes that is guessed right in it."""
        voices = [encoded(self.codec, wav_BT, batch.lengths_B) for wav_BT in _of(batch, 1 + len(self.others)).unbind(dim=1)]
        codes_BSKN, frames_B = torch.stack([codes_BKN for codes_BKN, _ in voices], dim=1), voices[0][1]
        real_BN = torch.arange(codes_BSKN.shape[3], device=frames_B.device) < frames_B[:, None]
        said = self.logits(silenced(batch.mixed_BT, batch.lengths_B), frames_B)
        loss_B, order_BS = least(torch.stack([_nats(logits, codes_BSKN, real_BN) for logits in said], dim=1))
        right_BSKN = _likeliest(said)[torch.arange(len(loss_B), device=loss_B.device)[:, None], order_BS] == codes_BSKN
        share = (right_BSKN & real_BN[:, None, None]).sum() / (real_BN.sum() * codes_BSKN.shape[1] * codes_BSKN.shape[2])
        return loss_B.mean(), {"right": share.detach()}

    def logits(self, wav_BT: Tensor, frames_B: Tensor) -> list[Logits]:
        """Of each voice, and of each codebook in it, [B, N, V_k]."""
        hidden_BND = self.enhancer.hear(wav_BT, frames_B)
        return [self.enhancer.heads(self.enhancer.told(hidden_BND, tell), None) for tell in (self.enhancer.tell, *self.others)]

    @torch.inference_mode()
    def separate(self, mixed_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """wav_BST of the likeliest codes of each voice; zeros past each length. Raises ValueError for what is no finite audio."""
        return _each_row(self._separate, mixed_BT, lengths_B, voices=1 + len(self.others))

    def _separate(self, mixed_T: Tensor) -> Tensor:
        frames_1 = torch.tensor([self.codec.spec.num_frames(len(mixed_T))], device=mixed_T.device)
        codes_SKN = _likeliest(self.logits(mixed_T[None], frames_1))[0]
        return torch.stack([self.codec.decode(codes_KN[None], frames_1)[0][0, : len(mixed_T)] for codes_KN in codes_SKN])


class MaskSeparator(nn.Module):
    """A complex mask for each voice: no codec at all, the top line."""

    def __init__(self, codec: Codec, *, enhancer: Callable[[Codec], ComplexMask], voices: int) -> None:
        super().__init__()
        self.enhancer = enhancer(codec)
        self.others = _more(self.enhancer.leave, voices)

    @property
    def codec(self) -> Codec:
        return self.enhancer.codec

    def forward(self, wav_BT: Tensor) -> Tensor:
        """spectra_BSFN of the voices."""
        spectrum_BFN = self.enhancer.spectrum(wav_BT)
        hidden_BND = self.enhancer.hear(spectrum_BFN)
        leaves = (self.enhancer.leave, *self.others)
        return torch.stack([self.enhancer.masked(spectrum_BFN, leave(hidden_BND)) for leave in leaves], dim=1)

    def loss(self, batch: MixedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of compressed spectra, with phase and without, over the power of the voices, in each utterance's best order."""
        wanted_BST = _of(batch, 1 + len(self.others))
        with torch.autocast(wanted_BST.device.type, enabled=False):
            wanted_BSFN = torch.stack(
                [compressed(self.enhancer.spectrum(silenced(wav_BT, batch.lengths_B))) for wav_BT in wanted_BST.unbind(1)], 1
            )
        found_BSFN = compressed(self(silenced(batch.mixed_BT, batch.lengths_B)))
        power_B11 = wanted_BSFN.abs().square().mean(dim=(1, 2, 3))[:, None, None].clamp_min(FAINTEST)
        pairs = [(found_BFN[:, None] - wanted_BSFN, found_BFN.abs()[:, None] - wanted_BSFN.abs()) for found_BFN in found_BSFN.unbind(1)]
        phase_BST, magnitude_BST = (
            torch.stack([error.abs().square().mean(dim=(2, 3)) for error in errors], dim=1) / power_B11 for errors in zip(*pairs)
        )
        share = self.enhancer.phase
        loss_B, _ = least(2 * (share * phase_BST + (1 - share) * magnitude_BST))
        return loss_B.mean(), {}

    @torch.inference_mode()
    def separate(self, mixed_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """wav_BST; zeros past each length. Raises ValueError for what is no finite audio."""
        return _each_row(self._separate, mixed_BT, lengths_B, voices=1 + len(self.others))

    def _separate(self, mixed_T: Tensor) -> Tensor:
        (spectra_SFN,) = self(self.enhancer.filled(mixed_T)[None])
        return torch.stack([self.enhancer.sound(spectrum_FN, len(mixed_T)) for spectrum_FN in spectra_SFN])


def _more(own: nn.Linear, voices: int) -> nn.ModuleList:
    """The outputs of all voices but the first."""
    if voices < 2:
        raise ValueError(f"enhancer.voices is 2 or more; got {voices}: one voice is what an enhancer such as enhancer=conformer is for")
    return nn.ModuleList(nn.Linear(own.in_features, own.out_features) for _ in range(voices - 1))


def _of(batch: MixedBatch, voices: int) -> Tensor:
    """wav_BST of the voices. Raises ValueError where there are not as many of them as there are outputs."""
    if batch.wanted_BST.shape[1] != voices:
        raise ValueError(f"enhancer.voices={voices}, and {batch.wanted_BST.shape[1]} speak at once; set noise.together.voices={voices}")
    return batch.wanted_BST


def _nats(logits: Logits, codes_BSKN: Tensor, real_BN: Tensor) -> Tensor:
    """Nats per code of what one output says, held against each voice, [B, S]."""
    total_BS = torch.zeros(codes_BSKN.shape[:2], device=codes_BSKN.device)
    for k, logits_BNV in enumerate(logits):
        told_BNS = logits_BNV.float().log_softmax(dim=-1).gather(2, codes_BSKN[:, :, k].transpose(1, 2))
        total_BS = total_BS - (told_BNS * real_BN[..., None]).sum(dim=1)
    return total_BS / (real_BN.sum(dim=1) * len(logits))[:, None]


def _likeliest(said: list[Logits]) -> Tensor:
    """codes_BSKN."""
    return torch.stack([torch.stack([logits_BNV.argmax(dim=-1) for logits_BNV in logits], dim=1) for logits in said], dim=1)


def _each_row(separate: Callable[[Tensor], Tensor], mixed_BT: Tensor, lengths_B: Tensor, *, voices: int) -> Tensor:
    """wav_BST of `separate(mixed_T)` row by row, so that what is made of a recording does not depend on its company."""
    check_audio(mixed_BT, lengths_B)
    wav_BST = mixed_BT.new_zeros(len(mixed_BT), voices, mixed_BT.shape[1])
    for row, length in enumerate(lengths_B.tolist()):
        wav_BST[row, :, :length] = separate(mixed_BT[row, :length])
    return wav_BST
