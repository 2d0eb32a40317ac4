"""What a token store promises: every row back, some codebooks of it, the same bytes, one tokenizer, and a clear word about damage."""

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis.strategies import lists, text

from audiotok import files
from audiotok.store import TokenStore, TokenWriter, Utterance, index
from audiotok.store.schema import code_columns
from audiotok.store.shards import ROW_GROUP
from audiotok.types import TokenSpec

SPEC = TokenSpec(sample_rate=16_000, frame_rate=Fraction(75, 2), codebook_sizes=(16, 300, 7), fingerprint="f" * 64)


def utterance(number: int, spec: TokenSpec = SPEC, *, frames: int | None = None) -> Utterance:
    generator = torch.Generator().manual_seed(number)
    length = int(torch.randint(0, 40, (), generator=generator)) if frames is None else frames
    sizes = torch.tensor(spec.codebook_sizes)[:, None]
    return Utterance(
        id=f"utt-{number:04d}",
        codes_KN=(torch.rand(spec.num_codebooks, length, generator=generator) * sizes).long(),
        num_samples=spec.num_samples(length),
        text=None if number % 5 == 0 else f'sentence {number} with ü and "quotes"',
        speaker=None if number % 7 == 0 else f"speaker {number % 3}",
        language="en",
        duration=length / 37.5,
    )


def same(one: Utterance, other: Utterance) -> bool:
    plain = ("id", "num_samples", "num_frames", "text", "speaker", "language", "duration")
    return all(getattr(one, name) == getattr(other, name) for name in plain) and torch.equal(one.codes_KN, other.codes_KN)


def write(folder: Path, *sizes: int, spec: TokenSpec = SPEC) -> list[Utterance]:
    """A store of shards of those sizes; all its rows."""
    utterances = [utterance(number, spec) for number in range(sum(sizes))]
    writer, rest = TokenWriter(folder, spec), list(utterances)
    for number, size in enumerate(sizes):
        writer.write(number, rest[:size])
        rest = rest[size:]
    return utterances


def test_every_row_comes_back_by_id_and_in_stored_order(tmp_path: Path) -> None:
    utterances = write(tmp_path, 70, ROW_GROUP * 2, 1)
    store = TokenStore(tmp_path)
    assert store.spec == SPEC and len(store) == len(utterances) and store.ids == [row.id for row in utterances]
    assert all(same(read, row) for read, row in zip(store, utterances, strict=True))
    for number in torch.randperm(len(utterances), generator=torch.Generator().manual_seed(0)).tolist():
        assert same(store[utterances[number].id], utterances[number])
    assert [row.id for row in map(store.at, (0, 69, 70, len(store) - 1))] == [utterances[place].id for place in (0, 69, 70, -1)]
    assert "utt-0003" in store and "elsewhere" not in store
    with pytest.raises(KeyError, match="elsewhere"):
        store["elsewhere"]


def test_codes_come_back_as_int64_that_may_be_written_to(tmp_path: Path) -> None:
    write(tmp_path, 4)
    codes_KN = TokenStore(tmp_path)["utt-0003"].codes_KN
    assert codes_KN.dtype == torch.int64 and codes_KN.is_contiguous()
    codes_KN += 1
    assert not torch.equal(TokenStore(tmp_path)["utt-0003"].codes_KN, codes_KN)


@pytest.mark.parametrize("codebooks", [[0], [1, 2], [2, 0]])
def test_some_codebooks_are_read_as_a_slice_of_all_of_them(tmp_path: Path, codebooks: list[int]) -> None:
    utterances = write(tmp_path, 9, 5)
    store = TokenStore(tmp_path, codebooks=codebooks)
    assert store.spec.codebook_sizes == tuple(SPEC.codebook_sizes[codebook] for codebook in codebooks)
    assert store.spec.fingerprint != SPEC.fingerprint
    assert all(torch.equal(read.codes_KN, row.codes_KN[codebooks]) for read, row in zip(store, utterances, strict=True))
    assert torch.equal(store["utt-0012"].codes_KN, utterances[12].codes_KN[codebooks])


