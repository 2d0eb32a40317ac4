"""Several corpora as one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from audiotok.data.manifests import Corpus, Utterance
from audiotok.data.splits import SPLITS


def mixture(*, corpora: Mapping[str, Corpus], splits: Mapping[str, Sequence[str]]) -> dict[str, Iterable[Utterance]]:
    """The utterances of each split of all corpora, ids and speakers prefixed by the corpus's name. `splits`: which are wanted of each."""
    if set(splits) != set(corpora):
        raise ValueError(f"splits are wanted of each of {', '.join(corpora)}; got them of {', '.join(splits) or 'none'}")
    if unknown := {split for some in splits.values() for split in some} - set(SPLITS):
        raise ValueError(f"unknown splits {sorted(unknown)}; known are {', '.join(SPLITS)}")
    parts = {name: corpus() for name, corpus in corpora.items()}
    return {
        split: [_prefixed(name, utterance) for name, part in parts.items() if split in splits[name] for utterance in part.get(split, ())]
        for split in SPLITS
        if any(split in some for some in splits.values())
    }


def _prefixed(name: str, utterance: Utterance) -> Utterance:
    speaker = None if utterance.speaker is None else f"{name}_{utterance.speaker}"
    return replace(utterance, id=f"{name}_{utterance.id}", speaker=speaker)
