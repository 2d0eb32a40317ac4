"""A Ray cluster of three nodes on loopback does what processes here do, and goes on where a worker or a node is lost."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_tokenize import CPU, Loudness, cut_of, digests
from tiny import tiny_speech_folder

from audiotok import cli
from audiotok.bench import grid
from audiotok.bench.checks import Broken
from audiotok.data.engines import Processes, Ray
from audiotok.data.tokenization import encoder, tokenize_cuts
from audiotok.stages import prepare, reduce, tokenize

ray = pytest.importorskip("ray", reason="a cluster of workers needs Ray: pip install 'audiotok[ray]'")
from ray.cluster_utils import Cluster  # noqa: E402

MIB = 2**20
NODE = {"num_cpus": 1, "object_store_memory": 80 * MIB, "include_log_monitor": False, "no_monitor": True}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes, with one CPU each."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_prestart_worker_first_driver": "0"}
    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    for _ in range(2):
        made.add_node(**NODE)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def engine(cluster: Cluster) -> Ray:
    return Ray(address=cluster.address, num_cpus=1, num_gpus=0, retries=2, patience=120)


def squares(folder: Path) -> Callable[[Any], tuple[Any, str]]:
    """Squares, with the node that made them; some tasks are words."""

    def work(task: Any) -> tuple[Any, str]:
        if task == "dies":
            os._exit(7)
        if task == "dies once" and not (folder / "died").exists():
            (folder / "died").touch()
            os._exit(7)
        if task == "hangs":
            time.sleep(600)
        if task == "fails":
            raise TypeError("no number")
        time.sleep(0.05)
        return task * task if isinstance(task, int) else task, ray.get_runtime_context().get_node_id()

    return work


def refused() -> Callable[[Any], Any]:
    raise ValueError("no such weights")


def pool(engine: Ray | Processes, make: Callable, *, asked: Any = "auto") -> Any:
    return engine.workers(make, asked=asked, setting="tokenize.workers", after=0.0, gpu=False)


def test_a_number_of_workers_that_is_none_a_missing_ray_and_a_missing_cluster_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Ray(address="127.0.0.1:9", num_cpus=1, num_gpus=0, retries=0, patience=1.0)
    for wrong in (0, True, "many"):
        for engine in (nowhere, Processes()):
            with pytest.raises(ValueError, match=rf"tokenize\.workers={wrong}: auto, or a number of workers from 1 on"):
                pool(engine, refused, asked=wrong)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ValueError, match=r"engine\.address=127\.0\.0\.1:9: .*refused; start a cluster with `ray start --head`"):
        pool(nowhere, refused)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"Ray is not installed; pip install 'audiotok\[ray\]', or set engine=processes"):
        pool(nowhere, refused)


def test_results_come_in_order_from_several_nodes_even_where_a_worker_dies_once(engine: Ray, tmp_path: Path) -> None:
    with pool(engine, partial(squares, tmp_path)) as workers:
        assert workers.ready() and workers.num == 3
        tasks = [1, 2, "dies once", *range(4, 40)]
        results = list(workers.map(iter(tasks)))
        assert [value for value, _ in results] == [1, 4, "dies once", *(number * number for number in range(4, 40))]
        assert len({node for _, node in results}) >= 2 and (tmp_path / "died").exists()
        assert list(workers.map([])) == [] and [value for value, _ in workers.map([5])] == [25]
        with pytest.raises(ValueError, match="3 workers of the Ray cluster died at the same task; what is written stays: run again"):
            list(workers.map([1, "dies", 2]))


def test_a_task_of_a_grid_that_dies_fails_or_hangs_takes_no_other_with_it(engine: Ray, tmp_path: Path) -> None:
    cells = [2, "dies", "hangs", "fails", 3]
    found = dict(grid.outcomes(engine, partial(squares, tmp_path), cells, asked="auto", seconds=15.0))
    assert (found[2][0], found[3][0]) == (4, 9) and set(found) == set(cells)
    lost = {cell: result for cell, result in found.items() if isinstance(result, Broken)}
    assert {cell: broken.verdict for cell, broken in lost.items()} == {"dies": "died", "hangs": "timed_out", "fails": "died"}
    assert "3 workers" in lost["dies"].reason and "no number" in lost["fails"].reason


def test_a_worker_that_cannot_begin_ends_the_run_with_its_error(engine: Ray) -> None:
    with pool(engine, refused) as workers, pytest.raises(ValueError, match=r"a worker could not begin: .*no such weights"):
        list(workers.map([1]))


def test_workers_that_no_node_has_room_for_are_refused(engine: Ray) -> None:
    starved = Ray(address=engine.address, num_cpus=1, num_gpus=0.5, retries=0, patience=1.0)
    with pytest.raises(ValueError, match=r"no node of the Ray cluster has 1 CPUs and 0\.5 GPUs; it has 3 nodes with 3 CPUs and 0 GPUs"):
        pool(starved, refused)
    with pool(starved, refused, asked=1) as workers, pytest.raises(ValueError, match=r"not one of 1 workers of .* has begun within 1 s"):
        list(workers.map([1]))


@pytest.fixture(scope="module")
def told(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a prepared tiny corpus."""
    root = tmp_path_factory.mktemp("ray")
    corpus = tiny_speech_folder(root / "corpus", speech, utterances=10)
    sizes = ["tokenize.shard_utterances=2", "tokenize.batch_seconds=4"]
    overrides = ["data=speech", "tokenizer=dmel", "transform=stack2", "prepare.workers=1", *sizes, f"data.root={corpus}"]
    prepare.run(cli.load("prompts/tts", [*overrides, f"exp_root={root / 'here'}"]))
    return [*overrides, f"exp_root={root / 'here'}"]


