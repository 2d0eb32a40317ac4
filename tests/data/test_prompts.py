import gzip
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import sleep

import pytest
from torch import Tensor
from zoo import through_pyav

from audiotok import audio
from audiotok.data import prompts_source
from audiotok.data.manifests import load_cuts, write_manifests
from audiotok.data.prompts import Prompt, prompts, split_prompts, spoken_prompts, spoken_text, transcripts
from audiotok.data.splits import hashed_split

FRACTIONS = {"dev": 0.05, "test": 0.2}
ENGLISH = """; Core Asterisk Sounds in English

activated: Activated.
digits/7: seven
digits/1f: one
letters/dash: dash [-]
beep: [this is a simple beep tone]
vm-intro: Please leave your message.  (simple tone sound plays)
silence/1: (1 second of silence)
tt-monkeys: a sound effect
vm-INBOX: INBOX: press 1 or #, not *
digits/pound: pound
is:
no-file: This has no recording.
digits/0: zero
digits/0: ten
"""
ITALIAN = "\ufeff; Elenco\n\nactivated: Attivato.\ndigits/7: sette\nletters/O: O\nbeep: un suono beep\n"


@pytest.fixture
def debian(tmp_path: Path, wav_16k: Tensor) -> Path:
    """Two languages as Debian installs them, every sound a second of real speech in G.722."""
    special = ["beep", "silence/1", "tt-monkeys", "vm-intro", "no-key"]
    keys = ["activated", "digits/0", "digits/1F", "digits/7", "letters/dash", "vm-INBOX", *special]
    install_debian(tmp_path / "root", "en", ENGLISH, keys, wav_16k)
    install_debian(tmp_path / "root", "it", ITALIAN, ["activated", "digits/7", "letters/o", "beep"], wav_16k)
    return tmp_path / "root"


def install_debian(root: Path, language: str, text: str, keys: list[str], wav_16k: Tensor) -> None:
    sounds = root / "usr/share/asterisk/sounds" / prompts_source.VOICES[language]
    for key in keys:
        through_pyav(sounds / f"{key}.g722", wav_16k[:16000].numpy(), codec="g722", container="g722")
    (sounds / "is.g722").write_bytes(b"")
    document = root / "usr/share/doc" / f"asterisk-core-sounds-{language}" / f"core-sounds-{language}.txt.gz"
    document.parent.mkdir(parents=True)
    document.write_bytes(gzip.compress(text.encode()))


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts_source, "INSTALLED", ())


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Activated.", "Activated."),
        ("dash [-]", "dash"),
        ("[!] punto esclamativo", "punto esclamativo"),
        ("spazio []", "spazio"),
        ('IAX (nota: non dice "2")', 'IAX (nota: non dice "2")'.partition(" (")[0]),
        ("Pour (emphase)", "Pour"),
        ("two  words ", "two words"),
        ("press 1 to continue", "press 1 to continue"),
        ("[ascending tones]", None),
        ("<beep ascending>", None),
        ("(beep)", None),
        ("(ahooga)", None),
        ("Leave a message. (simple tone sound plays)", None),
        ("Spiacente, [quello] non è valido.", None),
        ("пометку (статус) «важно»", None),
        ("", None),
    ],
)
def test_a_text_is_kept_when_it_says_what_is_heard(text: str, spoken: str | None) -> None:
    assert spoken_text(text) == spoken


def test_transcripts_are_read_in_either_form_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text(ITALIAN, encoding="utf-8")
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(ENGLISH.encode()))
    assert transcripts(tmp_path / "plain.txt") == {
        "activated": "Attivato.",
        "digits/7": "sette",
        "letters/o": "O",
        "beep": "un suono beep",
    }
    english = transcripts(tmp_path / "packed.txt.gz")
    assert english["digits/0"] == "zero", "the first of two lines counts"
    assert english["vm-inbox"] == "INBOX: press 1 or #, not *", "only the first colon divides"


def test_only_speech_with_its_text_is_taken(debian: Path) -> None:
    english, italian = (spoken_prompts(prompts_source.find(language, debian)) for language in ("en", "it"))  # type: ignore[arg-type]
    assert {prompt.key: prompt.text for prompt in english} == {
        "activated": "Activated.",
        "digits/0": "zero",
        "digits/1f": "one",
        "digits/7": "seven",
        "letters/dash": "dash",
        "vm-inbox": "INBOX: press 1 or pound, not *",
    }
    assert [prompt.key for prompt in italian] == ["activated", "digits/7", "letters/o"]


