"""One shard on disk: a Parquet file with page checksums, whole or absent, the same bytes for the same rows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from audiotok import files, publishing, storage
from audiotok.store import schema
from audiotok.types import TokenSpec

ROW_GROUP = 64  # utterances decoded to get at one: 16 take 20 % more bytes, 256 take 4 times as long with 80 codebooks in a cold cache


@dataclass(frozen=True)
class Shard:
    """What a shard's footer says."""

    path: Path
    spec: TokenSpec
    num_rows: int
    group_rows: int  # of every row group but the last
    failed: dict[str, str]  # id -> why it has no row


def write_shard(path: Path, utterances: Sequence[schema.Utterance], *, spec: TokenSpec, failed: Mapping[str, str]) -> Shard:
    table = schema.to_table(utterances, spec, failed=failed)
    with files.whole_file(path) as partial:
        pq.write_table(table, partial, row_group_size=ROW_GROUP, compression="zstd", write_page_checksum=True)
    publishing.publish(path)
    return read_footer(path)


@contextmanager
def opened(path: Path, *, whole: bool = False) -> Iterator[pq.ParquetFile]:
    """The shard's file. Raises ValueError naming the shard for whatever is wrong with its bytes while it is open.

    Where it lies in an object store, it is fetched if it is wanted `whole`, else only what is read of it.
    """
    if whole:
        files.here(path)
    try:
        afar = storage.address_of(path) is not None and not path.exists()
        with pq.ParquetFile(storage.Pieces(path) if afar else path, page_checksum_verification=True, pre_buffer=afar) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); `audiotok verify FOLDER --repair` removes it, and its stage makes it again"
        ) from error


def read_footer(path: Path) -> Shard:
    """Raises ValueError where what the footer says does not agree with itself, so that no reader has to look again."""
    with opened(path) as file:
        metadata = file.schema_arrow.metadata
        spec = schema.spec_of(path, metadata)
        rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        failed = files.parsed(metadata.get(schema.FAILED, b""), f"{path}: the list of what failed")
        regular = sum(rows) == file.metadata.num_rows and all(some == rows[0] for some in rows[:-1]) and rows[-1:] <= rows[:1]
        if not (regular and isinstance(failed, dict) and file.schema_arrow.equals(schema.schema(spec))):
            raise OSError("its footer contradicts itself")
        return Shard(path, spec, file.metadata.num_rows, rows[0] if rows else 0, failed)


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    with opened(path) as file:
        return file.read(columns=list(columns))


def read_ids(path: Path) -> list[str]:
    return read_columns(path, ["id"])["id"].to_pylist()
