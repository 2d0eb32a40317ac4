"""Re-Pair over codes, whose rules are also known as R-grams (Larsson and Moffat, 2000; arXiv 1808.04670). Lossless."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from audiotok.transforms.expansions import Turns
from audiotok.transforms.flat import flattened
from audiotok.transforms.learning import Rules, learn
from audiotok.transforms.learnt import Learnt, described, load, required
from audiotok.transforms.merges import Merges
from audiotok.types import TokenSpec


class RePair:
    """Codes as one stream, frame by frame, in which the most frequent pair is replaced by a new id until none comes `min_count` times.

    It is byte-pair encoding but for two things. Pairs are counted as often as they can be replaced: five equal codes hold their pair
    twice, where byte-pair encoding counts four. And the corpus says when to stop; `merges` only bounds the vocabulary. Words are as absent
    here as in `Bpe` of codes, so where runs are rare the first rules of the two are the same.

    The compressor of 2000 makes a grammar for each message and sends it along. Here the rules are learnt once, from the corpus, and applied
    in their order to every utterance: an id has to mean the same in each for a model to learn what it means, and a grammar sent along with
    a few seconds of codes is longer than what it saves. (Grammars that come with the stream: transforms/lzw.py, transforms/meta_tokens.py.)
    """

    lossless = True

    def __init__(self, merges: int, min_count: int, *, fitted: str | Path | None) -> None:
        self.settings: dict[str, Any] = {"merges": merges, "min_count": min_count}
        self.fitted = None if fitted is None else Path(fitted)
        self._rules = Rules(most=merges, least=min_count, overlapping=False, frame_aligned=False)
        self._learnt = load(self.fitted, self._kind, Merges.load)

    def fit(self, corpus: Iterable[Tensor], spec: TokenSpec) -> None:
        """Memory: about 100 bytes a code."""
        self._learnt = Learnt(spec, learn([flattened(codes_KN, spec) for codes_KN in corpus], spec, self._rules))

    def save(self, folder: Path) -> None:
        required(self._learnt, self).save(folder, self._kind)

    def learnt(self, spec: TokenSpec) -> Learnt:
        """The rules, and what their tokens stand for. Raises ValueError where they are of other codes, or there are none yet."""
        return required(self._learnt, self, spec)

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        return self.learnt(spec).out_spec(self)

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        return self.learnt(spec).apply(codes_KN)

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        return self.learnt(spec).invert(codes_KN)

    def grammar(self, spec: TokenSpec) -> Turns:
        return self.learnt(spec).grammar()

    def settled(self, codes_KN: Tensor, spec: TokenSpec) -> tuple[int, int]:
        return self.learnt(spec).settled(codes_KN)

    def __repr__(self) -> str:
        return described("RePair", self.settings, self._learnt)

    @property
    def _kind(self) -> dict[str, Any]:
        return {"kind": "repair"} | self.settings
