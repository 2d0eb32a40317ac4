"""Files that are whole or absent, fingerprints, and the contract of a stage's output folder.

A stage's folder is filled under `NAME.partial` and renamed when it is complete, so that a reader never sees half of one. Beside its
content it holds `stage.json`: the settings it was made with and their fingerprint.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

RECORD = "stage.json"


def fingerprint(value: Any) -> str:
    """Hex SHA-256 of a JSON-like value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder that becomes `path` when the block ends well, and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial{path.suffix}")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        open_to_readers(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def open_to_readers(path: Path) -> None:
    """Give a file the permissions of any other new one in its folder: safetensors writes files that nobody but their owner can read."""
    probe = path.with_name(f".{path.name}.mode")
    probe.touch()
    path.chmod(probe.stat().st_mode & 0o777)
    probe.unlink()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `path` when the block ends well, and vanishes when it does not."""
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_jsonl(path: Path, rows: Iterable[Mapping]) -> None:
    with whole_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def read_jsonl(path: Path) -> Iterator[dict]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def settings_of(folder: Path) -> dict | None:
    """The settings a finished or begun output folder was made with; None where there is no record."""
    record = folder / RECORD
    return read_json(record)["settings"] if record.exists() else None


def fingerprint_of(folder: Path, *, made_by: str) -> str:
    """The fingerprint of a finished output folder. Raises ValueError naming the stage that makes it where it is absent."""
    if not (folder / RECORD).exists():
        raise ValueError(f"{folder} is not there; run `audiotok {made_by}` with the same recipe and settings first")
    return read_json(folder / RECORD)["fingerprint"]


def build(
    folder: Path,
    settings: Mapping[str, Any],
    work: Callable[[Path], None],
    *,
    overwrite: bool = False,
    resumable: str | None = None,
) -> Literal["made", "present"]:
    """Fill `folder` by `work(partial_folder)`, once.

    A finished folder made with the same settings is left as it is ("present"). One made with other settings raises ValueError naming the
    keys that differ. With `overwrite` the folder is made anew in either case. `resumable` is the glob of finished work in an unfinished
    folder: `work` is given what an interrupted run with the same settings left, and one of other settings is refused like a finished
    folder as long as it holds such work. Two processes cannot fill one folder at a time.
    """
    settings = json.loads(json.dumps(settings, default=str))
    with _locked(folder):
        if not overwrite and _matches(folder, settings):
            return "present"
        partial = folder.with_name(f"{folder.name}.partial")
        begun = resumable is not None and any(partial.glob(resumable))
        if not (begun and (settings_of(partial) == settings or (not overwrite and _matches(partial, settings)))):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write_json(partial / RECORD, {"settings": settings, "fingerprint": fingerprint(settings)})
        work(partial)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
        return "made"


def _matches(folder: Path, settings: Mapping[str, Any]) -> bool:
    if not folder.exists():
        return False
    found = settings_of(folder)
    if found == settings:
        return True
    if found is None:
        raise ValueError(f"{folder} exists and was not made by audiotok ({RECORD} is missing); move it away, or set overwrite=true")
    differing = "; ".join(f"{key}: {old!r} there, {new!r} now" for key, old, new in differences(found, settings))
    raise ValueError(f"{folder} was made with other settings ({differing}); set overwrite=true, or another exp_dir")


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The leaves at which two JSON-like values differ, as (dotted key, old, new)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield key, old, new


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is writing {folder}; wait for it, or set another exp_dir") from None
        yield
