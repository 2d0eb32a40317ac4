"""Where the prompts are: installed, in a cache, or taken there without root from Debian's packages or the publisher's archives.

Debian:       usr/share/asterisk/sounds/en_US_f_Allison/*.g722   usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz
publisher:    *.g722   core-sounds-en.txt                        (unpacked below a folder `en`)
"""

import fcntl
import logging
import os
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO
from urllib.request import urlopen

from audiotok.files import whole_folder

VERSION = "1.6.1"
PUBLISHER = "https://downloads.asterisk.org/pub/telephony/sounds/releases"
VOICES = {"en": "en_US_f_Allison", "es": "es_MX_f_Allison", "fr": "fr_CA_f_June", "it": "it_IT_m_Carlo", "ru": "ru_RU_f_IvrvoiceRU"}
INSTALLED = (Path("/"), Path("/var/lib/asterisk/sounds"))  # where Debian and Asterisk's own `make install` put them
SECONDS_PER_STEP = 600
SECONDS_TO_ANSWER = 30

log = logging.getLogger(__name__)
Opener = Callable[[str], IO[bytes]]


@dataclass(frozen=True)
class Installed:
    """The sounds of one language: a folder of .g722 files, and their texts."""

    folder: Path
    transcript: Path


def installed(languages: Sequence[str], *, root: str | None, cache: str | None) -> dict[str, Installed]:
    """The sounds of each language, taken from the network into the cache where they are nowhere.

    Raises ValueError where `root` is given and does not hold them, and, with every reason, where they cannot be had.
    """
    if root is not None:
        return {language: _required(language, Path(root).expanduser()) for language in languages}
    folder = Path(cache).expanduser() if cache is not None else default_cache()
    if not all(_anywhere(language, folder) for language in languages):
        with _one_at_a_time(folder):  # another process may have fetched some meanwhile
            fetch([language for language in languages if not _anywhere(language, folder)], folder)
    return {language: _anywhere(language, folder) or _required(language, folder / language) for language in languages}


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "audiotok" / "prompts"


def find(language: str, root: Path) -> Installed | None:
    """The sounds of a language below `root`, in Debian's layout or the publisher's; None unless both sounds and texts are there.

    A system that was told to install no documentation has the sounds without the texts.
    """
    text = f"core-sounds-{language}.txt"
    share = root / "usr" / "share"
    for folder, texts in (
        (share / "asterisk" / "sounds" / VOICES[language], share / "doc" / f"asterisk-core-sounds-{language}"),
        (root / VOICES[language], root),
        (root / language, root / language),
        (root, root),
    ):
        transcript = next((path for path in (texts / f"{text}.gz", texts / text) if path.exists()), None)
        if transcript and next(folder.rglob("*.g722"), None):
            return Installed(folder, transcript)
    return None


def _anywhere(language: str, cache: Path) -> Installed | None:
    return next(filter(None, (find(language, root) for root in (*INSTALLED, cache / language))), None)


def _required(language: str, root: Path) -> Installed:
    if sounds := find(language, root):
        return sounds
    raise ValueError(
        f"{root} has no {language} prompts: wanted .g722 files and core-sounds-{language}.txt, as the packages "
        f"asterisk-core-sounds-{language}-g722 and asterisk-core-sounds-{language} or {_archive_url(language, PUBLISHER)} unpack"
    )


def fetch(languages: Sequence[str], cache: Path) -> None:
    """Fill `cache / LANGUAGE` for each language; whole or absent. Raises ValueError with what was tried and why it failed."""
    if not languages:
        return None
    log.info("taking the %s prompts into %s", ", ".join(languages), cache)
    reasons = []
    for source in (from_debian, from_publisher):
        try:
            return source(languages, cache)
        except (OSError, EOFError, zlib.error, subprocess.SubprocessError, tarfile.TarError, ValueError) as error:
            reasons.append(f"{source.__name__.removeprefix('from_')}: {error}")
    raise ValueError(
        f"the {', '.join(languages)} prompts could not be had ({'; '.join(reasons)}). Install asterisk-core-sounds-LANG-g722 and "
        f"asterisk-core-sounds-LANG, or unpack {_archive_url('LANG', PUBLISHER)} below a folder LANG, and set data.root=FOLDER"
    )


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def from_debian(languages: Sequence[str], cache: Path) -> None:
    """Debian's packages, checked by apt against its signed lists, without root: apt with its state in a temporary folder, then dpkg -x."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise ValueError("apt-get and dpkg are not here")
    with TemporaryDirectory(prefix="audiotok-apt-") as folder:
        state, archives = Path(folder, "lists"), Path(folder, "cache")
        (state / "partial").mkdir(parents=True)
        (archives / "archives" / "partial").mkdir(parents=True)
        apt = ["apt-get", "-q", "-o", f"Dir::State::Lists={state}", "-o", f"Dir::Cache={archives}", "-o", "APT::Sandbox::User=root"]
        _run([*apt, "update"], folder)
        for language in languages:
            names = [f"asterisk-core-sounds-{language}-g722", f"asterisk-core-sounds-{language}"]
            _run([*apt, "download", *names], folder)
            with whole_folder(cache / language) as unpacked:
                for name in names:
                    _run(["dpkg", "-x", str(next(Path(folder).glob(f"{name}_*.deb"))), str(unpacked)], folder)


def from_publisher(languages: Sequence[str], cache: Path, *, base: str = PUBLISHER, opener: Opener | None = None) -> None:
    """The publisher's archives, over HTTPS; no member may leave the folder."""
    opener = opener or _open_url
    for language in languages:
        with whole_folder(cache / language) as unpacked:
            url = _archive_url(language, base)
            with opener(url) as response, tarfile.open(fileobj=response, mode="r|gz") as archive:
                _extract(archive, unpacked)
            if find(language, unpacked) is None:
                raise ValueError(f"{url} holds no .g722 files with core-sounds-{language}.txt")


def _extract(archive: tarfile.TarFile, folder: Path) -> None:
    """The archive's plain files only, by hand: Python learned to refuse members that leave the folder after its 3.11.2."""
    for member in archive:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"the archive holds {member.name}, which lies outside of its folder")
        content = archive.extractfile(member) if member.isfile() else None
        if content is not None:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with open(folder / path, "wb") as file:
                shutil.copyfileobj(content, file)


def _archive_url(language: str, base: str) -> str:
    return f"{base}/asterisk-core-sounds-{language}-g722-{VERSION}.tar.gz"


def _open_url(url: str) -> IO[bytes]:
    return urlopen(url, timeout=SECONDS_TO_ANSWER)


def _run(command: Sequence[str], folder: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS_PER_STEP, check=False)
    if done.returncode:
        raise ValueError(f"{' '.join(command[:1])} failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
