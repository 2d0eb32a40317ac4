"""What is damaged is found and named, and what is removed of it is made again to the bit, by the stage that made it first."""

import gzip
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from audiotok import audio, cli, files
from audiotok.data.integrity import damages, repair
from audiotok.store import TokenStore, TokenWriter, Utterance
from audiotok.training import checkpoint
from audiotok.training.checkpoint import TrainState
from audiotok.training.ema import EMA
from audiotok.training.optim import adamw
from audiotok.types import TokenSpec

SPEC = TokenSpec(sample_rate=16_000, frame_rate=Fraction(50), codebook_sizes=(16, 300), fingerprint="f" * 64)
SHARDS, ROWS = 3, 5


def utterance(number: int) -> Utterance:
    codes_KN = torch.randint(0, 16, (2, 40), generator=torch.Generator().manual_seed(number))
    return Utterance(f"utt-{number}", codes_KN, SPEC.num_samples(40), "text", None, "en", 0.8)


def tokenized(folder: Path) -> list[int]:
    """A store as the tokenize stage fills it; the shards that were written now."""
    written: list[int] = []

    def work(partial: Path) -> None:
        writer = TokenWriter(partial / "train", SPEC)
        for index in range(SHARDS):
            if index not in writer.present:
                writer.write(index, [utterance(number) for number in range(index * ROWS, (index + 1) * ROWS)])
                written.append(index)

    files.build(folder, {"spec": "tiny"}, work, resumable="*/shard-*.parquet")
    return written


def trained(folder: Path, *, steps: int = 3) -> list[int]:
    """Checkpoints as a stage that trains writes them; the steps that were made now."""
    made: list[int] = []

    def work(partial: Path) -> None:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        state = TrainState(model, EMA(model, decay=0.9), adamw(model, learning_rate=0.1, weight_decay=0.0))
        if (last := checkpoint.latest(partial)) is not None:
            checkpoint.restore(last, state)
        while state.step < steps:
            state.optimizer.zero_grad()
            model(torch.full((1, 3), float(state.step))).sum().backward()
            state.optimizer.step()
            state.step += 1
            state.ema.update(model, step=state.step)
            made.append(state.step)
            checkpoint.save(partial, state, records={"spec": {"rate": 50}}, keep=2)

    files.build(folder, {"steps": steps}, work, resumable="step_????????")
    return made


def prepared(folder: Path) -> None:
    def work(partial: Path) -> None:
        with gzip.open(partial / "cuts_train.jsonl.gz", "wb") as file:
            file.write(b'{"id": "a"}\n' * 50)
        audio.write(partial / "audio" / "a.flac", torch.zeros(800), 16_000)

    files.build(folder, {"corpus": "tiny"}, work)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0x10
    path.write_bytes(content)


def found(folder: Path) -> dict[str, str]:
    return {damage.path.relative_to(folder).as_posix(): damage.reason for damage in damages(folder)}


def test_what_was_written_is_whole_and_sha256sum_agrees(tmp_path: Path) -> None:
    tokenized(tmp_path / "store")
    trained(tmp_path / "train")
    prepared(tmp_path / "data")
    assert found(tmp_path) == {}
    if shutil.which("sha256sum"):
        for sums in tmp_path.rglob(files.SUMS):
            subprocess.run(["sha256sum", "--check", "--strict", "--quiet", files.SUMS], cwd=sums.parent, check=True)
    listed = files.sums_of(tmp_path / "store")
    assert set(listed) == {"stage.json", *(f"train/shard-0000{index}.parquet" for index in range(SHARDS))}
    assert set(files.sums_of(tmp_path / "train")) == {"stage.json", "step_00000002/audiotok.sha256", "step_00000003/audiotok.sha256"}


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize(
    "name", ["store/train/shard-00001.parquet", "store/stage.json", "train/step_00000003/ema.safetensors", "data/audio/a.flac"]
)
def test_a_flipped_bit_anywhere_is_found_and_nothing_else_is_named(tmp_path: Path, name: str, place: float) -> None:
    tokenized(tmp_path / "store")
    trained(tmp_path / "train")
    prepared(tmp_path / "data")
    flip(tmp_path / name, place)
    assert found(tmp_path) == {name: "is other than its checksum says"}
    assert found((tmp_path / name).parent) == {Path(name).name: "is other than its checksum says"}


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    tokenized(tmp_path / "store")
    (tmp_path / "store" / "train" / "shard-00002.parquet").unlink()
    assert found(tmp_path) == {"store/train/shard-00002.parquet": "is missing"}


