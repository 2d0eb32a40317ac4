"""One rank and several learn the same of the same batches, whole or sharded, and go on for each other."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_loop import CPU, SETTINGS, CodeModel, Frames, batch_at
from torch import Tensor, nn

from audiotok import distributed
from audiotok.data.batching import Share
from audiotok.training import checkpoint, logging
from audiotok.training.loop import fit

PROGRAM = """
import json, os, pathlib, signal, sys
import torch
import test_ranks
from audiotok import distributed

torch.set_num_threads(1)
distributed.start()
folder, runs = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])

def killed_once(step, values):
    if step == 8 and distributed.rank() == 1 and not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)

for name, changes in runs.items():
    test_ranks.train(folder / name, progress=killed_once if name == "restarted" else None, **changes)
"""


class Uneven(CodeModel):
    """Two heads of which a batch asks one, by its first code, a third that none does, and a mean that it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(11, 11) for _ in range(3))
        self.register_buffer("mean", torch.zeros(()))

    def loss(self, batch: Frames) -> tuple[Tensor, dict[str, Tensor]]:
        loss, values = super().loss(batch)
        if self.training:
            self.mean += 0.1 * (batch.codes_BN.float().mean() - self.mean)
        chosen = self.heads[int(batch.codes_BN[0, 0]) % 2]
        return loss + chosen(self.head.weight.T).square().mean(), values


def beginning(batch: Frames, code: int) -> Frames:
    """The batch with all its codes moved so that its first is this one."""
    return Frames((batch.codes_BN - batch.codes_BN[0, 0] + code) % 10)


MODELS = {"codes": CodeModel, "uneven": Uneven}


def train(folder: Path, *, model: str = "codes", progress=None, **changes) -> nn.Module:
    """Two batches a step, on however many ranks there are."""
    settings = replace(SETTINGS, accumulate=2, log_every=1, **changes)
    share = Share.here(settings.accumulate)

    def batches(step: int) -> Iterator[Frames]:
        return (beginning(batch_at(2 * later + number), number) for later, number in share.places(step))

    torch.manual_seed(distributed.rank())  # rank 0's weights are everyone's
    made = MODELS[model]()
    dev = [batch_at(1000)]
    fit(made, batches, folder=folder, settings=settings, seed=7, device=CPU, dev=dev, records={}, progress=progress)
    return made


def torchrun(folder: Path, runs: dict[str, dict], *, ranks: int = 2, restarts: int = 0) -> subprocess.CompletedProcess:
    folder.mkdir(exist_ok=True)
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--monitor-interval", "0.1", "--nproc-per-node", str(ranks)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), "OMP_NUM_THREADS": "1"}
    told = [*command, "--max-restarts", str(restarts), str(folder / "program.py"), str(folder), json.dumps(runs)]
    return subprocess.run(told, env=environment, capture_output=True, text=True, timeout=300)


def losses(folder: Path, split: str = "train") -> list[float]:
    return [entry["loss"] for entry in logging.read(folder) if entry["split"] == split]


def weights(folder: Path) -> dict[str, Tensor]:
    return checkpoint.load_file(checkpoint.latest(folder) / "ema.safetensors")


def moments(folder: Path) -> list[Tensor]:
    state = torch.load(checkpoint.latest(folder) / "training.pt", weights_only=True)["optimizer"]["state"]
    return [tensor for entry in state.values() for tensor in entry.values()]