def test_other_codebooks_are_not_decoded(tmp_path: Path) -> None:
    write(tmp_path, 60)
    path = tmp_path / "shard-00000.parquet"
    leaf = pq.ParquetFile(path).metadata.row_group(0).column(pq.ParquetFile(path).metadata.num_columns - 1)
    assert leaf.path_in_schema.startswith("codes_02")
    with open(path, "r+b") as file:
        file.seek(leaf.data_page_offset)
        file.write(b"\xff" * leaf.total_compressed_size if not leaf.dictionary_page_offset else b"\xff" * 8)
    assert len(list(TokenStore(tmp_path, codebooks=[0, 1]))) == 60
    with pytest.raises(ValueError, match="shard-00000"):
        list(TokenStore(tmp_path))


def test_all_codebooks_in_order_keep_the_fingerprint_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 2)
    assert TokenStore(tmp_path, codebooks=range(3)).spec == SPEC
    for codebooks in ([3], [-1], [0, 0], []):
        with pytest.raises(ValueError, match="different ones among 0 to 2"):
            TokenStore(tmp_path, codebooks=codebooks)


@pytest.mark.parametrize(
    ("size", "kind"), [(2, pa.uint8()), (256, pa.uint8()), (257, pa.uint16()), (65_536, pa.uint16()), (65_537, pa.uint32())]
)
def test_codes_take_the_narrowest_type_that_holds_the_largest_codebook(tmp_path: Path, size: int, kind: pa.DataType) -> None:
    spec = TokenSpec(sample_rate=8000, frame_rate=Fraction(50), codebook_sizes=(2, size), fingerprint="a")
    row = Utterance("a", torch.tensor([[0, 1], [0, size - 1]]), 320, None, None, None, 0.04)
    TokenWriter(tmp_path, spec).write(0, [row])
    table = pq.read_table(tmp_path / "shard-00000.parquet")
    assert [table.schema.field(name).type.value_type for name in code_columns(range(2))] == [kind, kind]
    assert same(TokenStore(tmp_path)["a"], row)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "one", 70, 3)
    write(tmp_path / "two", 70, 3)
    for name in ("shard-00000.parquet", "shard-00001.parquet"):
        assert files.file_digest(tmp_path / "one" / name) == files.file_digest(tmp_path / "two" / name)


def test_the_descriptive_columns_are_read_without_codes(tmp_path: Path) -> None:
    utterances = write(tmp_path, 6, 6)
    about = TokenStore(tmp_path).about()
    assert about.column_names == ["id", "num_frames", "num_samples", "text", "speaker", "language", "duration"]
    assert [vars(row) for row in TokenStore(tmp_path).descriptions()] == about.to_pylist()
    assert about.to_pylist() == [{name: getattr(row, name) for name in about.column_names} for row in utterances]


def test_plain_pyarrow_reads_a_folder(tmp_path: Path) -> None:
    utterances = write(tmp_path, 6, 6)
    table = pq.read_table(tmp_path)
    assert table["codes_01"].to_pylist() == [row.codes_KN[1].tolist() for row in utterances]
    metadata = pq.read_schema(tmp_path / "shard-00001.parquet").metadata
    assert metadata[b"audiotok.fingerprint"].decode() == SPEC.fingerprint
    assert TokenSpec.from_json(metadata[b"audiotok.spec"].decode()) == SPEC


def test_polars_reads_a_folder(tmp_path: Path) -> None:
    import polars

    utterances = write(tmp_path, 6, 6)
    frame = polars.scan_parquet(tmp_path / "*.parquet").select("id", "codes_02").collect()
    assert frame.rows() == [(row.id, row.codes_KN[2].tolist()) for row in utterances]