def test_prompts_become_cuts_with_their_key_text_voice_and_sound(debian: Path, tmp_path: Path) -> None:
    found = prompts(languages=["en", "it"], fractions=FRACTIONS, root=str(debian), cache=None)
    rejected = write_manifests(tmp_path / "out", found, max_rejected=0, max_seconds=60, workers=1)
    assert rejected == []
    cuts = {cut.id: cut for split in found if found[split] for cut in load_cuts(tmp_path / "out", split)}
    seven = cuts["it_digits_7"]
    assert (seven.custom["key"], seven.supervisions[0].text, seven.supervisions[0].speaker) == ("digits/7", "sette", "Carlo")
    wav_T, rate = audio.read(seven.recording.sources[0].source)
    assert (len(wav_T), rate) == (16000, 16000)
    assert hashed_split("digits/7", FRACTIONS) in [split for split, chosen in found.items() if "en_digits_7" in {row.id for row in chosen}]


def test_prompts_below_the_home_folder_are_found(debian: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(debian.parent))
    assert prompts_source.installed(["it"], root=f"~/{debian.name}", cache=None)["it"] == prompts_source.find("it", debian)


def test_the_splits_of_two_languages_agree(tmp_path: Path) -> None:
    english = [Prompt(f"key/{index}", f"sentence {index}", tmp_path) for index in range(200)]
    french = [Prompt(f"key/{index}", f"phrase {index}", tmp_path) for index in range(50, 250)]
    first, second = ({p.key: split for split, ps in split_prompts(ps, FRACTIONS).items() for p in ps} for ps in (english, french))
    assert len(first.keys() & second.keys()) == 150
    assert all(first[key] == second[key] for key in first.keys() & second.keys())
    assert set(first.values()) == {"train", "dev", "test"}