def test_a_damaged_shard_and_no_other_is_made_again(tmp_path: Path) -> None:
    assert tokenized(tmp_path / "store") == [0, 1, 2]
    before = contents(tmp_path / "store")
    flip(tmp_path / "store" / "train" / "shard-00001.parquet")
    (said,) = repair(damages(tmp_path))
    assert "without train/shard-00001.parquet" in said and not (tmp_path / "store").exists()
    assert found(tmp_path) == {}
    assert tokenized(tmp_path / "store") == [1]
    assert contents(tmp_path / "store") == before


def test_training_goes_on_from_the_checkpoint_before_the_damaged_one(tmp_path: Path) -> None:
    assert trained(tmp_path / "train") == [1, 2, 3]
    before = contents(tmp_path / "train")
    flip(tmp_path / "train" / "step_00000003" / "training.pt")
    assert list(found(tmp_path)) == ["train/step_00000003/training.pt"]
    (said,) = repair(damages(tmp_path))
    assert "without step_00000003 " in said
    assert trained(tmp_path / "train") == [3]
    assert contents(tmp_path / "train") == before


def test_an_unfinished_folder_is_repaired_where_it_lies(tmp_path: Path) -> None:
    tokenized(tmp_path / "store")
    (tmp_path / "store" / files.SUMS).unlink()
    (tmp_path / "store").rename(tmp_path / "store.partial")
    path = tmp_path / "store.partial" / "train" / "shard-00000.parquet"
    column = pq.ParquetFile(path).metadata.row_group(0).column(8)  # a page has a checksum of its own
    flip(path, (column.data_page_offset + column.total_compressed_size / 2) / path.stat().st_size)
    assert list(found(tmp_path)) == ["store.partial/train/shard-00000.parquet"]
    list(repair(damages(tmp_path)))
    assert tokenized(tmp_path / "store") == [0]


@pytest.mark.parametrize("name", ["data/cuts_train.jsonl.gz", "data/audio/a.flac", "store/stage.json"])
def test_manifests_and_what_forgot_its_settings_are_set_aside_whole(tmp_path: Path, name: str) -> None:
    prepared(tmp_path / "data")
    tokenized(tmp_path / "store")
    folder = tmp_path / Path(name).parts[0]
    flip(tmp_path / name)
    before = contents(folder)
    (folder.with_name(f"{folder.name}.damaged")).mkdir()
    (said,) = repair(damages(tmp_path))
    aside = folder.with_name(f"{folder.name}.damaged-2")
    assert aside.name in said and contents(aside) == before and not folder.exists()


def test_a_row_of_the_benchmark_goes_with_its_items_and_what_no_stage_made_stays(tmp_path: Path) -> None:
    for place in ("cells", "items"):
        (tmp_path / "mini" / place).mkdir(parents=True)
        pq.write_table(pa.table({"a": list(range(100))}), tmp_path / "mini" / place / "cost-0.parquet")
    (tmp_path / "notes.json").write_text("{")
    (tmp_path / "mini" / "items" / "cost-0.parquet").write_bytes(b"PAR1")
    assert set(found(tmp_path)) == {"mini/items/cost-0.parquet", "notes.json"}
    said = list(repair(damages(tmp_path)))
    assert any("left as it is" in line for line in said) and (tmp_path / "notes.json").exists()
    assert not list((tmp_path / "mini").rglob("*.parquet"))


