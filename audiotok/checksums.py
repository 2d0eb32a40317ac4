"""What a stage's folder says of itself: `stage.json`, its settings, and `audiotok.sha256`, the digest of every file in it but logs."""

import hashlib
import re
from pathlib import Path, PurePosixPath

RECORD = "stage.json"
SUMS = "audiotok.sha256"
UNSUMMED = ("log.jsonl", "events.out.tfevents*")  # logs: the time of day is in them
SUM = re.compile(r"([0-9a-f]{64})  (.+)")


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sums_of(folder: Path) -> dict[str, str]:
    """The digests in a folder's audiotok.sha256, by path. Raises ValueError for a line of another kind, and a path out of the folder."""
    sums: dict[str, str] = {}
    for number, line in enumerate((folder / SUMS).read_bytes().splitlines(), start=1):
        match = SUM.fullmatch(line.decode("utf-8", errors="replace"))
        if match is None or ".." in PurePosixPath(match[2]).parts or PurePosixPath(match[2]).is_absolute():
            raise ValueError(f"{folder / SUMS}, line {number} is damaged: a digest, two spaces and a path in the folder are wanted")
        sums[match[2]] = match[1]
    return sums


def digest_on_record(path: Path) -> str | None:
    """What audiotok.sha256 in the file's folder, or in the next one above that has any, says of it; None where nothing does."""
    for folder in path.parents:
        if (folder / SUMS).is_file():
            return sums_of(folder).get(path.relative_to(folder).as_posix())
        if (folder / RECORD).is_file():
            return None
    return None


def refuse_damaged(path: Path) -> None:
    """Raise ValueError where a file is other than its checksum says; one that has none, or is not there, passes."""
    expected = digest_on_record(path) if path.is_file() else None
    if expected is not None and file_digest(path) != expected:
        raise ValueError(
            f"{path} is damaged: other than its checksum in {SUMS} says; `audiotok verify FOLDER --repair` removes what is, "
            f"so that its stage makes it again (if you changed it yourself, delete {SUMS})"
        )
