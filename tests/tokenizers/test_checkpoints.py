"""Checkpoints of the codecs of other packages: found, read as plain tensors, whole, or refused with the reason."""

import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_codecs
import torch
from hydra.utils import instantiate
from safetensors.torch import save_file

from audiotok import cli, files
from audiotok.tokenizers import checkpoints
from audiotok.tokenizers.base import Tokenizer
from audiotok.tokenizers.bigcodec import BigCodec
from audiotok.tokenizers.snac import Snac
from audiotok.tokenizers.speechtokenizer import SpeechTokenizer
from audiotok.tokenizers.wavtokenizer import WavTokenizer, build


@dataclass(frozen=True)
class Published:
    """A codec's checkpoint as it is published."""

    package: str
    filename: str
    write: Callable[[Path], Any]  # config and weights into a folder
    load: Callable[[Path], Tokenizer]


def load_wavtokenizer(folder: Path) -> WavTokenizer:
    network = build(**tiny_codecs.WAVTOKENIZER, ratios=tiny_codecs.RATIOS[40])
    filename = "model.safetensors" if (folder / "model.safetensors").exists() else "tiny.ckpt"
    return WavTokenizer.from_pretrained(folder, revision="main", filename=filename, network=network)


PUBLISHED = {
    "snac": Published(
        "snac",
        "pytorch_model.bin",
        lambda folder: tiny_codecs.snac(folder, 24000),
        lambda folder: Snac.from_pretrained(folder, revision="main", seed=0),
    ),
    "speechtokenizer": Published(
        "speechtokenizer",
        "SpeechTokenizer.pt",
        tiny_codecs.speechtokenizer,
        lambda folder: SpeechTokenizer.from_pretrained(folder, revision="main", num_codebooks=8),
    ),
    "bigcodec": Published(
        "bigcodec",
        "bigcodec.pt",
        tiny_codecs.bigcodec,
        lambda folder: BigCodec.from_pretrained(folder, revision="main", **tiny_codecs.BIGCODEC),
    ),
    "wavtokenizer": Published("vocos", "tiny.ckpt", lambda folder: tiny_codecs.wavtokenizer(folder / "tiny.ckpt", 40), load_wavtokenizer),
}


@pytest.fixture(params=PUBLISHED)
def published(request: pytest.FixtureRequest) -> Published:
    found = PUBLISHED[request.param]
    pytest.importorskip(found.package)
    return found


@pytest.fixture
def folder(published: Published, tmp_path: Path) -> Path:
    published.write(tmp_path)
    return tmp_path