def elsewhere(told: list[str], engine: Ray, *, without: str) -> tuple[list[str], Path, Path]:
    """(the same overrides with another root and this cluster; the root here; the other, with what lies here but for one folder)."""
    *overrides, root = told
    here = Path(root.removeprefix("exp_root="))
    there = here.with_name(f"there_{without}")
    shutil.copytree(here, there, ignore=shutil.ignore_patterns(without))
    return [*overrides, f"exp_root={there}", "engine=ray", f"engine.address={engine.address}"], here, there


def test_three_nodes_tokenize_to_the_bytes_of_processes_here(told: list[str], engine: Ray) -> None:
    tokenize.run(cli.load("prompts/tts", [*told, "tokenize.workers=2"]))
    other, here, there = elsewhere(told, engine, without="tokens")
    tokenize.run(cli.load("prompts/tts", other))
    assert digests(here / "tokens") == digests(there / "tokens") and len(digests(here / "tokens")) > 6


def test_three_nodes_reduce_to_the_bytes_of_this_process_and_of_processes_here(told: list[str], engine: Ray) -> None:
    tokenize.run(cli.load("prompts/tts", told))
    stores = []
    for workers in (1, 2):
        reduce.run(cli.load("prompts/tts", [*told, f"reduce.workers={workers}", "overwrite=true"]))
        stores.append(digests(Path(told[-1].removeprefix("exp_root=")) / "reduced"))
    other, here, there = elsewhere(told, engine, without="reduced")
    reduce.run(cli.load("prompts/tts", other))
    assert stores[0] == stores[1] == digests(there / "reduced") == digests(here / "reduced") and len(stores[0]) > 5


class Waiting(Loudness):
    """On one node never done; on the others, begun when it is there."""

    def __init__(self, node: str, begun: Path) -> None:
        super().__init__()
        self.node, self.begun = node, begun

    def encode(self, wav_BT: Any, lengths_B: Any) -> tuple[Any, Any]:
        if ray.get_runtime_context().get_node_id() == self.node:
            self.begun.touch()
            time.sleep(600)
        while not self.begun.exists():
            time.sleep(0.02)
        return super().encode(wav_BT, lengths_B)


def test_a_node_that_is_lost_in_the_middle_of_its_work_changes_no_byte(cluster: Cluster, engine: Ray, speech: Path, tmp_path: Path) -> None:
    corpus = tiny_speech_folder(tmp_path / "corpus", speech, utterances=24)
    cuts = [cut_of(path, path.stem) for path in sorted(corpus.glob("*.flac"))]
    sizes: dict[str, Any] = {"batch_seconds": 2.0, "shard_utterances": 4, "device": CPU}
    tokenize_cuts(cuts, Loudness(), tmp_path / "here", **sizes)
    (lost,), done = list(cluster.worker_nodes)[-1:], list[int]()

    def lose_it(more: int) -> None:
        if not done:
            cluster.remove_node(lost, allow_graceful=False)
        done.append(more)

    make = partial(Waiting, lost.node_id, tmp_path / "begun")
    with pool(engine, partial(encoder, make, CPU)) as workers:
        tokenize_cuts(cuts, Loudness(), tmp_path / "there", workers=workers, progress=lose_it, **sizes)
    assert (tmp_path / "begun").exists() and sum(done) == 24
    assert digests(tmp_path / "here") == digests(tmp_path / "there") and len(digests(tmp_path / "here")) == 6
