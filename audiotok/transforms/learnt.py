"""What a transform of merged tokens has learnt, of which codes, and the folder that keeps it.

config.json               the transform's settings, the spec of the codes, and a digest of the tables
expansions.safetensors    what each token stands for
merges.safetensors        the rules, where there are any
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from audiotok import files
from audiotok.transforms.codes import marked
from audiotok.transforms.expansions import Expansions, Turns
from audiotok.transforms.flat import flattened
from audiotok.types import TokenSpec

CONFIG, EXPANSIONS = "config.json", "expansions.safetensors"
AGAIN = "learn again with `audiotok reduce RECIPE transform=NAME overwrite=true`"


class Encoder(Protocol):
    """Says which tokens codes become."""

    @property
    def expansions(self) -> Expansions: ...

    @property
    def tables(self) -> tuple[np.ndarray, ...]:
        """What it learnt beside the expansions."""
        ...

    def encode(self, codes_N: np.ndarray) -> np.ndarray:
        """The tokens of base ids, int64 [N']: always the same ones, and they expand to the base ids."""
        ...

    def save(self, folder: Path) -> None:
        """Write the tables."""
        ...


@dataclass(frozen=True, eq=False)
class Learnt:
    """spec: of the codes that it was learnt from."""

    spec: TokenSpec
    encoder: Encoder

    @property
    def expansions(self) -> Expansions:
        return self.encoder.expansions

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of all tables."""
        merged = self.expansions.num_base
        tables = [self.expansions.starts[merged:], self.expansions.codes[merged:], *self.encoder.tables]
        return hashlib.sha256(b"".join(np.ascontiguousarray(table).tobytes() for table in tables)).hexdigest()

    def out_spec(self, transform: object) -> TokenSpec:
        """Of a stream of tokens; a second has the most of them where nothing is merged."""
        rate, mark = self.spec.frame_rate * self.spec.num_codebooks, marked(self.spec.fingerprint, transform)
        return replace(self.spec, frame_rate=rate, codebook_sizes=(len(self.expansions),), fingerprint=mark)

    def apply(self, codes_KN: Tensor) -> Tensor:
        return torch.from_numpy(self.encoder.encode(flattened(codes_KN, self.spec)))[None].to(codes_KN.device)

    def invert(self, tokens_1N: Tensor) -> Tensor:
        return self.expansions.invert(tokens_1N, self.spec)

    def settled(self, codes_KN: Tensor) -> tuple[int, int]:
        """`Causal.settled`: up to the last frame that no token joins with the one before it."""
        codes_N = flattened(codes_KN, self.spec)
        parted = self.expansions.parted(codes_N, self.spec.num_codebooks)
        return len(self.encoder.encode(codes_N[:parted])), parted // self.spec.num_codebooks

    def grammar(self) -> Turns:
        return self.expansions.grammar(self.spec)

    def save(self, folder: Path, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.expansions.save(folder / EXPANSIONS)
        self.encoder.save(folder)
        files.write_json(folder / CONFIG, {"settings": settings, "spec": json.loads(self.spec.to_json()), "digest": self.digest})


def load(folder: Path | None, settings: Mapping[str, Any], read: Callable[[Path], Encoder]) -> Learnt | None:
    """What `Learnt.save` wrote, its encoder read by `read(folder)`; None for no folder, and for one that is still to be made.

    Raises ValueError where the folder is damaged, or was made with other settings.
    """
    if folder is None or not folder.exists():
        return None
    record = _record(folder / CONFIG, settings)
    try:
        learnt = Learnt(TokenSpec.from_json(json.dumps(record["spec"])), read(folder))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder}: damaged ({error}); {AGAIN}") from error
    written = Expansions.load(folder / EXPANSIONS)
    same = np.array_equal(written.starts, learnt.expansions.starts) and np.array_equal(written.codes, learnt.expansions.codes)
    if not same or learnt.digest != record["digest"]:
        raise ValueError(f"{folder}: the tables are not those that {CONFIG} describes; {AGAIN}")
    learnt.expansions.refuse_other(learnt.spec)
    return learnt


def required(learnt: Learnt | None, transform: object, spec: TokenSpec | None = None) -> Learnt:
    """What was learnt. Raises ValueError where that is nothing yet, or of other codes than those of `spec`."""
    if learnt is None:
        raise ValueError(
            f"{transform!r} has learnt nothing yet; run `audiotok reduce RECIPE transform=NAME`, or set transform.fitted=FOLDER"
        )
    if spec is not None and learnt.spec != spec:
        raise ValueError(
            f"{transform!r} was learnt from codes {_named(learnt.spec)} and got codes {_named(spec)}; "
            "give it codes of that tokenizer, or learn from these"
        )
    return learnt


def described(name: str, settings: Mapping[str, Any], learnt: Learnt | None) -> str:
    """A `repr` that tells every setting, and the tables by their digest."""
    told = [f"{key}={value!r}" for key, value in settings.items()]
    return f"{name}({', '.join([*told, f'learnt={learnt.digest[:16]!r}' if learnt else 'learnt=None'])})"


def _record(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        record = files.read_json(path)
        found, _, _ = (record[key] for key in ("settings", "spec", "digest"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: missing or damaged ({type(error).__name__}: {error}); {AGAIN}") from error
    if found != settings:
        differing = "; ".join(f"{key}: {old!r} there, {new!r} now" for key, old, new in files.differences(found, dict(settings)))
        raise ValueError(f"{path.parent} was learnt with other settings ({differing}); {AGAIN}")
    return record


def _named(spec: TokenSpec) -> str:
    return f"{spec.fingerprint[:12]} of codebooks {list(spec.codebook_sizes[:8])}{' ...' if spec.codebook_sizes[8:] else ''}"