def weights_of(tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors by name that lie in a checkpoint, however deep: those of its first part."""
    nested = [value for key, value in tensors.items() if isinstance(value, dict) and key in ("state_dict", "CodecEnc")]
    return nested[0] if nested else tensors


def test_a_weight_that_is_missing_renamed_or_of_another_shape_is_refused_by_name(published: Published, folder: Path) -> None:
    path = folder / published.filename
    whole = torch.load(path, weights_only=True)
    name = next(name for name in weights_of(whole) if name.endswith(("weight_v", "original1")) and "encoder.decoder" not in name)
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda state: state.pop(name),
        lambda state: state.update({f"{name}_more": state[name]}),
        lambda state: state.update({name: state[name][:1, :, :1]}),
        lambda state: state.update({name: "text"}),
    ]
    for change in changes:
        tensors = torch.load(path, weights_only=True)
        change(weights_of(tensors))
        torch.save(tensors, path)
        with pytest.raises(ValueError, match="not the weights of this network"):
            published.load(folder)
        torch.save(whole, path)
    assert published.load(folder).spec == published.load(folder).spec


def test_a_file_that_is_damaged_empty_or_no_checkpoint_is_refused(published: Published, folder: Path) -> None:
    path = folder / published.filename
    whole = path.read_bytes()
    for broken in (b"", b"not weights", whole[: len(whole) // 2], whole[:-100], whole[1000:], pickle.dumps([1, 2], protocol=2)):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"cannot be read as plain tensors|holds a list"):
            published.load(folder)


def test_the_weights_of_another_codec_are_refused(published: Published, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tiny_codecs.snac(tmp_path_factory.mktemp("other"), 32000)
    (other / "pytorch_model.bin").rename(folder / published.filename)
    with pytest.raises(ValueError, match=r"not the weights of this network|holds no CodecEnc and no generator"):
        published.load(folder)


NARROW = {
    "snac": ["tokenizer=snac_24khz"],
    "speechtokenizer": ["tokenizer=speechtokenizer"],
    "bigcodec": [
        "tokenizer=bigcodec",
        *(f"tokenizer.encoder.{key}={value}" for key, value in tiny_codecs.BIGCODEC["encoder"].items()),
        *(f"tokenizer.decoder.{key}={value}" for key, value in tiny_codecs.BIGCODEC["decoder"].items()),
    ],
    "wavtokenizer": [
        "tokenizer=wavtokenizer_40hz",
        "tokenizer.filename=tiny.ckpt",
        *(f"tokenizer.network.{key}={value}" for key, value in tiny_codecs.WAVTOKENIZER.items()),
    ],
}


@pytest.mark.parametrize("codec", PUBLISHED)
def test_the_yaml_of_a_codec_makes_it_from_a_local_folder(codec: str, tmp_path: Path) -> None:
    pytest.importorskip(PUBLISHED[codec].package)
    PUBLISHED[codec].write(tmp_path)
    cfg = cli.load("prompts/tts", [*NARROW[codec], f"tokenizer.name={tmp_path}"])
    assert instantiate(cfg.tokenizer).spec == PUBLISHED[codec].load(tmp_path).spec


class Trap:
    """Unpickled by a careless reader, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_code_pickled_into_a_checkpoint_is_not_run(published: Published, folder: Path) -> None:
    path, sprung = folder / published.filename, folder / "sprung"
    tensors = torch.load(path, weights_only=True)
    savers: list[Callable[[Any], Any]] = [
        lambda value: torch.save(value, path),
        lambda value: torch.save(value, path, _use_new_zipfile_serialization=False),
        lambda value: path.write_bytes(pickle.dumps(value, protocol=2)),
    ]
    for save in savers:
        save(tensors | {"trap": Trap(sprung)})
        with pytest.raises(ValueError, match="cannot be read as plain tensors"):
            published.load(folder)
        assert not sprung.exists()
    pickle.loads(path.read_bytes())  # noqa: S301
    assert sprung.exists(), "the trap itself works"


def test_a_safetensors_file_is_preferred_and_a_pickle_under_its_name_is_refused(published: Published, folder: Path) -> None:
    wanted = published.load(folder)
    tensors = torch.load(folder / published.filename, weights_only=True)
    if "CodecEnc" in tensors:
        tensors = dict(tiny_codecs.bigcodec_network().state_dict())
    save_file({name: tensor.contiguous() for name, tensor in tensors.get("state_dict", tensors).items()}, folder / "model.safetensors")
    (folder / published.filename).write_bytes(b"not weights")
    assert published.load(folder).spec == wanted.spec
    torch.save(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: cannot be read as plain tensors"):
        published.load(folder)


def test_a_missing_package_is_told_with_the_extra_that_brings_it(
    published: Published, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [module for module in sys.modules if module.split(".")[0] == published.package]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, published.package, None)
    with pytest.raises(ValueError, match=r"pip install 'audiotok\["):
        published.load(folder)


def test_a_folder_without_the_checkpoint_and_a_name_that_is_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"holds no model\.safetensors or weights\.bin; download the whole checkpoint"):
        checkpoints.located(tmp_path, "model.safetensors", "weights.bin", revision="main")
    for name in (tmp_path / "absent", "absent", ""):
        with pytest.raises(ValueError, match=r"neither a folder nor a model on the hub|holds no"):
            checkpoints.located(name, "model.safetensors", revision="main")
    (tmp_path / "file.bin").touch()
    with pytest.raises(ValueError, match=r"name the folder of config\.json"):
        checkpoints.located(tmp_path / "file.bin", "config.json", revision="main")
    assert checkpoints.weights_file(tmp_path / "file.bin", "other.bin", revision="main") == tmp_path / "file.bin"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub with one model, on a machine without a network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model, commit = tmp_path / "models--owner--codec", "0123456789abcdef0123456789abcdef01234567"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    (model / "blobs").mkdir()
    (model / "snapshots" / commit / "part").mkdir(parents=True)
    torch.save({"a": torch.ones(2)}, model / "weights.bin")
    blob = model / "blobs" / files.file_digest(model / "weights.bin")
    (model / "weights.bin").rename(blob)
    (model / "snapshots" / commit / "part" / "weights.bin").symlink_to(blob)
    return model


def test_a_model_on_the_hub_is_read_from_the_cache_by_its_folder_and_revision(cache: Path) -> None:
    path = checkpoints.located("owner/codec/part", "model.safetensors", "weights.bin", revision="main")
    assert checkpoints.read(path)["a"].tolist() == [1, 1]
    for name, revision in (("owner/codec", "main"), ("owner/codec/part", "v2"), ("owner/other", "main")):
        with pytest.raises(ValueError, match=r"no such folder, and the hub .* name its folder"):
            checkpoints.located(name, "weights.bin", revision=revision)
    with pytest.raises(ValueError, match="the hub gives nothing"):
        checkpoints.located("owner/co..dec", "weights.bin", revision="main")


def test_a_file_must_have_the_sha_256_under_which_the_hub_keeps_it(cache: Path) -> None:
    path = checkpoints.located("owner/codec/part", "weights.bin", revision="main")
    damaged = path.read_bytes()[:-1] + b"?"
    path.resolve().write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged, its SHA-256 does not begin with"):
        checkpoints.read(path)


def test_a_file_must_have_the_sha_256_that_ends_its_name(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "own.bin")
    path = (tmp_path / "own.bin").rename(tmp_path / f"own-{files.file_digest(tmp_path / 'own.bin')[:8]}.bin")
    assert checkpoints.read(path)["a"].tolist() == [1, 1]
    with pytest.raises(ValueError, match="damaged, its SHA-256 does not begin with 0123abcd"):
        checkpoints.read(path.rename(tmp_path / "own-0123abcd.bin"))
