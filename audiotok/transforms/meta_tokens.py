"""Meta-tokens: sequences that repeat are defined once, at the head of the stream (arXiv 2506.00307). Lossless, in one stream."""

import heapq
from bisect import bisect
from dataclasses import dataclass, replace
from typing import Literal

import numba
import numpy as np
import torch
from torch import Tensor

from audiotok.transforms.codes import marked, shaped
from audiotok.transforms.flat import edges, flattened, unflattened
from audiotok.transforms.pair_table import find, put, room_for
from audiotok.types import TokenSpec


@dataclass(frozen=True)
class MetaTokens:
    """A dictionary of sequences that repeat, then the codes as `Flatten` writes them, one id for each of those sequences.

    One codebook of ten codes and two meta-tokens, so that those are 10 and 11, and 12 ends the dictionary:

        1 2 3 4 5 6 1 2 3 4 7 1 2 3 4   ->   10 1 2 3 4   12   10 5 6 10 7 10
                                             definitions  end  body

    A definition is its meta-token and the codes that it stands for. Meta-tokens are numbered, and defined, in the order in which the body
    first uses them. Where a dictionary would not shorten the stream there is none, nor its end: the stream begins with a code.

    What is defined is chosen greedily. A sequence of L codes that stands at m places, none overlapping another, takes `L + 1 + m` ids, not
    `m * L`. The sequence that saves most is taken wherever it stands, and so on among the codes that are left while one saves any; of
    equal ones the shorter, then the one that stands first. `invert` reads a dictionary of any sequences.

    `apply` takes time and memory by the places of all sequences that repeat, at most `longest` for each code; `invert` takes one pass.
    """

    meta_tokens: int  # of a stream, at most
    shortest: int  # codes of a definition
    longest: int

    lossless = True

    def __post_init__(self) -> None:
        if self.meta_tokens < 1:
            raise ValueError(f"got {self.meta_tokens} meta-tokens, want 1 or more")
        if not 2 <= self.shortest <= self.longest:
            raise ValueError(f"got definitions of {self.shortest} to {self.longest} codes, want 2 or more to as many or more")

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        return replace(
            spec,
            frame_rate=spec.frame_rate * spec.num_codebooks,
            codebook_sizes=(sum(spec.codebook_sizes) + self.meta_tokens + 1,),
            fingerprint=marked(spec.fingerprint, self),
        )

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        flat_N, num_base = flattened(codes_KN, spec), sum(spec.codebook_sizes)
        lengths_C, ends_C, places = _repeats(flat_N, self.shortest, self.longest)
        begins_N = _chosen(len(flat_N), lengths_C, ends_C, places, self.meta_tokens, self.shortest)
        ids_M = _written(flat_N, begins_N, lengths_C, num_base, self.meta_tokens)
        return torch.from_numpy(ids_M)[None].to(codes_KN.device)

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        ids_M, edges_K = np.ascontiguousarray(shaped(codes_KN, 1)[0].cpu().numpy()), edges(spec)
        begins_D, ends_D, turns_D, body, wrong = _definitions(ids_M, edges_K, self.meta_tokens, self.shortest, self.longest)
        if wrong == len(ids_M):
            raise ValueError(f"the stream ends at position {wrong}, within its dictionary")
        if wrong >= 0:
            behind = f"behind {len(begins_D)} definitions of {self.shortest} to {self.longest} codes whose codebooks take turns"
            raise ValueError(_misplaced(ids_M[wrong], wrong, f"in the dictionary {behind}"))
        num_codes, wrong = _measured(ids_M, body, edges_K, begins_D, ends_D, turns_D)
        turn = num_codes % spec.num_codebooks
        if wrong < len(ids_M):
            raise ValueError(_misplaced(ids_M[wrong], wrong, f"with {len(begins_D)} meta-tokens defined and codebook {turn} next"))
        if turn:
            raise ValueError(f"the stream ends at position {wrong}, within a frame: {num_codes} codes of {spec.num_codebooks} codebooks")
        return unflattened(_expanded(ids_M, body, edges_K[-1], begins_D, ends_D, num_codes), spec).to(codes_KN.device)

    def grammar(self, spec: TokenSpec) -> "MetaTokenGrammar":
        return MetaTokenGrammar(spec, self.meta_tokens, self.shortest, self.longest)


