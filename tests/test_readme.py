"""The README's example is run as it stands there: its two files in a folder, then the stages from a shell in that folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch
from tiny import tiny_speech_folder

from audiotok import cli

README = (cli.ROOT / "README.md").read_text(encoding="utf-8")


def example_files() -> dict[str, str]:
    example = README.split("<!-- example -->")[1].split("<!-- /example -->")[0]
    return dict(re.findall(r"`([\w./]+)`\n```\w+\n(.*?)```", example, flags=re.DOTALL))


def test_the_example_tokenizer_works_from_the_shell_on_real_speech(tmp_path: Path, speech: Path):
    files = example_files()
    assert sum(text.count("\n") for text in files.values()) <= 40
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    root = tiny_speech_folder(tmp_path / "corpus", speech, utterances=3)
    settings = ["data=speech", f"data.root={root}", "tokenizer=mulaw", "select.min_words=1"]
    environment = os.environ | {"PYTHONPATH": str(cli.ROOT)}
    for stage in ("prepare", "tokenize", "decode"):
        command = [sys.executable, "-m", "audiotok.cli", stage, "prompts/resynthesis", *settings]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    decoded = sorted((tmp_path / "exp/prompts/resynthesis/audio/mulaw").glob("*.flac"))
    assert decoded


def test_the_example_tokenizer_is_close_to_what_it_heard(tmp_path: Path, wav_16k: torch.Tensor, monkeypatch):
    (tmp_path / "mulaw.py").write_text(example_files()["mulaw.py"])
    monkeypatch.syspath_prepend(str(tmp_path))
    import mulaw

    tokenizer = mulaw.MuLaw(sample_rate=16000, levels=256)
    length_B = torch.tensor([len(wav_16k)])
    codes_BKN, _ = tokenizer.encode(wav_16k[None], length_B)
    heard_BT, _ = tokenizer.decode(codes_BKN, length_B)
    noise = (heard_BT[0] - wav_16k).square().mean()
    assert 10 * torch.log10(wav_16k.square().mean() / noise) > 30


def test_the_readme_shows_both_commands_and_every_recipe_folder():
    assert "make demo" in README and "make test" in README
    for script in (cli.ROOT / "egs").rglob("run.sh"):
        assert str(script.parent.relative_to(cli.ROOT)) in README
