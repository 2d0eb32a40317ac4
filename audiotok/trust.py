"""What a config may have run: audiotok's own components, and what the user trusts by name. A recipe from elsewhere runs nothing besides.

All of it is decided by the text of the config as it was composed, before anything that it names is imported. So no text of it may turn into
another one later: a `_target_` is written out, and of OmegaConf's resolvers those that make nodes out of text are refused.
"""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from audiotok import files

PACKAGE = Path(__file__).parent
PUBLISHED = re.compile(r"torch\.nn\.[A-Z]\w*|lhotse\.recipes\.prepare_\w+")  # that audiotok's own configs name
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
RESOLVER = re.compile(r"\$\{([^{}:]*):")
RESOLVERS = {"oc.env", "fitted", "fitted_transform"}
NOTHING = "${oc.create:{}}"  # an empty mapping, which a plain {} would not replace another by
ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*([^,}\s]+)")


def refuse_untrusted(config: Any, trusted: Collection[str]) -> None:
    """Raise ValueError where a config, as plain values with nothing resolved yet, names code that is neither audiotok's nor in `trusted`.

    `trusted` are packages, modules or classes; what is in them is trusted too. Also raised for what could become such a name later, and for
    a secret of the environment that would be saved under the name of something else.
    """
    for key, text in _texts(config):
        if key.rpartition(".")[2] == "_target_":
            _refuse_target(key, text, trusted)
        elif text != NOTHING:
            _refuse_resolver(key, text)


def _texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every text; the key of a text that is itself a key is the one above it."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "_target_" and not isinstance(value, str):
                raise ValueError(f"{key}._target_ is {value!r}; the dotted name of a class or function is wanted")
            yield from _texts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _texts(value, key)
    elif isinstance(node, str):
        yield key, node


def _refuse_target(key: str, target: str, trusted: Collection[str]) -> None:
    if not NAME.fullmatch(target):
        raise ValueError(f"{key} is {target!r}; the dotted name of a class or function is wanted, written out")
    if PUBLISHED.fullmatch(target) or any(target == name or target.startswith(f"{name}.") for name in trusted) or is_own(target):
        return
    if target.partition(".")[0] == PACKAGE.name:
        raise ValueError(f"{key}: audiotok has no {target} of its own that a config may name")
    raise ValueError(
        f"{key} names {target}, which is not audiotok's: nothing of it was imported. If you trust its code, say so: --trust "
        f"{target.partition('.')[0]}"
    )


def is_own(target: str) -> bool:
    """Whether a class or function of audiotok has this name where it is defined, or is a method of such a class.

    What a module only imports (audiotok.files.os.remove) is not its own.
    """
    top, *rest = target.split(".")
    folder = PACKAGE
    while rest and (folder / rest[0]).is_dir():
        folder /= rest.pop(0)
    module = folder / "__init__.py"
    if rest and (folder / f"{rest[0]}.py").is_file():
        module = folder / f"{rest.pop(0)}.py"
    if top != PACKAGE.name or not 1 <= len(rest) <= 2 or any(name.startswith("_") for name in rest):
        return False
    return re.search(rf"^(?:class|def) {rest[0]}\b", module.read_text(encoding="utf-8"), re.MULTILINE) is not None


def _refuse_resolver(key: str, text: str) -> None:
    names = {name.strip() for name in RESOLVER.findall(text)}
    if unknown := sorted(names - RESOLVERS) or (["${${"] if re.search(r"\$\{\s*\$", text) else []):
        raise ValueError(
            f"{key} is {text!r}: {unknown[0]} may make names of code out of text; only {', '.join(sorted(RESOLVERS))} may be used"
        )
    for name in ENVIRONMENT.findall(text):
        if files.SECRET.search(name) and not files.SECRET.search(key):
            raise ValueError(
                f"{key} is ${{oc.env:{name}}}, which would be saved with every output; give the setting a name that says what it is, "
                f"such as {key}_token, and it is left out of what is saved"
            )
