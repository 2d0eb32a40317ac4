"""Weights in files: to the bit, or rounded within half a step; what is not the network's is refused, and no pickle is run."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from audiotok.tokenizers import weights


class Every(nn.Module):
    """Weights of every kind."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.matrix = nn.Linear(width, 40)
        self.tied = self.matrix.weight
        self.scale = nn.Parameter(torch.randn(7))
        self.kernel = nn.Parameter(torch.randn(3, 4, 5))
        self.short = nn.Parameter(torch.randn(6).bfloat16())
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("turned", torch.randn(5, 6).T)
        self.register_buffer("derived", torch.randn(5), persistent=False)


def every(seed: int, **sizes: int) -> Every:
    torch.manual_seed(seed)
    return Every(**sizes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    weights.save(every(0), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one.state_dict().values(), other.state_dict().values()))


def test_what_was_saved_is_loaded_to_the_bit(path: Path) -> None:
    loaded = every(1)
    assert not same(loaded, every(0))
    weights.load(loaded, path)
    assert same(loaded, every(0)) and weights.digest(loaded) == weights.digest(every(0))


def test_those_who_can_read_other_files_can_read_weights(path: Path) -> None:
    (path.parent / "other").touch()
    assert path.stat().st_mode == (path.parent / "other").stat().st_mode


def test_rounded_matrices_are_within_half_a_step_of_their_row_and_all_else_is_exact(tmp_path: Path) -> None:
    network = every(0)
    with torch.no_grad():
        network.matrix.weight[3] = 0
        network.matrix.weight[5] *= 1000
    weights.save(network, tmp_path / "small.safetensors", rounded=True)
    network_again = every(1)
    weights.load(network_again, tmp_path / "small.safetensors")
    loaded = network_again.state_dict()
    for name, whole in network.state_dict().items():
        if whole.ndim >= 2:
            half_step = whole.abs().amax(dim=-1, keepdim=True) / 127 / 2
            assert ((loaded[name] - whole).abs() <= half_step * 1.01).all() and not torch.equal(loaded[name], whole)
            assert torch.equal(loaded[name].eq(0).all(dim=-1), whole.eq(0).all(dim=-1))
        else:
            assert torch.equal(loaded[name], whole)


def test_rounded_weights_take_a_quarter_of_the_space_and_rounding_them_again_changes_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(256, 768), nn.Linear(768, 256))
    paths = [tmp_path / f"{name}.safetensors" for name in ("whole", "small", "again")]
    weights.save(network, paths[0])
    weights.save(network, paths[1], rounded=True)
    weights.load(network, paths[1])
    weights.save(network, paths[2], rounded=True)
    assert paths[1].stat().st_size < 0.26 * paths[0].stat().st_size
    assert paths[1].read_bytes() == paths[2].read_bytes()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state.pop("matrix.bias"), r"matrix\.bias is missing"),
        (lambda state: state.update(more=torch.zeros(1)), "more is unexpected"),
        (lambda state: state.update(scale=torch.zeros(8)), r"scale is \[8\], the network's is \[7\]"),
        (lambda state: state.update(scale=torch.zeros(7, dtype=torch.int32)), r"scale is torch\.int32 \[7\]"),
        (lambda state: state.update(count=torch.tensor(3.0)), r"count is \[\], the network's is torch\.int64 \[\]"),
        (lambda state: [state.update({f"more{number}": torch.zeros(1)}) for number in range(12)], "and 4 more"),
        (lambda state: state.update({"matrix.weight.int8": torch.zeros(40, 24, dtype=torch.int8)}), r"needs a matrix\.weight\.scale"),
        (lambda state: state.update({"kernel.int8": state.pop("kernel").to(torch.int8)}), r"needs a kernel\.scale"),
        (
            lambda state: state.update({"turned.int8": state.pop("turned").to(torch.int8), "turned.scale": torch.ones(5, 1)}),
            r"turned\.int8 needs a turned\.scale with one number for each row",
        ),
        (
            lambda state: state.update({"turned.int8": state["turned"].to(torch.int8), "turned.scale": torch.ones(6, 1)}),
            "and no turned besides",
        ),
    ],
)
def test_the_weights_of_another_network_are_refused_by_name(path: Path, change: Callable[[dict[str, Tensor]], Any], told: str) -> None:
    state = load_file(path)
    change(state)
    save_file(state, path)
    with pytest.raises(ValueError, match=told) as caught:
        weights.load(every(1), path)
    assert str(path) in str(caught.value)


def test_a_refused_file_leaves_the_network_as_it_was(path: Path) -> None:
    save_file({name: tensor for name, tensor in load_file(path).items() if name != "scale"}, path)
    network = every(1)
    with pytest.raises(ValueError, match="scale is missing"):
        weights.load(network, path)
    assert same(network, every(1))


def test_a_file_that_is_damaged_absent_or_none_is_refused(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    (tmp_path / "folder.safetensors").mkdir()
    for broken in (b"", b"\0" * 8, b"not weights", whole[:4], whole[:60], whole[: len(whole) // 2], whole[:-1], whole[1:], whole + b"\0"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="damaged, or no safetensors file"):
            weights.load(every(1), path)
    with pytest.raises(ValueError, match="no such file"):
        weights.load(every(1), tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="damaged, or no safetensors file"):
        weights.load(every(1), tmp_path / "folder.safetensors")


class Trap:
    """Unpickled by a careless reader, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("written", ["zip", "legacy", "pickle"])
def test_a_pickle_under_the_name_of_safetensors_is_refused_and_not_run(path: Path, tmp_path: Path, written: str) -> None:
    payload = {"trap": Trap(tmp_path / "sprung"), **every(0).state_dict()}
    if written == "pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=written == "zip")
    with pytest.raises(ValueError, match="pickles are never read"):
        weights.load(every(1), path)
    assert not (tmp_path / "sprung").exists()
    path = path.rename(path.with_suffix(".bin"))
    torch.load(path, weights_only=False) if written != "pickle" else pickle.loads(path.read_bytes())  # noqa: S301
    assert (tmp_path / "sprung").exists(), "the trap itself works"


def test_the_digest_is_of_names_types_shapes_and_values_and_of_nothing_else() -> None:
    wanted = weights.digest(every(0))
    assert weights.digest(every(0).requires_grad_(False).eval()) == wanted
    changed = [every(1), every(0, width=12), every(0).half()]
    changed.append(every(0))
    with torch.no_grad():
        changed[-1].count += 1
    assert len({wanted, *map(weights.digest, changed)}) == 5
    renamed = nn.ModuleDict({"one": nn.Identity()})
    renamed.register_buffer("a", torch.zeros(2))
    other = nn.Module()
    other.register_buffer("b", torch.zeros(2))
    assert weights.digest(renamed) != weights.digest(other)
    assert weights.digest(every(0), without=("count",)) == weights.digest(changed[-1], without=("count",)) != wanted
