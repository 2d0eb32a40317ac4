"""Imports go down the layers, and what only one file may touch is touched by no other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import audiotok

LAYERS = [
    {"storage", "checksums"},
    {"publishing"},
    {"types", "files", "distributed"},
    {"trust"},
    {"audio"},
    {"nn"},
    {"tokenizers", "transforms", "store"},
    {"reductions"},
    {"data"},
    {"models", "decoding"},
    {"training"},
    {"evaluation", "synthesis"},
    {"bench"},
    {"stages"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
PACKAGE = Path(audiotok.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 400, 60


def imports(source: str) -> Iterator[str]:
    """The full name of everything imported, `from a import b` as a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def upward(part: str, source: str) -> list[str]:
    """The imports of audiotok that a file of this part may not make."""
    parts = [name.split(".") for name in imports(source)]
    return [".".join(name) for name in parts if name[0] == "audiotok" and len(name) > 1 and name[1] != part and not lower(name[1], part)]


def lower(name: str, part: str) -> bool:
    return name not in RANK or RANK[name] < RANK[part]  # audiotok.__version__ has no rank


def users(prefix: str) -> set[str]:
    """The files that import a package or part of it."""
    return {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if any(name == prefix or name.startswith(f"{prefix}.") for name in imports(path.read_text(encoding="utf-8")))
    }


def functions(source: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_part_has_its_layer() -> None:
    assert {part_of(path) for path in FILES} - {"__init__"} <= RANK.keys()


@pytest.mark.parametrize("part", sorted(RANK))
def test_imports_go_down(part: str) -> None:
    found = {str(path.relative_to(PACKAGE)): upward(part, path.read_text(encoding="utf-8")) for path in FILES if part_of(path) == part}
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize(
    ("prefix", "allowed"),
    [
        ("torch.distributed", {"distributed.py"}),
        ("fsspec", {"storage.py"}),
        ("soundfile", {"audio.py"}),
        ("torchaudio.functional", {"audio.py"}),
    ],
)
def test_only_one_file_touches(prefix: str, allowed: set[str]) -> None:
    assert users(prefix) <= allowed


@pytest.mark.parametrize("prefix", ["hydra", "omegaconf"])
def test_configuration_is_read_by_the_command_line_and_the_stages_alone(prefix: str) -> None:
    assert {path for path in users(prefix) if path != "cli.py" and not path.startswith("stages/")} == set()


def test_functions_and_files_are_short() -> None:
    long = {}
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        long |= {f"{path.relative_to(PACKAGE)}:{name}": lines for name, lines in functions(source) if lines > LONGEST_FUNCTION}
        long |= {str(path.relative_to(PACKAGE)): lines for lines in [source.count("\n")] if lines > LONGEST_FILE}
    assert not long


def test_these_checks_see_what_they_should() -> None:
    assert upward("nn", "from audiotok.models import ar_tts") == ["audiotok.models.ar_tts"]
    assert upward("models", "import audiotok.decoding.samplers") == ["audiotok.decoding.samplers"]
    assert upward("models", "from audiotok import files, decoding") == ["audiotok.decoding"]
    assert (
        upward("models", "from audiotok.nn import transformer\nfrom audiotok.models import other\nfrom audiotok import __version__") == []
    )
    assert list(imports("from torch import distributed")) == ["torch.distributed"]
    assert list(functions("def f():\n    pass\n\nclass A:\n    async def g(self):\n        x = 1\n        return x\n")) == [
        ("f", 2),
        ("g", 3),
    ]
