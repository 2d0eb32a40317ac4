"""How a code is drawn from logits: what may be drawn (temperature, top-k, top-p, min-p, repetition awareness), then one uniform number.

Each rule takes logits [..., V] and returns logits of the same shape, -inf where a code is ruled out, so that rules compose. Every draw
inverts the cumulative distribution at a given uniform number: where the numbers belong to the utterance, so does the result.
"""

import hashlib
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

COMPARE = {">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Sampler:
    """Temperature, then top-k, top-p and min-p on what is left, then repetition awareness; None switches a rule off.

    Temperature 0 takes the most probable code. Repetition-aware sampling (VALL-E 2, arXiv 2406.05370): where the code drawn makes up more
    than `repetition_threshold` of the last `repetition_window` codes of its codebook, it is drawn again from the distribution without
    truncation. The paper compares with ">", CosyVoice's code with ">=", under which one occurrence in ten reaches 0.1.
    """

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_window: int | None
    repetition_threshold: float | None
    repetition_comparison: Literal[">", ">="]

    def __post_init__(self) -> None:
        _check(self.temperature >= 0, "temperature", self.temperature, wanted="0 (greedy) or more")
        _check(self.top_k is None or self.top_k >= 1, "top_k", self.top_k, wanted="1 or more, or null")
        _check(self.top_p is None or 0 < self.top_p <= 1, "top_p", self.top_p, wanted="in (0, 1], or null")
        _check(self.min_p is None or 0 <= self.min_p <= 1, "min_p", self.min_p, wanted="in [0, 1], or null")
        _check(self.repetition_comparison in COMPARE, "repetition_comparison", self.repetition_comparison, wanted="> or >=")
        if self.repetition_window is not None:
            _check(self.repetition_window >= 1, "repetition_window", self.repetition_window, wanted="1 or more, or null")
            threshold = self.repetition_threshold
            _check(threshold is not None and 0 <= threshold <= 1, "repetition_threshold", threshold, wanted="in [0, 1] with a window")
            _check(self.temperature > 0, "temperature", self.temperature, wanted="above 0 with a repetition_window, which draws again")

    def draw(self, logits_BV: Tensor, uniforms_2B: Tensor, *, history_BW: Tensor | None) -> Tensor:
        """Codes [B] for logits [B, V], any number of axes for B; the second uniform number is for drawing again.

        `history_BW` holds the last codes, -1 where there are none yet; needed with a repetition window.
        """
        logits_BV = logits_BV.float()
        if self.temperature == 0:
            return logits_BV.argmax(-1)
        logits_BV = logits_BV / self.temperature
        codes_B = invert_cdf(probabilities(self.truncate(logits_BV)), uniforms_2B[0])
        if self.repetition_window is None:
            return codes_B
        assert history_BW is not None
        return torch.where(self._repeated(codes_B, history_BW), invert_cdf(probabilities(logits_BV), uniforms_2B[1]), codes_B)

    def distribution(self, logits_BV: Tensor, *, history_BW: Tensor | None) -> Tensor:
        """The law of `draw`, float64 [B, V], any number of axes for B: what speculative decoding compares.

        With repetition awareness a code y of the truncated law v that counts as repeated is drawn again from the law p without truncation:
        v(x) (1 - rep(x)) + p(x) * sum of v(y) rep(y) over y.
        """
        logits_BV = logits_BV.float()
        if self.temperature == 0:
            return torch.zeros_like(logits_BV, dtype=torch.float64).scatter_(-1, logits_BV.argmax(-1, keepdim=True), 1.0)
        logits_BV = logits_BV / self.temperature
        truncated_BV = self._truncated_law(logits_BV)
        if self.repetition_window is None:
            return truncated_BV
        assert history_BW is not None
        repeated_BV = self._repeated_of_all(history_BW, size=logits_BV.shape[-1])
        again_B1 = truncated_BV.where(repeated_BV, 0).sum(-1, keepdim=True)
        return truncated_BV.masked_fill(repeated_BV, 0) + again_B1 * probabilities(logits_BV)

    def _truncated_law(self, logits_BV: Tensor) -> Tensor:
        """The probabilities of `truncate`d logits; behind top-k the other rules see its survivors alone, so that nothing sorts V codes."""
        if self.top_k is None or self.top_k >= logits_BV.shape[-1]:
            return probabilities(self.truncate(logits_BV))
        top = logits_BV.topk(self.top_k)
        last_B1 = top.values[..., -1:]
        survivors = int((logits_BV >= last_B1).sum(-1).max()) if logits_BV.numel() else self.top_k  # more than k where there are ties
        top = top if survivors == self.top_k else logits_BV.topk(survivors)
        codes_BS = top.indices.sort().values  # in order: top-p cuts ties by it
        kept_BS = logits_BV.gather(-1, codes_BS)
        law_BS = probabilities(replace(self, top_k=None).truncate(kept_BS.masked_fill(kept_BS < last_B1, -math.inf)))
        return torch.zeros_like(logits_BV, dtype=torch.float64).scatter_(-1, codes_BS, law_BS)

    def _repeated(self, codes_B: Tensor, history_BW: Tensor) -> Tensor:
        """Whether each code makes up too much of its history."""
        assert self.repetition_threshold is not None
        share_B = (history_BW == codes_B[..., None]).float().mean(-1)
        return COMPARE[self.repetition_comparison](share_B, self.repetition_threshold)

    def _repeated_of_all(self, history_BW: Tensor, *, size: int) -> Tensor:
        """The same of all codes, bool [B, V]: those of the history are asked, any other makes up none of it."""
        assert self.repetition_threshold is not None
        absent = COMPARE[self.repetition_comparison](0.0, self.repetition_threshold)
        all_BV = history_BW.new_full((*history_BW.shape[:-1], size + 1), absent, dtype=torch.bool)
        repeated_BW = self._repeated(history_BW, history_BW[..., None, :])
        return all_BV.scatter(-1, history_BW.where(history_BW >= 0, size), repeated_BW)[..., :size]

    def truncate(self, logits_BV: Tensor) -> Tensor:
        """The logits with what top-k, top-p and min-p rule out at -inf."""
        if self.top_k is not None:
            logits_BV = top_k(logits_BV, self.top_k)
        if self.top_p is not None:
            logits_BV = top_p(logits_BV, self.top_p)
        if self.min_p is not None:
            logits_BV = min_p(logits_BV, self.min_p)
        return logits_BV


def top_k(logits_BV: Tensor, k: int) -> Tensor:
    """Keep the k most probable codes, and those as probable as the last of them."""
    if k >= logits_BV.shape[-1]:
        return logits_BV
    return logits_BV.masked_fill(logits_BV < logits_BV.topk(k).values[..., -1:], -math.inf)


def top_p(logits_BV: Tensor, p: float) -> Tensor:
    """Keep the fewest most probable codes whose probabilities reach p together (arXiv 1904.09751); at least one."""
    probabilities_BV, order_BV = probabilities(logits_BV).sort(descending=True, stable=True)
    enough_BV = probabilities_BV.cumsum(-1) - probabilities_BV >= p  # the codes before it are enough
    enough_BV[..., 0] = False
    return logits_BV.masked_fill(enough_BV.scatter(-1, order_BV, enough_BV), -math.inf)


def min_p(logits_BV: Tensor, p: float) -> Tensor:
    """Keep the codes at least p times as probable as the most probable one (arXiv 2407.01082)."""
    return logits_BV.masked_fill(logits_BV < logits_BV.amax(-1, keepdim=True) + (math.log(p) if p else -math.inf), -math.inf)


def within(logits_BV: Tensor, first_B: Tensor, end_B: Tensor) -> Tensor:
    """Keep the codes first <= code < end; all of them where end <= first."""
    code_V, first_B1, end_B1 = torch.arange(logits_BV.shape[-1], device=logits_BV.device), first_B[..., None], end_B[..., None]
    return logits_BV.masked_fill(((code_V < first_B1) | (code_V >= end_B1)) & (end_B1 > first_B1), -math.inf)


def probabilities(logits_BV: Tensor) -> Tensor:
    """Softmax in float64: near 1 the cumulative distribution has steps of 6e-8 in float32, so rare codes would go unheard."""
    return logits_BV.double().softmax(-1)


def invert_cdf(probabilities_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """The code [B] at which the cumulative distribution passes the uniform number in [0, 1); never one of probability 0."""
    cumulative_BV = probabilities_BV.cumsum(-1)
    target_B1 = uniforms_B[..., None].double() * cumulative_BV[..., -1:]
    return torch.searchsorted(cumulative_BV, target_B1, right=True).squeeze(-1)


def seed_of(seed: int, utterance: str) -> int:
    """The seed of one utterance's random numbers, whatever batch it is in."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{utterance}".encode(), digest_size=8).digest()) >> 1


class Uniforms:
    """Uniform numbers of each utterance's own: the n-th draw of a row depends on its seed and n alone."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def restart(self, row: int, seed: int) -> None:
        """Give a row to another utterance."""
        self._generators[row] = torch.Generator().manual_seed(seed)

    def draw(self, num_codebooks: int) -> Tensor:
        """The next numbers of every row, float64 [2, B, K]."""
        return torch.stack([self.draw_one(row, num_codebooks) for row in range(len(self._generators))], dim=1)

    def draw_one(self, row: int, num_codebooks: int) -> Tensor:
        """The next numbers of one row, float64 [2, K]."""
        return torch.rand(2, num_codebooks, generator=self._generators[row], dtype=torch.float64)

    def more(self, rows: Sequence[int], count: int) -> Tensor:
        """The next `count` numbers of some rows, float64 [len(rows), count]; the other rows' stay as they are."""
        numbers_RC = torch.empty(len(rows), count, dtype=torch.float64)
        for row, numbers_C in zip(rows, numbers_RC):
            torch.rand(count, generator=self._generators[row], dtype=torch.float64, out=numbers_C)
        return numbers_RC


def _check(holds: bool, name: str, got: object, *, wanted: str) -> None:
    if not holds:
        raise ValueError(f"sampling.{name} is {got!r}, wanted {wanted}")
