"""What the ids of a merged vocabulary stand for: sequences of base ids, the ids of `Flatten`.

A base id stands for itself and keeps its number; merged tokens come behind. Two codebooks of four entries, 0 ... 3 and 4 ... 7; token 8
stands for 1 5, token 9 for 2 6 1 5:

    tokens   0   4   9         8
    codes    0   4   2 6 1 5   1 5      0 2 1 1
                                   ->   4 6 5 5
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from audiotok import files
from audiotok.transforms.codes import checked
from audiotok.transforms.pair_table import PairTable, apart, table_of
from audiotok.types import TokenSpec

NEVER = -1  # the turn of a token whose codes do not follow the codebooks
LARGEST = 1 << 26  # base ids, ten times 80 codebooks of 65,536: more than that is a damaged file


@dataclass(frozen=True, eq=False)
class Expansions:
    """`codes[starts[v] : starts[v + 1]]` are the base ids that token v stands for. Raises ValueError for arrays that cannot be that.

    starts: int64 [V + 1]; codes: int64 [starts[V]].
    """

    starts: np.ndarray
    codes: np.ndarray

    def __post_init__(self) -> None:
        for name in ("starts", "codes"):
            array = getattr(self, name)
            if array.ndim != 1 or array.dtype != np.int64:
                raise ValueError(f"expansions: got {name} of {array.dtype} {list(array.shape)}, want int64 of one dimension")
        if len(self.starts) < 2 or self.starts[0] != 0 or self.starts[-1] != len(self.codes) or (np.diff(self.starts) < 1).any():
            raise ValueError(f"expansions: starts of {len(self.codes)} codes must rise from 0 to {len(self.codes)}, a code or more each")
        base = self.codes[: self.num_base]
        if (base != np.arange(len(base))).any() or self.codes.min() < 0 or self.codes.max() >= len(base):
            raise ValueError(f"expansions: the first {len(base)} tokens are base ids and must stand for themselves, and others for them")

    def __len__(self) -> int:
        """Tokens, base ids among them."""
        return len(self.starts) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """Codes of each token: int64 [V]."""
        return np.diff(self.starts)

    @cached_property
    def num_base(self) -> int:
        longer = np.flatnonzero(self.lengths != 1)
        return int(longer[0]) if len(longer) else len(self)

    @property
    def longest(self) -> int:
        """Codes of the longest token."""
        return int(self.lengths.max())

    def expand(self, tokens_N: np.ndarray) -> np.ndarray:
        """Base ids, int64, of tokens that must be below `len(self)`."""
        lengths_N = self.lengths[tokens_N]
        ends_N = np.cumsum(lengths_N)
        shifts_N = self.starts[tokens_N] - (ends_N - lengths_N)
        return self.codes[np.repeat(shifts_N, lengths_N) + np.arange(ends_N[-1] if len(ends_N) else 0)]

    def phase(self, spec: TokenSpec) -> np.ndarray:
        """The codebook of each token's first code, `NEVER` for one whose codes do not follow the codebooks in turn: int64 [V]."""
        self.refuse_other(spec)
        codebooks = np.searchsorted(spec.vocabulary_offsets, self.codes, side="right") - 1
        first_V, places = codebooks[self.starts[:-1]], np.arange(len(self.codes)) - np.repeat(self.starts[:-1], self.lengths)
        wrong = codebooks != (np.repeat(first_V, self.lengths) + places) % spec.num_codebooks
        return np.where(np.logical_or.reduceat(wrong, self.starts[:-1]), NEVER, first_V)

    def grammar(self, spec: TokenSpec) -> "Turns":
        """Which streams of tokens are frames of `spec`."""
        return Turns(torch.from_numpy(self.phase(spec)), torch.from_numpy(self.lengths), spec.num_codebooks)

    def invert(self, tokens_1N: Tensor, spec: TokenSpec) -> Tensor:
        """codes_KN that a stream of tokens stands for. Raises ValueError naming the position where it is no stream of whole frames."""
        self.refuse_other(spec)
        tokens_N = checked(tokens_1N, (len(self),))[0].cpu().numpy()
        codes, offsets_K = self.expand(tokens_N), np.array(spec.vocabulary_offsets)
        begun = len(codes) % spec.num_codebooks
        filled = np.concatenate([codes, offsets_K[begun:]]) if begun else codes
        codes_NK = filled.reshape(-1, spec.num_codebooks) - offsets_K
        if (wrong_NK := (codes_NK < 0) | (codes_NK >= np.array(spec.codebook_sizes))).any():
            raise ValueError(self._out_of_turn(tokens_N, int(wrong_NK.argmax()), spec))
        if begun:
            raise ValueError(
                f"the stream ends at position {len(tokens_N)} after {begun} of the {spec.num_codebooks} codes of a frame; "
                "a generator may stop only where the grammar is `complete`"
            )
        return torch.from_numpy(np.ascontiguousarray(codes_NK.T)).to(tokens_1N.device)

    def parted(self, codes_N: np.ndarray, every: int) -> int:
        """The last place, a multiple of `every`, over which no token reaches: what stands before it is merged alone, whatever follows."""
        apart_N = np.append(apart(codes_N, self._neighbours), False)
        places = np.flatnonzero(apart_N[::every]) * every
        return int(places[-1]) if len(places) else 0

    def up_to(self, longest: int) -> "Expansions":
        """The tokens of at most so many codes, those merged numbered anew in their order."""
        kept_V = self.lengths <= longest
        starts = np.concatenate([[0], np.cumsum(self.lengths[kept_V])])
        return Expansions(starts, self.codes[np.repeat(kept_V, self.lengths)])

    def refuse_other(self, spec: TokenSpec) -> None:
        """Raises ValueError unless the base ids are those of `spec`."""
        if self.num_base != sum(spec.codebook_sizes):
            raise ValueError(f"expansions of {self.num_base} base ids; codebooks of {_sizes(spec)} have {sum(spec.codebook_sizes)}")

    def save(self, path: Path) -> None:
        """A safetensors file of the merged tokens alone."""
        merged = {"starts": self.starts[self.num_base :], "codes": self.codes[self.num_base :], "num_base": np.array([self.num_base])}
        with files.whole_file(path) as partial:
            save_file({name: np.ascontiguousarray(array) for name, array in merged.items()}, partial)

    @classmethod
    def load(cls, path: Path) -> "Expansions":
        """What `save` wrote. Raises ValueError where the file is missing, damaged or holds no expansions."""
        merged = read_tables(path, "starts", "codes", "num_base")
        try:
            base = np.arange(one_number(merged["num_base"]))
            return cls(np.concatenate([base, merged["starts"]]), np.concatenate([base, merged["codes"]]))
        except ValueError as error:
            raise ValueError(f"{path}: damaged ({error}); learn again") from error

    @cached_property
    def _neighbours(self) -> PairTable:
        """The pairs of codes that are neighbours in some token."""
        within = np.ones(len(self.codes), dtype=bool)
        within[self.starts[1:] - 1] = False
        (left,) = np.nonzero(within)
        return table_of(np.stack([self.codes[left], self.codes[left + 1]], axis=1))

    def _out_of_turn(self, tokens_N: np.ndarray, flat: int, spec: TokenSpec) -> str:
        position = int(np.searchsorted(np.cumsum(self.lengths[tokens_N]), flat, side="right"))
        return (
            f"token {tokens_N[position]} at position {position} holds other codes than one of codebook {flat % spec.num_codebooks}, whose "
            "turn it is there; a generator must choose among the grammar's `legal`"
        )


