"""Which utterances of the test split are spoken and scored: the same for every system, so that their scores can be compared."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Protocol, TypeVar


class Spoken(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def text(self) -> str | None: ...

    @property
    def language(self) -> str | None: ...


Row = TypeVar("Row", bound=Spoken)


def select_utterances(rows: Iterable[Row], *, min_words: int, max_utterances: int, languages: Sequence[str] | None) -> list[Row]:
    """At most `max_utterances` of the rows in these languages (None: any) whose text has `min_words` words or more, ordered by id.

    Where there are more, those whose ids have the smallest SHA-256: a choice without a pattern that depends on nothing else, and that
    changes by one row at most when one row comes or goes. Raises ValueError where none is left.
    """
    known = [row for row in rows if languages is None or row.language in languages]
    eligible = [row for row in known if len((row.text or "").split()) >= min_words]
    if not eligible or max_utterances < 1:
        raise ValueError(
            f"no utterance to choose: of {len(known)} in the languages wanted {len(eligible)} have {min_words} words or more, "
            f"{max_utterances} are wanted; lower select.min_words, or name other select.languages"
        )
    chosen = sorted(eligible, key=lambda row: (sha256(row.id.encode()).hexdigest(), row.id))[:max_utterances]
    return sorted(chosen, key=lambda row: row.id)
