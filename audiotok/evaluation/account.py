"""What a transform makes of a tokenizer's codes: how long they are, what they cost, how well they can be foretold.

All rates are per second of speech, so that they can be compared over frame rates, codebooks and vocabularies.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import log2
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiotok.evaluation.language_model import Budget, Predictor, Size, Unigram, fit
from audiotok.evaluation.tokens.adaptive import adaptive_bits
from audiotok.transforms.base import Layout, Transform, WithHoles
from audiotok.types import TokenSpec

CONTEXT = 2048  # codes, of `context_seconds`
TIMED = 0.2  # seconds of work that a speed is the mean of, at least


@dataclass(frozen=True)
class Coded:
    """An utterance in the tokenizer's own codes."""

    id: str
    codes_KN: Tensor
    seconds: float


@dataclass(frozen=True)
class Foretelling:
    """How codes are foretold: a language model of fixed size and budget, and an arithmetic coder with so many frames of the past."""

    size: Size
    budget: Budget
    order: int


def account(
    train: Sequence[Coded],
    test: Sequence[Coded],
    transform: Transform,
    spec: TokenSpec,
    *,
    by: Foretelling,
    seed: int,
    device: torch.device,
) -> dict[str, Any]:
    """The numbers of one tokenizer under one transform, of the speech `test` after learning from `train`.

    positions, codes                 a second: what a model steps through; holes are no codes
    context_seconds                  that 2,048 codes hold
    fixed_bits                       a second, in a code of fixed length
    coded_bits, lm_bits              of an arithmetic coder that has seen `train`, of a language model; `unigram_bits` of code frequencies
    apply_speed, invert_speed        millions of the tokenizer's codes a second, on one core
    exact                            whether every utterance came back as it was
    """
    out_spec = transform.out_spec(spec)
    learnt = [transform.apply(one.codes_KN, spec) for one in train]
    codes = [transform.apply(one.codes_KN, spec) for one in test]
    back = [transform.invert(one_KN, spec) for one_KN in codes]
    seconds = sum(one.seconds for one in test)
    standing = [stands(one_KN, given, transform, spec) for one_KN, given in zip(codes, test)]
    counts_K = torch.stack([stand_KN.sum(dim=1) for stand_KN in standing]).sum(dim=0).tolist()
    return {
        "positions": sum(one_KN.shape[1] for one_KN in codes) / seconds,
        "codes": sum(counts_K) / seconds,
        "context_seconds": CONTEXT * seconds / sum(counts_K),
        "fixed_bits": sum(count * log2(size) for count, size in zip(counts_K, out_spec.codebook_sizes)) / seconds,
        "coded_bits": _coded_bits(learnt, codes, out_spec, order=by.order) / seconds,
        **{name: bits / seconds for name, bits in _foretold_bits(learnt, codes, out_spec, by, seed=seed, device=device).items()},
        **speeds([one.codes_KN for one in test], codes, transform, spec),
        "exact": all(torch.equal(one_KN, given.codes_KN) for one_KN, given in zip(back, test)),
        "codebook_sizes": list(out_spec.codebook_sizes),
        "utterances": len(test),
        "seconds": seconds,
    }


def stands(codes_KN: Tensor, given: Coded, transform: Transform, spec: TokenSpec) -> Tensor:
    """Bool [K', N']: where a code stands, and not the pad id in a hole."""
    if isinstance(transform, Layout):
        return transform.legal(given.codes_KN.shape[1], spec)
    if isinstance(transform, WithHoles):
        return transform.stands(codes_KN, spec)
    return torch.ones(codes_KN.shape, dtype=torch.bool)


def _coded_bits(train: Sequence[Tensor], test: Sequence[Tensor], spec: TokenSpec, *, order: int) -> float:
    told: dict[str, Any] = {"sizes": spec.codebook_sizes, "order": order, "given_below": True}
    return float(adaptive_bits([one.numpy() for one in test], seen=[one.numpy() for one in train], **told).sum())


def _foretold_bits(
    train: Sequence[Tensor], test: Sequence[Tensor], spec: TokenSpec, by: Foretelling, *, seed: int, device: torch.device
) -> dict[str, float]:
    heard = [one_KN for one_KN in train if one_KN.shape[1]]
    predictors: dict[str, Predictor] = {
        "lm_bits": fit(heard, spec, size=by.size, budget=by.budget, seed=seed, device=device),
        "unigram_bits": Unigram(heard, spec.codebook_sizes),
    }
    return {name: sum(float(one.bits(codes_KN).sum()) for codes_KN in test if codes_KN.shape[1]) for name, one in predictors.items()}


def speeds(given: Sequence[Tensor], codes: Sequence[Tensor], transform: Transform, spec: TokenSpec) -> dict[str, float]:
    """Millions of the tokenizer's codes a second that `apply` takes and `invert` gives, an utterance at a time, on one core."""
    total = sum(one_KN.numel() for one_KN in given) / 1e6
    with _one_thread():
        return {
            "apply_speed": total / _seconds(lambda: [transform.apply(one_KN, spec) for one_KN in given]),
            "invert_speed": total / _seconds(lambda: [transform.invert(one_KN, spec) for one_KN in codes]),
        }


def _seconds(work: Callable[[], object]) -> float:
    """Of the quickest round: what else the machine does can only add."""
    spent: list[float] = []
    while sum(spent) < TIMED or len(spent) < 2:
        start = perf_counter()
        work()
        spent.append(perf_counter() - start)
    return float(np.min(spent))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