def test_a_text_heard_in_test_is_heard_in_no_other_split(tmp_path: Path) -> None:
    forms = ("sentence {}", "Sentence, {}!")
    chosen = [Prompt(f"key/{index}", forms[index // 200].format(index % 200), tmp_path) for index in range(400)]
    splits = split_prompts(chosen, FRACTIONS)
    texts = {split: {prompt.text.lower().replace(",", "").replace("!", "") for prompt in found} for split, found in splits.items()}
    assert all(len(found) > 5 for found in texts.values())
    assert not texts["test"] & (texts["dev"] | texts["train"])
    assert not texts["dev"] & texts["train"]


def test_an_unknown_language_and_a_folder_without_prompts_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"speak en, es, fr, it, ru; got \['de'\]"):
        prompts(languages=["de"], fractions=FRACTIONS, root=None, cache=None)
    with pytest.raises(ValueError, match="no language"):
        prompts(languages=[], fractions=FRACTIONS, root=None, cache=None)
    with pytest.raises(ValueError, match=r"no en prompts: wanted .*asterisk-core-sounds-en-g722"):
        prompts(languages=["en"], fractions=FRACTIONS, root=str(tmp_path), cache=None)


def test_sounds_installed_without_their_documentation_do_not_count(debian: Path) -> None:
    assert prompts_source.find("en", debian) is not None
    (debian / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz").unlink()
    assert prompts_source.find("en", debian) is None


def test_an_installed_copy_is_taken_before_the_cache_and_the_network(debian: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts_source, "INSTALLED", (debian,))
    monkeypatch.setattr(prompts_source, "fetch", lambda *_: pytest.fail("nothing may be fetched"))
    found = prompts_source.installed(["en", "it"], root=None, cache=str(tmp_path / "cache"))
    assert all(sounds.folder.is_relative_to(debian) for sounds in found.values())


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def publisher(tmp_path: Path) -> Callable[[dict[str, bytes]], str]:
    """Serves one archive as the publisher's site does, and gives the address."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()

    def serve(members: dict[str, bytes]) -> str:
        (folder / f"asterisk-core-sounds-en-g722-{prompts_source.VERSION}.tar.gz").write_bytes(archive(members))
        return f"http://127.0.0.1:{server.server_port}"

    yield serve  # type: ignore[misc]
    server.shutdown()
    server.server_close()


def test_the_publishers_archive_fills_the_cache(
    publisher: Callable[[dict[str, bytes]], str], debian: Path, tmp_path: Path, nothing_installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = (debian / "usr/share/asterisk/sounds/en_US_f_Allison/digits/7.g722").read_bytes()
    base = publisher({"digits/7.g722": sound, "core-sounds-en.txt": ENGLISH.encode(), "CREDITS": b"Allison Smith"})
    monkeypatch.setattr(prompts_source, "from_debian", unreachable)
    monkeypatch.setattr(prompts_source, "from_publisher", lambda languages, cache: real_publisher(languages, cache, base=base))
    found = prompts_source.installed(["en"], root=None, cache=str(tmp_path / "cache"))["en"]
    assert [(prompt.key, prompt.text) for prompt in spoken_prompts(found)] == [("digits/7", "seven")]
    monkeypatch.setattr(prompts_source, "fetch", lambda *_: pytest.fail("the cache has it"))
    assert prompts_source.installed(["en"], root=None, cache=str(tmp_path / "cache"))["en"] == found


real_publisher = prompts_source.from_publisher


def unreachable(languages: list[str], cache: Path) -> None:
    raise OSError("no network here")


@pytest.mark.parametrize("name", ["../escaped.g722", "/tmp/escaped.g722", "digits/../../escaped.g722"])
def test_an_archive_cannot_write_outside_of_the_cache(name: str, publisher: Callable[[dict[str, bytes]], str], tmp_path: Path) -> None:
    base = publisher({name: b"x", "core-sounds-en.txt": b"a: b\n"})
    with pytest.raises(ValueError, match="outside"):
        prompts_source.from_publisher(["en"], tmp_path / "cache", base=base)
    assert list((tmp_path / "cache").iterdir()) == []
    assert not (tmp_path / "escaped.g722").exists()


def test_a_broken_archive_leaves_no_half_filled_cache(
    publisher: Callable[[dict[str, bytes]], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = publisher({"digits/7.g722": os.urandom(50000), "core-sounds-en.txt": b"digits/7: seven\n"})
    path = tmp_path / "site" / f"asterisk-core-sounds-en-g722-{prompts_source.VERSION}.tar.gz"
    path.write_bytes(path.read_bytes()[:20000])
    monkeypatch.setattr(prompts_source, "from_debian", unreachable)
    monkeypatch.setattr(prompts_source, "from_publisher", lambda languages, cache: real_publisher(languages, cache, base=base))
    with pytest.raises(ValueError, match="could not be had"):
        prompts_source.fetch(["en"], tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_when_every_source_fails_the_error_says_why_and_what_to_do(
    tmp_path: Path, nothing_installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts_source, "from_debian", unreachable)
    monkeypatch.setattr(prompts_source, "from_publisher", unreachable)
    with pytest.raises(ValueError, match=r"no network here.*no network here.*asterisk-core-sounds-LANG.*data\.root=FOLDER"):
        prompts_source.installed(["en"], root=None, cache=str(tmp_path))


def test_processes_that_want_the_same_prompts_fetch_them_once(
    debian: Path, tmp_path: Path, nothing_installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def slowly(languages: list[str], cache: Path) -> None:
        fetched.extend(languages)
        sleep(0.2)
        shutil.copytree(debian, cache / "en")

    monkeypatch.setattr(prompts_source, "from_debian", slowly)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: prompts_source.installed(["en"], root=None, cache=str(tmp_path / "cache")), range(3)))
    assert fetched == ["en"]
    assert found[0] == found[1] == found[2]


def test_a_failing_apt_says_so_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, body in (("apt-get", "echo 'E: Unable to locate package' >&2; exit 100"), ("dpkg", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ValueError, match=r"apt-get failed.*Unable to locate package"):
        prompts_source.from_debian(["en"], tmp_path / "cache")


def test_the_cache_lies_where_xdg_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert prompts_source.default_cache() == Path("/elsewhere/audiotok/prompts")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert prompts_source.default_cache() == Path("/home/someone/.cache/audiotok/prompts")


def test_the_real_english_prompts_have_enough_unseen_sentences() -> None:
    try:
        splits = prompts(languages=["en"], fractions=FRACTIONS, root=None, cache=None)
    except ValueError as error:
        pytest.skip(f"the prompts are neither installed nor to be had here: {error}")
    sentences = {split: sum(len((row.text or "").split()) >= 4 for row in chosen) for split, chosen in splits.items()}
    assert sentences["test"] >= 45
    assert sum(map(len, splits.values())) > 500
    assert not {row.text for row in splits["test"]} & {row.text for row in splits["train"]}
    goodbye = next(row for chosen in splits.values() for row in chosen if row.custom["key"] == "vm-goodbye")
    wav_T, rate = audio.read(goodbye.sound)  # type: ignore[arg-type]
    assert ((goodbye.text or "").strip("."), rate) == ("Goodbye", 16000)
    assert 0.3 < len(wav_T) / rate < 3