@dataclass(frozen=True, eq=False)
class Turns:
    """The codebooks take turns, and a stream may end where a frame does. A state is the codebook whose turn it is."""

    phase_V: Tensor
    lengths_V: Tensor
    num_codebooks: int

    def start(self) -> int:
        return 0

    def legal(self, state: int) -> Tensor:
        return self.phase_V == state

    def advance(self, state: int, code: int) -> int:
        if not 0 <= code < len(self.phase_V) or int(self.phase_V[code]) != state:
            raise ValueError(f"token {code} does not begin with a code of codebook {state}, whose turn it is; choose among `legal`")
        return (state + int(self.lengths_V[code])) % self.num_codebooks

    def complete(self, state: int) -> bool:
        return state == 0


def read_tables(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The int64 arrays of those names in a safetensors file. Raises ValueError where it holds no such, or others."""
    try:
        tables = load_file(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; learn first, or give the folder of what was learnt") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged, or no safetensors file ({error}); learn again") from error
    if tables.keys() != set(names) or any(table.dtype != np.int64 for table in tables.values()):
        found = ", ".join(f"{name} of {table.dtype}" for name, table in sorted(tables.items()))
        raise ValueError(f"{path}: got {found or 'nothing'}, want {', '.join(names)} of int64; learn again")
    return tables


def one_number(num_base: np.ndarray) -> int:
    """How many base ids a file has. Raises ValueError for what cannot be that."""
    if num_base.size != 1 or not 1 <= num_base.item() <= LARGEST:
        raise ValueError(f"got num_base {num_base.tolist()}, want one number from 1 to {LARGEST}")
    return int(num_base.item())


def _sizes(spec: TokenSpec) -> str:
    sizes = spec.codebook_sizes
    return f"{len(sizes)} x {sizes[0]}" if len(set(sizes)) == 1 else " + ".join(map(str, sizes[:8])) + (" + ..." if sizes[8:] else "")
