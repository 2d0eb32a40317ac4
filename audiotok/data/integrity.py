"""What is damaged in a folder of outputs, and what to remove so that its stage makes that again and nothing else.

A finished folder and a checkpoint hold `audiotok.sha256`, and every file it names is compared with it. What no checksum speaks of (an
unfinished folder, one of an older version, the benchmark's rows) is read as far as its kind tells: Parquet by its page checksums, gzip and
checkpoints by their CRCs, audio to its end, JSON line by line. Nothing is unpickled.
"""

import gzip
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from audiotok import audio, files
from audiotok.store.schema import shard_paths

PARTIAL, ASIDE = ".partial", ".damaged"
MANIFESTS = "cuts_*.jsonl.gz"
BENCH_ROWS = ("cells", "items")  # a row of the benchmark, and what its scores are means of, under one name
BROKEN = (ValueError, OSError, EOFError, RuntimeError, MemoryError, pa.ArrowException, zlib.error, zipfile.BadZipFile, SafetensorError)


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was written, or not there; `reason` in a few words."""

    path: Path
    reason: str


def damages(folder: Path, progress: Callable[[Path], None] = lambda path: None) -> Iterator[Damage]:
    """The damaged files of a folder and all below it, in order. `progress` is told of each file before it is looked at."""
    folder, sums = folder.absolute(), cache(_sums)
    on_record = [inner / name for inner in _sealed(folder) for name in sums(inner) or () if (inner / name).is_relative_to(folder)]
    gaps = [path for inner in {path.parent for path in folder.rglob("shard-*.parquet")} for path in _gaps(inner)]
    found = [path for path in folder.rglob("*") if path.is_file() and not _unfinished(path)]
    for path in sorted({*found, *on_record, *gaps}):
        progress(path)
        reason = _reason(path, sums)
        if reason is not None:
            yield Damage(path, reason)


def _unfinished(path: Path) -> bool:
    """Whether a file is half of one, as a killed run leaves it, which the next run clears away; or a log, whose last line may be half."""
    if path.name.startswith(".") or any(path.match(pattern) for pattern in files.UNSUMMED):
        return True
    return any(parent.name.endswith(PARTIAL) and not (parent / files.RECORD).is_file() for parent in path.parents)


def _sealed(folder: Path) -> list[Path]:
    """The folders with checksums in and above it."""
    below = [path.parent for path in folder.rglob(files.SUMS)]
    above = next((parent for parent in folder.absolute().parents if (parent / files.SUMS).is_file()), None)
    return below if above is None else [*below, above]


def _sums(folder: Path) -> dict[str, str] | None:
    try:
        return files.sums_of(folder)
    except ValueError:
        return None  # reported as a file of its own


def _gaps(folder: Path) -> Iterator[Path]:
    """The shards that a finished store lacks; an unfinished one is not yet whole."""
    present = shard_paths(folder)
    if not any(parent.name.endswith(PARTIAL) for parent in (folder, *folder.parents)):
        yield from (folder / f"shard-{index:05d}.parquet" for index in range(max(present, default=-1)) if index not in present)


def _reason(path: Path, sums: Callable[[Path], dict[str, str] | None]) -> str | None:
    if not path.exists():
        return "is missing"
    expected = _expected(path, sums)
    if expected is not None and path.name != files.SUMS:
        return None if files.file_digest(path) == expected else "is other than its checksum says"
    try:
        _check_content(path)
    except BROKEN as error:
        return " ".join(str(error).split()).removeprefix(f"{path}: ") or type(error).__name__
    return None


def _expected(path: Path, sums: Callable[[Path], dict[str, str] | None]) -> str | None:
    for folder in path.absolute().parents:
        if (folder / files.SUMS).is_file():
            return (sums(folder) or {}).get(path.absolute().relative_to(folder).as_posix())
    return None


def _check_content(path: Path) -> None:
    """Raises one of BROKEN where the file is not what its name says."""
    for suffix, check in CHECKS.items():
        if path.name.endswith(suffix):
            check(path)
            return


def _check_record(path: Path) -> None:
    record = _check_json(path)
    if not isinstance(record, dict) or record.get("fingerprint") != files.fingerprint(record.get("settings")):
        raise ValueError("its fingerprint is not that of its settings")


def _check_json(path: Path) -> Any:
    return files.parsed(path.read_bytes(), "the text")


def _check_parquet(path: Path) -> None:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            file.read_row_group(group)


def _check_tensors(path: Path) -> None:
    with safe_open(path, framework="numpy"):
        pass


def _check_zip(path: Path) -> None:
    """PyTorch's own format: a zip archive, whose members have CRCs. They are not unpickled."""
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise ValueError(f"{broken} in it is other than its CRC says")


