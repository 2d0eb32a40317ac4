"""A Ray cluster of three nodes on loopback does what processes here do, and goes on where a worker or a node is lost."""

import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import takewhile
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, open_dict
from test_tokenize import CPU, Loudness, cut_of, digests
from tiny import shortest_transcribed, tiny_speech_folder

from audiotok import audio, cli, files
from audiotok.bench import grid, rows
from audiotok.bench.checks import Broken
from audiotok.data import ray_workers
from audiotok.data.engines import Processes, Ray
from audiotok.data.manifests import Utterance, write_manifests
from audiotok.data.tokenization import encoder, tokenize_cuts
from audiotok.stages import evaluate, paths, prepare, reduce, sweeps, tokenize

sys.path += [str(cli.ROOT / "tools"), str(cli.ROOT / "tests" / "bench")]
import kill_check
from bench_cases import tiny_suite

ray = pytest.importorskip("ray", reason="a cluster of workers needs Ray: pip install 'audiotok[ray]'")
from ray.cluster_utils import Cluster  # noqa: E402

MIB = 2**20
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * MIB, "include_log_monitor": False, "no_monitor": True}


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
    return Ray(address=cluster.address, num_cpus=1, num_gpus=0, retries=2, patience=600)


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
        values, nodes = list[Any](), set[str]()

        def tasks() -> Iterator[Any]:
            """More of them until a second node has begun."""
            yield from [1, 2, "dies once", *range(4, 40)]
            yield from takewhile(lambda _: len(nodes) < 2, range(40, 4000))

        for value, node in workers.map(tasks()):
            values.append(value)
            nodes.add(node)
        assert values == [1, 4, "dies once", *(number * number for number in range(4, 1 + len(values)))]
        assert len(nodes) >= 2 and (tmp_path / "died").exists()
        assert list(workers.map([])) == [] and [value for value, _ in workers.map([5])] == [25]
        lost = r"3 workers of the Ray cluster died at the same task \(.*worker process has died.*\); what is written stays: run again"
        with pytest.raises(ValueError, match=lost):
            list(workers.map([1, "dies", 2]))
        with closing(workers.map(range(100, 140))) as abandoned:
            assert next(abandoned)[0] == 10_000
        assert [value for value, _ in workers.map([1, 2, 3])] == [1, 4, 9], "of these tasks, not of those that were abandoned"


def waiting(released: Path) -> Callable[[Any], Any]:
    """Tasks as they are, the first of them once a file is there."""

    def work(task: int) -> int:
        while task == 0 and not released.exists():
            time.sleep(0.05)
        return task

    return work


def test_results_that_wait_for_a_slow_one_are_bounded_in_number(engine: Ray, tmp_path: Path) -> None:
    taken: list[int] = []
    before = []

    def release() -> None:
        before.append(len(taken))
        (tmp_path / "released").touch()

    def tasks() -> Iterator[int]:
        for number in range(60):
            taken.append(number)
            if number == 1:
                Timer(5.0, release).start()
            yield number

    with pool(engine, partial(waiting, tmp_path / "released")) as workers:
        assert list(workers.map(tasks())) == list(range(60))
    assert 2 <= before[0] <= ray_workers.AHEAD * 3


def variable() -> Callable[[Any], Any]:
    return os.environ.get


