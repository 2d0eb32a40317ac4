"""Axis 2: how few bits and tokens the codes could take, and how much of the codebooks they use."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from audiotok.bench.scores import percent, score
from audiotok.bench.subject import Selection, Subject
from audiotok.bench.task import Axis, Outcome
from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens.adaptive import adaptive_bits
from audiotok.evaluation.tokens.bpe import BpeEfficiency, efficiency
from audiotok.evaluation.tokens.compression import bits_per_second, bits_per_token
from audiotok.evaluation.tokens.units import counted
from audiotok.evaluation.tokens.usage import Usage, usage
from audiotok.transforms.bpe import hugging_face
from audiotok.transforms.flat import flattened
from audiotok.types import TokenSpec

METHODS = {
    "fixed": "Fixed-length codes",
    "huffman": "Huffman",
    "entropy_0": "Order-0 entropy",
    "entropy_1": "Order-1 entropy",
    "entropy_2": "Order-2 entropy",
    "zlib": "zlib",
    "lzma": "LZMA",
    "lz78": "LZ78",
    "adaptive": "Arithmetic, n-grams",
    "adaptive_below": "Arithmetic, n-grams and the codebook below",
}


class Compression:
    """Bits per second by each method, of the held-out speech of a selection; `train` teaches the arithmetic coder and the byte-pair merges.

    Plug-in entropies are of a short corpus and too low: they stand here since papers quote them. The arithmetic coder's bits can be
    written and read back.
    """

    axis: Axis = "tokens"
    seeded = False

    def __init__(self, *, train: Selection, test: Selection, order: int, merges: int) -> None:
        self.selections = (train, test)
        self.order = order
        self.merges = merges

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        spec = subject.spec
        train, test = ([heard.codes_KN.numpy() for heard in subject.heard(part)] for part in self.selections)  # type: ignore[union-attr]
        seconds = sum(codes_KN.shape[1] for codes_KN in test) / float(spec.frame_rate)
        bits = bits_per_token(test, sizes=spec.codebook_sizes, order=self.order)
        rates = {name: bits_per_second(bits_K, frame_rate=spec.frame_rate) for name, bits_K in bits.items()}
        told: dict[str, Any] = {"sizes": spec.codebook_sizes, "order": self.order, "seen": train}
        rates["learnt"] = float(adaptive_bits(test, given_below=True, **told).sum()) / seconds
        methods = {**METHODS, "learnt": "Arithmetic, after the training speech"}
        scores = [score(f"bits_{name}", methods[name], rate, "neither", unit="bit/s", digits=0) for name, rate in rates.items()]
        saved = 1 - min(rates["learnt"], rates["fixed"]) / rates["fixed"] if rates["fixed"] else 0.0
        scores.append(percent("bits_saved", "Bits saved by an arithmetic coder", saved, "neither"))
        merged = self._merged(train, test, spec, seconds)
        scores += [
            percent("bpe_length", f"Length after {self.merges} BPE merges", merged.length_ratio, "neither"),
            score("bpe_tokens", "Tokens after BPE", merged.tokens_per_second, "neither", unit="1/s", digits=1),
        ]
        per_codebook = {name: [round(float(value), 4) for value in bits_K] for name, bits_K in bits.items()}
        return Outcome(tuple(scores), {"bits_per_token": per_codebook, "seconds": seconds})

    def _merged(self, train: Sequence[np.ndarray], test: Sequence[np.ndarray], spec: TokenSpec, seconds: float) -> BpeEfficiency:
        streams, held_out = ([flattened(torch.from_numpy(codes_KN).long(), spec) for codes_KN in part] for part in (train, test))
        return efficiency(hugging_face(streams, num_base=sum(spec.codebook_sizes), most=self.merges), held_out, seconds=seconds)


class CodebookUse:
    """How much of each codebook is used: active codes, those that probably exist (Chao1), entropy over log2 K, dead codes, Zipf, Gini."""

    axis: Axis = "tokens"
    seeded = False

    def __init__(self, *, selection: Selection) -> None:
        self.selections = (selection,)

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        sizes = subject.spec.codebook_sizes
        corpus = [heard.codes_KN.numpy() for heard in subject.heard(self.selections[0])]  # type: ignore[union-attr]
        if not corpus:
            raise NotApplicable("none of the utterances could be encoded")
        used = [usage(counted([codes_KN[k] for codes_KN in corpus], size=size)) for k, size in enumerate(sizes)]
        normalised = [one.normalised_entropy for one in used if one.size > 1]
        slopes = [one.zipf_slope for one in used if one.zipf_slope is not None]
        return Outcome(
            (
                percent("entropy_share", "Entropy over log2 K", float(np.mean(normalised)) if normalised else None, "higher", primary=True),
                percent("active_share", "Codes seen", float(np.mean([one.active_share for one in used])), "higher"),
                percent("existing_share", "Codes that exist (Chao1)", float(np.mean([one.estimated / one.size for one in used])), "higher"),
                score("perplexity", "Perplexity", float(np.mean([one.perplexity for one in used])), "neither", digits=1),
                score("dead_codes", "Codes never seen", float(sum(len(one.dead) for one in used)), "neither", digits=0),
                score("zipf_slope", "Zipf slope", float(np.mean(slopes)) if slopes else None, "neither"),
                score("gini", "Gini", float(np.mean([one.gini for one in used])), "neither"),
            ),
            {"codebooks": [_told(one) for one in used]},
        )


def _told(one: Usage) -> dict[str, Any]:
    return {
        "size": one.size,
        "samples": one.samples,
        "active": one.active,
        "coverage": round(one.coverage, 6),
        "estimated": round(one.estimated, 1),
        "entropy": round(one.entropy, 4),
        "dead": list(one.dead)[:1000],
    }