@dataclass(frozen=True)
class MetaTokenState:
    """Where a stream stands. Of a definition, whose codebooks take turns, its first codebook and its length are all that matters."""

    part: Literal["start", "dictionary", "body"]
    turn: int  # the codebook of the next code, any where a definition begins
    first_codebooks: tuple[int, ...]  # of the definitions, the last one of which is being written while in the dictionary
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class MetaTokenGrammar:
    """The streams that `MetaTokens` inverts, of whatever definitions."""

    spec: TokenSpec
    meta_tokens: int
    shortest: int
    longest: int

    def start(self) -> MetaTokenState:
        return MetaTokenState("start", turn=0, first_codebooks=(), lengths=())

    def legal(self, state: MetaTokenState) -> Tensor:
        legal_V = torch.zeros(self._num_base + self.meta_tokens + 1, dtype=torch.bool)
        codes = self._codes(state)
        legal_V[codes.start : codes.stop] = True
        legal_V[torch.tensor(self._marks(state), dtype=torch.int64)] = True
        return legal_V

    def advance(self, state: MetaTokenState, code: int) -> MetaTokenState:
        if code in self._codes(state):
            return self._after_code(state, code)
        if code in self._marks(state):
            return self._after_mark(state, code - self._num_base)
        where = f"in the {state.part}, {len(state.lengths)} meta-tokens begun" if state.part != "start" else "at the start"
        raise ValueError(f"id {code} cannot come next {where}; choose among `legal`")

    def complete(self, state: MetaTokenState) -> bool:
        return state.part != "dictionary" and state.turn == 0

    @property
    def _num_base(self) -> int:
        return sum(self.spec.codebook_sizes)

    def _codes(self, state: MetaTokenState) -> range:
        if state.part == "dictionary" and state.lengths[-1] in (0, self.longest):
            return range(self._num_base) if state.lengths[-1] == 0 else range(0)
        begin = self.spec.vocabulary_offsets[state.turn]
        return range(begin, begin + self.spec.codebook_sizes[state.turn])

    def _marks(self, state: MetaTokenState) -> list[int]:
        """The ids that are no code's: meta-tokens, and the end of the dictionary."""
        if state.part == "start":
            return [self._num_base]
        if state.part == "body":
            return [self._num_base + token for token, codebook in enumerate(state.first_codebooks) if codebook == state.turn]
        # with all meta-tokens defined the next id is the end's
        return [self._num_base + len(state.lengths), self._num_base + self.meta_tokens] if state.lengths[-1] >= self.shortest else []

    def _after_code(self, state: MetaTokenState, code: int) -> MetaTokenState:
        if state.part != "dictionary":
            return replace(state, part="body", turn=self._turn(state.turn, 1))
        *before, length = state.lengths
        codebook = state.turn if length else bisect(self.spec.vocabulary_offsets, code) - 1
        firsts = state.first_codebooks if length else (*state.first_codebooks, codebook)
        return MetaTokenState("dictionary", self._turn(codebook, 1), firsts, (*before, length + 1))

    def _after_mark(self, state: MetaTokenState, token: int) -> MetaTokenState:
        if state.part == "body":
            return replace(state, turn=self._turn(state.turn, state.lengths[token]))
        if token == self.meta_tokens:
            return replace(state, part="body", turn=0)
        return replace(state, part="dictionary", lengths=(*state.lengths, 0))

    def _turn(self, turn: int, codes: int) -> int:
        return (turn + codes) % self.spec.num_codebooks


def _misplaced(code: int, position: int, where: str) -> str:
    return f"id {code} at position {position} cannot stand there, {where}; a generator must choose among `grammar(spec).legal`"


