"""Real speech for the tests, where it is at hand; a test that needs it skips with the reason where it is not."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems() -> None:
    _without_lazy_files()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    _without_lazy_files()


def _without_lazy_files() -> None:
    """Hypothesis asks every module that is there for its file; speechbrain's lazy ones would import packages that are not."""
    lazy = sys.modules.get("speechbrain.utils.importutils")
    if lazy is not None:
        lazy.LazyModule.__file__ = None


@pytest.fixture(scope="session")
def speech() -> Path:
    """A folder of real speech with a manifest.tsv."""
    folder = Path(os.environ.get("AUDIOTOK_SPEECH", ROOT.parent / "shared" / "speech"))
    if not (folder / "manifest.tsv").exists():
        pytest.skip("no real speech here: set AUDIOTOK_SPEECH to a folder with a manifest.tsv")
    return folder


@pytest.fixture(scope="session")
def lyra_models() -> Path:
    """The folder of Lyra V2's three .tflite files."""
    folder = Path(os.environ.get("AUDIOTOK_LYRA", ROOT.parent / "shared" / "models" / "lyra_v2"))
    if not (folder / "quantizer.tflite").exists():
        pytest.skip("no Lyra V2 weights here: set AUDIOTOK_LYRA to the folder of its .tflite files")
    return folder


@pytest.fixture(scope="session")
def wav_16k(speech: Path) -> Tensor:
    """About three seconds of real speech at 16 kHz, [T]."""
    import soundfile

    path = speech / "librispeech" / "test-other" / "1688-142285-0002.flac"
    return torch.from_numpy(soundfile.read(path, dtype="float32")[0])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright to test the page in a browser")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required", *quiet],
        )
        yield launched
        launched.close()