def test_hugging_face_datasets_reads_a_folder(tmp_path: Path) -> None:
    import datasets

    utterances = write(tmp_path / "train", 6, 6)
    loaded = datasets.load_dataset("parquet", data_dir=str(tmp_path / "train"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["text"][:] == [row.text for row in utterances]
    assert loaded["codes_00"][:] == [row.codes_KN[0].tolist() for row in utterances]


def test_two_tokenizers_cannot_share_a_folder(tmp_path: Path) -> None:
    write(tmp_path, 3)
    other = TokenSpec(sample_rate=24_000, frame_rate=Fraction(75), codebook_sizes=(1024,), fingerprint="e" * 64)
    with pytest.raises(ValueError, match=r"another tokenizer.*ffff.*there.*eeee.* now"):
        TokenWriter(tmp_path, other)
    write(tmp_path / "other", 1, spec=other)
    os.rename(tmp_path / "other" / "shard-00000.parquet", tmp_path / "shard-00001.parquet")
    with pytest.raises(ValueError, match=r"shard-00001.*another tokenizer"):
        TokenStore(tmp_path)


def test_an_id_can_be_in_a_split_once(tmp_path: Path) -> None:
    writer = TokenWriter(tmp_path, SPEC)
    with pytest.raises(ValueError, match="'utt-0001' is in this split already"):
        writer.write(0, [utterance(1), utterance(1)])
    writer = TokenWriter(tmp_path, SPEC)
    writer.write(0, [utterance(1)])
    with pytest.raises(ValueError, match="'utt-0001' is in this split already"):
        writer.write(1, [utterance(1)])
    with pytest.raises(ValueError, match="'utt-0001' is in this split already"):
        TokenWriter(tmp_path, SPEC).write(1, [utterance(1)])
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00000.parquet"]


def test_a_reader_finds_an_id_that_two_shards_hold(tmp_path: Path) -> None:
    write(tmp_path, 3)
    (tmp_path / "shard-00001.parquet").write_bytes((tmp_path / "shard-00000.parquet").read_bytes())
    with pytest.raises(ValueError, match=r"shard-00001.*'utt-0000' is in an earlier shard"):
        TokenStore(tmp_path)["utt-0000"]


def test_ids_of_one_hash_are_told_apart_and_repeated_ones_among_them_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "hash", lambda id: len(id), raising=False)
    utterances = write(tmp_path, 3, 70)
    store = TokenStore(tmp_path)
    assert all(same(store[row.id], row) for row in utterances)
    assert "utt-9999" not in store and "elsewhere" not in store and 7 not in store
    with pytest.raises(ValueError, match="'utt-0002' is in this split already"):
        TokenWriter(tmp_path, SPEC).write(2, [utterance(80), utterance(2)])
    (tmp_path / "shard-00002.parquet").write_bytes((tmp_path / "shard-00000.parquet").read_bytes())
    with pytest.raises(ValueError, match=r"shard-00002.*'utt-0000' is in an earlier shard"):
        TokenStore(tmp_path)["utt-0005"]
    with pytest.raises(ValueError, match=r"'utt-0000' is in this split already"):
        TokenWriter(tmp_path, SPEC)


@given(parts=lists(lists(text(max_size=2), max_size=12), max_size=9))
def test_an_index_and_hashes_that_were_seen_answer_as_a_dict_and_a_set_do(parts: list[list[str]]) -> None:
    known, seen, places = index.Index(parts), index.Seen(), dict[str, list[int]]()
    for part in parts:
        met = seen.met(index.hashes_of(part)).tolist()
        assert met == [id in places for id in part]
        seen.add(index.hashes_of(part))
        first = sum(map(len, places.values()))
        for place, id in enumerate(part, start=first):
            places.setdefault(id, []).append(place)
    assert {id: known.candidates(id) for id in places} == places and known.candidates("elsewhere") == []
    assert known.again() == sorted(place for found in places.values() for place in found[1:])
    assert len(known) == len(seen) == sum(map(len, parts))


def test_a_shard_is_written_once(tmp_path: Path) -> None:
    write(tmp_path, 3)
    with pytest.raises(ValueError, match="written once"):
        TokenWriter(tmp_path, SPEC).write(0, [utterance(9)])


@pytest.mark.parametrize("keep", [0, 3, 500, -1])
def test_a_truncated_shard_is_named(tmp_path: Path, keep: int) -> None:
    write(tmp_path, 9, 9)
    path = tmp_path / "shard-00001.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    for opening in (lambda: TokenStore(tmp_path), lambda: TokenWriter(tmp_path, SPEC)):
        with pytest.raises(ValueError, match=r"shard-00001\.parquet is damaged"):
            opening()


def test_a_flipped_bit_in_the_codes_is_found_and_its_shard_named(tmp_path: Path) -> None:
    write(tmp_path, 60)
    path = tmp_path / "shard-00000.parquet"
    content = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(8)
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-00000\.parquet is damaged"):
        list(TokenStore(tmp_path))


def test_a_missing_shard_and_an_empty_folder_and_a_foreign_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no shards; run `audiotok tokenize`"):
        TokenStore(tmp_path)
    write(tmp_path, 3, 3, 3)
    (tmp_path / "shard-00001.parquet").unlink()
    with pytest.raises(ValueError, match=r"lacks shards \[1\]"):
        TokenStore(tmp_path)
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "shard-00001.parquet")
    with pytest.raises(ValueError, match=r"shard-00001\.parquet is not a token store's shard"):
        TokenStore(tmp_path)


