"""The folders of stages in an object store: fetched before they are read, put when they are finished, never seen by halves.

A store can neither rename nor lock, so what `files` does with both is done with other means. A folder is there when its `stage.json` is,
the last of its objects to be put and the first to be removed. What a run has finished of an unfinished folder (a shard, a checkpoint) is
put under `NAME.partial/` as it is finished, for a run on any machine to go on from. While a folder, or a part of one, is put or removed,
an object `FOLDER.partial` says so. Of what lies in no store, nothing is done here: it costs a look at the path.
"""

import fcntl
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath

from audiotok import storage
from audiotok.checksums import RECORD, SUMS, UNSUMMED, file_digest, sums_of

LATER = ("shard-*.parquet", "audio/*/*.flac")  # of a finished folder; fetched one by one, when they are read
PARTIAL = ".partial"


def bring(folder: Path) -> None:
    """Have a finished folder of a store in the mirror as it is there, but for what is read later; not at all, where there is no whole one.

    Raises ValueError where an object is other than its checksum says.
    """
    if storage.address_of(folder) is not None:
        with _in_turn(folder):
            _bring(folder)


def _bring(folder: Path) -> None:
    there = storage.names(folder)
    if RECORD not in there or SUMS not in there:
        shutil.rmtree(folder, ignore_errors=True)
        return
    if not (folder / SUMS).is_file() or (folder / SUMS).read_bytes() != storage.read(folder / SUMS):
        shutil.rmtree(folder, ignore_errors=True)
        storage.get(folder / SUMS)
    sums = _all_sums(folder)
    for name in sums:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    logs = {name: None for name in there if _is_any_of(name, UNSUMMED)}
    wanted = {folder / name: digest for name, digest in (sums | logs).items() if not _is_any_of(name, LATER)}
    storage.each(lambda path: _fetch(path, wanted[path]), [path for path in wanted if not path.exists()])


@contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """One process of this machine after the other, such as the ranks of torchrun."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.coming"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def bring_below(folder: Path) -> None:
    """`bring` every finished folder that lies directly in this one."""
    if storage.address_of(folder) is not None:
        for name in sorted({name.partition("/")[0] for name in storage.names(folder) if name.count("/") == 1 and name.endswith(RECORD)}):
            if not name.endswith(PARTIAL):
                bring(folder / name)


def bring_begun(partial: Path) -> None:
    """Have in the mirror what runs of other machines finished of an unfinished folder, as far as they were of the newest settings."""
    if storage.address_of(partial) is None:
        return
    (partial / SUMS).unlink(missing_ok=True)  # of a run that was killed before all was put
    there = storage.names(partial)
    if RECORD not in there:
        return
    if not (partial / RECORD).is_file() or (partial / RECORD).read_bytes() != storage.read(partial / RECORD):
        shutil.rmtree(partial, ignore_errors=True)
    halves = [name.removesuffix(PARTIAL) for name in there if name.endswith(PARTIAL)]
    whole = {
        name: size for name, size in there.items() if not name.endswith(PARTIAL) and not any(name.startswith(f"{half}/") for half in halves)
    }
    wanted = [partial / name for name, size in whole.items() if _is_wanted(partial / name, size)]
    storage.each(storage.get, wanted)


def _is_wanted(path: Path, size: int) -> bool:
    """Whether a store's piece of unfinished work is not here; of two logs the longer tells more."""
    return not path.exists() or (_is_any_of(path.name, UNSUMMED) and path.stat().st_size < size)


def here(path: Path) -> Path:
    """The same path: of a file that its store has and the mirror has not, after it was fetched. Raises ValueError where it is damaged."""
    if storage.address_of(path) is not None and not path.exists():
        with suppress(FileNotFoundError):  # its reader says what is missing
            _fetch(path, _digest_of(path))
    return path


def refuse_foreign(folder: Path) -> None:
    """Raise ValueError where objects lie in a store's folder that no stage put there."""
    if storage.address_of(folder) is None or (folder / RECORD).is_file():
        return
    if storage.names(folder) and not storage.exists(folder.with_name(f"{folder.name}{PARTIAL}")):
        address = storage.address_of(folder)
        raise ValueError(f"{address} exists and was not made by audiotok ({RECORD} is missing); move it away, or set another exp_dir")


