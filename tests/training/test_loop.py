"""Training goes on as if never stopped, and stops where it must."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from audiotok import distributed
from audiotok.nn.transformer import Transformer
from audiotok.training import checkpoint, logging
from audiotok.training.loop import TrainSettings, fit, step_seed, validate

CPU = torch.device("cpu")
SETTINGS = TrainSettings(
    steps=12,
    learning_rate=1e-2,
    warmup_steps=3,
    weight_decay=0.01,
    max_norm=1.0,
    ema_decay=0.9,
    precision="fp32",
    log_every=2,
    save_every=5,
    validate_every=4,
    keep=2,
)


@dataclass(frozen=True)
class Frames:
    codes_BN: Tensor

    def to(self, device: torch.device) -> "Frames":
        return Frames(self.codes_BN.to(device))


class CodeModel(nn.Module):
    """A next-code model with dropout and noised inputs, so that a run shows whether its random numbers were restored."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.transformer = Transformer(16, layers=1, heads=2, feed_forward=24, dropout=0.2)
        self.head = nn.Linear(16, 11)

    def loss(self, batch: Frames) -> tuple[Tensor, dict[str, Tensor]]:
        codes = batch.codes_BN
        inputs = torch.where(torch.rand(codes.shape) < 0.2, 10, codes)[:, :-1]
        logits = self.head(self.transformer(self.embedding(inputs)))
        loss = nn.functional.cross_entropy(logits.float().transpose(1, 2), codes[:, 1:])
        return loss, {"accuracy": (logits.argmax(-1) == codes[:, 1:]).float().mean()}


def batch_at(step: int) -> Frames:
    start = torch.randint(10, (4, 1), generator=torch.Generator().manual_seed(step))
    return Frames((start + torch.arange(9)) % 10)


def batches(step: int) -> Iterator[Frames]:
    while True:
        yield batch_at(step)
        step += 1


def train(folder: Path, *, model: nn.Module | None = None, progress=None, **changes) -> nn.Module:
    torch.manual_seed(0)
    model = model or CodeModel()
    fit(
        model,
        batches,
        folder=folder,
        settings=replace(SETTINGS, **changes),
        seed=7,
        device=CPU,
        dev=[batch_at(1000), batch_at(1001)],
        records={"spec": {"sample_rate": 16000}},
        progress=progress,
    )
    return model


def digests(folder: Path) -> dict[str, bytes]:
    last = checkpoint.latest(folder)
    assert last is not None
    return {path.name: path.read_bytes() for path in last.iterdir() if path.suffix != ".pt"} | {"step": last.name.encode()}


def entries(folder: Path) -> list[dict]:
    return [{key: value for key, value in entry.items() if key != "time"} for entry in logging.read(folder)]


def same_training_state(one: Path, other: Path) -> bool:
    states = [torch.load(checkpoint.latest(folder) / "training.pt", weights_only=True) for folder in (one, other)]
    moments = [[tensor for entry in state["optimizer"]["state"].values() for tensor in entry.values()] for state in states]
    return len(moments[0]) > 0 and all(torch.equal(a, b) for a, b in zip(*moments))


KILLED_RUNS = """
import os, pathlib, random, signal, sys, time, test_loop, torch

torch.set_num_threads(1)
torch.optim.AdamW(test_loop.CodeModel().parameters())  # what PyTorch imports late is imported once, here
random.seed(3)
for _ in range(8):
    heard, told = os.pipe()
    if not (child := os.fork()):
        test_loop.train(pathlib.Path(sys.argv[1]), steps=100, save_every=1, progress=lambda step, values: os.write(told, b"."))
    os.close(told)
    for _ in range(random.randint(1, 9)):  # steps that it lives
        os.read(heard, 1)
    time.sleep(0.02 * random.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


class Stopped(Exception):
    pass


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So that sums are taken in the same order here and in the runs that are killed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_training_learns_what_there_is_to_learn(tmp_path: Path) -> None:
    train(tmp_path, steps=150, validate_every=50)
    dev = [entry for entry in entries(tmp_path) if entry["split"] == "dev"]
    assert dev[0]["loss"] > dev[-1]["loss"] and dev[-1]["accuracy"] > 0.6


@pytest.mark.parametrize("stopped_after", [1, 5, 7, 11])
def test_a_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_does(tmp_path: Path, stopped_after: int) -> None:
    whole = train(tmp_path / "whole")

    def stop(step: int, values: dict) -> None:
        if step == stopped_after:
            raise Stopped

    with pytest.raises(Stopped):
        train(tmp_path / "cut", progress=stop)
    torch.randn(17)
    resumed = train(tmp_path / "cut")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters()))
    assert digests(tmp_path / "whole") == digests(tmp_path / "cut")
    assert same_training_state(tmp_path / "whole", tmp_path / "cut")
    assert entries(tmp_path / "whole") == entries(tmp_path / "cut")


def test_a_run_killed_at_random_moments_ends_bit_for_bit_where_an_undisturbed_one_does(tmp_path: Path) -> None:
    """kill -9 while steps, logs and checkpoints are being written: every step saves."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    subprocess.run([sys.executable, "-c", KILLED_RUNS, str(tmp_path / "cut")], env=environment, check=True)
    assert 0 < int(checkpoint.latest(tmp_path / "cut").name[5:]) < 100, "no run was cut in the middle"
    train(tmp_path / "whole", steps=100, save_every=1)
    train(tmp_path / "cut", steps=100, save_every=1)
    assert digests(tmp_path / "whole") == digests(tmp_path / "cut")
    assert entries(tmp_path / "whole") == entries(tmp_path / "cut")
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["log.jsonl", "step_00000099", "step_00000100", "tensorboard"]


