"""A mel spectrogram back to sound without a trained vocoder: spread the bands over FFT bins, then recover the phase."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchaudio.transforms import GriffinLim

from audiotok.tokenizers.mel import LogMel


class GriffinLimVocoder:
    """Fast Griffin-Lim (arXiv 1306.3282's momentum) over a log-mel spectrogram interpolated in time.

    At a hop of half a window, neighbouring frames overlap too little to pin down a phase: `upsample` frames are put in the place of one
    by linear interpolation of the logarithms. Deterministic: it starts from phase zero.
    """

    def __init__(self, *, iterations: int, momentum: float, upsample: int) -> None:
        self.iterations = iterations
        self.momentum = momentum
        self.upsample = upsample

    def __call__(self, log_mel_NM: Tensor, mel: LogMel) -> Tensor:
        """wav_T of N x hop samples for a spectrogram that `mel` could have made."""
        num_frames = len(log_mel_NM)
        if mel.hop % self.upsample:
            raise ValueError(f"vocoder: hop {mel.hop} is no multiple of upsample {self.upsample}; choose a divisor")
        # One more frame on each side: torchaudio centres frames on n x hop, these are centred half a hop later.
        framed_NM = torch.cat([log_mel_NM[:1], log_mel_NM, log_mel_NM[-1:]])
        dense_NM = F.interpolate(framed_NM.T[None], size=(num_frames + 1) * self.upsample + 1, mode="linear", align_corners=True)[0].T
        recover = GriffinLim(
            mel.n_fft,
            self.iterations,
            mel.window,
            mel.hop // self.upsample,
            power=1.0,
            momentum=self.momentum,
            rand_init=False,
        ).to(log_mel_NM.device)
        start = mel.hop // 2
        return recover(mel.to_linear(dense_NM).T)[start : start + num_frames * mel.hop]
