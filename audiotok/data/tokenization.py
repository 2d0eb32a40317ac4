"""A corpus as codes: manifests and a tokenizer in, a token store for each split out.

A shard holds `shard_utterances` neighbours of the corpus in its order. Within a shard, utterances of like length are encoded together, so
that little padding is computed; the rows lie in the corpus's order again. Memory holds one shard's codes and two batches of audio, however
long the corpus is; with worker processes, a batch of audio in each. An utterance that cannot be read or encoded is left out with its
reason, and its shard says so. The bytes of a store do not depend on the number of processes, nor on the size of batches.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import torch
from lhotse import MonoCut
from torch import Tensor

from audiotok import audio, files
from audiotok.data.manifests import count_cuts, stream_cuts
from audiotok.data.splits import SPLITS
from audiotok.data.workers import Pool
from audiotok.store import TokenWriter, Utterance
from audiotok.tokenizers.base import Tokenizer

FAILED = "failed.jsonl"


def tokenize_corpus(
    manifests: Path,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    batch_seconds: float,
    shard_utterances: int,
    device: torch.device,
    workers: Pool | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, str]:
    """Fill `folder / SPLIT` for each split of a corpus; the utterances that could not be tokenised, each with the reason.

    The same are in `folder / failed.jsonl`. Otherwise as `tokenize_cuts`.
    """
    failed: dict[str, dict[str, str]] = {}
    for split in splits_of(manifests):
        failed[split] = tokenize_cuts(
            stream_cuts(manifests, split),
            tokenizer,
            folder / split,
            batch_seconds=batch_seconds,
            shard_utterances=shard_utterances,
            device=device,
            workers=workers,
            progress=progress,
        )
    rows = [{"id": id, "split": split, "reason": reason} for split, lost in failed.items() for id, reason in lost.items()]
    files.write_jsonl(folder / FAILED, rows)
    return {row["id"]: row["reason"] for row in rows}


def splits_of(manifests: Path) -> list[str]:
    """The splits that a folder of manifests has."""
    return [split for split in SPLITS if (manifests / f"cuts_{split}.jsonl.gz").exists()]


def num_utterances(manifests: Path) -> int:
    """Of all splits of a folder of manifests."""
    return sum(count_cuts(manifests, split) for split in splits_of(manifests))


def tokenize_cuts(
    cuts: Iterable[MonoCut],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    batch_seconds: float,
    shard_utterances: int,
    device: torch.device,
    workers: Pool | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, str]:
    """Fill `folder` with a split's shards; the utterances that could not be tokenised, each with the reason.

    `batch_seconds` bounds the padded audio of a batch (an utterance that is longer is a batch of its own), and `progress` is told how many
    more utterances are done. Shards that are there already are kept, so that an interrupted call goes on where it was. `workers` (of
    `encoder`) take over as soon as they are ready. Raises ValueError where `folder` holds another tokenizer's codes or other utterances,
    for an id that comes twice, where a whole shard fails, and where a worker process ends.
    """
    writer = TokenWriter(folder, tokenizer.spec)
    batches = planned(cuts, writer, batch_seconds=batch_seconds, shard_utterances=shard_utterances, progress=progress)
    with same_rounding(device):
        encoded = _encoded(batches, tokenizer, device=device, workers=workers)
        for shard, first in encoded:
            others = (batch for _, batch in islice(encoded, shard.num_batches - 1))
            _write(writer, shard, chain([first], others), progress=progress)
    return {id: why for _, shard in sorted(writer.present.items()) for id, why in shard.failed.items()}


def bound_kernel_cache() -> None:
    """Keep memory flat over utterances of ever new lengths; to be called before the first of them is encoded.

    oneDNN compiles a kernel for each layer and length and keeps the last 1,024 of them, some hundred MB that hardly serve twice; here 64.
    A value that the user has set stays. CTranslate2 brings a oneDNN of its own that reads the same variable.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def encoder(make: Callable[[], Tokenizer], device: torch.device) -> Callable[[list[MonoCut]], "Encoded"]:
    """What a worker process does: read a batch and encode it with the tokenizer that it made."""
    tokenizer = make()
    return lambda cuts: _encode([_read(cut, tokenizer.spec.sample_rate) for cut in cuts], tokenizer, device=device)