def alike(one: Path, other: Path, *, tolerance: float) -> bool:
    names = weights(one).keys() == weights(other).keys()
    return names and all(torch.allclose(a, weights(other)[name], atol=tolerance, rtol=0) for name, a in weights(one).items())


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    ended = torchrun(
        folder,
        {
            "whole": {},
            "uneven": {"model": "uneven"},
            "sharded": {"sharding": "fsdp"},
            "uneven_sharded": {"model": "uneven", "sharding": "fsdp"},
        },
    )
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_one_rank_that_accumulates_and_two_that_share_have_the_same_loss_curve_and_weights(together: Path, tmp_path: Path) -> None:
    train(tmp_path)
    assert len(losses(tmp_path)) == 12 and losses(tmp_path) == pytest.approx(losses(together / "whole"), abs=1e-6)
    assert losses(tmp_path, "dev") == pytest.approx(losses(together / "whole", "dev"), abs=1e-6)
    assert alike(tmp_path, together / "whole", tolerance=1e-6)


def test_weights_that_few_batches_use_learn_alike_and_what_a_model_keeps_of_its_batches_is_rank_0s(together: Path, tmp_path: Path) -> None:
    train(tmp_path, model="uneven")
    found, wanted = weights(together / "uneven"), weights(tmp_path)
    assert losses(tmp_path) == pytest.approx(losses(together / "uneven"), abs=1e-6)
    assert all(torch.allclose(tensor, wanted[name], atol=1e-6, rtol=0) for name, tensor in found.items() if name != "mean")
    assert len(moments(together / "uneven")) == len(moments(tmp_path)), "a weight that no batch uses has no moments"
    sharded = weights(together / "uneven_sharded")
    assert losses(tmp_path) == pytest.approx(losses(together / "uneven_sharded"), abs=1e-5)
    assert all(
        torch.allclose(tensor, wanted[name], atol=1e-5, rtol=0) for name, tensor in sharded.items() if name[:7] not in ("mean", "heads.2")
    )


def test_sharded_ranks_learn_as_whole_ones_do_and_write_the_same_files(together: Path) -> None:
    assert losses(together / "sharded") == pytest.approx(losses(together / "whole"), abs=1e-5)
    assert losses(together / "sharded", "dev") == pytest.approx(losses(together / "whole", "dev"), abs=1e-5)
    assert alike(together / "sharded", together / "whole", tolerance=1e-5)
    shapes = [[tensor.shape for tensor in moments(together / name)] for name in ("sharded", "whole")]
    assert shapes[0] == shapes[1] and len(shapes[0]) > 20


@pytest.mark.parametrize("sharding", ["whole", "sharded"])
def test_one_rank_goes_on_where_two_were(together: Path, tmp_path: Path, sharding: str) -> None:
    shutil.copytree(together / sharding / "step_00000010", tmp_path / "step_00000010")
    train(tmp_path)
    assert losses(tmp_path) == pytest.approx(losses(together / "whole")[10:], abs=1e-5)
    assert alike(tmp_path, together / "whole", tolerance=1e-5)


def test_two_sharded_ranks_go_on_where_one_was_and_a_rank_that_is_killed_costs_no_bit(together: Path, tmp_path: Path) -> None:
    shutil.copytree(together / "whole" / "step_00000010", tmp_path / "taken_up" / "step_00000010")
    ended = torchrun(tmp_path, {"restarted": {}, "taken_up": {"sharding": "fsdp"}}, restarts=1)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "killed").exists()
    assert alike(tmp_path / "restarted", together / "whole", tolerance=0) and losses(tmp_path / "restarted") == losses(together / "whole")
    assert losses(tmp_path / "taken_up") == pytest.approx(losses(together / "whole")[10:], abs=1e-5)
    assert alike(tmp_path / "taken_up", together / "whole", tolerance=1e-5)


def test_batches_that_cannot_be_dealt_out_and_sharding_without_ranks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.accumulate=3 batches of a step cannot be dealt to 2 processes; set a multiple of 2"):
        Share(0, 2, 3)
    with pytest.raises(ValueError, match=r"train\.sharding=fsdp shares a model out among the processes of torchrun; start with it"):
        train(tmp_path, sharding="fsdp")
    with pytest.raises(ValueError, match=r"train\.sharding is none, fsdp; got 'zero'"):
        replace(SETTINGS, sharding="zero")
