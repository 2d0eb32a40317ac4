"""A folder of outputs -> what is damaged in it.

Reads: every file in the folder and below it (exp, one token store, a checkpoint ...), once: those that checksums were written of
(audiotok.sha256) are compared with them, others are read as far as their kind tells. Nothing is unpickled.
Writes: nothing. With --repair, what is damaged is removed, so that the stage that made it, run again with the same settings, makes that
anew: a shard, a checkpoint (training goes on from the one before it), a table. Manifests are set aside whole, as NAME.damaged.
Of a folder in an object store (s3://bucket/exp) every object is fetched once, to a folder for the time being; --repair is not for those.
Told by: the folder, in place of a recipe: audiotok verify FOLDER [--repair]. Ends with status 1 where anything is damaged and not repaired.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from audiotok import storage
from audiotok.data.integrity import damages, repair

SECTIONS: tuple[str, ...] = ()
REPAIR = "--repair"


def check(folder: Path, options: Sequence[str]) -> None:
    """Raises ValueError where files are damaged, unless they are to be repaired."""
    if unknown := [option for option in options if option != REPAIR]:
        raise ValueError(f"audiotok verify FOLDER [{REPAIR}]: got {' '.join(unknown)}")
    address = storage.address_of(folder)
    if address is None:
        _check(folder, address=None, mend=REPAIR in options)
        return
    if REPAIR in options:
        raise ValueError(f"{address}: {REPAIR} is for folders of this machine; delete there what is damaged, and run its stage again")
    with TemporaryDirectory() as scratch:
        storage.copy(folder, Path(scratch))
        _check(Path(scratch), address=address, mend=False)


def _check(folder: Path, *, address: str | None, mend: bool) -> None:
    """`address` is what the folder is a copy of."""
    if not folder.is_dir() or (address is not None and not any(folder.iterdir())):
        raise ValueError(f"no folder {address or folder}; verify takes the folder of outputs that is to be looked at, such as exp")
    console, looked_at = Console(soft_wrap=True, highlight=False, markup=False), list[Path]()
    with console.status(f"reading {folder}"):
        found = list(damages(folder, looked_at.append))
    for damage in found:
        place = damage.path if address is None else f"{address}/{damage.path.relative_to(folder.absolute())}"
        console.print(f"{place}: {damage.reason}")
    if found and not mend:
        remedy = f"{REPAIR} removes them to be made anew" if address is None else "delete their folders, to be made anew"
        raise ValueError(f"{len(found)} of {len(looked_at)} files in {address or folder} are damaged; {remedy}")
    for done in repair(found):
        console.print(done)
    if not found:
        console.print(f"{address or folder}: {len(looked_at)} files are as they were written")
