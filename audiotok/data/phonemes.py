"""Text to phonemes with gruut (MIT), and the vocabulary that turns them into ids.

A phoneme is an IPA symbol, with a stress mark in front where the language has stress. Punctuation becomes one of the `BREAKS`, a place
where a speaker may pause; word boundaries are kept, because a speaker may pause there too.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

SILENCE = "_"
BREAKS = (",", ".", "?", "!")
STRESS = ("", "ˈ", "ˌ")
LANGUAGES = {"en": "en-us", "es": "es-es", "fr": "fr-fr", "it": "it-it", "ru": "ru-ru"}


def phonemize(text: str, language: str) -> list[list[str]]:
    """Words of `text`, each a list of phonemes; a break is a word of its own.

    Digits and common abbreviations are read out. Raises ValueError where the language is not known or nothing in the text can be spoken.
    """
    if language not in LANGUAGES:
        raise ValueError(f"no pronunciations for language {language!r}; there are: {', '.join(LANGUAGES)}")
    if text.isupper() and len(text.split()) > 2:
        text = text.lower()  # upper-case transcripts, such as LibriSpeech's, would be spelled out; ISDN should be
    words = [_phonemes(word) for sentence in _sentences()(text, lang=LANGUAGES[language]) for word in sentence]
    words = [word for word in words if word]
    if not any(not is_break(word) for word in words):
        raise ValueError(f"nothing to pronounce in {text!r} ({language})")
    return words


def is_break(word: Sequence[str]) -> bool:
    return len(word) == 1 and word[0] in BREAKS


def split_stress(phoneme: str) -> tuple[str, int]:
    """The bare phoneme and its stress: 0 none, 1 primary, 2 secondary."""
    stress = STRESS.index(phoneme[0]) if phoneme[0] in STRESS[1:] else 0
    return phoneme.lstrip("ˈˌ") or SILENCE, stress


@dataclass(frozen=True)
class PhonemeVocabulary:
    """Ids of bare phonemes; 0 pads, 1 is silence. Stress is a second stream, so that a vowel's stressed and weak forms share a vector."""

    phonemes: tuple[str, ...]

    @classmethod
    def of(cls, utterances: Iterable[Iterable[str]]) -> "PhonemeVocabulary":
        seen = {split_stress(phoneme)[0] for utterance in utterances for phoneme in utterance}
        return cls((SILENCE, *BREAKS, *sorted(seen - {SILENCE, *BREAKS})))

    def __len__(self) -> int:
        return len(self.phonemes) + 1

    def encode(self, phonemes: Iterable[str]) -> tuple[list[int], list[int]]:
        """(ids, stress). Raises ValueError naming the phonemes that the vocabulary lacks."""
        pairs = [split_stress(phoneme) for phoneme in phonemes]
        unknown = sorted({phoneme for phoneme, _ in pairs} - set(self.phonemes))
        if unknown:
            raise ValueError(f"phonemes never seen in training: {' '.join(unknown)}; there are: {' '.join(self.phonemes)}")
        index = {phoneme: i + 1 for i, phoneme in enumerate(self.phonemes)}
        return [index[phoneme] for phoneme, _ in pairs], [stress for _, stress in pairs]


def _phonemes(word: object) -> list[str]:
    if not word.phonemes:  # type: ignore[attr-defined]
        return []
    if word.phonemes[0] in ("|", "‖"):  # type: ignore[attr-defined]
        mark = word.text.strip()[:1]  # type: ignore[attr-defined]
        return [mark if mark in BREAKS else "," if word.phonemes[0] == "|" else "."]  # type: ignore[attr-defined]
    return [phoneme for phoneme in word.phonemes if phoneme.strip("ˈˌ͡")]  # type: ignore[attr-defined]


@cache
def _sentences() -> Callable:
    try:
        import gruut  # noqa: PLC0415
    except ImportError as error:
        raise ValueError("phonemes need gruut; pip install 'audiotok[tts]'") from error
    return gruut.sentences
