"""A trained model with all it needs to speak, what it is asked, and what it answers."""

from dataclasses import dataclass

from torch import Tensor

from audiotok.data.aligned import FrontEnd, Line
from audiotok.data.phonemes import SILENCE, phonemize
from audiotok.decoding.speculative import Round
from audiotok.synthesis.scripts import Speaking
from audiotok.tokenizers.base import Decoder
from audiotok.transforms.base import Layout


@dataclass(frozen=True)
class Request:
    """A sentence to speak; `id` names it, and with the seed decides its random numbers."""

    id: str
    text: str
    speaker: str
    language: str


@dataclass(frozen=True)
class Spoken:
    """A request with its codes [K, N] and audio [T]; `rounds` of speculative decoding, where it was spoken so.

    `durations_P` are the frames of each phoneme, where the model knows them.
    """

    request: Request
    codes_KN: Tensor
    wav_T: Tensor
    sample_rate: int
    rounds: tuple[Round, ...]
    durations_P: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Failed:
    """A request that could not be spoken, with the reason; the others go on."""

    request: Request
    reason: str


@dataclass(frozen=True)
class Voice:
    """A trained model with all it needs to speak."""

    model: Speaking
    front_end: FrontEnd
    transform: Layout
    tokenizer: Decoder

    def line(self, request: Request) -> Line:
        """What is to be spoken. Raises ValueError naming what the model has never seen."""
        phonemes = [phoneme for word in phonemize(request.text, request.language) for phoneme in word]
        return self.front_end.line([SILENCE, *phonemes], request.speaker, request.language)
