"""An installed package (not the clone) brings configs, recipes and the page's template, and its command works from anywhere."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from audiotok import cli


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content in a folder of its own."""
    pytest.importorskip("hatchling", reason="building a wheel needs hatchling, of the dev extra")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(cli.ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_a_wheel_carries_what_the_clone_has(installed: Path):
    for folder in ("configs", "recipes", "audiotok"):
        for path in (cli.ROOT / folder).rglob("*"):
            if path.suffix in (".yaml", ".py", ".j2", ".css", ".js", ".json", ".safetensors"):
                where = path.relative_to(cli.ROOT)
                assert (installed / (where if folder == "audiotok" else Path("audiotok") / where)).exists(), where


def test_the_installed_command_knows_its_recipes_anywhere(installed: Path, tmp_path: Path):
    program = f"import sys; sys.path.insert(0, {str(installed)!r}); from audiotok import cli; cli.main(['--help']); print(cli.ROOT)"
    shown = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "prompts/tts" in shown.stdout
    assert shown.stdout.strip().endswith(str(installed / "audiotok"))
