"""What a model wrote down against what was said: word and character error rates of a corpus, with their intervals."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from audiotok.evaluation.metric import Ratio
from audiotok.evaluation.statistics import bootstrap_interval
from audiotok.evaluation.text import character_errors, normalise, word_errors

RATES = {"wer": word_errors, "cer": character_errors}


def error_rates(rows: Iterable[Mapping[str, Any]], *, resamplings: int, seed: int) -> dict[str, Any]:
    """{"utterances", "unended", "wordless", "wer": {"value", "low", "high"}, "cer": likewise}, as shares; errors are summed, then divided.

    A row has "text", "reference", "language" and "ended". One whose reference has no words in it is counted as wordless, and is in no rate.
    The interval, of 95 %, is null for one utterance. Raises ValueError where no reference has words.
    """
    rows = list(rows)
    pairs = [tuple(normalise(row[side], language=row["language"]) for side in ("reference", "text")) for row in rows]
    scored = [(meant, heard) for meant, heard in pairs if meant]
    if not scored:
        raise ValueError(
            f"none of {len(rows)} utterances has words to be recognised; choose others by select.min_words, or data with texts"
        )
    rates = {
        name: _rate([errors(meant, heard) for meant, heard in scored], resamplings=resamplings, seed=seed) for name, errors in RATES.items()
    }
    return {"utterances": len(rows), "unended": sum(not row["ended"] for row in rows), "wordless": len(rows) - len(scored), **rates}


def _rate(ratios: Sequence[Ratio], *, resamplings: int, seed: int) -> dict[str, float | None]:
    wrong, of = (np.array([getattr(ratio, part) for ratio in ratios]) for part in ("numerator", "denominator"))
    low, high = bootstrap_interval(wrong, of, resamplings=resamplings, seed=seed) or (None, None)
    return {"value": float(wrong.sum() / of.sum()), "low": low, "high": high}
