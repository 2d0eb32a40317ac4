"""A corpus, checked: every recording really read, the unfit ones converted or quarantined with the reason, the rest as Lhotse cuts.

A corpus is a function without arguments that gives the utterances of each split, unchecked. `write_manifests` turns them into

    cuts_train.jsonl.gz  cuts_dev.jsonl.gz  cuts_test.jsonl.gz     a MonoCut each, with one recording and one supervision
    audio/SPLIT/ID.flac                                            what had to be converted
    rejected.jsonl                                                 id, split, path and reason of what was left out
    summary.json                                                   utterances, hours, speakers, languages of each split

What is used where it lies: a WAV or FLAC of one channel, at any rate and depth (whoever reads it resamples). What is converted, once, to
16-bit mono FLAC at its own rate: more channels (averaged), every other format, and what a corpus cuts or mixes out of recordings.
"""

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lhotse import AudioSource, CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.audio import AudioLoadingError, DurationMismatchError
from lhotse.cut import Cut, MixedCut
from torch import Tensor

from audiotok import audio, storage
from audiotok.data.splits import SPLITS
from audiotok.files import SUMS, bring, fingerprint, refuse_damaged, whole_file, write_json, write_jsonl

USED_IN_PLACE = (".wav", ".flac")
LONGEST_NAME = 100


@dataclass(frozen=True)
class Utterance:
    """One utterance as a corpus lists it, before anything was read."""

    id: str
    sound: Path | Cut  # a file, or a cut or mixture that Lhotse renders
    text: str | None = None
    speaker: str | None = None
    language: str | None = None  # two letters
    custom: Mapping[str, Any] = field(default_factory=dict)


Corpus = Callable[[], Mapping[str, Iterable[Utterance]]]


@dataclass(frozen=True)
class Rejected:
    id: str
    split: str
    path: str
    reason: str


def write_manifests(
    folder: Path,
    utterances: Mapping[str, Sequence[Utterance]],
    *,
    max_rejected: float,
    max_seconds: float,
    workers: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Rejected]:
    """The recordings left out; `folder` then holds the manifests of the others, in the order of their ids.

    `max_rejected` is the share of all recordings that may be left out, `max_seconds` the longest that is kept, `workers` the number of
    processes. `progress` is told how many more are done. An id that is given twice, and one that is no text, is bad as well: nobody knows
    whose it is. Raises ValueError where more are bad, where a split is not one of train, dev and test, and where nothing is left.
    """
    _refuse_unknown_splits(utterances)
    jobs = [(split, utterance) for split in SPLITS for utterance in sorted(utterances.get(split, ()), key=lambda utterance: utterance.id)]
    cuts: dict[str, list[MonoCut]] = {split: [] for split in SPLITS}
    rejected: list[Rejected] = []
    for (split, _), result in zip(jobs, _checked(jobs, folder, _bad_ids(jobs), max_seconds=max_seconds, workers=workers)):
        if isinstance(result, Rejected):
            rejected.append(result)
        else:
            cuts[split].append(result)
        progress(1)
    write_jsonl(folder / "rejected.jsonl", map(asdict, rejected))
    _refuse_too_many(folder, rejected, total=len(jobs), max_rejected=max_rejected)
    for split in filter(cuts.get, SPLITS):
        write_cuts(folder / f"cuts_{split}.jsonl.gz", cuts[split])
    write_json(folder / "summary.json", [summary(split, cuts[split], rejected) for split in SPLITS])
    return rejected


def load_cuts(folder: Path, split: str) -> CutSet:
    """The cuts of a split, in memory (some 2 KB each), each with an absolute path to its audio.

    Raises ValueError naming the splits there are, and where the manifest is damaged.
    """
    return CutSet(list(stream_cuts(folder, split)))


def stream_cuts(folder: Path, split: str) -> Iterator[MonoCut]:
    """The cuts that `load_cuts` holds, one after the other, in memory one at a time.

    Raises ValueError as that does: at once for an absent split and for other bytes than the checksum says, at the line for a broken one.
    """
    return _parsed(_manifest(folder, split))


def count_cuts(folder: Path, split: str) -> int:
    """How many cuts a split has. The whole manifest is unpacked, so that one that was cut short is refused, as `load_cuts` refuses it."""
    with _unpacked(_manifest(folder, split)) as lines:
        return sum(1 for _ in lines)


