"""Files that are whole or absent, fingerprints, and the contract of a stage's output folder.

A stage's folder is filled under `NAME.partial` and renamed when it is complete, so that a reader never sees half of one. Beside its
content it holds `stage.json`: the settings it was made with and their fingerprint, and `audiotok.sha256`: the digest of every file, as
`sha256sum -c audiotok.sha256` reads it too. What is read as JSON is held against it first.
In an object store the same holds by other means: see `audiotok.publishing`.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from audiotok import publishing, storage
from audiotok.checksums import RECORD, SUMS, UNSUMMED, digest_on_record, file_digest, refuse_damaged, sums_of
from audiotok.publishing import PARTIAL, bring, bring_below, here, listed

__all__ = [
    "RECORD", "SUMS", "UNSUMMED", "bring", "bring_below", "build", "digest_on_record", "file_digest", "fingerprint", "here", "listed",
    "refuse_damaged", "sums_of",
]  # fmt: skip

SECRET = re.compile(
    r"(?:^|[_.-])(?:token|secret|password|passwd|passphrase|credentials?|(?:api|access|private|secret)_?key)$", re.IGNORECASE
)  # how the names of settings and of variables of the environment end that nobody else shall read
CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")  # USER:PASSWORD@ in an address
REDACTED = "***"
LEFT_OVER = re.compile(r"\..+\.(?:partial(?:\.[^.]+)?|mode)")  # what a process that is killed in `whole_file` leaves


def fingerprint(value: Any) -> str:
    """Hex SHA-256 of a JSON-like value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


def redacted(value: Any) -> Any:
    """A JSON-like value as it may be saved and shown: without the texts of settings that are secrets by their names, and without the users
    and passwords in addresses."""
    if isinstance(value, Mapping):
        return {key: REDACTED if isinstance(item, str) and SECRET.search(str(key)) else redacted(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(item) for item in value]
    return CREDENTIALS.sub(REDACTED, value) if isinstance(value, str) else value


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder that becomes `path` when the block ends well, and vanishes when it does not."""
    in_store = storage.address_of(path) is not None
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
    if in_store and not any(folder.name.endswith(PARTIAL) for folder in path.parents):
        publishing.publish(path)


def open_to_readers(path: Path) -> None:
    """Give a file the permissions of any other new one in its folder: safetensors writes files that nobody but their owner can read."""
    probe = path.with_name(f".{path.name}.mode")
    probe.touch()
    path.chmod(probe.stat().st_mode & 0o777)
    probe.unlink()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `path` when the block ends well, and vanishes when it does not."""
    in_store = storage.address_of(path) is not None
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if in_store:
        publishing.publish(path)


def write_json(path: Path, value: Any) -> None:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Raises ValueError naming the file where it is no JSON, or other than it was written."""
    refuse_damaged(path)
    return parsed(path.read_bytes(), str(path))


def write_jsonl(path: Path, rows: Iterable[Mapping]) -> None:
    with whole_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def read_jsonl(path: Path) -> Iterator[dict]:
    """Raises ValueError naming the file and the line where it is no JSON, or other than it was written."""
    refuse_damaged(path)
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            row = parsed(line, f"{path}, line {number}")
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: got {str(row)[:40]!r}, wanted an object {{...}} on each line")
            yield row


def parsed(text: bytes, where: str) -> Any:
    """The value of a JSON text. Raises ValueError saying where it stands, however it is broken."""
    try:
        return json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is damaged, or no JSON ({error}); `audiotok verify FOLDER` names what else is") from error


def seal(folder: Path) -> None:
    """Write audiotok.sha256 of all files in a folder but logs; of a folder in it that has its own, only that is among them.

    What a run that was killed left of files that it was writing is removed: else the sums would name a temporary file that writing them
    renames.
    """
    for path in list(folder.rglob(".*")):
        if LEFT_OVER.fullmatch(path.name) and path.is_file():
            path.unlink()
    sealed = {path.parent for path in folder.rglob(SUMS)} - {folder}
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not any(path.match(pattern) for pattern in UNSUMMED)]
    named = [path for path in paths if path != folder / SUMS and (path.name == SUMS or not sealed.intersection(path.parents))]
    with whole_file(folder / SUMS) as partial:
        partial.write_text("".join(f"{file_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in named), encoding="utf-8")


def settings_of(folder: Path) -> dict | None:
    """The settings a finished or begun output folder was made with; None where there is no record."""
    record = folder / RECORD
    return read_json(record)["settings"] if record.exists() else None


def fingerprint_of(folder: Path, *, made_by: str) -> str:
    """The fingerprint of a finished output folder, which is in the mirror then where it lies in a store.

    Raises ValueError naming the stage that makes it where it is absent.
    """
    bring(folder)
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
    settings = redacted(json.loads(json.dumps(settings, default=str)))
    with locked(folder):
        bring(folder)
        publishing.refuse_foreign(folder)
        partial = folder.with_name(f"{folder.name}{PARTIAL}")
        if not overwrite and _matches(folder, settings):
            publishing.sweep(partial, folder)
            return "present"
        publishing.bring_begun(partial)
        begun = resumable is not None and any(partial.glob(resumable))
        if not (begun and (settings_of(partial) == settings or (not overwrite and _matches(partial, settings)))):
            shutil.rmtree(partial, ignore_errors=True)
            publishing.forget_begun(partial)
            partial.mkdir(parents=True)
            write_json(partial / RECORD, {"settings": settings, "fingerprint": fingerprint(settings)})
            if resumable is not None:
                publishing.publish(partial / RECORD)
        work(partial)
        seal(partial)
        publishing.publish_finished(partial, folder)
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
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder of outputs alone. Raises ValueError where another process does."""
    in_store = storage.address_of(folder) is not None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is writing {folder}; wait for it, or set another exp_dir") from None
        with storage.alone(folder) if in_store else nullcontext():
            yield
