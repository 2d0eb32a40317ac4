"""The stages on exp_root=s3://bucket/exp: the bytes of a folder of this machine, and a run that goes on on another one."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from killing import RECIPE
from object_store import Store, machine, objects, served
from omegaconf import OmegaConf, open_dict
from tiny import tiny_speech_folder

from audiotok import cli, files, storage
from audiotok.data import tokenization
from audiotok.data.manifests import load_cuts
from audiotok.stages import evaluate
from audiotok.storage import Unreachable
from audiotok.store import TokenStore
from audiotok.training import checkpoint

SPEAKING = ["transform=parallel", "train.steps=6", "train.save_every=2", "train.validate_every=3"]
STAGES = {"prepare": [], "tokenize": [], "reduce": [], "align": SPEAKING, "train": SPEAKING, "synthesize": SPEAKING}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, speech: Path) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    tiny_speech_folder(folder / "corpus", speech, utterances=7)
    (folder / "stored.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def store(place: Path) -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as patch, served(patch) as running:
        machine(patch, place / "one")
        yield running


def run(stage: str, place: Path, root: str | Path, *changes: str) -> None:
    settings = [f"data.root={place / 'corpus'}", *STAGES.get(stage, []), f"exp_root={root}", *changes]
    cli.main([stage, str(place / "stored.yaml"), *settings])


@pytest.fixture(scope="module")
def local(place: Path) -> Path:
    for stage in STAGES:
        run(stage, place, place / "exp")
    return place / "exp"


def comparable(contents: dict[str, bytes], root: str) -> dict[str, bytes]:
    """Without what tells the time or the place: logs, the exp_root in a checkpoint's config.json, and the digests of those."""
    kept = {name: content for name, content in contents.items() if not name.endswith(("log.jsonl", files.SUMS)) and "tfevents" not in name}
    return {name: content.replace(root.encode(), b"ROOT") if name.endswith("config.json") else content for name, content in kept.items()}


def local_files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def mirrored() -> Path:
    return storage.located("s3://bucket/exp")


def test_every_stage_leaves_in_a_store_the_bytes_that_it_leaves_here(local: Path, store: Store, place: Path) -> None:
    for stage in STAGES:
        run(stage, place, "s3://bucket/exp")
    wanted = comparable(local_files(local), str(local))
    assert {name.partition("/")[0] for name in wanted} == {"data", "tokens", "reduced", "alignments", "stored"}
    assert comparable(objects(mirrored()), "s3://bucket/exp") == wanted