Encoded = tuple[list[Utterance], dict[str, str]]  # of a batch or a shard; the reasons of those that failed


@dataclass(frozen=True, eq=False)
class PlannedShard:
    index: int
    cuts: Sequence[MonoCut]
    num_batches: int


@dataclass(frozen=True)
class _Sound:
    """An utterance's audio at the tokenizer's rate, or why there is none."""

    cut: MonoCut
    wav_T: Tensor
    reason: str | None = None


def planned(
    cuts: Iterable[MonoCut], writer: TokenWriter, *, batch_seconds: float, shard_utterances: int, progress: Callable[[int], None]
) -> Iterator[tuple[PlannedShard, list[MonoCut]]]:
    """The batches of the shards that are still to be made. Memory: the cuts of a shard."""
    index = -1
    for index, chunk in enumerate(_chunks(cuts, shard_utterances)):
        if index in writer.present:
            _refuse_other_utterances(writer, index, chunk)
            progress(len(chunk))
        else:
            shard_batches = list(batches_by_length(chunk, batch_seconds))
            yield from ((PlannedShard(index, chunk, len(shard_batches)), batch) for batch in shard_batches)
    if more := sorted(set(writer.present) - set(range(index + 1))):
        raise ValueError(f"{writer.folder} holds more shards than the corpus fills ({more}); delete it and tokenize again")


def _encoded(
    batches: Iterator[tuple[PlannedShard, list[MonoCut]]], tokenizer: Tokenizer, *, device: torch.device, workers: Pool | None
) -> Iterator[tuple[PlannedShard, Encoded]]:
    """Each batch's shard and codes, in order: by this process until the workers are ready, then by them."""
    shards: deque[PlannedShard] = deque()

    def cuts() -> Iterator[list[MonoCut]]:
        for shard, batch in batches:
            shards.append(shard)
            yield batch

    taken = cuts()
    mine = taken if workers is None else _until(workers.ready, taken)
    for sounds in _read_ahead(mine, tokenizer.spec.sample_rate):
        yield shards.popleft(), _encode(sounds, tokenizer, device=device)
    if workers is not None:
        for encoded in workers.map(taken):
            yield shards.popleft(), encoded


def _until(stop: Callable[[], bool], batches: Iterator[list[MonoCut]]) -> Iterator[list[MonoCut]]:
    while not stop() and (batch := next(batches, None)) is not None:
        yield batch


def _write(writer: TokenWriter, shard: PlannedShard, encoded: Iterable[Encoded], *, progress: Callable[[int], None]) -> None:
    """The shard, its rows in the order of the corpus."""
    done: dict[str, Utterance] = {}
    failed: dict[str, str] = {}
    for utterances, lost in encoded:
        done |= {utterance.id: utterance for utterance in utterances}
        failed |= lost
        progress(len(utterances) + len(lost))
    order = [cut.id for cut in shard.cuts]
    if not done and len(order) > 1:  # a fault of the set-up, not of recordings; a lone recording may be bad
        raise ValueError(f"all {len(order)} utterances of a shard failed; the first: {order[0]}: {failed[order[0]]}")
    failures = {id: failed[id] for id in order if id in failed}
    writer.write(shard.index, [done[id] for id in order if id in done], failed=failures)


@contextmanager
def same_rounding(device: torch.device) -> Iterator[None]:
    """One thread on a CPU: how a sum is shared among threads decides how it rounds, and a flipped rounding is another code."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def batches_by_length(cuts: Sequence[MonoCut], batch_seconds: float) -> Iterator[list[MonoCut]]:
    """Cuts of like length together, at most `batch_seconds` of padded audio in a batch, or one cut."""
    batch: list[MonoCut] = []
    for cut in sorted(cuts, key=lambda cut: (cut.duration, cut.id)):
        if batch and cut.duration * (len(batch) + 1) > batch_seconds:
            yield batch
            batch = []
        batch.append(cut)
    if batch:
        yield batch


def _read_ahead(batches: Iterable[list[MonoCut]], sample_rate: int) -> Iterator[list[_Sound]]:
    """Each batch's audio, the next batch being read while the caller works on one."""
    with ThreadPoolExecutor(1) as pool:
        coming = None
        for batch in batches:
            previous, coming = coming, pool.submit(lambda cuts: [_read(cut, sample_rate) for cut in cuts], batch)
            if previous is not None:
                yield previous.result()
        if coming is not None:
            yield coming.result()


