"""Folders in an object store, s3://bucket/exp or wherever else fsspec reaches, and their mirror on this machine.

The only user of fsspec. All the rest of audiotok sees folders: s3://bucket/exp is MIRROR/s3/bucket/exp, and `audiotok.files` fetches what
is read there and puts what is written. Of any other path nothing is known here: its address is None.

An object is put whole or not at all, and can neither be renamed nor locked; what that asks for is in `files`. A store that refuses, fails
or hangs is `Unreachable` in bounded time. No clock is read, neither this machine's nor the store's.
"""

import io
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec

PLACE = "AUDIOTOK_MIRROR"  # the variable that says where the mirror lies
ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)")
AT_ONCE = 8  # objects on their way
PATIENCE: dict[str, dict[str, Any]] = {  # by protocol, as fsspec takes it; seconds
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 20, "retries": {"total_max_attempts": 3}}}
}
ROUNDS = 2  # of those attempts, by s3fs: a store that hangs is given up after two minutes
ERRORS = (("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError"))  # that are no OSErrors, where their package is loaded


class Unreachable(Exception):
    """A store that cannot be read or written now. No ValueError and no OSError, so that nobody takes it for one bad recording."""


def mirror() -> Path:
    """Where stores are mirrored: AUDIOTOK_MIRROR, or a folder of the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(PLACE) or cache / "audiotok" / "mirror").absolute()


def located(place: str | Path) -> Path:
    """The folder where an address is mirrored; any other place as it is."""
    match = ADDRESS.fullmatch(str(place))
    if match is None:
        return Path(place)
    if ".." in match[2].split("/"):
        raise ValueError(f"{place}: an address without .. is wanted")
    return mirror() / match[1] / match[2].strip("/")


def address_of(path: Path) -> str | None:
    """Where a path of the mirror lies in its store; None for any other. Raises ValueError for an address that was taken for a path."""
    if path.parts and re.fullmatch(r"[a-z][a-z0-9+.-]*:", path.parts[0]):
        raise ValueError(f"{path}: an address where only a folder of this machine will do; README.md says what may lie in a store")
    home = mirror()
    if not path.is_relative_to(home) or len(parts := path.relative_to(home).parts) < 2:
        return None
    return f"{parts[0]}://{'/'.join(parts[1:])}"


def named(path: Path) -> str:
    """The address of a path of the mirror, any other path as it is: what other machines understand."""
    return address_of(path) or str(path)


def names(folder: Path) -> dict[str, int]:
    """The objects below a folder of the mirror by their names in it, each with its size in bytes."""
    store, root = _opened(folder)
    with _reached(folder):
        try:
            found = store.find(root, detail=True)
        except FileNotFoundError:
            return {}
    below = {name[len(root) + 1 :]: about["size"] for name, about in found.items() if name.startswith(f"{root}/")}
    return {name: size for name, size in below.items() if name and not name.endswith("/")}


def read(path: Path) -> bytes:
    """An object's bytes, as they are in the store. Raises FileNotFoundError where there is none."""
    store, name = _opened(path)
    with _reached(path):
        return store.cat_file(name)


def exists(path: Path) -> bool:
    """Whether there is an object of that very name."""
    store, name = _opened(path)
    with _reached(path):
        return store.isfile(name)


class Pieces(io.RawIOBase):
    """An object as a file of which only what is read is fetched. Raises FileNotFoundError where there is none."""

    def __init__(self, path: Path) -> None:
        self._path, self._place = path, 0
        self._store, self._name = _opened(path)
        with _reached(path):
            self._size = self._store.size(self._name)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        end = min(self._place + len(buffer), self._size)
        if end <= self._place:
            return 0
        with _reached(self._path):
            content = self._store.cat_file(self._name, start=self._place, end=end)
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)


