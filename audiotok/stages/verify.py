"""A folder of outputs -> what is damaged in it.

Reads: every file in the folder and below it (exp, one token store, a checkpoint ...), once: those that checksums were written of
(audiotok.sha256) are compared with them, others are read as far as their kind tells. Nothing is unpickled.
Writes: nothing. With --repair, what is damaged is removed, so that the stage that made it, run again with the same settings, makes that
anew: a shard, a checkpoint (training goes on from the one before it), a table. Manifests are set aside whole, as NAME.damaged.
Told by: the folder, in place of a recipe: audiotok verify FOLDER [--repair]. Ends with status 1 where anything is damaged and not repaired.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from audiotok.data.integrity import damages, repair

SECTIONS: tuple[str, ...] = ()
REPAIR = "--repair"


def check(folder: Path, options: Sequence[str]) -> None:
    """Raises ValueError where files are damaged, unless they are to be repaired."""
    if unknown := [option for option in options if option != REPAIR]:
        raise ValueError(f"audiotok verify FOLDER [{REPAIR}]: got {' '.join(unknown)}")
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}; verify takes the folder of outputs that is to be looked at, such as exp")
    console, looked_at = Console(soft_wrap=True, highlight=False, markup=False), list[Path]()
    with console.status(f"reading {folder}"):
        found = list(damages(folder, looked_at.append))
    for damage in found:
        console.print(f"{damage.path}: {damage.reason}")
    if found and REPAIR not in options:
        raise ValueError(f"{len(found)} of {len(looked_at)} files in {folder} are damaged; {REPAIR} removes them to be made anew")
    for done in repair(found):
        console.print(done)
    if not found:
        console.print(f"{folder}: {len(looked_at)} files are as they were written")
