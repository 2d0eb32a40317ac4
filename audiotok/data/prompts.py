"""Corpus `prompts`: Asterisk Core Sounds, human telephone prompts at 16 kHz in five languages.

Licences: CC BY-SA 3.0 (English, Spanish, French), CC BY 3.0 (Italian, Russian). One key is the same sentence in every language
(`digits/7`, `vm-goodbye`). It decides the split, and a cut keeps it as `custom["key"]`.
"""

import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from audiotok.data.manifests import Utterance
from audiotok.data.prompts_source import Installed, installed
from audiotok.data.splits import SPLITS, hashed_split

SPEAKERS = {"en": "Allison", "es": "Allison", "fr": "June", "it": "Carlo", "ru": "IvrvoiceRU"}  # the voices the package names

# Tones and one sound effect; Italian describes them in words ("un suono beep") as if they were spoken.
NOT_SPEECH = {"beep", "beeperr", "ascending-2tone", "descending-2tone", "confbridge-join", "confbridge-leave", "tt-monkeys"}
SILENCE = "silence/"
SIGNS = {"*": "digits/star", "#": "digits/pound"}

NOTE = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>")
SOUND_NOTE = re.compile(r"beep|bip|tone|tono|toni|sound|suono|\bson\b|silenc|silenz|ahooga", re.IGNORECASE)


@dataclass(frozen=True)
class Prompt:
    key: str
    text: str
    path: Path


def prompts(*, languages: Sequence[str], fractions: Mapping[str, float], root: str | None, cache: str | None) -> dict[str, list[Utterance]]:
    """The spoken prompts of each split, split by the key so that a prompt and its translations fall together.

    `root` is a folder with the sounds (None: an installed copy, else `cache`, filled from the network when it has none; None there:
    ~/.cache/audiotok/prompts). A text that is spoken in test is in no other split of its language, nor one of dev in train: some keys are
    the same sentence recorded twice.
    """
    if unknown := sorted(set(languages) - set(SPEAKERS)) or not languages:
        raise ValueError(f"the prompts speak {', '.join(SPEAKERS)}; got {unknown if languages else 'no language'}")
    splits: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    found = installed(languages, root=root, cache=cache)
    for language in languages:
        for split, chosen in split_prompts(spoken_prompts(found[language]), fractions).items():
            splits[split] += [_utterance(prompt, language) for prompt in chosen]
    return splits


def split_prompts(chosen: Sequence[Prompt], fractions: Mapping[str, float]) -> dict[str, list[Prompt]]:
    """Prompts of one language by the hash of their keys, less those whose text an earlier one of test, dev, train also has."""
    splits: dict[str, list[Prompt]] = {split: [] for split in SPLITS}
    for prompt in chosen:
        splits[hashed_split(prompt.key, fractions)].append(prompt)
    held_out: set[str] = set()
    for split in ("test", "dev", "train"):
        splits[split] = [prompt for prompt in splits[split] if _bare(prompt.text) not in held_out]
        held_out |= {_bare(prompt.text) for prompt in splits[split]}
    return splits


def spoken_prompts(sounds: Installed) -> list[Prompt]:
    """The prompts that are speech and whose text says what is heard, by key.

    The signs * and # are written as the prompts that speak these keys of a telephone say them ("press * " is heard as "press star").
    """
    texts = transcripts(sounds.transcript)
    signs = {sign: texts[key] for sign, key in SIGNS.items() if key in texts}
    found = []
    for path in sorted(sounds.folder.rglob("*.g722")):
        key = path.relative_to(sounds.folder).with_suffix("").as_posix().lower()
        text = spoken_text(re.sub(r"[*#]", lambda sign: signs.get(sign[0], sign[0]), texts.get(key, "")))
        if text and key not in NOT_SPEECH and not key.startswith(SILENCE):
            found.append(Prompt(key, text, path))
    return found


def transcripts(path: Path) -> dict[str, str]:
    """Texts by key, from a `core-sounds-LANG.txt` or `.txt.gz` with lines `key: text`.

    Keys are lower case, because the case of some differs between text and disk. Of two lines with one key the first counts: Spanish
    gives `digits/0` as "cero" and, by mistake, as "diez".
    """
    texts: dict[str, str] = {}
    for line in _lines(path):
        key, colon, text = line.partition(":")
        if colon and not line.startswith(";"):
            texts.setdefault(key.strip().lower(), text.strip())
    return texts


def spoken_text(text: str) -> str | None:
    """A text without its notes; None where nothing is left or where it is open whether the note is heard.

    A note at the end or of signs only is a remark ("dash [-]", "IAX (nota: non dice 2)") and is dropped. A note of a sound
    ("(simple tone sound plays)") means that the recording holds more than speech; one within the sentence ("[tentativo di] Parcheggio")
    may be spoken or not.
    """
    for note in NOTE.finditer(text):
        within = any(map(str.isalpha, note[0])) and any(map(str.isalpha, NOTE.sub("", text[note.end() :])))
        if within or SOUND_NOTE.search(note[0]):
            return None
    return " ".join(NOTE.sub(" ", text).split()) or None


def _lines(path: Path) -> Iterator[str]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig") as file:
        yield from file


def _bare(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", "", text.casefold()).split())


def _utterance(prompt: Prompt, language: str) -> Utterance:
    return Utterance(
        id=f"{language}_{prompt.key.replace('/', '_')}",
        sound=prompt.path,
        text=prompt.text,
        speaker=SPEAKERS[language],
        language=language,
        custom={"key": prompt.key},
    )