def test_codes_that_do_not_fit_the_spec_are_not_written(tmp_path: Path) -> None:
    writer = TokenWriter(tmp_path, SPEC)
    for codes_KN in (torch.tensor([[0], [300], [0]]), torch.tensor([[0], [-1], [0]])):
        with pytest.raises(ValueError, match=r"x: codes outside codebooks of \(16, 300, 7\)"):
            writer.write(0, [Utterance("x", codes_KN, 1, None, None, None, 0.1)])
    for codes_KN in (torch.zeros(2, 1).long(), torch.zeros(3, 1), torch.zeros(3).long()):
        with pytest.raises(ValueError, match=r"x: got codes of .*, want integers \[3, frames\]"):
            writer.write(0, [Utterance("x", codes_KN, 1, None, None, None, 0.1)])
    assert not list(tmp_path.iterdir())


def test_ids_that_failed_travel_with_their_shard_and_a_shard_may_have_no_rows(tmp_path: Path) -> None:
    writer = TokenWriter(tmp_path, SPEC)
    writer.write(0, [utterance(1)], failed={"bad": "0 channels; übel"})
    writer.write(1, [], failed={"worse": "empty"})
    store = TokenStore(tmp_path)
    assert store.failed == {"bad": "0 channels; übel", "worse": "empty"}
    assert store.ids == ["utt-0001"] and [row.id for row in store] == ["utt-0001"]
    assert TokenWriter(tmp_path, SPEC).present[1].failed == {"worse": "empty"}


def test_a_killed_writer_leaves_whole_shards_and_the_next_one_clears_the_rest(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from audiotok.store import shards
from test_store import write
real, calls = shards.pq.write_table, []
def killed(table, path, **options):
    real(table, path, **options)
    calls.append(path)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
shards.pq.write_table = killed
write(Path(sys.argv[1]), 5, 5, 5)
"""
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "store"), str(Path(__file__).parent)], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [".shard-00001.parquet.partial.parquet", "shard-00000.parquet"]
    writer = TokenWriter(tmp_path / "store", SPEC)
    assert list(writer.present) == [0]
    writer.write(1, [utterance(number) for number in range(5, 10)])
    writer.write(2, [utterance(number) for number in range(10, 15)])
    write(tmp_path / "undisturbed", 5, 5, 5)
    digests = [{path.name: files.file_digest(path) for path in (tmp_path / name).iterdir()} for name in ("store", "undisturbed")]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_an_utterance_is_pickled_as_it_is_and_its_codes_may_be_written_to(dtype: torch.dtype) -> None:
    row = replace(utterance(3), codes_KN=torch.arange(12, dtype=dtype).reshape(2, 6).T)
    copy = pickle.loads(pickle.dumps(row))  # noqa: S301, its own bytes
    assert same(row, copy) and copy.codes_KN.dtype == dtype
    copy.codes_KN.add_(1)
    assert torch.equal(row.codes_KN.T.flatten(), torch.arange(12, dtype=dtype)), "the copy is its own"


def test_a_store_can_be_pickled_for_a_worker_process(tmp_path: Path) -> None:
    utterances = write(tmp_path, 6)
    store = TokenStore(tmp_path, codebooks=[1])
    store["utt-0002"]
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301, its own bytes
    assert copy.spec == store.spec
    assert np.array_equal(copy["utt-0002"].codes_KN, utterances[2].codes_KN[[1]])