def listed(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder whose names match, those that are still to be fetched too."""
    found = set(folder.glob(pattern))
    sealed = _sealed_above(folder / pattern)
    if sealed is not None and storage.address_of(folder) is not None:
        recorded = (sealed / name for name in sums_of(sealed))
        found |= {path for path in recorded if path.parent == folder and path.match(pattern)}
    return sorted(found)


def publish(path: Path) -> None:
    """Put what is finished of an unfinished folder into its store: a file, or a folder with the logs beside it."""
    if storage.address_of(path) is None:
        return
    if path.is_file():
        storage.put(path)
        return
    logs = [log for log in _files_of(path.parent) if _is_any_of(log.name, UNSUMMED)]
    storage.write(path.with_name(f"{path.name}{PARTIAL}"), b"")
    storage.each(storage.put, [*_files_of(path), *logs])
    storage.remove(path.with_name(f"{path.name}{PARTIAL}"))


def publish_finished(partial: Path, folder: Path) -> None:
    """Put a finished folder into its store, its record last, in the place of the one before it."""
    if storage.address_of(folder) is None:
        return
    replaced = storage.names(folder)
    storage.write(folder.with_name(partial.name), b"")
    storage.remove(folder / RECORD)
    paths = {folder / path.relative_to(partial): path for path in _files_of(partial)}
    storage.each(lambda at: storage.put(paths[at], at), [at for at in paths if at != folder / RECORD])
    storage.each(storage.remove, [folder / name for name in replaced if folder / name not in paths])
    storage.put(partial / RECORD, folder / RECORD)
    storage.remove(folder.with_name(partial.name))
    forget_begun(partial)


def forget(path: Path) -> None:
    """Remove a folder of an unfinished folder from its store."""
    if storage.address_of(path) is None:
        return
    storage.write(path.with_name(f"{path.name}{PARTIAL}"), b"")
    storage.each(storage.remove, [path / name for name in storage.names(path)])
    storage.remove(path.with_name(f"{path.name}{PARTIAL}"))


def forget_begun(partial: Path) -> None:
    """Remove an unfinished folder from its store, its record first."""
    if storage.address_of(partial) is not None and (names := storage.names(partial)):
        storage.remove(partial / RECORD)
        storage.each(storage.remove, [partial / name for name in names])


def sweep(partial: Path, folder: Path) -> None:
    """Remove from a store what a run that was killed at its very end left beside the folder that it had finished."""
    if storage.address_of(folder) is None:
        return
    storage.remove(folder.with_name(partial.name))
    names = storage.names(partial)
    if RECORD not in names or storage.read(partial / RECORD) == storage.read(folder / RECORD):
        forget_begun(partial)


def _all_sums(folder: Path) -> dict[str, str]:
    """The digests of a finished folder's files by their names, those of sealed folders in it too; the checksums of these are fetched."""
    sums = sums_of(folder)
    for inner in [PurePosixPath(name).parent for name in sums if PurePosixPath(name).name == SUMS]:
        if not (folder / inner / SUMS).exists():
            _fetch(folder / inner / SUMS, sums[f"{inner}/{SUMS}"])
        sums |= {f"{inner}/{name}": digest for name, digest in sums_of(folder / inner).items()}
    return {**sums, SUMS: file_digest(folder / SUMS)}


def _sealed_above(path: Path) -> Path | None:
    """The next folder above that has checksums."""
    return next((folder for folder in path.parents if (folder / SUMS).is_file()), None)


def _digest_of(path: Path) -> str | None:
    sealed = _sealed_above(path)
    if sealed is None:
        return None
    about = (sealed / SUMS).stat()
    return _remembered(sealed, about.st_ino, about.st_mtime_ns).get(path.relative_to(sealed).as_posix())


@lru_cache(maxsize=4)
def _remembered(folder: Path, inode: int, changed: int) -> dict[str, str]:
    """Checksums that are asked for file by file."""
    return sums_of(folder)


def _fetch(path: Path, digest: str | None) -> None:
    storage.get(path)
    if digest is not None and file_digest(path) != digest:
        path.unlink()
        raise ValueError(
            f"{storage.address_of(path)} is other than its checksum says: damaged, or made anew while it was read; run the same again, "
            "or delete its folder there and run its stage"
        )


def _files_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _is_any_of(name: str, patterns: Iterable[str]) -> bool:
    return any(PurePosixPath(name).match(pattern) for pattern in patterns)