def test_a_worker_finds_the_settings_of_this_process_but_no_secret_for_the_logs_of_the_cluster(
    engine: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"HF_TOKEN": "hf_private", "AUDIOTOK_API_KEY": "a_private", "HF_HUB_OFFLINE": "1", "AUDIOTOK_SPEECH": "/some/folder"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pool(engine, variable, asked=1) as workers:
        assert list(workers.map(told)) == [None, None, "1", "/some/folder"]
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    assert not [path for path in logs.rglob("*") if path.is_file() and b"_private" in path.read_bytes().replace(b"ray._private", b"")]


def test_a_task_of_a_grid_that_dies_fails_or_hangs_takes_no_other_with_it(engine: Ray, tmp_path: Path) -> None:
    cells = [2, "dies", "hangs", "fails", 3]
    found = dict(grid.outcomes(engine, partial(squares, tmp_path), cells, asked="auto", seconds=15.0))
    assert (found[2][0], found[3][0]) == (4, 9) and set(found) == set(cells)
    lost = {cell: result for cell, result in found.items() if isinstance(result, Broken)}
    assert {cell: broken.verdict for cell, broken in lost.items()} == {"dies": "died", "hangs": "timed_out", "fails": "died"}
    assert "3 workers" in lost["dies"].reason and "worker process has died" in lost["dies"].reason and "no number" in lost["fails"].reason


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


def test_a_sweep_on_three_nodes_reduces_to_the_bytes_of_this_process_and_of_processes_here(told: list[str], engine: Ray) -> None:
    tokenize.run(cli.load("prompts/tts", told))
    stores = []
    for workers in (1, 2):
        for transform in ("decimate2", "stack2"):
            reduce.run(cli.load("prompts/tts", [*told, f"reduce.workers={workers}", "overwrite=true", f"transform={transform}"]))
        stores.append(digests(Path(told[-1].removeprefix("exp_root=")) / "reduced"))
    other, here, there = elsewhere(told, engine, without="reduced")
    settings = [text for text in other if not text.startswith("transform=")]
    cli.main(["reduce", "prompts/tts", *settings, "transform=decimate2,stack2", "--multirun"])
    assert stores[0] == stores[1] == digests(there / "reduced") == digests(here / "reduced") and len(stores[0]) > 10


def test_the_sweep_on_ray_that_the_readme_shows_has_a_config_for_each_of_its_jobs() -> None:
    readme = (cli.ROOT / "README.md").read_text(encoding="utf-8")
    ((_, stage, recipe, *told),) = [
        shlex.split(line, comments=True) for line in re.findall(r"^audiotok .*engine=ray.*--multirun.*$", readme, re.M)
    ]
    assert told.pop() == "--multirun"
    (swept,) = [text for text in told if sweeps.is_sweep(text)]
    key, _, values = swept.partition("=")
    configs = [cli.load(recipe, [*(text for text in told if text != swept), f"{key}={value}"]) for value in values.split(",")]
    assert stage == "reduce" and len(configs) > 1 and {cfg.choices.engine for cfg in configs} == {"ray"}


@pytest.fixture(scope="module")
def scored(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., DictConfig]:
    """Makes configs of an experiment with recordings and a noisy system, each with an EXP_DIR of its own, to be scored without judges."""
    root = tmp_path_factory.mktemp("scored")
    chosen = [
        Utterance(f"a/{row['path']}", speech / row["path"], row["text"], row["speaker"], "en") for row in shortest_transcribed(speech, 8)
    ]

    def made(name: str, *overrides: str) -> DictConfig:
        cfg = cli.load("prompts/resynthesis", [f"exp_root={root}", f"exp_dir={root / name}", "evaluate.bootstrap=50", *overrides])
        with open_dict(cfg):
            cfg.metrics = {name: cfg.metrics[name] for name in ("delay", "stoi", "si_sdr", "mel")}
        sizes: dict[str, Any] = {"max_rejected": 0, "max_seconds": 60, "workers": 1}
        files.build(paths.manifests(cfg), {}, lambda folder: write_manifests(folder, {"test": chosen}, **sizes) and None)  # type: ignore[arg-type]
        make_noisy(paths.audio(cfg) / "noisy", chosen)
        return cfg

    return made


def make_noisy(folder: Path, recordings: list[Utterance]) -> None:
    told = []
    for number, one in enumerate(recordings):
        wav_T, rate = audio.read(Path(one.sound))
        noise_T = torch.randn(len(wav_T), generator=torch.Generator().manual_seed(number))
        audio.write(folder / f"{number}.wav", (wav_T + 0.01 * noise_T).clamp(-1, 1), rate)
        told.append({"id": one.id, "path": f"{number}.wav", "text": one.text, "speaker": one.speaker, "language": "en"})
    files.write_jsonl(folder / "utterances.jsonl", told)


needs_one_thread = pytest.mark.skipif(
    os.environ.get("OMP_NUM_THREADS") != "1", reason="Ray's workers have one thread each; OMP_NUM_THREADS=1 here too gives the same bits"
)


@needs_one_thread
def test_three_nodes_score_to_the_bytes_of_processes_here(scored: Callable[..., DictConfig], engine: Ray) -> None:
    here = scored("here", "evaluate.workers=1")
    there = scored("there", "engine=ray", f"engine.address={engine.address}")
    evaluate.run(here)
    evaluate.run(there)
    made = digests(paths.evaluation(here))
    assert made == digests(paths.evaluation(there))
    assert {"noisy/utterances.parquet", "noisy/summary.json", "recordings/utterances.parquet", "results.json"} <= set(made)
    scores = {column["name"]: column["n"] for column in files.read_json(paths.evaluation(here) / "noisy" / "summary.json")["columns"]}
    assert scores.keys() >= {"delay", "stoi", "si_sdr", "mel_distance"} and set(scores.values()) == {8}


MODEL = """\
defaults:
  - language_model
  - _self_
budget: { steps: 10 }
preferences: []
"""


@needs_one_thread
def test_three_nodes_bench_to_the_rows_and_scores_of_processes_here(
    speech: Path, engine: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tiny_speech_folder(tmp_path / "corpus", speech, utterances=8)
    suite = tiny_suite(tmp_path)
    suite.write_text(suite.read_text().replace("  - override /data", "  - /task@tasks.language_model: tiny_model\n  - override /data"))
    (tmp_path / "configs" / "task" / "tiny_model.yaml").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    told = [f"corpora.speech.root={corpus}", f"exp_root={tmp_path / 'exp'}", "prepare.workers=1", "bench.listen.min_seconds=0"]
    own = ["tokenizer=bench_cases.Loudness", "bench.seeds=[0,1]"]
    engines = {"here": ["bench.workers=1"], "there": ["bench.workers=3", "engine=ray", f"engine.address={engine.address}"]}
    for name, where in engines.items():
        cli.main(["bench", str(suite), *told, *own, *where, f"bench.root={tmp_path / name}"])
    found = rows.read(tmp_path / "there" / "tiny" / "Loudness")
    assert sorted((row.task, row.seed) for row in found if row.verdict == "ok") == [
        ("codebook_use", 0), ("cost", 0), ("language_model", 0), ("language_model", 1), ("laws", 0), ("reconstruction", 0),
    ]  # fmt: skip
    assert kill_check.contents(tmp_path / "there") == kill_check.contents(tmp_path / "here")


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
