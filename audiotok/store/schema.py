"""The columns of a token store, and rows to and from them.

One list column a codebook, `codes_00`, `codes_01` ...: Parquet stores columns apart, so that a reader of the first four of dMel's 80
codebooks decodes a twentieth of the bytes, in any tool and with nothing rewritten. One nested `codes` column would be a single leaf that
can only be read whole. The price is list lengths and a footer entry for each column: 13 % more bytes for 80 codebooks of 16 codes, 11 %
for 16, 5 % for 8 of 1024 (256 utterances of 2 to 10 seconds, against list<list>), while four of 80 read five times as fast as all.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from audiotok import files
from audiotok.types import TokenSpec

SPEC = b"audiotok.spec"
FINGERPRINT = b"audiotok.fingerprint"
FAILED = b"audiotok.failed"
ABOUT = {
    "id": pa.string(),
    "num_frames": pa.int64(),
    "num_samples": pa.int64(),
    "text": pa.string(),
    "speaker": pa.string(),
    "language": pa.string(),
    "duration": pa.float64(),
}
OPTIONAL = ("text", "speaker", "language")


@dataclass(frozen=True, eq=False)
class Utterance:
    """A row of the store."""

    id: str
    codes_KN: Tensor  # int64
    num_samples: int  # at the spec's sample rate
    text: str | None
    speaker: str | None
    language: str | None
    duration: float  # seconds of the recording as it was before resampling

    @property
    def num_frames(self) -> int:
        return self.codes_KN.shape[1]

    def __reduce__(self) -> tuple:
        """Pickled by way of an array: a tensor takes longer than all else that a worker's utterances cost who writes them."""
        return _unpickled, (self.codes_KN.cpu().numpy(), {name: value for name, value in vars(self).items() if name != "codes_KN"})


def _unpickled(codes_KN: np.ndarray, about: Mapping[str, Any]) -> Utterance:
    return Utterance(codes_KN=torch.tensor(codes_KN), **about)  # a copy: Ray's arrays cannot be written to


@dataclass(frozen=True)
class Description:
    """A row of the store without its codes: to choose utterances and plan batches by."""

    id: str
    num_frames: int
    num_samples: int
    text: str | None
    speaker: str | None
    language: str | None
    duration: float


def shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.parquet"


def shard_paths(folder: Path) -> dict[int, Path]:
    """The shards of a folder by their index, in order."""
    found = {
        int(match[1]): path
        for path in files.listed(folder, "shard-*.parquet")
        if (match := re.fullmatch(r"shard-(\d{5,})\.parquet", path.name))
    }
    return dict(sorted(found.items()))


def code_columns(codebooks: Sequence[int]) -> list[str]:
    return [f"codes_{codebook:02d}" for codebook in codebooks]


def selected(spec: TokenSpec, codebooks: Sequence[int]) -> TokenSpec:
    """The spec of some of the codebooks; all of them in order keep the fingerprint."""
    if list(codebooks) == list(range(spec.num_codebooks)):
        return spec
    wrong = [codebook for codebook in codebooks if not 0 <= codebook < spec.num_codebooks]
    if wrong or not codebooks or len(set(codebooks)) < len(codebooks):
        raise ValueError(f"got codebooks {list(codebooks)}, want different ones among 0 to {spec.num_codebooks - 1}")
    sizes = tuple(spec.codebook_sizes[codebook] for codebook in codebooks)
    return replace(spec, codebook_sizes=sizes, fingerprint=files.fingerprint([spec.fingerprint, list(codebooks)]))


def code_type(spec: TokenSpec) -> pa.DataType:
    """The narrowest unsigned integer that holds every code of the largest codebook."""
    return pa.from_numpy_dtype(np.min_scalar_type(max(spec.codebook_sizes) - 1))


def schema(spec: TokenSpec, failed: Mapping[str, str] | None = None) -> pa.Schema:
    """Columns and metadata of a shard; `failed` names the utterances that it should hold and could not, each with the reason."""
    about = [pa.field(name, kind, nullable=name in OPTIONAL) for name, kind in ABOUT.items()]
    codes_type = pa.list_(pa.field("element", code_type(spec), nullable=False))
    codes = [pa.field(name, codes_type, nullable=False) for name in code_columns(range(spec.num_codebooks))]
    metadata = {SPEC: spec.to_json(), FINGERPRINT: spec.fingerprint, FAILED: json.dumps(failed or {}, ensure_ascii=False, sort_keys=True)}
    return pa.schema(about + codes, metadata=metadata)


def to_table(utterances: Sequence[Utterance], spec: TokenSpec, *, failed: Mapping[str, str]) -> pa.Table:
    """A shard's table. Raises ValueError for codes that do not fit the spec."""
    codes = [_checked_codes(utterance, spec) for utterance in utterances]
    offsets = pa.array(np.cumsum([0, *(code.shape[1] for code in codes)]), pa.int32())
    flat_KN = np.concatenate([np.zeros((spec.num_codebooks, 0), np.uint8), *codes], axis=1)
    about = [pa.array([getattr(utterance, name) for utterance in utterances], kind) for name, kind in ABOUT.items()]
    lists = [pa.ListArray.from_arrays(offsets, pa.array(row, code_type(spec))) for row in flat_KN]
    typed = [column.cast(field.type) for column, field in zip(about + lists, schema(spec), strict=True)]
    return pa.Table.from_arrays(typed, schema=schema(spec, failed))


def _checked_codes(utterance: Utterance, spec: TokenSpec) -> np.ndarray:
    codes_KN = utterance.codes_KN
    if codes_KN.dim() != 2 or codes_KN.shape[0] != spec.num_codebooks or codes_KN.is_floating_point():
        got = f"{codes_KN.dtype} {list(codes_KN.shape)}"
        raise ValueError(f"{utterance.id}: got codes of {got}, want integers [{spec.num_codebooks}, frames]")
    sizes_K1 = torch.tensor(spec.codebook_sizes)[:, None]
    if ((codes_KN.cpu() < 0) | (codes_KN.cpu() >= sizes_K1)).any():
        raise ValueError(f"{utterance.id}: codes outside codebooks of {spec.codebook_sizes}; the tokenizer's spec is not that of its codes")
    return codes_KN.cpu().numpy().astype(code_type(spec).to_pandas_dtype())


def to_utterances(table: pa.Table) -> Iterator[Utterance]:
    """The rows of a table that holds the descriptive columns and some codebooks."""
    if not table.num_rows:
        return
    lists = [column.combine_chunks() for name, column in zip(table.column_names, table.columns) if name.startswith("codes_")]
    about = table.select([name for name in ABOUT if name != "num_frames"]).to_pylist()
    offsets = lists[0].offsets.to_numpy()
    values = [column.values.to_numpy(zero_copy_only=False) for column in lists]
    for row, (start, end) in zip(about, pairwise(offsets)):
        yield Utterance(codes_KN=torch.from_numpy(np.stack([value[start:end] for value in values]).astype(np.int64)), **row)


def spec_of(path: Path, metadata: Mapping[bytes, bytes] | None) -> TokenSpec:
    """The spec in a shard's schema metadata."""
    if not metadata or SPEC not in metadata:
        raise ValueError(f"{path} is not a token store's shard: its schema has no {SPEC.decode()}; point to a folder that `tokenize` wrote")
    try:
        return TokenSpec.from_json(metadata[SPEC].decode())
    except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its token spec is no such thing ({error}); `audiotok verify FOLDER --repair`") from error