def _check_lines(path: Path) -> None:
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            files.parsed(line, f"line {number}")


def read_array(path: Path) -> np.ndarray:
    """The array of a .npy file, where it lies: no pickle, no zip archive, and no memory for what its header only declares.

    Raises ValueError where it is anything else.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, TypeError, KeyError, OverflowError, MemoryError, SyntaxError, TokenError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or no array ({' '.join(str(error).split())})") from error


CHECKS: dict[str, Callable[[Path], object]] = {
    files.SUMS: lambda path: files.sums_of(path.parent),
    files.RECORD: _check_record,
    ".parquet": _check_parquet,
    ".safetensors": _check_tensors,
    ".pt": _check_zip,
    ".jsonl": _check_lines,
    ".jsonl.gz": _check_lines,
    ".json": _check_json,
    ".npy": read_array,
    ".flac": audio.read,
    ".wav": audio.read,
}


def repair(found: Iterable[Damage]) -> Iterator[str]:
    """Remove what is damaged, so that the stage that made it, run again, makes that again; says what was done, folder by folder.

    A damaged file goes, of a checkpoint the whole checkpoint, and a finished folder becomes an unfinished one: of that the stage keeps what
    it can go on from. Manifests, which may be all that is left of a corpus, and a folder that no longer knows its settings are set aside
    whole, under NAME.damaged. What no stage made stays as it is. Raises ValueError where another process writes the folder.
    """
    by_folder: dict[Path | None, list[Path]] = {}
    for damage in found:
        by_folder.setdefault(_made_by_a_stage(damage.path), []).append(damage.path)
    for path in by_folder.pop(None, []):
        yield _remove_alone(path)
    for folder, paths in by_folder.items():
        assert folder is not None
        with files.locked(folder.with_name(folder.name.removesuffix(PARTIAL))):
            yield _set_aside(folder) if _beyond_going_on(folder, paths) else _reopen(folder, paths)


def _made_by_a_stage(path: Path) -> Path | None:
    """The folder, above a file, that a stage fills."""
    return next((folder for folder in path.parents if (folder / files.RECORD).is_file() or path == folder / files.RECORD), None)


def _beyond_going_on(folder: Path, damaged: list[Path]) -> bool:
    return folder / files.RECORD in damaged or any(folder.glob(MANIFESTS))


def _set_aside(folder: Path) -> str:
    names = chain([f"{folder.name}{ASIDE}"], (f"{folder.name}{ASIDE}-{number}" for number in range(2, 1000)))
    aside = next(path for path in map(folder.with_name, names) if not path.exists())
    folder.rename(aside)
    return f"{folder} is set aside as {aside.name}; run its stage again to make it anew"


def _reopen(folder: Path, damaged: list[Path]) -> str:
    """Without the damaged files, as the unfinished folder that its stage goes on from."""
    partial = folder if folder.name.endswith(PARTIAL) else folder.with_name(f"{folder.name}{PARTIAL}")
    if folder != partial and partial.exists():
        raise ValueError(f"{folder} cannot be repaired beside {partial.name}, an unfinished run; finish it, or move it away")
    (folder / files.SUMS).unlink(missing_ok=True)
    removed = {_whole(path, folder) for path in damaged}
    for path in sorted(removed):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if folder != partial:
        folder.rename(partial)
    names = ", ".join(path.relative_to(folder).as_posix() for path in sorted(removed))
    return f"{folder}: without {names} it is unfinished again; run its stage with the same settings to make that anew"


def _whole(path: Path, folder: Path) -> Path:
    """What goes with a damaged file: the checkpoint that it is a part of, or itself. Raises ValueError for what lies elsewhere."""
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path} lies outside of {folder}, by a link; it is left as it is")
    return next((parent for parent in path.parents if parent.name.startswith("step_") and parent.is_relative_to(folder)), path)


def _remove_alone(path: Path) -> str:
    """What the benchmark makes one by one: a row goes with its items."""
    if path.suffix != ".parquet" or not (path.parent.name in BENCH_ROWS or path.name.startswith("shard-")):
        return f"{path} was made by no stage that could make it again; it is left as it is"
    for name in BENCH_ROWS if path.parent.name in BENCH_ROWS else (path.parent.name,):
        (path.parent.with_name(name) / path.name).unlink(missing_ok=True)
    return f"{path} is removed; run the benchmark again to make it anew"