def test_what_lies_in_a_store_is_scored_there_as_it_is_here(
    local: Path, store: Store, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(root: str | Path) -> None:
        told = [f"data.root={place / 'corpus'}", f"exp_root={root}", "metrics=resynthesis", "evaluate.bootstrap=20", "evaluate.workers=1"]
        cfg = cli.load(str(place / "stored.yaml"), told)
        with open_dict(cfg):
            cfg.metrics = OmegaConf.create({"si_sdr": OmegaConf.to_container(cfg.metrics.si_sdr, resolve=True)})  # which needs no weights
        evaluate.run(cfg)

    for root in (local, "s3://bucket/exp"):
        run("decode", place, root, "decode.timed_seconds=1")
        machine(monkeypatch, place / "scoring")
        score(root)
    here, there = local / "stored" / "evaluation", mirrored() / "stored" / "evaluation"
    found = objects(there)
    for name in ("dmel/utterances.parquet", "dmel/summary.json", "recordings/utterances.parquet"):
        assert found[name] == (here / name).read_bytes()
    assert json.loads(found["results.json"])["systems"].keys() == {"recordings", "dmel", "synthesis"}
    score("s3://bucket/exp")
    assert objects(there) == found


def test_training_whose_store_fails_goes_on_on_another_machine_to_the_same_weights(
    local: Path, store: Store, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = iter(range(10**6))

    def fails_after_the_second_checkpoint(number: int) -> str:
        with_four = any(path.name == "step_00000004" for path in mirrored().glob("cut/train.partial/*"))
        return "fail" if with_four and next(seen) >= 8 else "well"

    store.behave(fails_after_the_second_checkpoint)
    with pytest.raises(SystemExit, match="cannot be reached"):
        run("train", place, "s3://bucket/exp", "exp_dir=s3://bucket/exp/cut")
    store.behave()
    machine(monkeypatch, place / "two")
    with pytest.raises(SystemExit, match=r"delete s3://bucket/exp/cut/\.train\.lock"):
        run("train", place, "s3://bucket/exp", "exp_dir=s3://bucket/exp/cut")
    storage.remove(mirrored() / "cut" / ".train.lock")
    run("train", place, "s3://bucket/exp", "exp_dir=s3://bucket/exp/cut")
    steps = [entry["step"] for entry in map(json.loads, (mirrored() / "cut" / "train" / "log.jsonl").read_text().splitlines())]
    assert steps == [json.loads(line)["step"] for line in (local / "stored" / "train" / "log.jsonl").read_text().splitlines()]
    found, wanted = (checkpoint.latest(folder) for folder in (mirrored() / "cut" / "train", local / "stored" / "train"))
    for name in ("model.safetensors", "ema.safetensors", "training.pt"):
        assert (found / name).read_bytes() == (wanted / name).read_bytes()


def test_training_by_windows_reads_shards_where_they_lie_and_learns_the_same(
    local: Path, store: Store, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("train", place, local, f"exp_dir={place / 'windows'}", "train.window=1")
    machine(monkeypatch, place / "streaming")
    run("train", place, "s3://bucket/exp", "exp_dir=s3://bucket/exp/windows", "train.window=1")
    assert not list(mirrored().rglob("shard-*"))
    found, wanted = (checkpoint.latest(folder) for folder in (mirrored() / "windows" / "train", place / "windows" / "train"))
    assert (found / "training.pt").read_bytes() == (wanted / "training.pt").read_bytes()
    other = checkpoint.latest(local / "stored" / "train")
    assert (found / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()  # another order


def test_a_store_that_fails_while_a_shard_is_read_says_so_and_calls_nothing_damaged(
    local: Path, store: Store, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, place / "streaming")  # where the test before has left no shard
    (tokens,) = mirrored().glob("tokens/*/*/train")
    streamed = TokenStore(tokens, window=1)
    store.behave(lambda number: "fail")
    with pytest.raises(Unreachable, match=r"shard-00000\.parquet cannot be reached"):
        streamed.at(0)
    store.behave()
    (here,) = local.glob("tokens/*/*/train")
    assert all(one.codes_KN.equal(other.codes_KN) for one, other in zip(streamed, TokenStore(here), strict=True))


def test_recordings_in_a_store_are_read_there_and_named_by_their_addresses(
    local: Path, store: Store, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = storage.located("s3://bucket/corpus")
    storage.each(lambda at: storage.put(place / "corpus" / at.name, at), [corpus / path.name for path in (place / "corpus").iterdir()])
    for name, stage, changes in (("three", "prepare", ["prepare.workers=2"]), ("four", "tokenize", [])):
        machine(monkeypatch, place / name)
        run(stage, place, "s3://bucket/heard", "data.root=s3://bucket/corpus", *changes)
    (manifests,) = storage.located("s3://bucket/heard/data").glob("speech-*")
    sources = [cut.recording.sources[0].source for cut in load_cuts(manifests, "train")]
    assert sources and all(storage.address_of(Path(source)).startswith("s3://bucket/corpus/") for source in sources)
    heard, wanted = objects(storage.located("s3://bucket/heard/tokens")), local_files(local / "tokens")
    shards = [[content for name, content in sorted(some.items()) if name.endswith(".parquet")] for some in (heard, wanted)]
    assert shards[0] == shards[1] and shards[0]


def test_a_store_that_fails_while_recordings_are_read_is_no_fault_of_the_recordings(store: Store, place: Path) -> None:
    path = storage.located("s3://bucket/corpus") / "nobody-has-read-this.flac"
    cut = SimpleNamespace(recording=SimpleNamespace(sources=[SimpleNamespace(source=str(path))]))
    store.behave(lambda number: "fail")
    with pytest.raises(Unreachable):
        tokenization._read(cut, 16_000)
    store.behave()
    assert "no such file" in tokenization._read(cut, 16_000).reason