def jsonl(path: Path) -> None:
    files.write_jsonl(path, [{"id": number} for number in range(20)])


def packed(path: Path) -> None:
    path.write_bytes(gzip.compress(b'{"id": "a"}\n' * 200))


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a.parquet": (lambda path: pq.write_table(pa.table({"a": list(range(999))}), path, write_page_checksum=True), "flip"),
    "a.safetensors": (lambda path: save_file({"a": torch.zeros(100)}, path), "cut"),
    "a.pt": (lambda path: torch.save({"a": torch.arange(1000)}, path), "flip"),
    "a.jsonl": (jsonl, "cut"),
    "a.jsonl.gz": (packed, "flip"),
    "a.json": (lambda path: files.write_json(path, {"a": 1}), "cut"),
    "a.npy": (lambda path: np.save(path, np.arange(100)), "cut"),
    "a.flac": (lambda path: audio.write(path, torch.linspace(-0.5, 0.5, 8000), 8000), "cut"),
    "a.wav": (lambda path: audio.write(path, torch.zeros(800), 8000), "cut"),
    "stage.json": (lambda path: files.write_json(path, {"settings": {"a": 1}, "fingerprint": files.fingerprint({"a": 2})}), "as it is"),
}


@pytest.mark.parametrize("name", KINDS)
def test_without_checksums_a_file_is_read_as_far_as_its_kind_tells(tmp_path: Path, name: str) -> None:
    write, how = KINDS[name]
    path = tmp_path / name
    write(path)
    if how != "as it is":
        assert found(tmp_path) == {}
    if how == "cut":
        path.write_bytes(path.read_bytes()[: -100 if name == "a.wav" else -7])
    elif how == "flip":
        flip(path, 0.3)
    assert list(found(tmp_path)) == [name]


def test_a_gap_between_the_shards_of_a_store_without_checksums_is_named(tmp_path: Path) -> None:
    tokenized(tmp_path / "store")
    (tmp_path / "store" / files.SUMS).unlink()
    (tmp_path / "store" / "train" / "shard-00001.parquet").unlink()
    assert found(tmp_path) == {"store/train/shard-00001.parquet": "is missing"}
    with pytest.raises(ValueError, match="--repair"):
        TokenStore(tmp_path / "store" / "train")
    list(repair(damages(tmp_path)))
    assert tokenized(tmp_path / "store") == [1]


def test_what_a_killed_run_left_half_done_is_no_damage(tmp_path: Path) -> None:
    trained(tmp_path / "train")
    (tmp_path / "train").rename(tmp_path / "train.partial")
    (tmp_path / "train.partial" / "step_00000004.partial").mkdir()
    (tmp_path / "train.partial" / "step_00000004.partial" / "model.safetensors").write_bytes(b"half")
    (tmp_path / "train.partial" / ".spec.json.partial.json").write_text("{")
    (tmp_path / "train.partial" / "log.jsonl").write_text('{"step": 1}\n{"st')
    assert found(tmp_path) == {}


def test_nothing_outside_is_removed_for_checksums_that_name_it(tmp_path: Path) -> None:
    tokenized(tmp_path / "store")
    (tmp_path / "diary.json").write_text("{}")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "shard-00000.parquet").write_bytes(b"mine")
    (tmp_path / "store" / "linked").symlink_to(tmp_path / "elsewhere")
    sums = tmp_path / "store" / files.SUMS
    for name in ("../diary.json", str(tmp_path / "diary.json")):
        sums.write_text(f"{'0' * 64}  {name}\n")
        assert list(found(tmp_path / "store")) == [files.SUMS]
    sums.write_text(f"{'0' * 64}  linked/shard-00000.parquet\n")
    with pytest.raises(ValueError, match="lies outside"):
        list(repair(damages(tmp_path / "store")))
    assert (tmp_path / "diary.json").exists() and (tmp_path / "elsewhere" / "shard-00000.parquet").read_bytes() == b"mine"


