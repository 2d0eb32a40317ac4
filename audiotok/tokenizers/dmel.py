"""dMel: log-mel bands rounded to a few levels, a tokenizer without weights (arXiv 2407.15835)."""

from fractions import Fraction
from typing import Protocol

from torch import Tensor

from audiotok import files
from audiotok.tokenizers.batches import check_audio, check_codes, decode_rows, encode_rows
from audiotok.tokenizers.mel import LogMel
from audiotok.types import TokenSpec


class Vocoder(Protocol):
    """Log-mel spectra back to sound."""

    def __call__(self, log_mel_NM: Tensor, mel: LogMel) -> Tensor:
        """wav_T of N x mel.hop samples."""
        ...


class DMel:
    """One codebook for each mel band: log10 magnitudes, clamped to [low, high], as the nearest of `num_levels` equally spaced levels.

    The levels are the code's meaning, so `embed` is one number wide. Phase is lost; `decode` leaves it to the vocoder.
    """

    def __init__(self, *, mel: LogMel, low: float, high: float, num_levels: int, vocoder: Vocoder) -> None:
        if num_levels < 2 or low >= high:
            raise ValueError(f"dmel needs low < high and two levels at least; got low={low}, high={high}, num_levels={num_levels}")
        self.mel = mel
        self.low = low
        self.high = high
        self.step = (high - low) / (num_levels - 1)
        self.vocoder = vocoder
        settings = {"kind": "dmel", "mel": mel.settings, "low": low, "high": high, "num_levels": num_levels}
        self.spec = TokenSpec(
            mel.sample_rate, Fraction(mel.sample_rate, mel.hop), (num_levels,) * mel.num_mels, files.fingerprint(settings)
        )
        self.reach = mel.reach

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(codes_BKN, lengths_B in frames), K mel bands, lowest first."""
        check_audio(wav_BT, lengths_B)
        return encode_rows(lambda wav_T: self.quantise(self.mel(wav_T)).T, wav_BT, lengths_B)

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(wav_BT, lengths_B in samples); the phase is the vocoder's guess."""
        check_codes(codes_BKN, lengths_B, self.spec)
        return decode_rows(lambda codes_KN: self.vocoder(self.levels(codes_KN).T, self.mel), codes_BKN, lengths_B)

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND with D = 1: the log10 magnitude that each code stands for."""
        return self.levels(codes_BKN)[..., None]

    def quantise(self, log_mel: Tensor) -> Tensor:
        """The nearest level of each log10 magnitude, int64 of the same shape."""
        return ((log_mel.clamp(self.low, self.high) - self.low) / self.step).round().long()

    def levels(self, codes: Tensor) -> Tensor:
        """The log10 magnitude of each code, float32 of the same shape."""
        return self.low + self.step * codes.float()
