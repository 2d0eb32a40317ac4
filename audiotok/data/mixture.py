"""Several corpora as one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from audiotok.data.manifests import Corpus, Utterance
from audiotok.data.splits import SPLITS


def mixture(*, corpora: Mapping[str, Corpus], splits: Sequence[str]) -> dict[str, Iterable[Utterance]]:
    """The utterances of each split of all corpora, ids and speakers prefixed by the corpus's name. `splits` are those that are wanted."""
    if unknown := set(splits) - set(SPLITS):
        raise ValueError(f"unknown splits {sorted(unknown)}; known are {', '.join(SPLITS)}")
    parts = {name: corpus() for name, corpus in corpora.items()}
    return {
        split: [_prefixed(name, utterance) for name, part in parts.items() for utterance in part.get(split, ())]
        for split in SPLITS
        if split in splits
    }


def _prefixed(name: str, utterance: Utterance) -> Utterance:
    speaker = None if utterance.speaker is None else f"{name}_{utterance.speaker}"
    return replace(utterance, id=f"{name}_{utterance.id}", speaker=speaker)
