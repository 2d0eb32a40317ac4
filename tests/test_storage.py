"""A folder in an object store is made once, whole or not at all, by one machine at a time, whenever the store fails."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest
from object_store import Store, machine, objects, served

from audiotok import audio, cli, files, publishing, storage
from audiotok.storage import Unreachable

SETTINGS = {"a": 1}
FINISHED = {"audiotok.sha256", "pieces/shard-00000.parquet", "pieces/shard-00001.parquet", "stage.json", "table.json"}


@pytest.fixture
def store() -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as patch, served(patch) as running:
        yield running


@pytest.fixture
def here(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """s3://bucket/exp on the first machine."""
    return machine(monkeypatch, tmp_path / "one") / "exp"


@pytest.fixture
def another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Go to the second machine: s3://bucket/exp there."""
    return lambda: machine(monkeypatch, tmp_path / "two") / "exp"


def shards(partial: Path) -> None:
    """Two pieces that are published as they are finished, and a table; what is there is not made again."""
    for number in range(2):
        path = partial / "pieces" / f"shard-{number:05d}.parquet"
        if not path.exists():
            with files.whole_file(path) as half:
                half.write_text(f"codes {number}")
            publishing.publish(path)
    files.write_json(partial / "table.json", {"rows": 2})


def make(folder: Path, settings: dict = SETTINGS, *, overwrite: bool = False) -> str:
    return files.build(folder, settings, shards, overwrite=overwrite, resumable="*/shard-*")


def refuse_to_work(partial: Path) -> None:
    raise AssertionError("done twice")


