"""Recordings at another rate than a tokenizer's: resampled, or refused before any work is done, as told."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from lhotse import MonoCut

from audiotok.data.manifests import stream_cuts
from audiotok.data.tokenization import splits_of


def check_rates(manifests: Path, sample_rate: int, *, resample: bool) -> None:
    """Raises ValueError that counts the recordings at other rates, unless they are to be resampled (as `tokenize_corpus` does)."""
    if not resample:
        refuse_other_rates((cut for split in splits_of(manifests) for cut in stream_cuts(manifests, split)), sample_rate)


def refuse_other_rates(cuts: Iterable[MonoCut], sample_rate: int) -> None:
    """Raises ValueError that counts the recordings at each other rate."""
    others = Counter(cut.sampling_rate for cut in cuts if cut.sampling_rate != sample_rate)
    if others:
        found = ", ".join(f"{count} at {rate} Hz" for rate, count in sorted(others.items()))
        raise ValueError(
            f"recordings: {found}; the tokenizer needs {sample_rate} Hz; set tokenize.resample=true, or choose a tokenizer for it"
        )