def _read(cut: MonoCut, sample_rate: int) -> _Sound:
    try:
        return _Sound(cut, read_cut(cut, sample_rate))
    except (ValueError, OSError) as error:
        path = cut.recording.sources[0].source
        return _Sound(cut, torch.zeros(0), f"cannot be read: {str(error).removeprefix(f'{path}: ')}")


def read_cut(cut: MonoCut, sample_rate: int) -> Tensor:
    """wav_T of a cut, which may be a part of its recording, at that rate.

    Raises ValueError as `audio.read` does, and for a cut that reaches more than a hundredth of a second beyond its file.
    """
    path = Path(cut.recording.sources[0].source)
    wav_T, rate = audio.read(path)
    start, length = round(cut.start * rate), round(cut.duration * rate)
    if start + length > len(wav_T) + rate // 100 or start >= len(wav_T):
        raise ValueError(
            f"{path}: {len(wav_T) / rate:.3f} s long, the cut {cut.id} wants {cut.start:.3f} to {cut.end:.3f} s; prepare it again"
        )
    return audio.resample(wav_T[start : start + length], rate, sample_rate)


def _encode(sounds: Sequence[_Sound], tokenizer: Tokenizer, *, device: torch.device) -> Encoded:
    """The utterances of a batch, and the reasons of those that cannot be read or encoded; one that fails in a batch is tried alone."""
    unread = {sound.cut.id: sound.reason for sound in sounds if sound.reason is not None}
    sounds = [sound for sound in sounds if sound.reason is None]
    if not sounds:
        return [], unread
    try:
        wav_BT, lengths_B = audio.pad([sound.wav_T for sound in sounds])
        with torch.inference_mode():
            codes_BKN, frames_B = tokenizer.encode(wav_BT.to(device), lengths_B.to(device))
    except (ValueError, RuntimeError) as error:
        if len(sounds) > 1:
            utterances, failed = _one_by_one(sounds, tokenizer, device=device)
            return utterances, unread | failed
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return [], unread | {sounds[0].cut.id: f"cannot be encoded: {error}"}
    rows = zip(sounds, codes_BKN.cpu(), frames_B.tolist())
    return [_utterance(sound, codes_KN[:, :frames]) for sound, codes_KN, frames in rows], unread


def _one_by_one(sounds: Sequence[_Sound], tokenizer: Tokenizer, *, device: torch.device) -> Encoded:
    results = [_encode([sound], tokenizer, device=device) for sound in sounds]
    return [row for rows, _ in results for row in rows], {id: why for _, failed in results for id, why in failed.items()}


def _utterance(sound: _Sound, codes_KN: Tensor) -> Utterance:
    segment = sound.cut.supervisions[0]
    return Utterance(
        id=sound.cut.id,
        codes_KN=codes_KN.to(torch.int32, copy=True),  # half the memory until the shard is written, and the batch's is freed
        num_samples=len(sound.wav_T),
        text=segment.text,
        speaker=segment.speaker,
        language=segment.language,
        duration=sound.cut.duration,
    )


def _chunks(cuts: Iterable[MonoCut], size: int) -> Iterator[list[MonoCut]]:
    rest = iter(cuts)
    while chunk := list(islice(rest, size)):
        yield chunk


def _refuse_other_utterances(writer: TokenWriter, index: int, chunk: Sequence[MonoCut]) -> None:
    shard = writer.present[index]
    wanted = [cut.id for cut in chunk if cut.id not in shard.failed]
    if writer.ids(index) != wanted or not shard.failed.keys() <= {cut.id for cut in chunk}:
        raise ValueError(f"{shard.path} holds other utterances than the corpus has now; delete {shard.path.parent} and tokenize again")
