"""Corpora that a recipe of Lhotse prepares: `from_recipe` makes one of them a corpus, so that another one is another YAML.

Lhotse reads the header of every file and gives up at the first that it cannot read. Here such a file passes as one second of sound, so that
the check of every recording, which really reads it, quarantines it with its reason.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.audio import AudioLoadingError
from lhotse.audio.backend import (
    AudioBackend,
    LibsndfileCompatibleAudioInfo,
    get_current_audio_backend,
    get_default_audio_backend,
    set_current_audio_backend,
)

from audiotok.data.manifests import Utterance
from audiotok.data.splits import SPLITS, hashed_split

STAND_IN = LibsndfileCompatibleAudioInfo(channels=1, frames=16000, samplerate=16000, duration=1.0)

log = logging.getLogger(__name__)
Parts = Mapping[str, Mapping[str, Any]]


def from_recipe(
    *,
    recipe: Callable[..., Mapping[str, Any]],
    root: str | None,
    source: str,
    expects: Sequence[str],
    parts_as: str | None,
    splits: Mapping[str, Sequence[str]],
    fractions: Mapping[str, float] | None,
    split_by: Literal["id", "speaker"],
    language: str | None,
    speaker: str | None,
    text_field: str | None,
) -> dict[str, list[Utterance]]:
    """The utterances of each split of a corpus that `recipe(corpus_dir=root)` prepares.

    `source` is where to get it and `expects` what its folder must hold. `splits` lists the recipe's parts that make each split ("all" for
    a recipe that knows none); `parts_as` names the argument that limits the recipe to them (None: it has no such), and then each must be
    a folder in `root`. `fractions` moves shares of train to dev and test by the hash of the utterance's id or speaker. `speaker` stands
    where the recipe gives none; `text_field` is the custom field that holds the text (None: the supervision's text). Raises ValueError
    for a folder that is not given, missing or without what it must hold, and for a part that the recipe did not give.
    """
    wanted = [part for parts in splits.values() for part in parts]
    folder = corpus_folder(root, "data.root", source=source, expects=[*expects, *(wanted if parts_as else ())])
    found = prepared(recipe, corpus_dir=folder, **({parts_as: wanted} if parts_as else {}))
    listed = {
        split: [
            utterance
            for part in parts
            for utterance in utterances(_part(found, part), language=language, speaker=speaker, text_field=text_field)
        ]
        for split, parts in splits.items()
    }
    return spread(listed, fractions or {}, by=split_by)


def corpus_folder(root: str | None, key: str, *, source: str, expects: Sequence[str]) -> Path:
    """The folder that the config's `key` gives. Raises ValueError saying where to get the corpus where it is not what it must be."""
    get_it = f"get the corpus from {source}, unpack it and set {key}=FOLDER"
    if root is None:
        raise ValueError(f"{key} is not set; {get_it}")
    folder = Path(root).expanduser().absolute()
    if not folder.is_dir():
        raise ValueError(f"{key}={root}: no such folder; {get_it}")
    if missing := [name for name in expects if not (folder / name).exists()]:
        raise ValueError(f"{key}={root} does not hold {', '.join(missing)}; {get_it} (or choose other parts with data.splits)")
    return folder


def prepared(recipe: Callable[..., Mapping[str, Any]], **arguments: Any) -> Parts:
    """What a recipe gives, by part; one that knows no parts gives "all". Unreadable files pass; an unreadable layout is a ValueError."""
    try:
        with _lenient_headers():
            found = recipe(**arguments)
    except (AssertionError, LookupError, OSError, ValueError) as error:  # what Lhotse's recipes raise at a layout they do not know
        name = getattr(getattr(recipe, "func", recipe), "__name__", recipe)
        where = ", ".join(str(value) for value in arguments.values() if isinstance(value, Path))
        raise ValueError(f"Lhotse's {name} cannot read {where}: {type(error).__name__}: {error}") from error
    return {"all": found} if "recordings" in found else found


def utterances(part: Mapping[str, Any], *, language: str | None, speaker: str | None, text_field: str | None) -> list[Utterance]:
    """One utterance for each supervision of a part."""
    recordings = {recording.id: recording for recording in part["recordings"]}
    return [
        Utterance(
            id=segment.id,
            sound=_sound(recordings[segment.recording_id], segment),
            text=(segment.custom or {}).get(text_field) if text_field else segment.text,
            speaker=segment.speaker or speaker,
            language=language,
            custom={key: value for key, value in _custom(segment).items() if value is not None and key != text_field},
        )
        for segment in part["supervisions"]
    ]


def spread(
    listed: Mapping[str, Sequence[Utterance]], fractions: Mapping[str, float], *, by: Literal["id", "speaker"]
) -> dict[str, list[Utterance]]:
    """The same utterances with shares of train moved to dev and test; by speaker, every speaker stays whole."""
    splits = {split: list(listed.get(split, ())) for split in SPLITS}
    train, splits["train"] = splits["train"], []
    for utterance in train:
        splits[hashed_split((by == "speaker" and utterance.speaker) or utterance.id, fractions)].append(utterance)
    return splits


def _part(found: Parts, part: str) -> Mapping[str, Any]:
    if part not in found:
        raise ValueError(f"the recipe gives the parts {', '.join(found)}, not {part}; choose among them with data.splits")
    return found[part]


def _sound(recording: Recording, segment: SupervisionSegment) -> Path | MonoCut:
    whole = segment.start == 0 and abs(segment.duration - recording.duration) < 1e-3
    if whole and len(recording.sources) == 1 and recording.sources[0].type == "file" and not recording.transforms:
        return Path(recording.sources[0].source)
    channel = segment.channel if isinstance(segment.channel, int) else segment.channel[0]
    return MonoCut(segment.id, start=segment.start, duration=segment.duration, channel=channel, recording=recording)


def _custom(segment: SupervisionSegment) -> dict[str, Any]:
    return {"gender": segment.gender, **(segment.custom or {})}


class _LenientHeaders(AudioBackend):
    """Lhotse's default backend, but an unreadable or empty file has the header of a second of sound."""

    def __init__(self) -> None:
        self.default = get_default_audio_backend()

    def supports_info(self) -> bool:
        return True

    def info(self, path_or_fd: Any, force_opus_sampling_rate: int | None = None) -> LibsndfileCompatibleAudioInfo:
        try:
            found = self.default.info(path_or_fd, force_opus_sampling_rate)
        except AudioLoadingError:
            log.warning("%s: Lhotse cannot read its header", path_or_fd)
            return STAND_IN
        return found if found.frames > 0 and found.channels > 0 else STAND_IN

    def read_audio(self, path_or_fd: Any, *args: Any, **kwargs: Any) -> tuple[np.ndarray, int]:
        return self.default.read_audio(path_or_fd, *args, **kwargs)

    def supports_save(self) -> bool:
        return self.default.supports_save()

    def save_audio(self, *args: Any, **kwargs: Any) -> None:
        self.default.save_audio(*args, **kwargs)


@contextmanager
def _lenient_headers() -> Iterator[None]:
    previous = get_current_audio_backend()
    set_current_audio_backend(_LenientHeaders())
    try:
        yield
    finally:
        set_current_audio_backend(previous)