def test_a_folder_in_a_store_holds_the_bytes_of_one_that_lies_here_and_nothing_else(here: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "out") == make(here / "out") == "made"
    local = {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert objects(here / "out") == local and local.keys() == FINISHED
    assert objects(here).keys() == {f"out/{name}" for name in FINISHED}


def test_another_machine_finds_it_finished_and_fetches_shards_when_they_are_read(here: Path, another: Callable[[], Path]) -> None:
    make(here / "out")
    there = another()
    assert files.build(there / "out", SETTINGS, refuse_to_work) == "present"
    assert files.fingerprint_of(there / "out", made_by="tokenize") == files.fingerprint(SETTINGS)
    assert files.read_json(there / "out" / "table.json") == {"rows": 2}
    shard = there / "out" / "pieces" / "shard-00001.parquet"
    assert not shard.exists() and files.listed(shard.parent, "shard-*.parquet")[1] == shard
    assert files.here(shard).read_text() == "codes 1"


def test_other_settings_are_refused_and_overwriting_leaves_nothing_of_the_old_ones(here: Path, another: Callable[[], Path]) -> None:
    files.build(here / "out", {"a": 0}, lambda partial: files.write_json(partial / "old.json", 0))
    there = another()
    with pytest.raises(ValueError, match="a: 0 there, 1 now"):
        make(there / "out")
    make(there / "out", overwrite=True)
    assert objects(there).keys() == {f"out/{name}" for name in FINISHED}


@pytest.mark.parametrize(("before", "every"), [(None, 9), ({"a": 0}, 8)])  # every=1 for each of them, in minutes
def test_wherever_a_store_fails_nothing_is_half_there_and_the_next_run_ends_with_the_same_bytes(
    store: Store, here: Path, another: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict | None, every: int
) -> None:
    make(here / "whole")
    wanted, good, failed = objects(here / "whole"), 1, True
    while failed:
        folder = machine(monkeypatch, tmp_path / "one") / "exp" / f"out{good}"
        if before is not None:
            make(folder, before)
        store.behave(lambda number, good=good: "fail" if number > good else "well")
        try:
            make(folder, overwrite=before is not None)
            failed = False
        except Unreachable:
            good += every
        store.behave()
        seen = another() / folder.name
        files.bring(seen)
        assert files.settings_of(seen) in (None, before, SETTINGS)
        machine(monkeypatch, tmp_path / "one")
        make(folder, overwrite=before is not None)
        assert objects(folder) == wanted
        assert {name for name in objects(folder.parent) if name.startswith(folder.name)} == {f"{folder.name}/{name}" for name in wanted}
    assert good > 25  # requests of a run: all from the second, the tenth ... on have failed


def test_another_machine_goes_on_from_what_a_killed_run_had_finished(here: Path, another: Callable[[], Path]) -> None:
    def killed(partial: Path) -> None:
        shards(partial)
        with files.whole_folder(partial / "step_00000003") as half:
            (half / "weights").write_text("3")
        (partial / "log.jsonl").write_text('{"step": 3}\n')
        with files.whole_folder(partial / "step_00000006") as half:
            (half / "weights").write_text("6")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.build(here / "out", SETTINGS, killed, resumable="*/shard-*")
    storage.write(here / "out.partial" / "step_00000003.partial", b"")  # as if it had been half put, or half removed
    there, found = another() / "out", set[str]()
    with pytest.raises(ValueError, match="a: 1 there, 2 now"):
        make(there, {"a": 2})

    def go_on(partial: Path) -> None:
        found.update(path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.is_file())

    files.build(there, SETTINGS, go_on, resumable="*/shard-*")
    pieces = {"pieces/shard-00000.parquet", "pieces/shard-00001.parquet"}
    assert found == {"stage.json", "log.jsonl", "step_00000006/weights", *pieces}  # not the table, which is no finished piece


def test_what_is_removed_of_an_unfinished_folder_is_removed_in_the_store(here: Path) -> None:
    with files.whole_folder(here / "out.partial" / "step_00000003") as half:
        (half / "weights").write_text("3")
    assert objects(here).keys() == {"out.partial/step_00000003/weights"}
    publishing.forget(here / "out.partial" / "step_00000003")
    assert not objects(here)


@pytest.mark.parametrize(("mood", "says"), [("refuse", "Access Denied"), ("fail", "We failed"), ("hang", "imeout")])
def test_a_store_that_refuses_fails_or_hangs_is_an_error_in_bounded_time_that_says_what_to_do(
    store: Store, here: Path, mood: str, says: str
) -> None:
    store.behave(lambda number: mood)
    begun = monotonic()
    with pytest.raises(Unreachable, match=f"(?s)s3://bucket/exp/.*{says}.*look at the address, the credentials and the network"):
        make(here / "out")
    assert monotonic() - begun < 20
    store.behave()
    assert not objects(here)


def test_the_command_line_says_in_one_line_that_a_store_cannot_be_reached(store: Store, here: Path, speech: Path) -> None:
    store.behave(lambda number: "refuse")
    with pytest.raises(SystemExit, match=r"audiotok: s3://bucket/exp/\S+ cannot be reached"):
        cli.main(["prepare", "speech/resynthesis", f"data.root={speech}", "exp_root=s3://bucket/exp"])


def test_a_bucket_that_is_not_there_is_named(here: Path) -> None:
    with pytest.raises(Unreachable, match="s3://nowhere/exp"):
        make(storage.located("s3://nowhere/exp/out"))


def test_a_lock_keeps_other_machines_out_and_is_taken_over_by_its_own(
    here: Path, another: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(storage, "remove", lambda path: None)
        with storage.alone(here / "out"):
            pass
    with pytest.raises(ValueError, match=r"another process is writing there, on .*delete s3://bucket/exp/\.out\.lock"):
        make(another() / "out")
    assert make(machine(monkeypatch, tmp_path / "one") / "exp" / "out") == "made"
    assert make(another() / "out") == "present"


def test_objects_that_no_stage_put_there_are_left_alone(here: Path) -> None:
    storage.write(here / "out" / "thesis.txt", b"mine")
    with pytest.raises(ValueError, match="s3://bucket/exp/out exists and was not made by audiotok"):
        make(here / "out")
    assert objects(here) == {"out/thesis.txt": b"mine"}


def test_an_object_that_is_other_than_its_checksum_says_is_refused(here: Path, another: Callable[[], Path]) -> None:
    make(here / "out")
    storage.write(here / "out" / "pieces" / "shard-00000.parquet", b"codes 9")
    storage.write(here / "out" / "table.json", b"{}")
    there = another()
    with pytest.raises(ValueError, match=r"s3://bucket/exp/out/table.json is other than its checksum says"):
        files.bring(there / "out")
    with pytest.raises(ValueError, match=r"shard-00000.parquet is other than its checksum says"):
        files.here(there / "out" / "pieces" / "shard-00000.parquet")


def test_a_mirror_follows_its_store(here: Path, another: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(here / "out")
    files.build(another() / "out", {"a": 2}, lambda partial: files.write_json(partial / "new.json", 2), overwrite=True)
    machine(monkeypatch, tmp_path / "one")
    assert files.fingerprint_of(here / "out", made_by="tokenize") == files.fingerprint({"a": 2})
    assert not (here / "out" / "table.json").exists()
    for name in storage.names(here / "out"):
        storage.remove(here / "out" / name)
    with pytest.raises(ValueError, match="run `audiotok tokenize`"):
        files.fingerprint_of(here / "out", made_by="tokenize")


def test_no_time_of_a_file_matters(here: Path, store: Store) -> None:
    make(here / "out")
    for path in here.rglob("*"):
        os.utime(path, (0, 0) if len(path.name) % 2 else (2**33, 2**33))
    assert files.build(here / "out", SETTINGS, refuse_to_work) == "present"
    assert objects(here / "out").keys() == FINISHED


def test_a_file_that_belongs_to_no_stage_is_put_as_it_is_written(here: Path) -> None:
    files.write_json(here / "evaluation" / "results.json", [1])
    assert objects(here).keys() == {"evaluation/results.json"}


def test_sound_is_fetched_when_it_is_read(here: Path, wav_16k, tmp_path: Path) -> None:
    audio.write(tmp_path / "a.flac", wav_16k, 16_000)
    storage.put(tmp_path / "a.flac", here / "a.flac")
    assert audio.read(here / "a.flac")[0].equal(wav_16k)
    with pytest.raises(ValueError, match="no such file"):
        audio.read(here / "b.flac")


def test_an_address_where_only_a_path_will_do_is_refused_and_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for write in (files.whole_file, files.whole_folder, files.locked):
        with pytest.raises(ValueError, match="an address where only a folder of this machine will do"), write(Path("s3://bucket/out")):
            pass
    assert not list(tmp_path.iterdir())


def test_addresses_and_paths_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = machine(monkeypatch, tmp_path)
    assert storage.located("s3://bucket/exp/") == bucket / "exp"
    assert storage.address_of(bucket / "exp" / "a.json") == storage.named(bucket / "exp" / "a.json") == "s3://bucket/exp/a.json"
    for path in (Path("exp"), tmp_path, tmp_path / "s3", Path("/elsewhere")):
        assert storage.located(path) == path and storage.address_of(path) is None and storage.named(path) == str(path)
    with pytest.raises(ValueError, match=r"without \.\."):
        storage.located("s3://bucket/../exp")


def test_a_kind_of_store_that_is_not_installed_names_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, tmp_path)
    with pytest.raises(ValueError, match=r"pip install 'audiotok\[s3\]'"):
        storage.names(storage.located("nonesuch://bucket/exp"))


def test_verify_names_what_is_damaged_in_a_store_and_mends_nothing_there(here: Path, capsys: pytest.CaptureFixture) -> None:
    make(here / "out")
    shutil.rmtree(here / "out" / "pieces")
    cli.main(["verify", "s3://bucket/exp/out/"])
    storage.write(here / "out" / "table.json", b"{}")
    with pytest.raises(SystemExit, match="1 of 5 files in s3://bucket/exp are damaged"):
        cli.main(["verify", "s3://bucket/exp"])
    assert "s3://bucket/exp/out/table.json: is other than its checksum says" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--repair is for folders of this machine"):
        cli.main(["verify", "s3://bucket/exp", "--repair"])
    with pytest.raises(SystemExit, match="no folder s3://bucket/nothing"):
        cli.main(["verify", "s3://bucket/nothing"])