def test_every_seed_step_and_rank_has_random_numbers_of_its_own() -> None:
    assert len({step_seed(seed, step, rank=rank) for seed in range(9) for step in range(9) for rank in range(2)}) == 162
    assert 0 <= step_seed(1, 2, rank=0) < 2**63


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    train(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    train(tmp_path, progress=lambda step, values: pytest.fail("it trained again"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_the_log_holds_means_between_lines_and_the_mean_over_the_dev_set(tmp_path: Path) -> None:
    losses: dict[int, float] = {}
    train(tmp_path, progress=lambda step, values: losses.update({step: values["loss"]}))
    lines = entries(tmp_path)
    assert [(line["step"], line["split"]) for line in lines if line["split"] == "dev"] == [(4, "dev"), (8, "dev"), (12, "dev")]
    for line in lines:
        if line["split"] == "train":
            assert line["loss"] == pytest.approx((losses[line["step"]] + losses[line["step"] - 1]) / 2)
            assert {"accuracy", "grad_norm", "learning_rate"} <= line.keys()
    averaged = CodeModel().eval()
    checkpoint.load_weights(checkpoint.latest(tmp_path) / "ema.safetensors", averaged)
    torch.manual_seed(step_seed(7, 0, rank=0))
    with torch.no_grad():
        expected = sum(averaged.loss(batch_at(n))[0].item() for n in (1000, 1001)) / 2
    assert lines[-1]["loss"] == pytest.approx(expected, abs=1e-6)
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_validation_does_not_change_the_training(tmp_path: Path) -> None:
    often, never = train(tmp_path / "often", validate_every=1), train(tmp_path / "never", validate_every=100)
    assert all(torch.equal(a, b) for a, b in zip(often.parameters(), never.parameters()))


def test_validation_is_without_dropout_the_same_each_time_and_leaves_the_mode_as_it_was() -> None:
    model = CodeModel().train()
    first, second = (validate(model, [batch_at(0), batch_at(1)], settings=SETTINGS, seed=1) for _ in range(2))
    assert first == second and model.training
    assert first == validate(model.eval(), [batch_at(0), batch_at(1)], settings=SETTINGS, seed=1) and not model.training


def test_training_stops_at_a_loss_that_is_not_finite_and_names_the_last_checkpoint(tmp_path: Path) -> None:
    class Exploding(CodeModel):
        def loss(self, batch: Frames) -> tuple[Tensor, dict[str, Tensor]]:
            loss, values = super().loss(batch)
            return loss * (float("nan") if torch.equal(batch.codes_BN, batch_at(6).codes_BN) else 1), values

    with pytest.raises(FloatingPointError, match=r"loss nan.* at step 7; last checkpoint: .*step_00000005"):
        train(tmp_path, model=Exploding())
    assert checkpoint.latest(tmp_path).name == "step_00000005"


def test_training_stops_at_a_gradient_that_is_not_finite_before_the_weights_are_lost(tmp_path: Path) -> None:
    class Steep(CodeModel):
        def loss(self, batch: Frames) -> tuple[Tensor, dict[str, Tensor]]:
            loss, values = super().loss(batch)
            return loss + (self.head.weight.sum() * 0).abs().sqrt(), values

    model = Steep()
    with pytest.raises(FloatingPointError, match="gradient norm nan at step 1; last checkpoint: None"):
        train(tmp_path, model=model)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_training_in_bf16_resumes_bit_for_bit_with_weights_in_float32(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", precision="bf16")
    train(tmp_path / "cut", precision="bf16", steps=12)
    last = checkpoint.latest(tmp_path / "cut")
    assert last.name == "step_00000012"
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    resumed = train(tmp_path / "cut", precision="bf16")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters()))
    assert all(parameter.dtype is torch.float32 for parameter in whole.parameters())
    full = train(tmp_path / "full", precision="fp32")
    assert not all(torch.equal(a, b) for a, b in zip(whole.parameters(), full.parameters()))


def test_settings_that_would_never_end_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train.save_every is at least 1; got 0"):
        replace(SETTINGS, save_every=0)


def average(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1, 2))]
    weights[0].grad = torch.tensor([1.0, 2.0]) * (1 + rank)
    if rank:
        weights[1].grad = torch.tensor([[4.0, 6.0]])
    distributed.average_gradients(weights)
    distributed.barrier()
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (rank, 2, rank == 0)
    torch.save([weight.grad for weight in weights], f"{folder}/{rank}.pt")
    distributed.stop()


def test_gradients_are_averaged_over_processes(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(average, args=(str(tmp_path),), nprocs=2, start_method="fork")
    for rank in range(2):
        first, second = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert first.tolist() == [1.5, 3.0] and second.tolist() == [[2.0, 3.0]]


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    distributed.start()
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
