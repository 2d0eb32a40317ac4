"""A checkpoint is whole or absent, complete, and never runs code."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from audiotok.training import checkpoint
from audiotok.training.checkpoint import TrainState
from audiotok.training.ema import EMA
from audiotok.training.optim import adamw


def fresh(width: int = 4) -> TrainState:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, 3), nn.Linear(3, 2))
    return TrainState(model, EMA(model, decay=0.9), adamw(model, learning_rate=0.1, weight_decay=0.1))


def stepped() -> TrainState:
    state = fresh()
    state.model(torch.ones(2, 4)).sum().backward()
    state.optimizer.step()
    state.step, state.count, state.sums = 3, 2, {"loss": torch.tensor(1.5)}
    state.ema.update(state.model, step=3)
    return state


def test_what_is_restored_is_what_was_saved(tmp_path: Path) -> None:
    saved, restored = stepped(), fresh()
    path = checkpoint.save(tmp_path, saved, records={"spec": {"rate": 40}, "config": {"seed": 1}}, keep=1)
    checkpoint.restore(path, restored)
    assert sorted(file.name for file in path.iterdir()) == [
        "audiotok.sha256",
        "config.json",
        "ema.safetensors",
        "model.safetensors",
        "spec.json",
        "training.pt",
    ]
    for one, other in ((saved.model, restored.model), (saved.ema.model, restored.ema.model)):
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))
    assert (restored.step, restored.count, restored.sums) == (3, 2, {"loss": torch.tensor(1.5)})
    for one, other in zip(saved.optimizer.state.values(), restored.optimizer.state.values()):
        assert all(torch.equal(one[key], other[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_an_interrupted_save_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = fresh()
    checkpoint.save(tmp_path, state, records={}, keep=5)
    state.step = 1

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path, state, records={}, keep=5)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000000"]


def test_the_newest_are_kept_and_what_a_killed_save_left_is_cleared(tmp_path: Path) -> None:
    state = fresh()
    (tmp_path / "step_00000002.partial").mkdir()
    assert checkpoint.latest(tmp_path) is None and checkpoint.latest(tmp_path / "absent") is None
    for step in (1, 2, 99_999_999, 100_000_000):
        state.step = step
        checkpoint.save(tmp_path, state, records={}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_100000000", "step_99999999"]
    assert checkpoint.latest(tmp_path).name == "step_100000000"


def test_another_model_is_refused_by_name_and_shape(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, fresh(), records={}, keep=1)
    with pytest.raises(ValueError, match=r"another model: 0\.weight is \[3, 4\], the model's is \[3, 5\]"):
        checkpoint.restore(path, fresh(width=5))
    with pytest.raises(ValueError, match=r"0\.bias is unexpected.*0\.layer\.bias is missing"):
        checkpoint.load_weights(path / "ema.safetensors", nn.Sequential(nn.ModuleDict({"layer": nn.Linear(4, 3)}), nn.Linear(3, 2)))


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "training.pt"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, share: float) -> None:
    path = checkpoint.save(tmp_path, stepped(), records={}, keep=1) / name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        checkpoint.restore(path.parent, fresh())


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt"])
def test_an_absent_file_is_named(tmp_path: Path, name: str) -> None:
    path = checkpoint.save(tmp_path, fresh(), records={}, keep=1)
    (path / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is not there"):
        checkpoint.restore(path, fresh())


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [lambda value, path: torch.save(value, path), lambda value, path: path.write_bytes(pickle.dumps(value))])
@pytest.mark.parametrize("name", ["model.safetensors", "training.pt"])
def test_a_pickle_is_never_executed(tmp_path: Path, name: str, write) -> None:
    path = checkpoint.save(tmp_path, fresh(), records={}, keep=1)
    write({"step": Bomb(tmp_path / "executed")}, path / name)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        checkpoint.restore(path, fresh())
    assert not (tmp_path / "executed").exists()


def test_tied_weights_are_saved_under_both_names(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    state = TrainState(model, EMA(model, decay=0.9), adamw(model, learning_rate=0.1, weight_decay=0.0))
    path = checkpoint.save(tmp_path, state, records={}, keep=1)
    weights = load_file(path / "model.safetensors")
    assert torch.equal(weights["0.weight"], weights["1.weight"])
    checkpoint.restore(path, state)
