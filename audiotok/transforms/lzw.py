"""LZW: a dictionary that both sides make as the stream goes (arXiv 2506.01084). Lossless and causal, in one stream."""

from dataclasses import dataclass, replace

import numba
import numpy as np
import torch
from torch import Tensor

from audiotok.transforms.codes import marked, shaped
from audiotok.transforms.flat import edges, flattened, unflattened
from audiotok.transforms.pair_table import PairTable, find, put, room_for
from audiotok.types import TokenSpec


@dataclass(frozen=True)
class Lzw:
    """The codes as `Flatten` writes them, but where a longer sequence stood before, the id of that one: a hypertoken.

    Every id but the first makes one: the codes of the id before it and its own first code. The longest that fits is written, so a sequence
    that comes again and again is written with ever fewer ids. One codebook of ten codes, so that hypertokens are numbered from 10 on:

        1 2 1 2 1 2 1   ->   1 2 10 12    where   10 = 1 2    11 = 2 1    12 = 1 2 1

    Id 12 is used as soon as it is made: it is what 10 becomes when its own first code follows, which its reader knows too.

    The dictionary is empty at the start of each utterance and never changes once `hypertokens` are made; what would be more than `longest`
    codes is not made. `invert` reads every stream whose ids exist and whose codebooks take turns, also one that does not write the longest.
    There an id can be made of codes that have one already.
    """

    hypertokens: int  # at most
    longest: int  # codes of a hypertoken

    lossless = True

    def __post_init__(self) -> None:
        if self.hypertokens < 1 or self.longest < 2:
            raise ValueError(f"got {self.hypertokens} hypertokens of at most {self.longest} codes, want 1 or more, of at least 2 codes")

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        return replace(
            spec,
            frame_rate=spec.frame_rate * spec.num_codebooks,
            codebook_sizes=(sum(spec.codebook_sizes) + self.hypertokens,),
            fingerprint=marked(spec.fingerprint, self),
        )

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        flat_N = flattened(codes_KN, spec)
        table = room_for(min(self.hypertokens, len(flat_N)))
        ids_M = _encode(flat_N, table, sum(spec.codebook_sizes), self.hypertokens, self.longest)
        return torch.from_numpy(ids_M)[None].to(codes_KN.device)

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        ids_M = np.ascontiguousarray(shaped(codes_KN, 1)[0].cpu().numpy())
        sources_M, lengths_M, wrong, made = _spans(ids_M, edges(spec), self.hypertokens, self.longest)
        num_codes, num_codebooks = int(lengths_M.sum()), spec.num_codebooks
        if wrong < len(ids_M):
            raise ValueError(
                f"id {ids_M[wrong]} at position {wrong} stands for nothing there, with {made} hypertokens made and codebook "
                f"{num_codes % num_codebooks} next; a generator must choose among `grammar(spec).legal`"
            )
        if num_codes % num_codebooks:
            raise ValueError(f"the stream ends at position {len(ids_M)}, within a frame: {num_codes} codes of {num_codebooks} codebooks")
        return unflattened(_decode(ids_M, sources_M, lengths_M), spec).to(codes_KN.device)

    def settled(self, codes_KN: Tensor, spec: TokenSpec) -> tuple[int, int]:
        """All but the last id, which may become a longer one; every frame is remembered (transforms/streaming.py)."""
        return max(self.apply(codes_KN, spec).shape[1] - 1, 0), 0

    def grammar(self, spec: TokenSpec) -> "LzwGrammar":
        return LzwGrammar(spec, self.hypertokens, self.longest)


@dataclass(frozen=True, eq=False)
class LzwState:
    """Where a stream stands. Of codes that take turns it is enough to know the codebook that a sequence begins with, and its length."""

    turn: int  # the codebook of the next code
    last: tuple[int, int] | None  # first codebook and length of the id written last
    first_codebooks_H: np.ndarray  # of each hypertoken made
    lengths_H: np.ndarray


