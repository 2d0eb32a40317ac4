"""Texts as a model writes them: letters, digits and single spaces, of an alphabet that is chosen with the model."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

SPACE = " "


@dataclass(frozen=True)
class Alphabet:
    """What may be written; a letter's id is its place in `letters`. Raises ValueError where one is there twice, or no space is."""

    letters: str

    def __post_init__(self) -> None:
        if len(set(self.letters)) < len(self.letters) or SPACE not in self.letters:
            raise ValueError(f"an alphabet has a space, and each letter once; got model.alphabet={self.letters!r}")

    def __len__(self) -> int:
        return len(self.letters)

    def encode(self, text: str) -> list[int]:
        """Ids of the text in lower case, with a space for anything between words. Raises ValueError naming a letter or digit it lacks."""
        text = unicodedata.normalize("NFC", text.lower()).replace("’", "'")
        if unknown := sorted({letter for letter in text if letter.isalnum()} - set(self.letters)):
            raise ValueError(f"{text!r} is written with {''.join(unknown)!r} too; add it to model.alphabet={self.letters!r}")
        words = "".join(letter if letter in self.letters else SPACE for letter in text).split()
        return [self.letters.index(letter) for letter in SPACE.join(words)]

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.letters[id] for id in ids)
