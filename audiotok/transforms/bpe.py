"""Byte-pair encoding of codes: the most frequent neighbours become one token, again and again (arXiv 1508.07909, 2310.14580). Lossless."""

import importlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from audiotok.transforms.expansions import Turns
from audiotok.transforms.flat import flattened
from audiotok.transforms.learning import Rules, learn
from audiotok.transforms.learnt import Learnt, described, load, required
from audiotok.transforms.merges import Merges
from audiotok.types import TokenSpec

FIRST = 0x100  # the character of the first id of the alphabet, past those that tools are apt to treat as blanks or controls
SURROGATES = range(0xD800, 0xE000)  # no characters: UTF-8 cannot write them
CHARACTERS = 0x110000 - FIRST - len(SURROGATES)


class Bpe:
    """Codes as one stream, frame by frame, in which the pairs that were learnt are one token each: `merges` new ids at most.

    Two codebooks of four codes, and one merge, of 1 and 5, to token 8:

        1 2 1 3
        1 2 1 3   ->   8 2 6 8 3 7

    With `frame_aligned` a merged token is part of one frame, or a number of whole frames. Without, Hugging Face's `tokenizers` learns the
    merges, which knows no such limit. In either case every pair that comes twice counts, and merges reach as far as the utterance does.
    """

    lossless = True

    def __init__(self, merges: int, frame_aligned: bool, *, fitted: str | Path | None) -> None:
        if merges < 0:
            raise ValueError(f"got {merges} merges, want 0 or more")
        self.settings: dict[str, Any] = {"merges": merges, "frame_aligned": frame_aligned}
        self.fitted = None if fitted is None else Path(fitted)
        self._learnt = load(self.fitted, self._kind, Merges.load)

    def fit(self, corpus: Iterable[Tensor], spec: TokenSpec) -> None:
        """Memory: the corpus, and about 100 bytes more for each code."""
        streams, most = [flattened(codes_KN, spec) for codes_KN in corpus], self.settings["merges"]
        if self.settings["frame_aligned"]:
            merges = learn(streams, spec, Rules(most=most, least=2, overlapping=True, frame_aligned=True))
        else:
            merges = hugging_face(streams, num_base=sum(spec.codebook_sizes), most=most)
        self._learnt = Learnt(spec, merges)

    def save(self, folder: Path) -> None:
        required(self._learnt, self).save(folder, self._kind)

    def learnt(self, spec: TokenSpec) -> Learnt:
        """The merges, and what their tokens stand for. Raises ValueError where they are of other codes, or there are none yet."""
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
        return described("Bpe", self.settings, self._learnt)

    @property
    def _kind(self) -> dict[str, Any]:
        return {"kind": "bpe"} | self.settings


def hugging_face(streams: Sequence[np.ndarray], *, num_base: int, most: int) -> Merges:
    """The merges that the trainer of the package tokenizers finds in streams of base ids, each of them one word.

    Only ids that occur are given a character. Raises ValueError for more of them than there are characters, and without the package.
    """
    alphabet = np.unique(np.concatenate([*streams, np.zeros(0, dtype=np.int64)]))
    if len(alphabet) > CHARACTERS:
        got = f"got {len(alphabet)} different codes, want at most {CHARACTERS}, as many as there are characters"
        raise ValueError(f"{got}; set transform.frame_aligned=true")
    package = _package()
    tokenizer = package.Tokenizer(package.models.BPE())
    trainer = package.trainers.BpeTrainer(vocab_size=len(alphabet) + most, min_frequency=2, show_progress=False)
    tokenizer.train_from_iterator((text(np.searchsorted(alphabet, codes_N)) for codes_N in streams), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    made = [model["vocab"][left + right] for left, right in model["merges"]]
    assert made == list(range(len(alphabet), len(model["vocab"]))), "a rule is a new token (transforms/learning.py)"
    tokens_M2 = np.array([[model["vocab"][left], model["vocab"][right]] for left, right in model["merges"]], dtype=np.int64).reshape(-1, 2)
    return Merges(np.concatenate([alphabet, num_base + np.arange(len(tokens_M2))])[tokens_M2], num_base)


def text(indices_N: np.ndarray) -> str:
    """One character for each index of an alphabet, in the same order."""
    points_N = indices_N + FIRST
    points_N[points_N >= SURROGATES.start] += len(SURROGATES)
    return points_N.astype("<u4").tobytes().decode("utf-32-le")


def _package() -> ModuleType:
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise ValueError(f"learning byte pairs needs the package tokenizers ({error}); pip install tokenizers") from error
