"""Probabilities of codes under a model of merged tokens, and prompts that end inside a merged token.

A model over a merged vocabulary says how likely the next token is; what is asked is often how likely the next code is. The two differ
wherever codes can be spelt in more than one way, or end where a longer token would not have (arXiv 2406.16829). The byte-token
representation lemma (arXiv 2410.09303) makes one of the other: that a stream begins with some codes is the sum over their covers, which
are the token sequences whose last token is the one that reaches the end of the codes. Codes a b c, and tokens a, b, c, ab, bc, cd:

    a|b|c    a|b|cd    a|bc    ab|c    ab|cd

so p(d | a b c) is the share of those that have a d behind the c: a|b|cd, ab|cd, and of the others what the model says begins with d.

Log-probabilities are float64 and natural. A stream may end: the end is the last entry, behind the tokens or behind the codes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]
Tokens = tuple[int, ...]
NextLogProbs = Callable[[Tokens], Floats]  # float64 [V' + 1], the end last
Follows = Callable[[Tokens], Bools]  # bool [V' + 1]: what may come next, the end last
Segment = Callable[[Sequence[int]], Sequence[int]]  # codes to tokens


class Vocabulary(Protocol):
    """Token v stands for the base ids `codes[starts[v] : starts[v + 1]]`; the first S tokens are the base ids and stand for themselves."""

    starts: Integers
    codes: Integers


@dataclass(frozen=True, eq=False)
class ByExpansion:
    """The tokens of a vocabulary in the lexicographic order of what they stand for, so that those that begin alike are neighbours.

    Raises ValueError where a token stands for nothing, or a base id not for itself.
    """

    vocabulary: Vocabulary

    def __post_init__(self) -> None:
        if not len(self.lengths) or self.lengths.min() < 1:
            raise ValueError("a vocabulary: every token stands for one code or more, and there is one at least")
        first_S = np.arange(self.num_codes)
        if (
            len(self.lengths) < self.num_codes
            or (self.lengths[: self.num_codes] > 1).any()
            or (self._first[: self.num_codes] != first_S).any()
        ):
            raise ValueError(
                f"a vocabulary of the codes 0 to {self.num_codes - 1}: its first {self.num_codes} tokens stand for one each, in order"
            )

    @cached_property
    def lengths(self) -> Integers:
        """Codes of each token."""
        return np.diff(self.vocabulary.starts)

    @cached_property
    def num_codes(self) -> int:
        """S, the base ids."""
        return int(self.vocabulary.codes.max(initial=-1)) + 1

    @cached_property
    def num_tokens(self) -> int:
        return len(self.lengths)

    @cached_property
    def longest(self) -> int:
        """Codes of the longest token."""
        return int(self.lengths.max())

    @cached_property
    def order(self) -> Integers:
        """The tokens, sorted; one that another begins with stands before it."""
        starts, codes = self.vocabulary.starts, self.vocabulary.codes.astype(">i8")  # whose bytes sort as the numbers do
        merged = sorted(range(self.num_codes, self.num_tokens), key=lambda token: codes[starts[token] : starts[token + 1]].tobytes())
        grouped = np.concatenate([np.arange(self.num_codes), np.array(merged, dtype=np.int64)])
        return grouped[np.argsort(self._first[grouped], kind="stable")]

    @cached_property
    def bounds(self) -> Integers:
        """[S + 1]: the tokens that begin with code c are `order[bounds[c] : bounds[c + 1]]`."""
        return np.searchsorted(self._first[self.order], np.arange(self.num_codes + 1))

    def expand(self, token: int) -> Tokens:
        """The codes that a token stands for."""
        return tuple(self.vocabulary.codes[self.vocabulary.starts[token] : self.vocabulary.starts[token + 1]].tolist())

    def check(self, code: int) -> None:
        """Raises ValueError for a code that the vocabulary does not have."""
        if not 0 <= code < self.num_codes:
            raise ValueError(f"code {code}: the vocabulary stands for the codes 0 to {self.num_codes - 1}")

    def column(self, low: int, high: int, depth: int) -> Integers:
        """Code number `depth` of the tokens `order[low:high]`, all of which are longer than that."""
        return self.vocabulary.codes[self.vocabulary.starts[self.order[low:high]] + depth]

    def narrowed(self, low: int, high: int, depth: int, code: int) -> tuple[int, int, int]:
        """Of `order[low:high]`, which agree in the first `depth` codes and are longer, those with `code` next.

        (low, middle, high): `order[low:middle]` are at their end with it, `order[middle:high]` go on.
        """
        if depth == 0:
            low, high = int(self.bounds[code]), int(self.bounds[code + 1])
        else:
            first, last = np.searchsorted(self.column(low, high, depth), [code, code + 1])
            low, high = low + int(first), low + int(last)
        return low, low + int((self.lengths[self.order[low:high]] == depth + 1).sum()), high

    def walk(self, codes: Sequence[int]) -> list[tuple[int, int, int]]:
        """For each first part of the codes, `narrowed`; shorter than the codes where no token begins so."""
        found, low, high = [], 0, self.num_tokens
        for depth, code in enumerate(codes):
            self.check(code)
            low, middle, high = self.narrowed(low, high, depth, code)
            if low == high:
                break
            found.append((low, middle, high))
            low = middle
        return found

    def allowed(self, remainder: Sequence[int]) -> Bools:
        """allowed_V: the tokens that begin with the remainder, or that the remainder begins with."""
        allowed_V = np.zeros(self.num_tokens, dtype=np.bool_)
        steps = self.walk(remainder)
        for low, middle, _ in steps:
            allowed_V[self.order[low:middle]] = True
        if len(steps) == len(remainder):
            low, _, high = steps[-1] if steps else (0, 0, self.num_tokens)
            allowed_V[self.order[low:high]] = True
        return allowed_V

    @cached_property
    def _first(self) -> Integers:
        return self.vocabulary.codes[self.vocabulary.starts[:-1]]


@dataclass(frozen=True, eq=False)
class Spelling:
    """Tokens that stand for all of the codes but the last `depth`, with which the next token begins: one of `order[low:high]`.

    All of those are longer than `depth`. Where `depth` is 0 the next token is any, and the stream may end.
    """

    tokens: Tokens
    log_prob: float
    next_log_probs: Floats  # [V' + 1], in the order of `ByExpansion.order`
    depth: int
    low: int
    high: int

    @property
    def mass(self) -> float:
        """The log-probability of all covers that begin so."""
        return self.log_prob + _log_sum(self.next_log_probs[self.low : self.high]) if self.depth else self.log_prob


@dataclass(frozen=True, eq=False)
class Heard:
    """What a model of tokens makes of the codes so far. A value: it is never changed."""

    spellings: tuple[Spelling, ...]

    @cached_property
    def log_prob(self) -> float:
        """Of the codes, with anything behind them."""
        return _log_sum(np.array([spelling.mass for spelling in self.spellings]))


class Marginals:
    """The distribution of codes that a model of tokens stands for, code by code and exact.

    `next_log_probs` is asked once for each way to spell the codes so far, and those can double with every code. A model that has learnt
    from a segmenter has learnt its way alone. `follows` says which tokens may come next there (`Pairwise` does for byte-pair encoding): the
    model is then held to them as a constrained sampler holds it, each first part of the codes has one spelling (arXiv 2506.14123), and a
    code costs one question. Raises ValueError where there are more than `most` spellings to keep.
    """

    def __init__(self, vocabulary: Vocabulary, next_log_probs: NextLogProbs, *, follows: Follows | None = None, most: int = 10_000) -> None:
        self.sorted = ByExpansion(vocabulary)
        self.next_log_probs = next_log_probs
        self.follows = follows
        self.most = most

    def start(self, tokens: Tokens = ()) -> Heard:
        """No code yet, behind tokens that are given."""
        return Heard((self._spelling(tokens, 0.0),))

    def advance(self, heard: Heard, code: int) -> Heard:
        """With one code more. Raises ValueError for one that the vocabulary does not have."""
        self.sorted.check(code)
        kept: list[Spelling] = []
        for spelling in heard.spellings:
            kept += self._narrowed(spelling, code)
        if len(kept) > self.most:
            raise ValueError(f"{len(kept)} spellings of the codes so far, at most {self.most}; give `follows`, or a larger `most`")
        return Heard(tuple(kept))

    def log_probs(self, heard: Heard) -> Floats:
        """float64 [S + 1]: of each next code, and of the end. Raises ValueError where the codes so far cannot be."""
        if heard.log_prob == -np.inf:
            raise ValueError("the model gives the codes so far no probability, so that none follows; start anew")
        total = np.full(self.sorted.num_codes + 1, -np.inf)
        for spelling in heard.spellings:
            codes, log_probs = self._by_next_code(spelling)
            total[codes] = np.logaddexp(total[codes], spelling.log_prob + log_probs)
        return total - heard.log_prob

    def covers(self, heard: Heard) -> list[tuple[Tokens, float]]:
        """The token sequences that the codes may stand for so far, each with its log-probability given the codes.

        Whoever draws one of them, and then tokens behind it as ever, draws streams that begin with the codes as the model would have.
        """
        found = []
        for spelling in heard.spellings:
            if spelling.depth == 0:
                found.append((spelling.tokens, spelling.log_prob))
                continue
            tokens = self.sorted.order[spelling.low : spelling.high].tolist()
            log_probs = (spelling.log_prob + spelling.next_log_probs[spelling.low : spelling.high]).tolist()
            found += [((*spelling.tokens, token), log_prob) for token, log_prob in zip(tokens, log_probs, strict=True)]
        return [(tokens, log_prob - heard.log_prob) for tokens, log_prob in found if log_prob > -np.inf]

    def prompted(self, tokens: Tokens, remainder: Sequence[int]) -> Floats:
        """float64 [V' + 1]: of the token behind `tokens`, given that the codes behind them begin with `remainder`.

        Where no token may be shorter than the remainder this is the model's own distribution over `ByExpansion.allowed`, scaled to sum to
        1. A shorter one is weighed with the probability that the rest of the remainder follows it, which the mask alone leaves out: a
        sampler that only masks is drawn to short tokens. Raises ValueError where the remainder cannot be.
        """
        log_probs = self._next(tokens)
        if not len(remainder):
            return log_probs
        log_probs[: self.sorted.num_tokens][~self.sorted.allowed(remainder)] = -np.inf
        log_probs[-1] = -np.inf
        for token in np.flatnonzero((log_probs[:-1] > -np.inf) & (self.sorted.lengths < len(remainder))).tolist():
            log_probs[token] += self.heard(remainder[self.sorted.lengths[token] :], tokens=(*tokens, token)).log_prob
        total = _log_sum(log_probs)
        if total == -np.inf:
            raise ValueError(
                f"the model gives no probability to the codes {list(remainder)} behind {len(tokens)} tokens; shorten the prompt"
            )
        return log_probs - total

    def finished(self, tokens: Tokens, remainder: Sequence[int], *, choose: Callable[[Floats], int]) -> Tokens:
        """The tokens with those behind them that use up the remainder, each chosen of its log-probabilities [V' + 1] as `prompted`."""
        while len(remainder):
            token = choose(self.prompted(tokens, remainder))
            tokens, remainder = (*tokens, token), remainder[self.sorted.lengths[token] :]
        return tokens

    def heard(self, codes: Sequence[int], *, tokens: Tokens = ()) -> Heard:
        """All codes one after another, behind tokens that are given."""
        heard = self.start(tokens)
        for code in codes:
            heard = self.advance(heard, int(code))
        return heard

    def _spelling(self, tokens: Tokens, log_prob: float) -> Spelling:
        log_probs = self._next(tokens)
        in_order = np.append(log_probs[self.sorted.order], log_probs[-1])
        return Spelling(tokens, log_prob, in_order, depth=0, low=0, high=self.sorted.num_tokens)

    def _next(self, tokens: Tokens) -> Floats:
        """A copy of what the model says, held to what may follow."""
        log_probs = np.array(self.next_log_probs(tokens), dtype=np.float64)
        if log_probs.shape != (wanted := (self.sorted.num_tokens + 1,)):
            raise ValueError(f"next_log_probs: got an array of {list(log_probs.shape)}, want {list(wanted)}: every token, and the end")
        if self.follows is None:
            return log_probs
        log_probs[~self.follows(tokens)] = -np.inf
        if (total := _log_sum(log_probs)) == -np.inf:
            raise ValueError(
                f"nothing may follow {len(tokens)} tokens that end with {tokens[-3:]}; `follows` must let the model go on or end"
            )
        return log_probs - total

    def _narrowed(self, spelling: Spelling, code: int) -> list[Spelling]:
        """Those that one more code leaves: with a next token that goes on behind it, and with one that ends with it."""
        low, middle, high = self.sorted.narrowed(spelling.low, spelling.high, spelling.depth, code)
        ended = [
            self._spelling((*spelling.tokens, int(self.sorted.order[place])), spelling.log_prob + float(spelling.next_log_probs[place]))
            for place in range(low, middle)
            if spelling.next_log_probs[place] > -np.inf
        ]
        if _log_sum(spelling.next_log_probs[middle:high]) == -np.inf:
            return ended
        goes_on = Spelling(spelling.tokens, spelling.log_prob, spelling.next_log_probs, spelling.depth + 1, middle, high)
        return [goes_on, *ended]

    def _by_next_code(self, spelling: Spelling) -> tuple[Integers, Floats]:
        """(next codes, each once, S for the end; the log-probability of the tokens that have it)."""
        if spelling.depth == 0:
            grouped = np.logaddexp.reduceat(spelling.next_log_probs[:-1], self.sorted.bounds[:-1])
            return np.arange(self.sorted.num_codes + 1), np.append(grouped, spelling.next_log_probs[-1])
        codes = self.sorted.column(spelling.low, spelling.high, spelling.depth)
        firsts = np.flatnonzero(np.diff(codes, prepend=-1))
        return codes[firsts], np.logaddexp.reduceat(spelling.next_log_probs[spelling.low : spelling.high], firsts)


class Pairwise:
    """`Follows` of a segmenter whose output is known by its neighbouring pairs, as byte-pair encoding's is.

    `canonical((a, b))` says whether the segmenter cuts what the two stand for into just them. A row of answers is kept for each token.
    """

    def __init__(self, canonical: Callable[[Tokens], bool], *, num_tokens: int) -> None:
        self.canonical = canonical
        self.num_tokens = num_tokens
        self._rows: dict[int, Bools] = {}

    def __call__(self, tokens: Tokens) -> Bools:
        if not tokens:
            return np.ones(self.num_tokens + 1, dtype=np.bool_)
        if (last := tokens[-1]) not in self._rows:
            self._rows[last] = np.array([*(self.canonical((last, token)) for token in range(self.num_tokens)), True])
        return self._rows[last]


def code_log_probs(codes: Sequence[int], vocabulary: Vocabulary, next_log_probs: NextLogProbs, *, follows: Follows | None = None) -> Floats:
    """float64 [S + 1]: of each code that may come behind `codes`, and of the end. `Marginals` goes on from code to code."""
    marginals = Marginals(vocabulary, next_log_probs, follows=follows)
    return marginals.log_probs(marginals.heard(codes))


def stream_log_prob(codes: Sequence[int], vocabulary: Vocabulary, next_log_probs: NextLogProbs, *, follows: Follows | None = None) -> float:
    """Of the codes and the end behind them: the sum over every way to spell them."""
    marginals = Marginals(vocabulary, next_log_probs, follows=follows)
    heard = marginals.heard(codes)
    ends = [spelling.log_prob + float(spelling.next_log_probs[-1]) for spelling in heard.spellings if spelling.depth == 0]
    return _log_sum(np.array(ends))


def aligned(codes: Sequence[int], segment: Segment, ordered: ByExpansion) -> tuple[Tokens, Sequence[int]]:
    """(tokens, remainder): the tokens of a prompt that no codes behind it can change, and the codes behind those.

    Token alignment (arXiv 2403.08688), with as many tokens taken back as must be. The token that reaches the end of the prompt may be any
    that begins with the prompt's last codes; up to there the segmenter has cut as it cuts that first part alone, given that a first part of
    what it makes is what it makes of that part (so it is with byte-pair encoding). What all those cuts begin with stays.
    """
    starts = range(max(0, len(codes) - ordered.longest), len(codes))
    reached = [start for start in starts if len(ordered.walk(codes[start:])) == len(codes) - start]
    cuts = [[int(token) for token in segment(codes[:start])] for start in reached]
    shared = takewhile(lambda column: len(set(column)) == 1, zip(*cuts, strict=False))
    tokens = tuple(column[0] for column in shared)
    return tokens, codes[sum(int(ordered.lengths[token]) for token in tokens) :]


def _log_sum(log_probs: Floats) -> float:
    """log sum exp; minus infinity of nothing."""
    return float(np.logaddexp.reduce(log_probs, initial=-np.inf))
