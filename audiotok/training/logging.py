"""What happened at which step: `log.jsonl`, one line per entry, and the same numbers for TensorBoard."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

from torch.utils.tensorboard import SummaryWriter

from audiotok import distributed, files

NAME = "log.jsonl"


class Log:
    """Entries {"step", "split", "time", VALUES} in a folder, continued after `step`.

    What a killed run logged past its last checkpoint is dropped, since it will be logged again: but for the times, the file is the same
    as that of an undisturbed run. Ranks other than 0 write nothing.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        self._file: TextIO | None = None
        self._board: SummaryWriter | None = None
        if not distributed.is_main():
            return
        path = folder / NAME
        kept = [entry for entry in _whole_lines(path) if entry["step"] <= step]
        files.write_jsonl(path, kept)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 closed by __exit__
        self._board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None and self._board is not None:
            self._file.close()
            self._board.close()

    def write(self, step: int, split: str, *, values: Mapping[str, float]) -> None:
        """Add an entry; it has left the process when this returns, so that kill -9 does not lose it."""
        if self._file is None or self._board is None:
            return
        self._file.write(json.dumps({"step": step, "split": split, "time": round(time.time(), 3), **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{name}/{split}", value, step)


def read(folder: Path) -> list[dict]:
    """All entries of a run, in order."""
    return list(_whole_lines(folder / NAME))


def _whole_lines(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]  # a killed run may leave half a line