@dataclass(frozen=True)
class LzwGrammar:
    """The streams that `Lzw` inverts: their ids exist, and each begins with the codebook whose turn it is."""

    spec: TokenSpec
    hypertokens: int
    longest: int

    def start(self) -> LzwState:
        none_H = np.zeros(0, dtype=np.int64)
        return LzwState(turn=0, last=None, first_codebooks_H=none_H, lengths_H=none_H)

    def legal(self, state: LzwState) -> Tensor:
        first_codebooks_H, _ = self._made(state)
        num_base = sum(self.spec.codebook_sizes)
        legal_V = torch.zeros(num_base + self.hypertokens, dtype=torch.bool)
        begin = self.spec.vocabulary_offsets[state.turn]
        legal_V[begin : begin + self.spec.codebook_sizes[state.turn]] = True
        legal_V[num_base : num_base + len(first_codebooks_H)] = torch.from_numpy(first_codebooks_H == state.turn)
        return legal_V

    def advance(self, state: LzwState, code: int) -> LzwState:
        first_codebooks_H, lengths_H = self._made(state)
        made, num_base = len(lengths_H), sum(self.spec.codebook_sizes)
        begin = self.spec.vocabulary_offsets[state.turn]
        if begin <= code < begin + self.spec.codebook_sizes[state.turn]:
            length = 1
        elif num_base <= code < num_base + made and first_codebooks_H[code - num_base] == state.turn:
            length = int(lengths_H[code - num_base])
        else:
            raise ValueError(
                f"id {code} cannot come next, {made} hypertokens being made and codebook {state.turn} being next; choose among `legal`"
            )
        return LzwState((state.turn + length) % self.spec.num_codebooks, (state.turn, length), first_codebooks_H, lengths_H)

    def complete(self, state: LzwState) -> bool:
        return state.turn == 0

    def _made(self, state: LzwState) -> tuple[np.ndarray, np.ndarray]:
        """First codebooks and lengths of the hypertokens that the next id can be, the one among them that it would make itself."""
        if state.last is None or len(state.lengths_H) == self.hypertokens or state.last[1] == self.longest:
            return state.first_codebooks_H, state.lengths_H
        first_codebook, length = state.last
        return np.append(state.first_codebooks_H, first_codebook), np.append(state.lengths_H, length + 1)


@numba.njit(cache=True)
def _encode(codes_N: np.ndarray, table: PairTable, num_base: int, hypertokens: int, longest: int) -> np.ndarray:
    """The ids. `table` gets the hypertokens: from the id of all its codes but the last, and the last, to its own."""
    ids_M, written, made = np.empty_like(codes_N), 0, 0
    current, length = -1, 0
    for code in codes_N:
        joined = int(find(table, current, code)) if length else -1
        if joined >= 0:
            current, length = joined, length + 1
            continue
        if length:
            ids_M[written], written = current, written + 1
            if made < hypertokens and length < longest:
                put(table, current, code, num_base + made)
                made += 1
        current, length = code, 1
    if length:
        ids_M[written], written = current, written + 1
    return ids_M[:written].copy()


@numba.njit(cache=True)
def _spans(ids_M: np.ndarray, edges: np.ndarray, hypertokens: int, longest: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """For each id where among the codes before it its own begin (-1 for a code), and how many; the first wrong id; hypertokens made.

    A hypertoken's codes stand in the output: where the id before the one that made it began, and one code on.
    """
    num_codebooks, num_base = len(edges) - 1, edges[-1]
    sources_M, lengths_M = np.full(len(ids_M), -1, dtype=np.int64), np.zeros(len(ids_M), dtype=np.int64)
    begins_H = np.empty(min(hypertokens, len(ids_M)), dtype=np.int64)
    lengths_H = np.empty_like(begins_H)
    made = end = 0
    for position, id_ in enumerate(ids_M):
        if position and made < hypertokens and lengths_M[position - 1] < longest:
            lengths_H[made] = lengths_M[position - 1] + 1
            begins_H[made] = end - lengths_M[position - 1]
            made += 1
        turn = end % num_codebooks
        if edges[turn] <= id_ < edges[turn + 1]:
            lengths_M[position] = 1
        elif num_base <= id_ < num_base + made and begins_H[id_ - num_base] % num_codebooks == turn:
            sources_M[position], lengths_M[position] = begins_H[id_ - num_base], lengths_H[id_ - num_base]
        else:
            return sources_M, lengths_M, position, made
        end += lengths_M[position]
    return sources_M, lengths_M, len(ids_M), made


@numba.njit(cache=True)
def _decode(ids_M: np.ndarray, sources_M: np.ndarray, lengths_M: np.ndarray) -> np.ndarray:
    codes_N = np.empty(lengths_M.sum(), dtype=np.int64)
    end = 0
    for position, id_ in enumerate(ids_M):
        if sources_M[position] < 0:
            codes_N[end] = id_
        for code in range(lengths_M[position] if sources_M[position] >= 0 else 0):  # code by code: a source may reach into what is written
            codes_N[end + code] = codes_N[sources_M[position] + code]
        end += lengths_M[position]
    return codes_N