def _manifest(folder: Path, split: str) -> Path:
    path = Path(folder) / f"cuts_{split}.jsonl.gz"
    if not (path.parent / SUMS).exists():  # of a store, and not here yet
        bring(path.parent)
    if not path.exists():
        known = [name for name in SPLITS if (Path(folder) / f"cuts_{name}.jsonl.gz").exists()]
        raise ValueError(f"{folder} has no split {split!r}; it has {', '.join(known) or 'none: run `audiotok prepare` first'}")
    refuse_damaged(path)
    return path


def _parsed(path: Path) -> Iterator[MonoCut]:
    with _unpacked(path) as lines:
        for line in lines:
            yield _located(MonoCut.from_dict(json.loads(line)), path.parent)


@contextmanager
def _unpacked(path: Path) -> Iterator[Iterator[str]]:
    """The lines of a manifest. Raises ValueError naming it for whatever is wrong with them, there or in what the block makes of a line."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            first = next(file, None)
            if first is None:
                raise ValueError("it is empty")
            yield chain([first], file)
    except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); `audiotok verify FOLDER --repair` sets it aside, then prepare again") from error


def summary(split: str, cuts: Sequence[MonoCut], rejected: Iterable[Rejected]) -> dict[str, Any]:
    """One row of the table that `prepare` shows."""
    segments = [cut.supervisions[0] for cut in cuts]
    return {
        "split": split,
        "utterances": len(cuts),
        "hours": round(sum(cut.duration for cut in cuts) / 3600, 4),
        "speakers": len({segment.speaker for segment in segments} - {None}),
        "languages": sorted({segment.language for segment in segments} - {None}),
        "rejected": sum(row.split == split for row in rejected),
    }


def file_name(utterance_id: str) -> str:
    """A name of plain letters, digits, - and _ for an id of any characters; ids that differ get names that differ."""
    plain = re.sub(r"[^\w-]", "_", utterance_id, flags=re.ASCII)
    if plain == utterance_id and 0 < len(plain) <= LONGEST_NAME:
        return plain
    return f"{plain[:LONGEST_NAME]}-{fingerprint(utterance_id)[:8]}"


def _refuse_unknown_splits(utterances: Mapping[str, Sequence[Utterance]]) -> None:
    if unknown := sorted(set(utterances) - set(SPLITS)):
        raise ValueError(f"a corpus has the splits {', '.join(SPLITS)}; this one also gives {', '.join(unknown)}")


def _bad_ids(jobs: Sequence[tuple[str, Utterance]]) -> dict[str, str]:
    """Why some ids cannot be kept: given more than once, of the same file name as another, or no text that can be written."""
    ids = Counter(utterance.id for _, utterance in jobs)
    names = Counter(file_name(id) for id in ids)
    bad = {id: f"its id is given {count} times; every utterance needs its own" for id, count in ids.items() if count > 1}
    bad |= {id: f"its id is {file_name(id)!r} as the name of a file, and so is another's" for id in ids if names[file_name(id)] > 1}
    return bad | {id: "its id is no Unicode text" for id in ids if _text(id) != id}


def _text(name: str) -> str:
    """As it can be written: what stands for bytes that are no UTF-8, in names of files, is spelled out."""
    return name.encode("utf-8", errors="backslashreplace").decode("utf-8")


def _refuse_too_many(folder: Path, rejected: Sequence[Rejected], *, total: int, max_rejected: float) -> None:
    if total == 0:
        raise ValueError("the corpus has no utterances: look at the folder and the choices in its data config")
    if len(rejected) <= max_rejected * total and len(rejected) < total:
        return
    reasons = "; ".join(f"{row.path}: {row.reason}" for row in rejected[:3])
    raise ValueError(
        f"{len(rejected)} of {total} recordings are bad, more than prepare.max_rejected={max_rejected:g} allows ({reasons}); "
        f"all of them are in {folder / 'rejected.jsonl'}"
    )


def _checked(
    jobs: Sequence[tuple[str, Utterance]], folder: Path, bad_ids: Mapping[str, str], *, max_seconds: float, workers: int
) -> Iterator[MonoCut | Rejected]:
    check = partial(_check, folder=folder, bad_ids=bad_ids, max_seconds=max_seconds)
    if workers <= 1:
        yield from map(check, jobs)
        return
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(check, jobs, chunksize=8)


def _check(job: tuple[str, Utterance], *, folder: Path, bad_ids: Mapping[str, str], max_seconds: float) -> MonoCut | Rejected:
    split, utterance = job
    try:
        if utterance.id in bad_ids:
            raise ValueError(bad_ids[utterance.id])
        return _cut(utterance, _recording(utterance, Path("audio") / split, folder, max_seconds))
    except ValueError as error:
        path = str(utterance.sound) if isinstance(utterance.sound, Path) else ", ".join(map(str, _sources(utterance.sound)))
        named = storage.named(utterance.sound) if isinstance(utterance.sound, Path) else path
        return Rejected(_text(utterance.id), split, _text(named), _text(str(error).removeprefix(f"{path}: ")))


def _recording(utterance: Utterance, subfolder: Path, folder: Path, max_seconds: float) -> Recording:
    """The recording as it is where it can be used so, else a mono FLAC in `folder / subfolder`, named by a path inside `folder`."""
    if isinstance(utterance.sound, Path):
        wav_CT, sample_rate = audio.read_channels(utterance.sound, max_seconds=max_seconds)
        if utterance.sound.suffix.lower() in USED_IN_PLACE and len(wav_CT) == 1:
            return _described(utterance.id, storage.named(utterance.sound.absolute()), sample_rate, wav_CT.shape[1])
    else:
        wav_CT, sample_rate = _rendered(utterance.sound, max_seconds)
    path = subfolder / f"{file_name(utterance.id)}.flac"
    audio.write(folder / path, wav_CT.mean(dim=0), sample_rate)
    return _described(utterance.id, str(path), sample_rate, wav_CT.shape[1])


def _described(recording_id: str, source: str, sample_rate: int, num_samples: int) -> Recording:
    sources = [AudioSource(type="file", channels=[0], source=source)]
    return Recording(
        id=recording_id, sources=sources, sampling_rate=sample_rate, num_samples=num_samples, duration=num_samples / sample_rate
    )


def _rendered(cut: Cut, max_seconds: float) -> tuple[Tensor, int]:
    """A cut's or a mixture's audio; a mixture louder than full scale is turned down as a whole rather than clipped."""
    if cut.duration > max_seconds:
        raise ValueError(f"lasts {cut.duration:.1f} s, more than {max_seconds:g} s")
    for path in _sources(cut):
        audio.read_channels(path)
    try:
        wav_CT = torch.from_numpy(cut.load_audio())
    except (AudioLoadingError, DurationMismatchError) as error:
        raise ValueError(f"Lhotse cannot render it: {str(error).splitlines()[0]}") from error
    return wav_CT / max(1.0, float(wav_CT.abs().max())), cut.sampling_rate


def _sources(cut: Cut) -> list[Path]:
    tracks = [track.cut for track in cut.tracks] if isinstance(cut, MixedCut) else [cut]
    return [Path(source.source) for track in tracks if track.has_recording for source in track.recording.sources]


def _cut(utterance: Utterance, recording: Recording) -> MonoCut:
    segment = SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.id,
        start=0.0,
        duration=recording.duration,
        text=utterance.text,
        speaker=utterance.speaker,
        language=utterance.language,
    )
    return MonoCut(
        id=utterance.id,
        start=0.0,
        duration=recording.duration,
        channel=0,
        supervisions=[segment],
        recording=recording,
        custom=dict(utterance.custom) or None,
    )


def write_cuts(path: Path, cuts: Iterable[MonoCut]) -> None:
    """Lhotse's own format; without the time of day in the gzip header, so that the same cuts give the same bytes."""
    with (
        whole_file(path) as partial_path,
        open(partial_path, "wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as file,
    ):
        for cut in cuts:
            file.write((json.dumps(cut.to_dict(), ensure_ascii=False) + "\n").encode())


def _located(cut: MonoCut, folder: Path) -> MonoCut:
    for source in cut.recording.sources:
        source.source = str(folder.absolute() / storage.located(source.source))
    return cut


def dataset_of(cut: MonoCut) -> str | None:
    """Which dataset of a corpus of several it is of."""
    return (cut.custom or {}).get("dataset")


def speaker_of(cut: MonoCut) -> str:
    """Who speaks; where that is not known, as if each recording were of a person of its own."""
    return cut.supervisions[0].speaker or cut.id


def cut_of_file(id: str, path: str, *, samples: int, sample_rate: int, about: SupervisionSegment, custom: Mapping[str, Any]) -> MonoCut:
    """The whole of a file that was made, which says what `about` does."""
    seconds = samples / sample_rate
    recording = Recording(id, [AudioSource("file", [0], path)], sample_rate, samples, seconds)
    segment = SupervisionSegment(id, id, 0.0, seconds, text=about.text, speaker=about.speaker, language=about.language)
    return MonoCut(id, 0.0, seconds, 0, supervisions=[segment], recording=recording, custom=dict(custom))
