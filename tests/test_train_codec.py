"""The train_codec stage: it learns from real speech, does nothing twice, and is none the worse for being killed."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from tiny import tiny_speech_folder

from audiotok import cli, files
from audiotok.data.manifests import load_cuts
from audiotok.data.tokenization import read_cut
from audiotok.stages import paths, prepare, train_codec
from audiotok.tokenizers.codec import Codec
from audiotok.tokenizers.vocoder import Vocoded

ROOT = Path(__file__).resolve().parents[1]
SMALL = """
    encoder.mel.num_mels=40 encoder.width=32 encoder.layers=1 encoder.kernel=3 encoder.expansion=2
    quantiser.dim=16 quantiser.num_codebooks=3 quantiser.codebook_size=32
    model.decoder.width=32 model.decoder.layers=2 model.decoder.kernel=3 model.decoder.expansion=2
    model.decoder.attention_every=2 model.decoder.heads=2 model.decoder.window=4
    crops.seconds=0.4 crops.batch_size=4 crops.dev_batches=1
    train.steps=12 train.learning_rate=4e-3 train.warmup_steps=2 train.precision=fp32
    train.log_every=1 train.save_every=5 train.validate_every=4 train.ema_decay=0.8
    prepare.workers=1 device=cpu
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So that sums are taken in the same order here and in the runs that are killed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cfg(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    """A prepared tiny corpus and a small codec."""
    root = tmp_path_factory.mktemp("train_codec")
    corpus = tiny_speech_folder(root / "corpus", speech, utterances=8)
    config = cli.load("codec/default", ["data=speech", f"data.root={corpus}", f"exp_root={root / 'exp'}", *SMALL.split()])
    prepare.run(config)
    return config


@pytest.fixture(scope="module")
def trained(cfg: DictConfig) -> Path:
    torch.set_num_threads(1)
    train_codec.run(cfg)
    return paths.codec(cfg)


def log(folder: Path, split: str) -> list[dict]:
    return [row for row in files.read_jsonl(folder / "log.jsonl") if row["split"] == split]


def test_the_loss_falls_on_real_speech_and_the_folder_is_a_codec(cfg: DictConfig, trained: Path) -> None:
    dev = log(trained, "dev")
    assert [row["step"] for row in dev] == [4, 8, 12] and dev[-1]["loss"] < dev[0]["loss"]
    train = log(trained, "train")
    assert train[-1]["mel"] < 0.9 * train[0]["mel"] and {"stft", "commitment", "grad_norm"} <= train[0].keys()

    codec = Codec.from_pretrained(trained)
    assert codec.spec.codebook_sizes == (32,) * 3 and codec.spec.frame_rate == 50
    wav_T = read_cut(next(iter(load_cuts(paths.manifests(cfg), "test"))), 16000)
    codes_BKN, frames_B = codec.encode(wav_T[None], torch.tensor([len(wav_T)]))
    sound_BT, lengths_B = codec.decode(codes_BKN, frames_B)
    assert len(codes_BKN.unique()) > 8 and sound_BT.abs().max() > 0 and lengths_B.item() == -(-len(wav_T) // 320) * 320


def test_what_is_exported_are_the_averaged_weights(trained: Path) -> None:
    ours = load_file(trained / "model.safetensors")
    averaged, last = (load_file(trained / "step_00000012" / f"{name}.safetensors") for name in ("ema", "model"))
    compared = [name for name in ours if name.startswith(("encoder", "decoder"))]
    assert len(compared) > 10 and all(torch.equal(ours[name], averaged[name]) for name in compared)
    assert not all(torch.equal(averaged[name], last[name]) for name in compared)


def contents_of(root: Path) -> dict[str, str]:
    return kill_check().contents(root)


def kill_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kill_check", ROOT / "tools" / "kill_check.py")
    assert spec is not None and spec.loader is not None
    sys.modules["kill_check"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_second_run_changes_nothing_and_says_so(cfg: DictConfig, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    capsys.readouterr()
    train_codec.run(cfg)
    assert "is there already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_other_settings_are_refused_by_name(cfg: DictConfig, trained: Path) -> None:
    for key, value in (("train.steps", 13), ("quantiser.num_codebooks", 2), ("encoder.layers", 2), ("crops.balance", 0.5), ("seed", 7)):
        other = cfg.copy()
        OmegaConf.update(other, key, value)
        with pytest.raises(ValueError, match=rf"made with other settings .*{key.rpartition('.')[2]}: .* now"):
            train_codec.run(other)
    with pytest.raises(ValueError, match="audiotok prepare"):
        other = cfg.copy()
        other.exp_root = f"{cfg.exp_root}_elsewhere"
        train_codec.run(other)


KILLED_RUNS = """
import os, pathlib, random, signal, sys, time, torch
from omegaconf import OmegaConf
from audiotok.stages import paths, train_codec

torch.set_num_threads(1)
torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # what PyTorch imports late is imported once, here
cfg = OmegaConf.load(sys.argv[1])
partial = paths.codec(cfg).with_name("codec.partial")
random.seed(5)

def steps():
    return max((int(path.name[5:]) for path in partial.glob("step_????????")), default=0)

def start():
    if not (child := os.fork()):
        train_codec.run(cfg)
        os._exit(0)
    return child

cut = []
for _ in range(3):
    wanted, child = steps() + random.randint(1, 3), start()
    while steps() < wanted:
        time.sleep(0.005)
    time.sleep(0.05 * random.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    cut.append(steps())
assert os.waitpid(start(), 0)[1] == 0
print(cut)
"""


def test_a_run_killed_at_random_moments_ends_with_the_bytes_of_an_undisturbed_one(cfg: DictConfig, tmp_path: Path) -> None:
    often = cfg.copy()
    often.exp_dir = str(tmp_path / "often")
    OmegaConf.update(often, "train.save_every", 1)
    OmegaConf.update(often, "train.steps", 16)
    train_codec.run(often)
    whole = contents_of(tmp_path / "often")
    shutil.rmtree(tmp_path / "often")

    OmegaConf.save(often, tmp_path / "often.yaml")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", KILLED_RUNS, str(tmp_path / "often.yaml")], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    cut = json.loads(ran.stdout.splitlines()[-1])
    assert len(cut) == 3 and 0 < cut[0] < cut[-1] < 16, "no run was cut in the middle"
    assert contents_of(tmp_path / "often") == whole
    assert {"codec/model.safetensors", "codec/config.json", "codec/step_00000016/training.pt"} <= whole.keys()


def test_a_vocoder_is_trained_by_the_same_stage(cfg: DictConfig, tmp_path: Path) -> None:
    vocoder = cfg.copy()
    OmegaConf.set_struct(vocoder, False)
    vocoder.exp_dir = str(tmp_path)
    decoder = OmegaConf.to_container(cfg.model.decoder, resolve=True) | {"dim": 80, "n_fft": 800, "hop": 400}
    distance = OmegaConf.to_container(cfg.model.distance, resolve=True)
    vocoder.model = {
        "_target_": "audiotok.models.vocoder.VocoderModel",
        "tokenizer": "${tokenizer}",
        "decoder": decoder,
        "voice": None,
        "distance": distance,
    }
    train_codec.run(vocoder)
    train = log(paths.codec(vocoder), "train")
    assert train[-1]["mel"] < 0.9 * train[0]["mel"]

    own = OmegaConf.to_container(cfg.tokenizer, resolve=True)
    spoken = Vocoded.from_pretrained(paths.codec(vocoder), tokenizer=instantiate(own), voice=None)
    wav_T = read_cut(next(iter(load_cuts(paths.manifests(cfg), "test"))), 16000)
    sound_BT, _ = spoken.decode(*spoken.encode(wav_T[None], torch.tensor([len(wav_T)])))
    assert sound_BT.abs().max() > 0
    with pytest.raises(ValueError, match="trained on codes"):
        Vocoded.from_pretrained(paths.codec(vocoder), tokenizer=instantiate(own | {"num_levels": 8}), voice=None)
