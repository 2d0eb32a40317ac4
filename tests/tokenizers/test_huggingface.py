import builtins
import json
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_transformers
import torch
from safetensors.torch import load_file, save_file

from audiotok.tokenizers import huggingface
from audiotok.tokenizers.dac import Dac
from audiotok.tokenizers.xcodec import Xcodec, Xcodec2

transformers = pytest.importorskip("transformers")
KINDS: dict[str, Callable[..., Path]] = {
    "DacModel": tiny_transformers.dac,
    "MimiModel": tiny_transformers.mimi,
    "XcodecModel": tiny_transformers.xcodec,
    "Xcodec2Model": tiny_transformers.xcodec2,
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(kind: str, tmp_path: Path) -> Path:
    return KINDS[kind](tmp_path / kind)


def refused(kind: str, folder: Path, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        huggingface.load(kind, folder, revision="main")
    assert str(caught.value).startswith(str(folder))


def test_what_is_loaded_is_what_was_saved_in_float32(kind: str, folder: Path) -> None:
    saved = getattr(transformers, kind).from_pretrained(folder).state_dict()
    getattr(transformers, kind).from_pretrained(folder).bfloat16().save_pretrained(folder)
    network = huggingface.load(kind, folder, revision="main")
    assert not network.training and network.state_dict().keys() == saved.keys()
    for name, tensor in network.state_dict().items():
        rounded = saved[name].bfloat16().float() if saved[name].is_floating_point() else saved[name]
        assert tensor.dtype == saved[name].dtype and torch.equal(tensor, rounded)


def test_a_missing_weight_is_refused_by_name(kind: str, folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    needed = [name for name in weights if not name.endswith("masked_spec_embed")]
    for name in (min(needed), max(needed), min(name for name in weights if name.startswith("quantizer"))):
        save_file({other: tensor for other, tensor in weights.items() if other != name}, path, {"format": "pt"})
        refused(kind, folder, rf"1 weights of {kind} are not in it \(.*\.{name.split('.')[-1]}, \.\.\.\); fetch the whole")
    save_file({}, path, {"format": "pt"})
    refused(kind, folder, f"weights of {kind} are not in it")


@pytest.mark.parametrize("load", [partial(Xcodec.from_pretrained, num_codebooks=2), Xcodec2.from_pretrained])
def test_a_weight_that_only_training_uses_may_be_missing_and_is_no_part_of_the_fingerprint(load: Any, tmp_path: Path) -> None:
    folder = KINDS["Xcodec2Model" if load == Xcodec2.from_pretrained else "XcodecModel"](tmp_path)
    fingerprint = load(folder, revision="main").spec.fingerprint
    weights = load_file(folder / "model.safetensors")
    without = {name: tensor for name, tensor in weights.items() if not name.endswith("masked_spec_embed")}
    assert len(without) == len(weights) - 1
    save_file(without, folder / "model.safetensors", {"format": "pt"})
    assert load(folder, revision="main").spec.fingerprint == fingerprint


def test_a_checkpoint_of_another_architecture_is_refused_and_named(kind: str, folder: Path) -> None:
    others = {name: other for name, other in KINDS.items() if name != kind}
    for name in others:
        refused(name, folder, f"it is a checkpoint of {kind.removesuffix('Model').lower()}, {name.removesuffix('Model').lower()} is wanted")
    (folder / "config.json").write_text("{}")
    refused(kind, folder, "it is a checkpoint of no known architecture")


def test_a_weight_of_another_shape_is_refused(kind: str, folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = max((name for name in weights if weights[name].ndim > 1), key=lambda name: weights[name].numel())
    save_file(weights | {name: weights[name][:-1].clone()}, path, {"format": "pt"})
    refused(kind, folder, f"cannot be loaded as {kind}")


def test_a_truncated_or_damaged_file_is_refused(kind: str, folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for broken in (b"", b"not weights", whole[:1000], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(broken)
        refused(kind, folder, f"cannot be loaded as {kind}")


def test_a_folder_that_is_absent_or_lacks_its_parts_is_refused(kind: str, folder: Path, tmp_path: Path) -> None:
    refused(kind, tmp_path / "nowhere", f"cannot be loaded as {kind}")
    (folder / "model.safetensors").unlink()
    refused(kind, folder, "with its weights as safetensors")
    (folder / "config.json").write_text("{")
    refused(kind, folder, f"cannot be loaded as {kind}")
    (folder / "config.json").unlink()
    refused(kind, folder, f"cannot be loaded as {kind}")


def test_settings_of_another_type_are_refused(tmp_path: Path) -> None:
    folder = tiny_transformers.dac(tmp_path)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"codebook_size": "many"}))
    refused("DacModel", folder, "codebook_size")


class Trap:
    """Unpickled by a careless reader, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin", "weights.pth", "model.safetensors"])
def test_code_pickled_into_a_checkpoint_is_not_run(name: str, tmp_path: Path) -> None:
    folder, sprung = tiny_transformers.dac(tmp_path / "dac"), tmp_path / "sprung"
    (folder / "model.safetensors").unlink()
    path = folder / name
    for save in (lambda: torch.save({"trap": Trap(sprung)}, path), lambda: path.write_bytes(pickle.dumps(Trap(sprung)))):
        save()
        with pytest.raises(ValueError, match="with its weights as safetensors"):
            Dac.from_pretrained(folder, revision="main", num_codebooks=1)
        assert not sprung.exists()
    pickle.loads(path.read_bytes())  # noqa: S301 -- what a careless reader would have done
    assert sprung.exists()


def test_code_beside_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    folder, sprung = tiny_transformers.dac(tmp_path / "dac"), tmp_path / "sprung"
    settings = json.loads((folder / "config.json").read_text())
    code = {"auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}, "model_type": "own"}
    (folder / "own.py").write_text(f"import os; os.mkdir({str(sprung)!r})")
    (folder / "config.json").write_text(json.dumps(settings | code))
    refused("DacModel", folder, "it is a checkpoint of own, dac is wanted")
    (folder / "config.json").write_text(json.dumps(settings | code | {"model_type": "dac"}))
    Dac.from_pretrained(folder, revision="main", num_codebooks=1)
    assert not sprung.exists()


def test_a_class_that_transformers_does_not_have_names_the_upgrade() -> None:
    with pytest.raises(ValueError, match=r"NoSuchModel is not in transformers .*pip install --upgrade 'audiotok\[transformers\]'"):
        huggingface.load("NoSuchModel", "anywhere", revision="main")


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"not installed; pip install 'audiotok\[transformers\]'"):
        huggingface.load("DacModel", "anywhere", revision="main")
