"""Which utterances of the test split are spoken and scored: the same for every system, so that their scores can be compared."""

from collections.abc import Iterable
from hashlib import sha256
from typing import Protocol, TypeVar


class Spoken(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def text(self) -> str | None: ...


Row = TypeVar("Row", bound=Spoken)


def select_utterances(rows: Iterable[Row], *, min_words: int, max_utterances: int) -> list[Row]:
    """At most `max_utterances` of the rows whose text has `min_words` words or more, ordered by id.

    Where there are more, those whose ids have the smallest SHA-256: a choice without a pattern that depends on nothing else, and that
    changes by one row at most when one row comes or goes. Raises ValueError where none is left.
    """
    eligible = [row for row in rows if len((row.text or "").split()) >= min_words]
    if not eligible or max_utterances < 1:
        raise ValueError(
            f"no utterance to choose: {len(eligible)} have {min_words} words or more, {max_utterances} are wanted; lower min_words"
        )
    chosen = sorted(eligible, key=lambda row: (sha256(row.id.encode()).hexdigest(), row.id))[:max_utterances]
    return sorted(chosen, key=lambda row: row.id)