def test_a_folder_that_is_being_written_or_has_an_unfinished_run_beside_it_is_not_repaired(tmp_path: Path) -> None:
    tokenized(tmp_path / "store")
    flip(tmp_path / "store" / "train" / "shard-00001.parquet")
    with files.locked(tmp_path / "store"), pytest.raises(ValueError, match="another process is writing"):
        list(repair(damages(tmp_path)))
    (tmp_path / "store.partial").mkdir()
    with pytest.raises(ValueError, match=r"beside store\.partial, an unfinished run"):
        list(repair(damages(tmp_path)))
    assert (tmp_path / "store" / "train" / "shard-00001.parquet").exists()


def test_tables_that_are_other_than_they_were_written_are_not_read(tmp_path: Path) -> None:
    def work(partial: Path) -> None:
        files.write_jsonl(partial / "rows.jsonl", [{"id": "a", "seconds": 12}])
        files.write_json(partial / "one.json", {"seconds": 12})

    files.build(tmp_path / "out", {}, work)
    for name in ("rows.jsonl", "one.json"):
        path = tmp_path / "out" / name
        path.write_text(path.read_text().replace("12", "13"))
    with pytest.raises(ValueError, match=r"rows\.jsonl is damaged.*audiotok verify"):
        list(files.read_jsonl(tmp_path / "out" / "rows.jsonl"))
    with pytest.raises(ValueError, match=r"one\.json is damaged.*audiotok verify"):
        files.read_json(tmp_path / "out" / "one.json")


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "training.pt"])
def test_weights_that_are_other_than_they_were_written_are_not_gone_on_from(tmp_path: Path, name: str) -> None:
    trained(tmp_path / "train")
    path = tmp_path / "train" / "step_00000003" / name
    content = path.read_bytes()
    tensor = content.rfind(torch.tensor(3.0).numpy().tobytes()) if name == "training.pt" else len(content) - 1
    path.write_bytes(content[:tensor] + bytes([content[tensor] ^ 1]) + content[tensor + 1 :])
    shutil.rmtree(tmp_path / "train" / "step_00000002")
    (tmp_path / "train").rename(tmp_path / "train.partial")
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        trained(tmp_path / "train", steps=3)


def test_from_the_shell_damage_is_named_with_status_1_and_repaired(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tokenized(tmp_path / "store")
    cli.main(["verify", str(tmp_path)])
    assert "5 files are as they were written" in capsys.readouterr().out
    flip(tmp_path / "store" / "train" / "shard-00002.parquet")
    with pytest.raises(SystemExit, match="1 of 5 files"):
        cli.main(["verify", str(tmp_path)])
    assert "shard-00002.parquet: is other than its checksum says" in capsys.readouterr().out
    cli.main(["verify", str(tmp_path), "--repair"])
    assert "run its stage with the same settings" in capsys.readouterr().out
    assert tokenized(tmp_path / "store") == [2]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [(["verify"], "wants a folder"), (["verify", "no such"], "no folder no such"), (["verify", ".", "--fix"], "got --fix")],
)
def test_verify_says_what_it_takes(words: list[str], wanted: str) -> None:
    with pytest.raises(SystemExit, match=wanted):
        cli.main(words)


def test_checksums_are_the_same_for_the_same_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tokenized(tmp_path / name)
    sums = [(tmp_path / name / files.SUMS).read_bytes() for name in ("one", "two")]
    assert sums[0] == sums[1]
    record = tmp_path / "one" / "stage.json"
    assert hashlib.sha256(record.read_bytes()).hexdigest() == files.sums_of(tmp_path / "one")["stage.json"]
    assert json.loads(record.read_text())["settings"] == {"spec": "tiny"}
