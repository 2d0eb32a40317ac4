"""Learns which neighbours to merge: the most frequent pair, again and again, with counts that are kept up to date.

Byte-pair encoding (arXiv 1508.07909) and Re-Pair (Larsson and Moffat, 2000) are the same loop. Among pairs of the same count that of the
lowest ids comes first, as with Hugging Face's trainer; unlike there the time does not grow with the square of a stream's length, and merges
can be held to whole frames.

No two rules make the same codes of different halves: what a stretch of codes was merged to, as long as no merge reached over its ends, does
not depend on what stands around it. So every rule is a new token.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from audiotok.transforms.merges import GONE, NONE, Merges
from audiotok.transforms.pair_table import FREE, PairTable, Whole, find, put, remove, room_for
from audiotok.types import TokenSpec

LOW = 0xFFFFFFFF


@dataclass(frozen=True)
class Rules:
    """Which pairs may be merged, and until when.

    most: rules at the end. least: a pair that occurs less often is not merged.
    overlapping: whether three equal tokens hold their pair twice, as in byte-pair encoding, or once, which is how often it can be merged.
    frame_aligned: a merged token is part of one frame, or whole frames.
    """

    most: int
    least: int
    overlapping: bool
    frame_aligned: bool

    def __post_init__(self) -> None:
        if self.least < 2 or self.most < 0:
            raise ValueError(f"got {self.most} merges of pairs that occur {self.least} times, want 0 or more of pairs that occur twice")


class _Stream(NamedTuple):
    """All utterances one behind the other, the places between them holding NONE; a merged token stands at the place of its first code."""

    tokens: np.ndarray
    before: np.ndarray  # the place of the token before in the utterance, or NONE
    after: np.ndarray


class _Pairs(NamedTuple):
    """Where each pair stands: doubly linked lists of the places of its left token. At a place stands one pair at most."""

    slots: PairTable
    free: np.ndarray  # free[0] slots are taken; the next is free[free[0] + 1]
    counts: np.ndarray  # of each slot
    heads: np.ndarray  # of each slot, the first place of its list
    following: np.ndarray  # of each place
    previous: np.ndarray


class _Shapes(NamedTuple):
    """Of each token the codebook of its first code, and how many codes it has; the codes of a frame that merges keep to, or 0."""

    phases: np.ndarray
    lengths: np.ndarray
    frame: int


def learn(streams: Sequence[np.ndarray], spec: TokenSpec, rules: Rules) -> Merges:
    """The merges of streams of base ids. Memory: about 100 bytes a code."""
    alphabet = np.unique(np.concatenate([*streams, np.zeros(0, dtype=np.int64)]))
    apart = [part for codes_N in streams for part in (np.searchsorted(alphabet, codes_N), [NONE])]
    dense_N = np.concatenate([*apart, [NONE]]).astype(np.int32)
    most = min(rules.most, len(dense_N))
    phases_A = np.searchsorted(spec.vocabulary_offsets, alphabet, side="right") - 1
    shapes = _shapes(phases_A, spec.num_codebooks if rules.frame_aligned else 0, most)
    num_base, first = sum(spec.codebook_sizes), len(alphabet)
    keys_M = _learn(_stream(dense_N), _pairs(len(dense_N)), shapes, first, most, rules.least, rules.overlapping)
    ids = np.concatenate([alphabet, num_base + np.arange(len(keys_M))])
    return Merges(ids[np.stack([keys_M >> 32, keys_M & LOW], axis=1)], num_base)


def _stream(codes_N: np.ndarray) -> _Stream:
    places_N = np.arange(len(codes_N), dtype=np.int32)
    before_N, after_N = places_N - np.int32(1), places_N + np.int32(1)
    before_N[codes_N == NONE] = after_N[codes_N == NONE] = NONE
    before_N[1:][codes_N[:-1] == NONE] = after_N[:-1][codes_N[1:] == NONE] = NONE
    return _Stream(codes_N, before_N, after_N)


def _pairs(number: int) -> _Pairs:
    """Room for a pair at each of so many places, and none there yet."""
    free = np.arange(-1, number, dtype=np.int32)
    free[0] = 0
    heads, following, previous = (np.full(number, NONE, dtype=np.int32) for _ in range(3))
    return _Pairs(room_for(number), free, np.zeros(number, dtype=np.int32), heads, following, previous)


def _shapes(phases_A: np.ndarray, frame: int, most: int) -> _Shapes:
    """Of the alphabet, with room for so many tokens more."""
    phases = np.concatenate([phases_A, np.zeros(most, dtype=np.int64)])
    return _Shapes(phases, np.ones_like(phases), frame)


@numba.njit(cache=True)
def _learn(stream: _Stream, pairs: _Pairs, shapes: _Shapes, first: int, most: int, least: int, overlapping: bool) -> np.ndarray:
    """`left << 32 | right` of each rule, in ids of the alphabet and, from `first` on, of what earlier rules made."""
    for place in range(len(stream.tokens)):
        _link(place, stream, pairs, shapes)
    waiting = [(-_held(key, pairs), key) for key in pairs.slots.keys if key != FREE]
    heapq.heapify(waiting)
    learnt = [key for _, key in waiting[:0]]
    while len(learnt) < most and waiting:
        promised, key = heapq.heappop(waiting)
        count = _held(key, pairs) if overlapping else _apart(key, stream, pairs)
        if least <= count < -promised:  # some were merged with other neighbours since
            heapq.heappush(waiting, (-count, key))
        if count < least or count < -promised:
            continue
        left, right, token = key >> 32, key & LOW, first + len(learnt)
        shapes.phases[token], shapes.lengths[token] = shapes.phases[left], shapes.lengths[left] + shapes.lengths[right]
        for born in _replace(key, token, stream, pairs, shapes):
            heapq.heappush(waiting, (-_held(born, pairs), born))
        learnt.append(key)
    return np.array(learnt)


@numba.njit(cache=True)
def _replace(key: Whole, token: Whole, stream: _Stream, pairs: _Pairs, shapes: _Shapes) -> np.ndarray:
    """Merge the pair everywhere, from left to right. Returns the keys of the pairs that came about, each once."""
    born: list[Whole] = [np.int64(NONE)]
    for place in _places(key, pairs):
        if _key(place, stream, shapes) != key:
            continue  # three equal tokens: the second was merged into the first
        right, before = np.int64(stream.after[place]), np.int64(stream.before[place])
        for changed in (before, place, right):
            _unlink(changed, stream, pairs, shapes)
        stream.tokens[place], stream.tokens[right], stream.after[place] = token, GONE, stream.after[right]
        if stream.after[right] != NONE:
            stream.before[stream.after[right]] = place
        for changed in (before, place):
            _link(changed, stream, pairs, shapes)
            born.append(_key(changed, stream, shapes))
    keys = np.sort(np.array(born))
    return keys[1:][keys[1:] != keys[:-1]]


@numba.njit(cache=True)
def _held(key: Whole, pairs: _Pairs) -> Whole:
    """At how many places the pair stands."""
    slot = find(pairs.slots, key >> 32, key & LOW)
    return np.int64(pairs.counts[slot]) if slot != NONE else np.int64(0)


@numba.njit(cache=True)
def _apart(key: Whole, stream: _Stream, pairs: _Pairs) -> Whole:
    """How often the pair can be merged: a place does not count where the one before it does and reaches into it."""
    if key >> 32 != key & LOW:
        return _held(key, pairs)
    taken, last = 0, NONE
    for place in _places(key, pairs):
        reached = last != NONE and stream.after[last] == place
        taken, last = (taken, NONE) if reached else (taken + 1, place)
    return taken


@numba.njit(cache=True)
def _places(key: Whole, pairs: _Pairs) -> np.ndarray:
    """Where the pair stands, in order."""
    places, slot = np.empty(_held(key, pairs), dtype=np.int64), find(pairs.slots, key >> 32, key & LOW)
    place = pairs.heads[slot]
    for index in range(len(places)):
        places[index], place = place, pairs.following[place]
    return np.sort(places)


@numba.njit(cache=True)
def _key(place: Whole, stream: _Stream, shapes: _Shapes) -> Whole:
    """`left << 32 | right` of the pair at a place, NONE where there is none that may be merged."""
    if place == NONE or stream.tokens[place] < 0 or stream.after[place] == NONE:
        return np.int64(NONE)
    left, right = np.int64(stream.tokens[place]), np.int64(stream.tokens[stream.after[place]])
    if shapes.frame:
        lengths = shapes.lengths[left], shapes.lengths[right]
        whole = shapes.phases[left] == 0 and lengths[0] % shapes.frame == 0 and lengths[1] % shapes.frame == 0
        if not whole and shapes.phases[left] + lengths[0] + lengths[1] > shapes.frame:
            return np.int64(NONE)
    return left << 32 | right


@numba.njit(cache=True)
def _link(place: Whole, stream: _Stream, pairs: _Pairs, shapes: _Shapes) -> None:
    """Count the pair that now stands at a place."""
    key = _key(place, stream, shapes)
    if key == NONE:
        return
    slot = find(pairs.slots, key >> 32, key & LOW)
    if slot == NONE:
        pairs.free[0] += 1
        slot = np.int64(pairs.free[pairs.free[0]])
        put(pairs.slots, key >> 32, key & LOW, slot)
        pairs.counts[slot], pairs.heads[slot] = 0, NONE
    head = pairs.heads[slot]
    if head != NONE:
        pairs.previous[head] = place
    pairs.following[place], pairs.previous[place], pairs.heads[slot] = head, NONE, place
    pairs.counts[slot] += 1


@numba.njit(cache=True)
def _unlink(place: Whole, stream: _Stream, pairs: _Pairs, shapes: _Shapes) -> None:
    """Count the pair that stands at a place no longer."""
    key = _key(place, stream, shapes)
    if key == NONE:
        return
    slot = find(pairs.slots, key >> 32, key & LOW)
    previous, following = pairs.previous[place], pairs.following[place]
    if previous == NONE:
        pairs.heads[slot] = following
    else:
        pairs.following[previous] = following
    if following != NONE:
        pairs.previous[following] = previous
    pairs.counts[slot] -= 1
    if not pairs.counts[slot]:
        remove(pairs.slots, key >> 32, key & LOW)
        pairs.free[pairs.free[0]] = slot
        pairs.free[0] -= 1