@numba.njit(cache=True)
def _repeats(codes_N: np.ndarray, shortest: int, longest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every sequence worth a definition, the shorter before the longer, then by where it stands first.

    Its lengths_C, and ends_C in the places of all: sequence c stands at `places[ends_C[c - 1]:ends_C[c]]`, in order, overlaps included.
    """
    lengths, counts, places = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    places_A, classes_A = np.arange(len(codes_N)), codes_N
    for length in range(2, longest + 1):
        places_A, classes_A, apart_V = _longer(codes_N, places_A, classes_A, length)
        if not len(places_A):
            break
        if length >= shortest:
            counts_C, grouped = _worthy(places_A, classes_A, apart_V, length)
            lengths.append(np.full(len(counts_C), length))
            counts.append(counts_C)
            places.append(grouped)
    return _joined(lengths), np.cumsum(_joined(counts)), _joined(places)


@numba.njit(cache=True)
def _longer(codes_N: np.ndarray, places_A: np.ndarray, classes_A: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of sequences one code longer, those that stand at two places apart: their places_A, classes_A, and for each class how often apart.

    Sequences are equal where they are of one class. Those of `length - 1` codes come in; one that does not repeat cannot when longer.
    """
    table, longer_A = room_for(len(places_A)), np.empty(len(places_A), np.int64)
    apart_V, free_V = np.zeros(len(places_A), np.int64), np.zeros(len(places_A), np.int64)
    num_classes = num_places = 0
    while num_places < len(places_A) and places_A[num_places] + length <= len(codes_N):
        place = places_A[num_places]
        before, code = classes_A[num_places], codes_N[place + length - 1]
        found = int(find(table, before, code))
        if found < 0:
            put(table, before, code, num_classes)
            found, num_classes = num_classes, num_classes + 1
        longer_A[num_places] = found
        if place >= free_V[found]:
            apart_V[found], free_V[found] = apart_V[found] + 1, place + length
        num_places += 1
    kept_A = np.flatnonzero(apart_V[longer_A[:num_places]] >= 2)
    return places_A[kept_A], longer_A[kept_A], apart_V[:num_classes]


@numba.njit(cache=True)
def _worthy(places_A: np.ndarray, classes_A: np.ndarray, apart_V: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """How many places each class has that saves anything, and these places, class by class."""
    saves_V = apart_V * (length - 1) > length + 1
    ranks_V, kept_A = np.cumsum(saves_V) - 1, np.flatnonzero(saves_V[classes_A])
    counts_C = np.zeros(saves_V.sum(), np.int64)
    for index in kept_A:
        counts_C[ranks_V[classes_A[index]]] += 1
    grouped, filled_C = np.empty(len(kept_A), np.int64), np.cumsum(counts_C) - counts_C
    for index in kept_A:
        rank = ranks_V[classes_A[index]]
        grouped[filled_C[rank]], filled_C[rank] = places_A[index], filled_C[rank] + 1
    return counts_C, grouped


@numba.njit(cache=True)
def _joined(parts: list[np.ndarray]) -> np.ndarray:
    size = 0
    for part in parts:
        size += len(part)
    joined, filled = np.empty(size, np.int64), 0
    for part in parts:
        joined[filled : filled + len(part)], filled = part, filled + len(part)
    return joined


@numba.njit(cache=True)
def _chosen(num_codes: int, lengths_C: np.ndarray, ends_C: np.ndarray, places: np.ndarray, most: int, shortest: int) -> np.ndarray:
    """begins_N: the sequence that is replaced from here on, or -1.

    As codes are taken a sequence can only come to save less. So what it saved when last looked at bounds what it saves, and one that is on
    top of the heap and still saves that is the one that saves most: few have to be looked at again.
    """
    covered_N, begins_N, taken = np.zeros(num_codes, np.bool_), np.full(num_codes, -1), 0
    firsts_C, ends_C, num = ends_C.copy(), ends_C.copy(), len(lengths_C)
    firsts_C[1:], firsts_C[:1] = ends_C[:-1], 0
    heap = [c - _saved(lengths_C[c], ends_C[c] - firsts_C[c]) * num for c in range(num)]  # least where most is saved, then by sequence
    heapq.heapify(heap)
    while heap and taken < most:
        bound, top = -(heap[0] // num), heap[0] % num
        length = lengths_C[top]
        uses, ends_C[top] = _uncovered(places, firsts_C[top], ends_C[top], length, covered_N, shortest)
        saved = _saved(length, uses)
        if 0 < saved < bound:
            heapq.heapreplace(heap, top - saved * num)
            continue
        heapq.heappop(heap)
        if saved == bound:
            _take(places[firsts_C[top] : ends_C[top]], length, top, covered_N, begins_N)
            taken += 1
    return begins_N


@numba.njit(cache=True)
def _saved(length: int, uses: int) -> int:
    return int(uses * (length - 1) - length - 1)


@numba.njit(cache=True)
def _uncovered(places: np.ndarray, first: int, end: int, length: int, covered_N: np.ndarray, shortest: int) -> tuple[int, int]:
    """How often a sequence stands uncovered and apart. Moves the places at which it is uncovered to the front, and says where they end.

    What covers is never shorter than `shortest`, so a look every so many codes does not miss it.
    """
    kept, uses, free = first, 0, 0
    for index in range(first, end):
        place = places[index]
        look, last = place, place + length - 1
        while look < last and not covered_N[look]:
            look += shortest
        if look < last or covered_N[last]:
            continue
        places[kept], kept = place, kept + 1
        if place >= free:
            uses, free = uses + 1, last + 1
    return uses, kept


@numba.njit(cache=True)
def _take(places_U: np.ndarray, length: int, sequence: int, covered_N: np.ndarray, begins_N: np.ndarray) -> None:
    free = 0
    for place in places_U:
        if place >= free:
            begins_N[place] = sequence
            covered_N[place : place + length] = True
            free = place + length


@numba.njit(cache=True)
def _written(codes_N: np.ndarray, begins_N: np.ndarray, lengths_C: np.ndarray, num_base: int, meta_tokens: int) -> np.ndarray:
    """The dictionary, its end and the body, or the codes alone where that is no longer."""
    tokens_C = np.full(len(lengths_C), -1)
    head, body = np.empty_like(codes_N), np.empty_like(codes_N)
    num_head = num_body = made = place = 0
    while place < len(codes_N):
        sequence = begins_N[place]
        length = lengths_C[sequence] if sequence >= 0 else 1
        if sequence >= 0 and tokens_C[sequence] < 0:
            tokens_C[sequence], made = num_base + made, made + 1
            head[num_head] = tokens_C[sequence]
            head[num_head + 1 : num_head + 1 + length] = codes_N[place : place + length]
            num_head += length + 1
        body[num_body] = tokens_C[sequence] if sequence >= 0 else codes_N[place]
        num_body, place = num_body + 1, place + length
    if num_head + 1 + num_body >= len(codes_N):
        return codes_N.copy()
    return np.concatenate((head[:num_head], np.array([num_base + meta_tokens]), body[:num_body]))


@numba.njit(cache=True)
def _definitions(
    ids_M: np.ndarray, edges: np.ndarray, meta_tokens: int, shortest: int, longest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Where each definition's codes begin and end, with which codebook; where the body begins; the first wrong id, or -1."""
    most = min(meta_tokens, len(ids_M))
    begins_D, ends_D, turns_D = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    made, at, wrong = 0, 0, -1
    while wrong < 0 and made < most and at < len(ids_M) and ids_M[at] == edges[-1] + made:
        begins_D[made] = at + 1
        turns_D[made], at = _definition(ids_M, at + 1, edges, longest)
        ends_D[made] = at
        if at - begins_D[made] < shortest:
            wrong = at
        made += 1
    if made and wrong < 0 and (at == len(ids_M) or ids_M[at] != edges[-1] + meta_tokens):
        wrong = at
    return begins_D[:made], ends_D[:made], turns_D[:made], at + 1 if made else 0, wrong


@numba.njit(cache=True)
def _definition(ids_M: np.ndarray, begin: int, edges: np.ndarray, longest: int) -> tuple[int, int]:
    """The codebook that a definition begins with, and where its codes end, or cease to take turns, or are too many."""
    if begin == len(ids_M) or not 0 <= ids_M[begin] < edges[-1]:
        return 0, begin
    first, at = np.searchsorted(edges, ids_M[begin], side="right") - 1, begin
    turn = first
    while at < min(begin + longest, len(ids_M)) and edges[turn] <= ids_M[at] < edges[turn + 1]:
        turn, at = (turn + 1) % (len(edges) - 1), at + 1
    return first, at


@numba.njit(cache=True)
def _measured(
    ids_M: np.ndarray, body: int, edges: np.ndarray, begins_D: np.ndarray, ends_D: np.ndarray, turns_D: np.ndarray
) -> tuple[int, int]:
    """How many codes the body stands for, up to the first wrong id; where that is."""
    num_codes, num_base = 0, edges[-1]
    for position in range(body, len(ids_M)):
        turn, id_ = num_codes % (len(edges) - 1), ids_M[position]
        if edges[turn] <= id_ < edges[turn + 1]:
            num_codes += 1
        elif num_base <= id_ < num_base + len(begins_D) and turns_D[id_ - num_base] == turn:
            num_codes += ends_D[id_ - num_base] - begins_D[id_ - num_base]
        else:
            return num_codes, position
    return num_codes, len(ids_M)


@numba.njit(cache=True)
def _expanded(ids_M: np.ndarray, body: int, num_base: int, begins_D: np.ndarray, ends_D: np.ndarray, num_codes: int) -> np.ndarray:
    codes_N, end = np.empty(num_codes, np.int64), 0
    for id_ in ids_M[body:]:
        if id_ < num_base:
            codes_N[end], end = id_, end + 1
            continue
        begin, length = begins_D[id_ - num_base], ends_D[id_ - num_base] - begins_D[id_ - num_base]
        codes_N[end : end + length], end = ids_M[begin : begin + length], end + length
    return codes_N