def get(path: Path, to: Path | None = None) -> None:
    """Fetch an object to its place in the mirror, or `to` another, whole. Raises FileNotFoundError where there is none."""
    store, name = _opened(path)
    coming = mirror() / ".coming" / uuid4().hex
    coming.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _reached(path):
            store.get_file(name, str(coming))
        (to or path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(coming, to or path)
    finally:
        coming.unlink(missing_ok=True)


def copy(folder: Path, to: Path) -> None:
    """Fetch every object below a folder of the mirror into another folder."""
    each(lambda path: get(path, to / path.relative_to(folder)), [folder / name for name in names(folder)])


def put(path: Path, at: Path | None = None) -> None:
    """Make a file of this machine the object that it mirrors, or the one `at` another path."""
    store, name = _opened(at or path)
    with _reached(at or path, writing=True):
        store.put_file(str(path), name)


def write(path: Path, content: bytes) -> None:
    store, name = _opened(path)
    with _reached(path, writing=True):
        store.pipe_file(name, content)


def remove(path: Path) -> None:
    """An object, where there is one."""
    store, name = _opened(path)
    with _reached(path), suppress(FileNotFoundError):
        store.rm_file(name)


def each(do: Callable[[Path], object], paths: Iterable[Path]) -> None:
    """Do something with each path, some at a time; after the first error nothing more is begun."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begun = [pool.submit(do, path) for path in paths]
        try:
            for one in begun:
                one.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder of the mirror against other machines, by an object that only one of them can make (a conditional put).

    The caller keeps this machine's other processes out: a lock that an earlier one left behind is taken over. Another machine's never is,
    however old: what one clock calls old is young by another. Raises ValueError naming it.
    """
    lock = folder.with_name(f".{folder.name}.lock")
    store, name = _opened(lock)
    own = {"mirror": _mirror_id(), "host": socket.gethostname()}
    with _reached(lock, writing=True):
        try:
            store.pipe_file(name, json.dumps(own).encode(), mode="create")
        except FileExistsError:
            _refuse_another(lock, own, json.loads(store.cat_file(name)))
    try:
        yield
    finally:
        with suppress(Unreachable):  # the next run of this machine takes it over
            remove(lock)


def _refuse_another(lock: Path, own: dict[str, str], found: dict[str, str]) -> None:
    if found["mirror"] != own["mirror"]:
        raise ValueError(
            f"another process is writing there, on {found['host']}; wait for it, or set another exp_dir "
            f"(if it was killed and cannot be run again on {found['host']}, delete {address_of(lock)})"
        )


def _mirror_id() -> str:
    """What tells this mirror from those of other machines."""
    path = mirror() / "id"
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        drawn = path.with_name(f"id-{uuid4().hex}")
        drawn.write_text(uuid4().hex)
        try:
            os.link(drawn, path)  # fails where another process was first
        finally:
            drawn.unlink()
    return path.read_text()


def _opened(path: Path) -> tuple[Any, str]:
    """(fsspec's file system, the name in it) of a path of the mirror."""
    address = address_of(path)
    assert address is not None, path
    protocol = address.partition("://")[0]
    try:
        own = {"session": _session()} if protocol == "s3" else {}
        store, name = fsspec.url_to_fs(address, use_listings_cache=False, **own, **PATIENCE.get(protocol, {}))
    except (ImportError, ValueError) as error:
        raise ValueError(f"{address}: {error}; for s3:// pip install 'audiotok[s3]'") from error
    if hasattr(store, "retries"):
        store.retries = ROUNDS
    return store, name


@cache
def _session() -> Any:
    """One whose uploads do not ask the store for leave first: aiohttp, waiting for that, may forget for how long it is to wait."""
    from aiobotocore.session import AioSession  # noqa: PLC0415, of the s3 extra
    from botocore.handlers import add_expect_header  # noqa: PLC0415

    session = AioSession()
    session.unregister("before-call.s3", add_expect_header)
    return session


@contextmanager
def _reached(path: Path, *, writing: bool = False) -> Iterator[None]:
    """Whatever a store's client raises, but of an object that is to be read and is not there, as `Unreachable`."""
    try:
        yield
    except _errors() as error:
        if isinstance(error, FileNotFoundError) and not writing:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Unreachable(
            f"{address_of(path)} cannot be reached ({reason}); look at the address, the credentials and the network, then run the same "
            "again: what is finished is kept"
        ) from error


def _errors() -> tuple[type[BaseException], ...]:
    loaded = (getattr(sys.modules[module], name) for module, name in ERRORS if module in sys.modules)
    return (OSError, *loaded)
